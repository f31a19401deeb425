"""Weights from a file into a module: every one and no other, and never by running what the file says.

Checkpoints are read with `weights_only=True`, which builds tensors and plain containers. Training scripts save more
beside the weights (a loss as a NumPy scalar, options as an `argparse.Namespace`): `HARMLESS` is what may be
built besides, none of which can run code or open a file.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import re
import types
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, file_of
from ecgscale.errors import EncoderError, did_you_mean
from ecgscale.words import named

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
    if unexpected and all(name.startswith("module.") for name in unexpected):
        parts.append("the names start with 'module.': save model.module.state_dict() of a DataParallel model")
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
