"""Weights from checkpoints as training scripts save them: every one that the network has, and never by running a file.

Files are read with `weights_only=True`, which builds tensors and plain containers. Training scripts save more beside
the weights (a loss as a NumPy scalar, options as an `argparse.Namespace`): `HARMLESS` is what may be built besides; it
runs and opens nothing. In what was read, the weights are found by their names: however deep they lie, and under
whatever wrappers put before them, they are those that fit the network. Where two sets fit, the contract has to say
which.
"""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import pickletools
import re
import types
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ecgscale.encoders.code import companions
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, file_of
from ecgscale.errors import EncoderError, did_you_mean
from ecgscale.words import named, one_line

_some = partial(named, most=8)

WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"}
"""Names that DataParallel, torch.compile, FSDP, activation checkpointing and Fabric put around a module."""

_OF_TRAINING = re.compile(r"(^|_)(loss|losses|criterion|criteria|metrics?)(_|$)", re.IGNORECASE)
"""In names of what a training loop keeps beside a network and inference has no use for."""

_COUNTERS = "num_batches_tracked"
"""Not used in inference, and absent from checkpoints older than torch 0.4.1."""

_SAVE = "torch.save(model.state_dict(), 'weights.pt')"


@dataclass(frozen=True)
class Found:
    """Weights that fit, under the module's own names.

    key: the way to them in the file, as `weights_key` says it; empty for the file itself
    left_out: names beside them that are not the network's
    """

    key: str
    state: dict[str, torch.Tensor]
    left_out: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of how they were found."""
        return (
            (f"left out of the checkpoint, as no part of the network: {_some(self.left_out)}",) if self.left_out else ()
        )


def load_weights(module: nn.Module, directory: Path, spec: EncoderSpec) -> Found:
    """Load the weights into `module`, every one that it has; EncoderError lists what does not fit."""
    path = file_of(directory, spec.weights)
    found = find_weights(read_checkpoint(path), module.state_dict(), path, spec)
    wanted = module.state_dict()
    state = {**{name: value for name, value in wanted.items() if name.endswith(_COUNTERS)}, **found.state}
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
    return found


def find_weights(content: Any, wanted: Mapping[str, Any], path: Path, spec: EncoderSpec) -> Found:
    """The one set of weights in what a file holds that fits a module whose `state_dict()` is `wanted`.

    EncoderError when none fits, with what is wrong with the nearest; and when several do, with what tells them apart.
    """
    key = spec.weights_key or ""
    within = _at(content, key, path) if key else content
    sets = list(_sets(within, key))
    fitting = [found for at, tensors in sets for found in _fits(at, tensors, wanted)]
    if len(fitting) > 1:
        keys = _some([found.key for found in fitting])
        raise EncoderError(f"{path} holds {len(fitting)} sets of weights that fit: set weights_key to one of {keys}")
    if fitting:
        return fitting[0]
    if not sets:
        names = [f"{key}.{name}" if key else str(name) for name in within] if isinstance(within, Mapping) else []
        holds = f"; it holds {_some(names)}" if names else ""
        raise EncoderError(f"{path} is no state_dict (names to tensors){holds}: save the weights alone: {_SAVE}")
    at, nearest = max(
        ((at, state) for at, tensors in sets for state in _readings(tensors, wanted)),
        key=lambda one: len(one[1].keys() & wanted.keys()),
    )
    of = f" (weights_key = {at!r})" if at else ""
    problems = _misfits(nearest, wanted)
    raise EncoderError(f"{path}{of} does not fit {spec.factory!r} with the [arguments] of {SPEC_FILE}: {problems}")


def _at(content: Any, key: str, path: Path, whole: str = "") -> Any:
    """What lies at a key: through mappings in mappings, elements of lists, and beginnings of names, all with dots."""
    names: list[str] = []
    if isinstance(content, tuple | list):
        content = dict(enumerate(content))
    if isinstance(content, Mapping):
        names = [str(name) for name in content]
        for name, value in content.items():
            if key == str(name):
                return value
        for name, value in content.items():
            if key.startswith(f"{name}.") and not isinstance(value, torch.Tensor):
                return _at(value, key.removeprefix(f"{name}."), path, whole or key)
        if under := {name.removeprefix(f"{key}."): content[name] for name in names if name.startswith(f"{key}.")}:
            return under
    part = key.partition(".")[0]
    holds = f"{did_you_mean(part, names)} It holds {_some(names) or 'no names'}"
    raise EncoderError(f"{path} has no {whole or key!r} (weights_key).{holds}")


def _sets(content: Any, key: str = "", depth: int = 4) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The tensors of every mapping in `content` that has some under names, by the way to it."""
    if isinstance(content, tuple | list):
        content = {str(number): value for number, value in enumerate(content[:64])}
    if not isinstance(content, Mapping):
        return
    values = {name: _tensor(value) for name, value in content.items() if isinstance(name, str)}
    if tensors := {name: value for name, value in values.items() if value is not None}:
        yield key, tensors
    if depth:
        for name, value in content.items():
            if isinstance(name, str):
                yield from _sets(value, f"{key}.{name}" if key else name, depth - 1)


def _tensor(value: Any) -> torch.Tensor | None:
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.tensor(value)
    return value if isinstance(value, torch.Tensor) else None


def _fits(key: str, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, Any]) -> list[Found]:
    """The ways in which weights are all that the module wants.

    "module.conv.weight", "_orig_mod.conv.weight" → "conv.weight"; "model.conv.weight" beside "loss.weight" (Lightning)
    → "conv.weight", and "loss.weight" is left out
    """
    needed = {name for name in wanted if not name.endswith(_COUNTERS)}
    for names in _namings(tensors, wanted):
        found: list[Found] = []
        heads = Counter(name[: dot.start() + 1] for name in names for dot in re.finditer(r"\.", name))
        for head in ["", *(head for head, n in heads.items() if len(needed) <= n <= len(wanted))]:
            inner = {name.removeprefix(head): original for name, original in names.items() if name.startswith(head)}
            beside = [original for name, original in names.items() if not name.startswith(head)]
            if not head:
                beside = [inner.pop(name) for name in list(inner) if name not in wanted and _of_training(name)]
            state = {name: tensors[original] for name, original in inner.items()}
            if needed <= state.keys() <= wanted.keys() and all(
                state[name].shape == wanted[name].shape for name in state
            ):
                way = ".".join(part for part in (key, head.removesuffix(".") if beside else "") if part)
                found.append(Found(way, state, tuple(beside)))
        if found:
            return found
    return []


def _of_training(name: str) -> bool:
    return _OF_TRAINING.search(name.partition(".")[0]) is not None


def _namings(tensors: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Names that the weights may go by, each with the one in the file: as they are, and without wrappers' names."""
    yield {_renamed(name, wanted): name for name in tensors}
    plain = {".".join(part for part in name.split(".") if part not in WRAPPERS): name for name in tensors}
    if len(plain) == len(tensors) and plain.keys() != tensors.keys():
        yield {_renamed(name, wanted): original for name, original in plain.items()}


def _renamed(name: str, wanted: Mapping[str, Any]) -> str:
    """Of weight norm as torch saved it until 2.0, the name of today, where the module has that."""
    for old, new in (("weight_g", "original0"), ("weight_v", "original1")):
        if name.endswith(f".{old}"):
            today = f"{name.removesuffix(old)}parametrizations.weight.{new}"
            return today if any(one == today or today.endswith(f".{one}") for one in wanted) else name
    return name


def _readings(tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, Any]) -> Iterator[dict[str, torch.Tensor]]:
    """Weights as they could be meant: with and without wrappers' names, and common beginnings."""
    for names in _namings(tensors, wanted):
        while True:
            yield {name: tensors[original] for name, original in names.items()}
            if len({name.partition(".")[0] for name in names}) > 1 or not all("." in name for name in names):
                break
            names = {name.partition(".")[2]: original for name, original in names.items()}


def _misfits(state: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> str:
    missing = [name for name in wanted if name not in state and not name.endswith(_COUNTERS)]
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
    return "; ".join(part for part in parts if part)


def read_checkpoint(path: Path) -> Any:
    """What a file of weights holds, without running anything of it; EncoderError says what to do where that fails."""
    if not path.is_file():
        raise EncoderError(f"no weights at {path}; `weights` in {SPEC_FILE} names a file beside it")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".json":  # an index of several
            parts = [load_file(path.parent / name) for name in companions(path.parent, "", path.name)]
            return {name: value for part in parts for name, value in part.items()}
        with torch.serialization.safe_globals(HARMLESS), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of TorchScript, which is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if why := _another_kind(path):
            raise EncoderError(f"{path} {why}") from error
        reason = str(error).partition("WeightsUnpickler error:")[2].strip() or str(error)
        unknown = re.search(r"GLOBAL ([\w.]+)", reason)
        what = unknown[1] if unknown else one_line(reason.partition("\n")[0])
        raise EncoderError(
            f"{path} holds more than weights, and unpickling it could run any code, so nothing of it was run ({what}: "
            f"part of a checkpoint, or of a whole network). Where it was saved, save the weights alone: {_lines(path)}"
        ) from error
    except SafetensorError as error:
        raise EncoderError(f"{path} {_another_kind(path) or f'cannot be read as weights: {error}'}") from error
    except Exception as error:  # whatever torch makes of bytes that it did not write
        why = _another_kind(path) or f"cannot be read as weights: {_first_line(error)}"
        raise EncoderError(f"{path} {why}") from error


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__


_KINDS = [
    (b"\x89HDF\r\n\x1a\n", "is HDF5, as Keras writes it: convert the network to ONNX (tf2onnx) and name that file"),
    (b"\x1f\x8b", "is packed by gzip: unpack it"),
    (b"\x93NUMPY", f"is an array of NumPy: put the weights under their names: {_SAVE}"),
]


def _another_kind(path: Path) -> str:
    """What a file is that is no checkpoint, and what to do with it; empty where it may be one."""
    with path.open("rb") as file:
        head = file.read(16)
    if not head:
        return "is empty: copy it again"
    if head.startswith(b"version https:/"):
        return "is a pointer of Git LFS, not the file itself: `git lfs pull` fetches that"
    if what := next((what for magic, what in _KINDS if head.startswith(magic)), ""):
        return what
    if head[8:10] == b'{"' and path.suffix != ".safetensors":
        return f"is of safetensors: name it {path.with_suffix('.safetensors').name}"
    if not head.startswith(b"PK\x03\x04"):
        return ""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return ""
    below = {name.partition("/")[2] for name in names}
    if "constants.pkl" in below:
        return (
            'is a TorchScript archive, which is code. Where you trust it, factory = "torchscript" runs it as it is; '
            "for its weights alone: torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        )
    if "model.weights.h5" in names:
        return "is of Keras: convert the network to ONNX (tf2onnx) and name that file"
    return ""


_USUAL = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "ema")


def _lines(path: Path) -> str:
    """The two lines of Python that save the weights of a checkpoint alone, where its classes can be imported."""
    try:
        whole, key, network = _outermost(path)
    except Exception:  # a file that is spoilt: the lines for most checkpoints
        whole, key, network = False, "state_dict", False
    name = "model" if whole else "checkpoint"
    weights = f"{name}.state_dict()" if whole else f"{name}[{key!r}]{'.state_dict()' if network else ''}"
    read = f"{name} = torch.load({path.name!r}, map_location='cpu', weights_only=False)"
    return f"{read}; torch.save({weights}, 'weights.pt')"


def _outermost(path: Path) -> tuple[bool, str, bool]:
    """Of a pickle, without running it: whether it is an object rather than a container, else under which key the
    weights seem to be, and whether an object is there."""
    with path.open("rb") as file:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
            steps = list(pickletools.genops(pickled))
        else:
            file.seek(0)
            for _ in range(3):  # magic number, version, machine
                list(pickletools.genops(file))
            steps = list(pickletools.genops(file))
    passing = ("PROTO", "MARK", "FRAME", "MEMOIZE")
    content = [(step.name, value) for step, value, _ in steps if step.name not in passing and "PUT" not in step.name]
    # Before torch 1.6 a network was a mark, "module", and then the name of its class.
    marked = [value == "module" and content[at + 1][0] == "GLOBAL" for at, (_, value) in enumerate(content[:-1])]
    objects = [
        (name == "GLOBAL" and value not in ("collections OrderedDict", "collections defaultdict")) or mark
        for (name, value), mark in zip(content, marked, strict=False)
    ]
    texts = {value: at for at, (name, value) in reversed(list(enumerate(content))) if "UNICODE" in name}
    key = next((usual for usual in _USUAL if usual in texts), "state_dict")
    return objects[0], key, key in texts and objects[texts[key] + 1]


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


_Settings = type("_Settings", (dict,), {})  # what Lightning keeps hyper-parameters in
_DTYPES = [
    getattr(np.dtypes, name)
    for name in dir(np.dtypes)
    if name.endswith("DType") and name not in ("ObjectDType", "VoidDType", "StringDType")
]
_PLAIN = [dict, list, tuple, frozenset, int, float, str, bool, slice, argparse.Namespace, types.SimpleNamespace]
_OTHERS = [datetime.datetime, datetime.date, datetime.timedelta, torch.torch_version.TorchVersion]

HARMLESS: list[Any] = [
    (_default_dict, "collections.defaultdict"),
    *(*_DTYPES, np.dtype, np.ndarray, *_PLAIN, *_OTHERS),
    *(
        (function, f"numpy.{core}.multiarray.{name}")
        for core in ("core", "_core")
        for function, name in ((_scalar, "scalar"), (_array, "_reconstruct"))
    ),
    *(
        (path, f"{module}.{pure}{kind}Path")
        for path, kind in ((pathlib.PurePosixPath, "Posix"), (pathlib.PureWindowsPath, "Windows"))
        for module in ("pathlib", "pathlib._local")
        for pure in ("", "Pure")
    ),
    *(
        (_Settings, f"{module}.AttributeDict")
        for module in (
            "lightning.fabric.utilities.data",
            "lightning_fabric.utilities.data",
            "pytorch_lightning.utilities.parsing",
            "lightning.pytorch.utilities.parsing",
        )
    ),
]
"""What may be built besides tensors: numbers, arrays, containers, dates and names of files."""
