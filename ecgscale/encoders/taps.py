"""A network with taps: signals in, the activations of named layers and the prediction out.

Any `torch.nn.Module` will do: it is built by an import path, its weights are loaded strictly, every one and no other,
and forward hooks on its named modules catch what they return. Every forward pass has one fixed shape (`batch` records,
short ones filled up with zeros), since convolution kernels are chosen by shape: so a record's bits do not depend on its
neighbours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecgscale.config import BATCH
from ecgscale.encoders.inputs import arranged
from ecgscale.encoders.listening import element_of, instead_of, listen, prediction_of
from ecgscale.encoders.network import find_function, load_network, remedy
from ecgscale.encoders.shapes import NODE, Tap, split_layer
from ecgscale.encoders.spec import SPEC_FILE, EncoderParts, EncoderSpec, encoder_id, encoder_parts, load_spec
from ecgscale.errors import EncoderError, UsageError
from ecgscale.io.places import local_copy

Precision = Literal["float32", "bfloat16"]


LARGEST = 1e17
"""Of activations: the squares of a thousand channels, added up, are float32 numbers."""


@dataclass(frozen=True)
class Activations:
    """What one forward pass gives for n records, on the encoder's device."""

    blocks: tuple[torch.Tensor, ...]  # a tapped layer each: (n, C_b, L_b) float32
    prediction: torch.Tensor  # (n, n_outputs) float32

    def finite(self, prediction: bool = True) -> NDArray[np.bool_]:
        """bool (n,): records for which the network gave numbers in all blocks, and as its prediction, that are finite
        and, in the blocks, stay so when they are squared and added up."""
        # A comparison with NaN is false, and the largest of numbers with a NaN among them is NaN.
        finite = torch.stack([block.abs().amax((1, 2)) < LARGEST for block in self.blocks]).all(0)
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
        if not spec.layers:
            raise EncoderError(f"{SPEC_FILE} of {spec.name} names no layers; `ecgscale encoder check` proposes some")
        self.spec = spec
        self.batch = batch
        self.digest = digest
        self.directory: Path | None = None
        self.parts: EncoderParts | None = None
        self.notes: tuple[str, ...] = ()  # what to know of how its weights were found
        self.device = resolve_device(device)
        self.precision = precision
        module = module.to(self.device, torch.float32).eval().requires_grad_(False)
        self.n_parameters = sum(parameter.numel() for parameter in module.parameters())
        self.module = _folded(module, spec.layers)
        shape = (batch, len(spec.input.leads), spec.input.length)
        try:
            self._x = torch.zeros(shape, device=self.device)
        except (RuntimeError, OverflowError, TypeError, MemoryError) as error:
            raise EncoderError(f"there is no room for a batch of shape {shape}: see [input] of encoder.toml") from error
        self._caught: dict[str, list[torch.Tensor]] = {}
        fix_arithmetic()
        self.taps = tuple(spec.tap(layer) for layer in spec.layers)
        if spec.input.windows is not None and (timed := [tap.layer for tap in self.taps if tap.time]):
            raise EncoderError(
                f"[taps] start and step of {', '.join(timed)} do not go with [input.windows], whose windows are laid "
                "side by side: leave them out"
            )
        self._heard = listen(self.module, spec.layers, self._catch, spec.factory)
        blocks, _ = self._run("a batch of zeros")
        self.layout: tuple[tuple[int, int], ...] = tuple((block.shape[1], block.shape[2]) for block in blocks)
        hops = [
            t.time.step if t.time else spec.input.length / s for t, (_, s) in zip(self.taps, self.layout, strict=True)
        ]
        self.hop: int = max(1, int(min(hops)))

    @classmethod
    def load(
        cls,
        directory: str | Path,
        device: str = "cpu",
        batch: int = BATCH,
        precision: Precision = "float32",
        spec: EncoderSpec | None = None,
    ) -> Encoder:
        """The encoder in `directory`, ready to run; EncoderError says what does not fit and what would.

        spec: its contract with layers, where encoder.toml names none yet
        """
        directory = local_copy(directory)
        spec = spec or load_spec(directory)
        if spec.input.preprocess is not None:
            find_function.cache_clear()  # its file may have changed
            find_function(spec.input.preprocess, spec.input.home)  # here, and not at the first record
        module, notes = load_network(directory, spec)
        parts = encoder_parts(directory)
        encoder = cls(module, spec, device=device, batch=batch, precision=precision, digest=parts.digest)
        encoder.directory, encoder.parts, encoder.notes = directory, parts, notes
        return encoder

    def of_batch(self, batch: int) -> Encoder:
        """The same network, for passes of another size."""
        other = copy(self)
        other.batch, other._x = batch, torch.zeros((batch, *self._x.shape[1:]), device=self.device)
        return other

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
        spec, raws, outputs, seen = self.spec.input, [], [], []
        for start in spec.starts:
            view = self._x if spec.windows is None else self._x[..., start : start + spec.seen_at_once].contiguous()
            output = self._pass(view, what)
            raws.append(tuple(self._once(layer) for layer in self.spec.layers))
            outputs.append(prediction_of(output, self.spec, self.batch).to(torch.float32))
            seen.append((view != 0).flatten(1).any(1))
        self.raw = tuple(zip(*raws, strict=True))
        if spec.windows is None:
            return [self.block(tap, raw) for tap, raw in zip(self.taps, self.raw, strict=True)], outputs[0]
        # A record of nothing but zeros is seen by all windows, as zeros.
        some = torch.stack(seen) | ~torch.stack(seen).any(0)
        blocks = [self.block(tap, raw, some) for tap, raw in zip(self.taps, self.raw, strict=True)]
        return blocks, _pooled(torch.stack(outputs), some[..., None], spec.windows.pool)

    def _pass(self, x: torch.Tensor, what: str) -> Any:
        self._caught.clear()
        try:
            half = self.precision == "bfloat16"
            autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=half)
            with even_threads(self.batch), torch.inference_mode(), autocast:
                return self._heard(arranged(x, self.spec.input.layout))
        except EncoderError:
            raise
        except Exception as error:  # anything may go wrong in somebody else's network; the cause is chained
            raise EncoderError(
                f"{self.spec.factory} does not run on {what} of shape {tuple(x.shape)}: {error}. "
                f"{remedy(error) or 'Check [arguments] and [input] of encoder.toml against each other'}"
            ) from error

    def block(self, tap: Tap, raw: Sequence[torch.Tensor], seen: torch.Tensor | None = None) -> torch.Tensor:
        """What a tap returned, window by window, as (batch, channels, steps) over the whole input.

        Of windows that overlap the middle parts are taken. seen: bool (windows, batch); what others give that is not
        finite, as of a network that divides by the spread of zeros, is 0.
        """
        spec = self.spec.input
        parts = [tap.block(one, self.batch, spec.seen_at_once, len(spec.leads)) for one in raw]
        if spec.windows is None:
            return parts[0]
        steps, last = parts[0].shape[2], len(parts) - 1
        own, left_over = divmod(spec.windows.stride * steps, spec.windows.length)
        if left_over:
            raise EncoderError(
                f"layer {tap.layer!r} gives {steps} steps a window of {spec.windows.length} samples, and a stride of "
                f"{spec.windows.stride} is no whole number of them: choose another stride in [input.windows], or layer"
            )
        if seen is not None:
            parts = [
                torch.where(mine[:, None, None] | part.isfinite(), part, 0.0)
                for part, mine in zip(parts, seen, strict=True)
            ]
        first = (steps - own) // 2
        cut = [part[..., first * (k > 0) : steps if k == last else first + own] for k, part in enumerate(parts)]
        return torch.cat(cut, dim=2)

    def _catch(self, layer: str, path: Sequence[str], output: Any) -> Any:
        # A copy: a later in-place operation (relu_, +=) would write into what was caught.
        tensor = element_of(output, path, f"layer {layer!r} returns")
        self._caught.setdefault(layer, []).append(tensor.to(torch.float32, copy=True))
        return output

    def _once(self, layer: str) -> torch.Tensor:
        caught = self._caught.get(layer, [])
        if len(caught) != 1:
            name = split_layer(layer)[0]
            module = dict(self.module.named_modules()).get(name)
            raise EncoderError(
                f"layer {layer!r} ran {len(caught)} times in one forward pass; a tap has to run exactly once "
                f"({instead_of(name, module, len(caught))})"
            )
        return caught[0]


def _pooled(outputs: torch.Tensor, seen: torch.Tensor, pool: str) -> torch.Tensor:
    """(windows, n, n_outputs) → (n, n_outputs) over the windows that are `seen` (windows, n, 1)."""
    if pool == "max":
        return torch.where(seen, outputs, -torch.inf).amax(0)
    return torch.where(seen, outputs, 0.0).sum(0) / seen.sum(0)


def _folded(module: nn.Module, layers: Iterable[str]) -> nn.Module:
    """`module.folded()` where it offers that (see ResNet1d) and no tap would notice, else the module."""
    fold = getattr(module, "folded", None)
    names = [split_layer(layer)[0] for layer in layers]
    inner = {name.rpartition(".")[2] for name in names} & {"conv1", "bn1"}
    noticed = inner or any(name.startswith(NODE) for name in names)
    return module if fold is None or noticed else fold().requires_grad_(False)


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


@contextmanager
def even_threads(batch: int) -> Iterator[None]:
    """As many threads of this process as share a batch evenly, with two records each or more: an uneven share is of
    another shape, and convolution kernels are chosen by shape, so that last bits would depend on the number of threads.
    """
    before = torch.get_num_threads()
    even = max(n for n in range(1, before + 1) if n == 1 or (batch % n == 0 and batch // n >= 2))
    if even == before:
        yield
        return
    torch.set_num_threads(even)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def fix_arithmetic() -> None:
    """Switch off what makes results depend on timing or hardware mood: kernel search and TF32 (this process)."""
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
