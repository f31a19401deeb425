"""From a contract to a module with its weights: import path, `state_dict` from disk, strict fit."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec
from ecgscale.errors import EncoderError, did_you_mean


def build_module(spec: EncoderSpec) -> nn.Module:
    """Import `spec.factory` (python path, then the working directory) and call it with `[arguments]`."""
    module_name, _, attribute = spec.factory.partition(":")
    with _working_directory_importable():
        found: Any = _imported(spec.factory, module_name)
        for part in attribute.split("."):
            if not hasattr(found, part):
                public = [name for name in dir(found) if not name.startswith("_")]
                raise EncoderError(
                    f"factory {spec.factory!r}: {module_name} has no {part!r}.{did_you_mean(part, public)} "
                    f"It has {', '.join(public[:40])}"
                )
            found = getattr(found, part)
        try:
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
                module = found(**spec.arguments)
        except Exception as error:  # anything may go wrong in somebody else's constructor; the cause is chained
            given = ", ".join(spec.arguments) or "none"
            raise EncoderError(
                f"factory {spec.factory!r} refuses its [arguments] ({given}): {type(error).__name__}: {error}"
            ) from error
    if not isinstance(module, nn.Module):
        raise EncoderError(f"factory {spec.factory!r} gives a {type(module).__name__}; a torch.nn.Module was expected")
    return module


def _imported(factory: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise EncoderError(
            f"factory {factory!r} cannot be imported: {error}. Install its package, put it on PYTHONPATH, or run from "
            "the directory that holds it"
        ) from error


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


def load_weights(module: nn.Module, directory: Path, spec: EncoderSpec) -> None:
    """Load the weights into `module`, every one and no other; EncoderError lists what does not fit."""
    path = directory / spec.weights
    state = _state_dict(_read(path), path, spec.weights_key)
    wanted = module.state_dict()
    # Not used in inference, and absent from checkpoints older than torch 0.4.1.
    counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    state = {**counters, **state}
    if problems := _misfits(state, wanted):
        raise EncoderError(f"{path} does not fit {spec.factory!r} with the [arguments] of {SPEC_FILE}: {problems}")
    spoilt = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if spoilt:
        raise EncoderError(f"{path} holds NaN or infinite weights in {_some(spoilt)}; the training must have diverged")
    module.load_state_dict(state, strict=True)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise EncoderError(f"no weights at {path}; `weights` in {SPEC_FILE} names a file beside it")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise EncoderError(
            f"{path} holds more than weights, and unpickling it could run any code: save model.state_dict() alone "
            f"(or as .safetensors). torch says: {str(error).splitlines()[0]}"
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise EncoderError(f"{path} cannot be read as weights: {error}") from error


def _state_dict(content: Any, path: Path, key: str | None) -> dict[str, torch.Tensor]:
    names = [str(name) for name in content] if isinstance(content, Mapping) else []
    if key is not None:
        if key not in names:
            raise EncoderError(
                f"{path} has no {key!r} (weights_key).{did_you_mean(key, names)} It holds {_some(names) or 'no names'}"
            )
        content = content[key]
    if isinstance(content, Mapping) and content and all(isinstance(value, torch.Tensor) for value in content.values()):
        return dict(content)
    inside = [name for name in names if key is None and isinstance(content[name], Mapping)]
    hint = f"set weights_key to one of {_some(inside)}" if inside else "save model.state_dict()"
    raise EncoderError(f"{path} is no state_dict (names to tensors): {hint}")


def _misfits(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    shapes = [
        f"{name} is {tuple(state[name].shape)}, expected {tuple(wanted[name].shape)}"
        for name in wanted
        if name in state and state[name].shape != wanted[name].shape
    ]
    parts = [
        f"missing {_some(missing)}" if missing else "",
        f"unexpected {_some(unexpected)}" if unexpected else "",
        f"other shapes: {_some(shapes)}" if shapes else "",
    ]
    if unexpected and all(name.startswith("module.") for name in unexpected):
        parts.append("the names start with 'module.': save model.module.state_dict() of a DataParallel model")
    return "; ".join(part for part in parts if part)


def _some(names: list[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
