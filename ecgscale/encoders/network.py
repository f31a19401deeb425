"""A network from its contract: made by its factory, filled with its weights.

An encoder directory is code, since its `factory` may be any module that can be imported here: use those that you trust
as you would trust a program. What is refused, before it is called, is what no network comes from: Python's standard
library, and functions that load or run what a file says.

Weights are loaded, every one and no other, and never by running what a file says: checkpoints are read with
`weights_only=True`, which builds tensors and plain containers. Training scripts save more beside the weights (a loss as
a NumPy scalar, options as an `argparse.Namespace`): `HARMLESS` is what may be built besides; it runs and opens nothing.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import importlib
import importlib.metadata
import inspect
import os
import pathlib
import pickle
import re
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ecgscale.encoders.code import distributions_of, is_standard, lies_installed
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, file_of
from ecgscale.errors import EncoderError, did_you_mean
from ecgscale.words import named

_LOADERS = re.compile(r"(^|_)(un)?(load|loads|pickle|hub|eval|exec|system|run|compile)(_|$)")
"""In names of functions that come with a package: they open files that can hold code, or run it."""

_OURS = "torch", "ecgscale"
"""Packages whose classes make networks and whose functions do not."""


def build_module(spec: EncoderSpec) -> nn.Module:
    """Import `spec.factory` (python path, then the working directory) and call it with `[arguments]`."""
    with working_directory_importable():
        found = find_factory(spec.factory)
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


def find_factory(factory: str) -> Any:
    """What the import path names: a class of torch.nn.Module, or a function that may make one. It is not called.

    EncoderError when it cannot be imported, or is something else.
    """
    module_name, _, attribute = factory.partition(":")
    if is_standard(module_name):
        raise EncoderError(_refusal(factory, f"{module_name} is of Python's standard library"))
    found: Any = _imported(factory, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            raise EncoderError(
                f"factory {factory!r}: {module_name} has no {part!r}.{did_you_mean(part, public)} "
                f"It has {', '.join(public[:40])}"
            )
        found = getattr(found, part)
        if isinstance(found, ModuleType) and is_standard(found.__name__):
            raise EncoderError(_refusal(factory, f"{found.__name__} is of Python's standard library"))
    if why := _objection(found):
        raise EncoderError(_refusal(factory, why))
    return found


def _refusal(factory: str, why: str) -> str:
    return (
        f"factory {factory!r} was not called: {why}. Name a class of torch.nn.Module, or a function of your own "
        "module that makes one"
    )


def _objection(found: Any) -> str:
    """Why no network comes from it; empty when one may."""
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found) if callable(found) else found
    if isinstance(found, type):
        return "" if issubclass(found, nn.Module) else f"{found.__name__} is no class of torch.nn.Module"
    if not (inspect.isfunction(found) or inspect.ismethod(found)):
        return f"it is a {type(found).__name__}, neither a class nor a function"
    home, name = str(found.__module__), str(found.__name__)
    owner = getattr(found, "__self__", None)
    of_module = isinstance(owner, type) and issubclass(owner, nn.Module)
    if is_standard(home):
        return f"{name} is of {home}, in Python's standard library"
    top = home.partition(".")[0]
    if top in _OURS:
        return "" if of_module and not _LOADERS.search(name) else f"{home}.{name} makes no network of its own"
    if _is_installed(sys.modules.get(home)):
        if _LOADERS.search(name):
            return f"{home}.{name} loads or runs what a file may say"
        if not of_module and not _rests_on_torch(top):
            return f"{top} is a package that does not rest on torch"
    return ""


def _is_installed(module: ModuleType | None) -> bool:
    """Whether a module lies where packages are installed, and not in a tree of the user's own."""
    file = getattr(module, "__file__", None)
    return file is not None and lies_installed(Path(file))


def _rests_on_torch(package: str) -> bool:
    required = [line for name in distributions_of(package) for line in importlib.metadata.requires(name) or []]
    return any(re.match(r"(torch|pytorch)[a-z-]*\b", line) for line in required)


def _imported(factory: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise EncoderError(
            f"factory {factory!r} cannot be imported: {error}. Install its package, put it on PYTHONPATH, or run from "
            "the directory that holds it"
        ) from error
    except (Exception, SystemExit) as error:  # anything may go wrong in somebody else's module; the cause is chained
        raise EncoderError(
            f"factory {factory!r} cannot be imported: {module_name} fails with {type(error).__name__}: {error}"
        ) from error


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """Let modules of the working directory be found, after all others."""
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)


_some = partial(named, most=8)

WRAPPERS = {"module", "_orig_mod"}
"""Names that DataParallel and torch.compile put around a module."""

_SAVE = "torch.save(model.state_dict(), 'weights.pt')"


def load_weights(module: nn.Module, directory: Path, spec: EncoderSpec) -> None:
    """Load the weights into `module`, every one and no other; EncoderError lists what does not fit.

    Names that all begin alike, or have what DataParallel and torch.compile add, fit when they fit without that.
    """
    path = file_of(directory, spec.weights)
    found = _state_dict(_read_weights(path), path, spec.weights_key)
    wanted = module.state_dict()
    # Not used in inference, and absent from checkpoints older than torch 0.4.1.
    counters = {name: value for name, value in wanted.items() if name.endswith("num_batches_tracked")}
    state = {**counters, **(_without_prefixes(found, wanted) or found)}
    if problems := _misfits(state, wanted):
        raise EncoderError(f"{path} does not fit {spec.factory!r} with the [arguments] of {SPEC_FILE}: {problems}")
    odd = [name for name, value in state.items() if value.layout != torch.strided or value.is_quantized]
    if odd:
        raise EncoderError(f"{path} holds sparse or quantised weights in {_some(odd)}; save them dense, as float32")
    spoilt = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if spoilt:
        raise EncoderError(f"{path} holds NaN or infinite weights in {_some(spoilt)}; the training must have diverged")
    try:
        module.load_state_dict(state, strict=True)
    except Exception as error:  # a module may have its own way of loading
        raise EncoderError(f"{path} cannot be loaded into {spec.factory!r}: {_first_line(error)}") from error


def _read_weights(path: Path) -> Any:
    if not path.is_file():
        raise EncoderError(f"no weights at {path}; `weights` in {SPEC_FILE} names a file beside it")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of TorchScript, which is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
        unknown = re.search(r"GLOBAL ([\w.]+)", reason)
        what = unknown[1] if unknown else reason.partition("\n")[0]
        raise EncoderError(
            f"{path} holds more than weights, and unpickling it could run any code, so nothing of it was run ({what}: "
            f"part of a checkpoint, or of a whole network). Where it was saved, save the weights alone: {_SAVE}"
        ) from error
    except SafetensorError as error:
        raise EncoderError(f"{path} cannot be read as weights: {error}") from error
    except Exception as error:  # whatever torch makes of bytes that it did not write
        if "TorchScript" in str(error):
            raise EncoderError(
                f"{path} is a TorchScript archive, which is code. Where you trust it, save the weights alone: "
                "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt'); `factory` makes the network"
            ) from error
        raise EncoderError(f"{path} cannot be read as weights: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


def _state_dict(content: Any, path: Path, key: str | None) -> dict[str, torch.Tensor]:
    for part in _parts(content, key) if key is not None else ():
        names = [str(name) for name in content] if isinstance(content, Mapping) else []
        if part not in names:
            raise EncoderError(
                f"{path} has no {key!r} (weights_key).{did_you_mean(part, names)} It holds {_some(names) or 'no names'}"
            )
        content = content[part]
    if _is_state_dict(content):
        return dict(content)
    inside = list(_inside(content))
    if inside and key is not None:
        inside = [f"{key}.{name}" for name in inside]
    hint = f"set weights_key to one of {_some(inside)}" if inside else f"save the weights alone: {_SAVE}"
    raise EncoderError(f"{path} is no state_dict (names to tensors): {hint}")


def _parts(content: Any, key: str) -> tuple[str, ...]:
    """A key with dots is the way through mappings in mappings, unless there is such a key."""
    return (key,) if isinstance(content, Mapping) and key in content else tuple(key.split("."))


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items())
    )


def _inside(content: Any, depth: int = 3) -> Iterator[str]:
    """Keys of mappings in `content` that could be meant; of one that only holds a state_dict, the way to that."""
    if not isinstance(content, Mapping):
        return
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping):
            deeper = list(_inside(value, depth - 1)) if depth and not _is_state_dict(value) else []
            yield from [f"{name}.{inner}" for inner in deeper] or [name]


def _without_prefixes(state: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, torch.Tensor] | None:
    """The weights under names that all fit, with wrappers' names and then common beginnings left out; None if none do.

    "module.conv.weight", "_orig_mod.conv.weight", "model.conv.weight" (Lightning) → "conv.weight"
    """
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in state}
    names = plain if len(plain) == len(state) else {name: name for name in state}
    required = {name for name in wanted if not name.endswith("num_batches_tracked")}
    for candidates in ({name: name for name in state}, names):
        while candidates:
            if required <= candidates.keys() <= wanted.keys():
                return {name: state[original] for name, original in candidates.items()}
            heads = {name.partition(".")[0] for name in candidates}
            if len(heads) > 1 or not all("." in name for name in candidates):
                break
            candidates = {name.partition(".")[2]: original for name, original in candidates.items()}
    return None


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
    parts += [
        f"those under {prefix!r} would fit: save them alone, without {prefix!r}"
        for prefix in sorted({name.partition(".")[0] + "." for name in unexpected if "." in name})
        if missing
        and _without_prefixes({name: value for name, value in state.items() if name.startswith(prefix)}, wanted)
    ]
    return "; ".join(part for part in parts if part)


def _scalar(dtype: np.dtype[Any], data: bytes) -> Any:
    """A NumPy scalar of plain type; of other types it would be built from whatever the file says."""
    if not isinstance(data, bytes | str) or dtype.kind not in "biufcMmSU":
        raise pickle.UnpicklingError(f"a scalar of {dtype}")
    raw = data.encode("latin-1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype, 1)[0]


def _default_dict(*_default: Any) -> dict[Any, Any]:
    """A plain one: torch fills no other."""
    return {}


def _array(_kind: type, _shape: tuple[int, ...], _code: bytes) -> NDArray[Any]:
    """What NumPy makes before it fills an array from the file."""
    return np.ndarray.__new__(np.ndarray, (0,), "b")


_DTYPES = [
    getattr(np.dtypes, name)
    for name in dir(np.dtypes)
    if name.endswith("DType") and name not in ("ObjectDType", "VoidDType", "StringDType")
]
_CONTAINERS = [argparse.Namespace, types.SimpleNamespace]
_PLAIN = [dict, list, tuple, frozenset, int, float, str, bool, slice]
_TIMES = [datetime.datetime, datetime.date, datetime.timedelta]

HARMLESS: list[Any] = [
    (_default_dict, "collections.defaultdict"),
    *(*_DTYPES, np.dtype, np.ndarray, *_CONTAINERS, *_PLAIN, *_TIMES),
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((_scalar, "scalar"), (_array, "_reconstruct"))
    ),
    *(
        (pathlib.PurePosixPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath")
    ),
    *(
        (pathlib.PureWindowsPath, f"{module}.{name}")
        for module in ("pathlib", "pathlib._local")
        for name in ("WindowsPath", "PureWindowsPath")
    ),
]
"""What may be built besides tensors: numbers, arrays, containers, dates and names of files."""
