"""A network with taps: signals in, the activations of named layers and the prediction out.

Any `torch.nn.Module` will do: it is built by an import path, its weights are loaded strictly, every one and no other,
and forward hooks on its named modules catch what they return. Every forward pass has one fixed shape (`batch` records,
short ones filled up with zeros), since convolution kernels are chosen by shape: so a record's bits do not depend on its
neighbours.
"""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ecgscale.config import BATCH
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, encoder_digest, encoder_id, load_spec
from ecgscale.errors import EncoderError, UsageError, did_you_mean
from ecgscale.io.places import local_copy
from ecgscale.words import named

_some = partial(named, most=8)
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Activations:
    """What one forward pass gives for n records, on the encoder's device."""

    blocks: tuple[torch.Tensor, ...]  # a tapped layer each: (n, C_b, L_b) float32
    prediction: torch.Tensor  # (n, n_outputs) float32

    def finite(self, prediction: bool = True) -> NDArray[np.bool_]:
        """bool (n,): records for which the network gave finite numbers in all blocks, and as its prediction."""
        finite = torch.stack([block.isfinite().flatten(1).all(1) for block in self.blocks]).all(0)
        if prediction:
            finite = finite & self.prediction.isfinite().all(1)
        return np.asarray(finite.cpu().numpy(), dtype=bool)

    def of(self, kept: NDArray[np.bool_]) -> Activations:
        """The records that `kept` (n,) marks."""
        if kept.all():
            return self
        at = torch.from_numpy(np.flatnonzero(kept)).to(self.prediction.device)
        return Activations(tuple(block[at] for block in self.blocks), self.prediction[at])


class Encoder:
    """A network in inference mode together with its contract.

    `precision` "bfloat16" runs matrix products in that type (off by default: it moves facts, and is recorded).
    `layout` holds (C_b, L_b) of every tapped layer in the contract's order, `hop` the smallest number of samples
    between two steps of any of them.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: EncoderSpec,
        *,
        device: str = "cpu",
        batch: int = BATCH,
        precision: Precision = "float32",
        digest: str = "",
    ) -> None:
        if batch < 1:
            raise UsageError(f"batch is {batch}; at least one record has to go through at a time")
        self.spec = spec
        self.batch = batch
        self.digest = digest
        self.directory: Path | None = None
        self.device = resolve_device(device)
        self.precision = precision
        module = module.to(self.device, torch.float32).eval().requires_grad_(False)
        self.n_parameters = sum(parameter.numel() for parameter in module.parameters())
        self.module = _folded(module, spec.layers)
        self._x = torch.zeros((batch, len(spec.input.leads), spec.input.length), device=self.device)
        self._caught: dict[str, list[torch.Tensor]] = {}
        fix_arithmetic()
        for layer in spec.layers:
            self._hook(layer)
        blocks, _ = self._run("a batch of zeros")
        self.layout: tuple[tuple[int, int], ...] = tuple((block.shape[1], block.shape[2]) for block in blocks)
        self.hop: int = max(1, spec.input.length // max(length for _, length in self.layout))

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: str = "cpu",
        batch: int = BATCH,
        precision: Precision = "float32",
    ) -> Encoder:
        """The encoder in `directory`, ready to run; EncoderError says what does not fit and what would."""
        directory = local_copy(directory)
        spec = load_spec(directory)
        module = build_module(spec)
        load_weights(module, directory, spec)
        encoder = cls(module, spec, device=device, batch=batch, precision=precision, digest=encoder_digest(directory))
        encoder.directory = directory
        return encoder

    @property
    def encoder_id(self) -> str:
        """Folder name of the encoder: its name as a slug and the head of its digest."""
        return encoder_id(self.spec.name, self.digest)

    def forward(self, x: torch.Tensor | NDArray[np.float32]) -> Activations:
        """Run n ≤ `batch` records, (n, n_leads, D) in the contract's leads, rate and unit."""
        n = len(x)
        if not 0 < n <= self.batch or tuple(x.shape[1:]) != tuple(self._x.shape[1:]):
            wanted = f"(1..{self.batch}, {self._x.shape[1]}, {self._x.shape[2]})"
            raise EncoderError(f"input of shape {tuple(x.shape)}; the encoder takes {wanted}")
        self._x[:n] = torch.as_tensor(x)
        self._x[n:] = 0.0
        blocks, prediction = self._run("this batch")
        return Activations(tuple(block[:n] for block in blocks), prediction[:n])

    def _run(self, what: str) -> tuple[list[torch.Tensor], torch.Tensor]:
        self._caught.clear()
        try:
            half = self.precision == "bfloat16"
            with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                output = self.module(self._x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise EncoderError(
                f"{self.spec.factory} does not run on {what} of shape {tuple(self._x.shape)}: {error}. "
                "Check [arguments] and [input] of encoder.toml against each other"
            ) from error
        blocks = [self._tap(layer) for layer in self.spec.layers]
        return blocks, self._prediction(output)

    def _hook(self, layer: str) -> None:
        name, element = split_layer(layer)
        modules = dict(self.module.named_modules())
        modules.pop("", None)
        if name not in modules:
            raise EncoderError(
                f"the network has no layer {name!r}.{did_you_mean(name, modules)} "
                f"It has {named(list(modules), 60)} (`ecgscale encoder check` shows their shapes)"
            )

        def catch(_module: nn.Module, _inputs: Any, output: Any) -> None:
            # A copy: a later in-place operation (relu_, +=) would write into what was caught.
            tensor = _element(output, element, layer)
            self._caught.setdefault(layer, []).append(tensor.to(torch.float32, copy=True))

        modules[name].register_forward_hook(catch)

    def _tap(self, layer: str) -> torch.Tensor:
        caught = self._caught.get(layer, [])
        if len(caught) != 1:
            raise EncoderError(
                f"layer {layer!r} ran {len(caught)} times in one forward pass; a tap has to run exactly once"
                + (" (tap the block around it, or give each use a module of its own)" if caught else "")
            )
        tensor, (n, _, length) = caught[0], self._x.shape
        if tensor.ndim != 3 or tensor.shape[0] != n or not 0 < tensor.shape[2] <= length or tensor.shape[1] == 0:
            raise EncoderError(
                f"layer {layer!r} gives shape {tuple(tensor.shape)}; a tap has to give (records, channels, steps) with "
                f"{n} records and at most {length} steps. `ecgscale encoder check` lists layers that do"
            )
        return tensor.contiguous()

    def _prediction(self, output: Any) -> torch.Tensor:
        if isinstance(output, tuple | list) and output:
            output = output[0]
        if not isinstance(output, torch.Tensor):
            raise EncoderError(f"{self.spec.factory} returns {type(output).__name__}; a tensor or a tuple was expected")
        if output.ndim == 1:
            output = output[:, None]
        names = self.spec.output.names
        if tuple(output.shape) != (self.batch, len(names)):
            raise EncoderError(
                f"{self.spec.factory} predicts shape {tuple(output.shape)} for {self.batch} records; [output] names "
                f"{len(names)}: {', '.join(names)}"
            )
        return output.to(torch.float32)


def _folded(module: nn.Module, layers: Iterable[str]) -> nn.Module:
    """`module.folded()` where it offers that (see ResNet1d) and no tap would notice, else the module."""
    fold = getattr(module, "folded", None)
    inner = {split_layer(layer)[0].rpartition(".")[2] for layer in layers} & {"conv1", "bn1"}
    return module if fold is None or inner else fold().requires_grad_(False)


def split_layer(layer: str) -> tuple[str, int]:
    """ "block1#1" → ("block1", 1): the module and which element of the tuple it returns (0 by default)."""
    name, separator, element = layer.partition("#")
    if separator and not element.isdecimal():
        raise EncoderError(f"layer {layer!r}: after # comes the number of the tuple's element, as in {name + '#1'!r}")
    return name, int(element or 0)


def _element(output: Any, element: int, layer: str) -> torch.Tensor:
    elements = list(output) if isinstance(output, tuple | list) else [output]
    if element >= len(elements) or not isinstance(elements[element], torch.Tensor):
        kinds = ", ".join(type(item).__name__ for item in elements)
        raise EncoderError(
            f"layer {layer!r} returns {len(elements)} element(s) ({kinds}); element {element} is no tensor"
        )
    tensor: torch.Tensor = elements[element]
    return tensor


def resolve_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one; UsageError when "cuda" is asked for and there is none."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"device {device!r} is unknown; choose auto, cpu or cuda") from error
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise UsageError("device 'cuda' was asked for, but torch sees no GPU here; choose auto or cpu")
    return resolved


def fix_arithmetic() -> None:
    """Switch off what makes results depend on timing or hardware mood: kernel search and TF32 (this process)."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


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
    state = _state_dict(_read_weights(path), path, spec.weights_key)
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


def _read_weights(path: Path) -> Any:
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
