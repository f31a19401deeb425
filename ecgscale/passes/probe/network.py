"""The encoder's network with its taps open: gradients, dropout left on, weights put out of order.

The network is built from its contract again, as it was trained (nothing folded), because probes need what inference
leaves out. Every pass has one fixed shape, as in the encoder: short batches are filled with zero records.
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from ecgscale.encoders.foreign import Program
from ecgscale.encoders.inputs import arranged
from ecgscale.encoders.listening import element_of, exchanged, listen, prediction_of
from ecgscale.encoders.network import load_network
from ecgscale.encoders.shapes import split_layer
from ecgscale.encoders.spec import EncoderSpec, load_spec
from ecgscale.encoders.taps import even_threads, fix_arithmetic, resolve_device
from ecgscale.errors import EncoderError, UsageError


@dataclass(frozen=True)
class Passed:
    """What one pass gives for n records: blocks (n, C_b, L_b) each, raw predictions (n, n_outputs), and, where asked
    for, Grad-CAM (n, L_b) of each tapped layer."""

    blocks: tuple[torch.Tensor, ...]
    prediction: NDArray[np.float32]
    gradcam: tuple[NDArray[np.float32], ...] = ()


class ProbeNetwork:
    """A network in inference mode whose taps can be differentiated by."""

    def __init__(self, module: nn.Module, spec: EncoderSpec, device: str, batch: int) -> None:
        self.spec, self.batch = spec, batch
        self.device = resolve_device(device)
        self.module = module.to(self.device, torch.float32).eval().requires_grad_(False)
        self._taps: dict[str, torch.Tensor] = {}
        fix_arithmetic()
        self._heard = listen(self.module, spec.layers, self._tap, spec.factory)

    @classmethod
    def load(cls, directory: str | Path, device: str, batch: int) -> ProbeNetwork:
        """The network of an encoder directory; `EncoderError` as for the encoder itself."""
        spec = load_spec(directory)
        if spec.input.windows is not None:
            raise UsageError(
                f"probes do not know [input.windows] of {directory}: they look at one window's network alone"
            )
        return cls(load_network(directory, spec)[0], spec, device, batch)

    @property
    def has_dropout(self) -> bool:
        """Whether any dropout layer would drop something."""
        return any(True for _ in self._dropouts())

    def forward(self, x: NDArray[np.float32]) -> Passed:
        """One pass over n ≤ batch records."""
        with torch.inference_mode():
            output = self._run(self._filled(x))
        return self._passed(output, len(x))

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, n_outputs) raw predictions of any number of records, a batch at a time."""
        parts = [self.forward(x[i : i + self.batch]).prediction for i in range(0, len(x), self.batch)]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.spec.output.names)), np.float32)

    def gradcam(self, x: NDArray[np.float32], target: NDArray[np.int64]) -> Passed:
        """One pass over n ≤ batch records, with Grad-CAM of output `target` (n,) at every tapped layer.

        relu(Σ_c α_c A_c(l)), α_c the mean over l of ∂y/∂A_c(l) (Selvaraju et al. 2017, in one dimension). A tap of
        several leads has those of each lead among its c.
        """
        with even_threads(self.batch), torch.enable_grad():
            output = self._run(self._filled(x).requires_grad_(True))
            chosen = output[torch.arange(len(x), device=self.device), torch.from_numpy(target).to(self.device)]
            taps = [self._taps[layer] for layer in self.spec.layers]
            blocks = [self._block(layer, self._taps[layer], "stack") for layer in self.spec.layers]
            # Records do not mix in inference, so the gradient of the sum holds each record's own.
            gradients = torch.autograd.grad(chosen.sum(), taps, allow_unused=True) if chosen.requires_grad else ()
        if all(gradient is None for gradient in gradients):
            raise EncoderError(
                f"{self.spec.factory} gives its prediction no gradient by any of its taps, so there is no Grad-CAM: "
                "its forward cuts them off (detach, no_grad), or it is a program of a fixed batch, run in parts"
            )
        maps = []
        for layer, block, gradient in zip(self.spec.layers, blocks, gradients, strict=True):
            weight = torch.zeros_like(block) if gradient is None else self._block(layer, gradient, "stack")
            cam = torch.relu((weight.mean(dim=2, keepdim=True) * block).sum(dim=1))
            maps.append(cam[: len(x)].detach().float().cpu().numpy())
        return replace(self._passed(output, len(x)), gradcam=tuple(maps))

    @contextmanager
    def dropping(self, seed: int) -> Iterator[None]:
        """Dropout as in training, under a seed of its own; everything else stays in inference mode."""
        layers = list(self._dropouts())
        devices = [self.device] if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=devices):
                torch.manual_seed(seed)
                for layer in layers:
                    layer.train()
                yield
        finally:
            for layer in layers:
                layer.eval()

    def randomised(self, seed: int) -> Iterator[tuple[str, ProbeNetwork]]:
        """The same network with the weights of more and more of its parts put out of order, from the output down.

        A cascade as in Adebayo et al. 2018: behind the last tap first, then down to each tapped layer, at last all.
        Weights are permuted within a tensor, so that they keep their size; vectors of one module alike, so that the
        statistics of a batch norm stay with each other.
        """
        if isinstance(self.module, Program):
            # Its parts are not modules: all of it, or nothing.
            program = copy.deepcopy(self.module)
            program.shuffle(seed)
            yield "everything", ProbeNetwork(program, self.spec, str(self.device), self.batch)
            return
        parts = [name for name, part in self.module.named_children() if any(True for _ in part.parameters())]
        tapped = {split_layer(layer)[0].partition(".")[0] for layer in self.spec.layers}
        known = [i for i, name in enumerate(parts) if name in tapped]
        depths = sorted({*(i for i in known), *([known[-1] + 1] if known else []), 0}, reverse=True)
        for depth in (depth for depth in depths if depth < len(parts)):
            module = copy.deepcopy(self._plain())
            for name in parts[depth:]:
                _permute(dict(module.named_children())[name], name, seed)
            yield (
                "everything" if depth == 0 else f"{parts[depth]} and behind",
                ProbeNetwork(module, self.spec, str(self.device), self.batch),
            )

    def _plain(self) -> nn.Module:
        """A copy without hooks."""
        module = copy.deepcopy(self.module)
        for part in module.modules():
            part._forward_hooks.clear()
        return module

    def _dropouts(self) -> Iterator[nn.Module]:
        return (part for part in self.module.modules() if isinstance(part, _DropoutNd) and part.p > 0)

    def _filled(self, x: NDArray[np.float32]) -> torch.Tensor:
        filled = torch.zeros((self.batch, *x.shape[1:]), device=self.device)
        filled[: len(x)] = torch.from_numpy(np.ascontiguousarray(x))
        return filled

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        with even_threads(self.batch):
            return prediction_of(self._heard(arranged(x, self.spec.input.layout)), self.spec, self.batch)

    def _block(self, layer: str, tensor: torch.Tensor, leads: Literal["mean", "stack"] | None = None) -> torch.Tensor:
        tap, signal = self.spec.tap(layer), self.spec.input
        return replace(tap, leads=leads or tap.leads).block(tensor, self.batch, signal.length, len(signal.leads))

    def _passed(self, output: torch.Tensor, n: int) -> Passed:
        blocks = tuple(self._block(layer, self._taps[layer])[:n].detach().float() for layer in self.spec.layers)
        return Passed(blocks, output[:n].detach().float().cpu().numpy())

    def _tap(self, layer: str, path: Sequence[str], output: Any) -> Any:
        self._taps[layer] = element_of(output, path, f"layer {layer!r} returns")
        # Whatever comes behind works on a copy: an operation in place would spoil the tap and its gradient.
        return exchanged(output, self._taps[layer], self._taps[layer].clone())


def _permute(module: nn.Module, name: str, seed: int) -> None:
    """Put the weights of `module`, and what its batch norms remember, into a random order, in place."""
    for inner, part in module.named_modules():
        tensors: Sequence[torch.Tensor] = [*part.parameters(recurse=False), *part.buffers(recurse=False)]
        # One seed a module: its vectors, being of one length, get one order.
        number = zlib.crc32(f"{seed}:{name}.{inner}".encode())
        for tensor in tensors:
            if tensor.is_floating_point() and tensor.numel() > 1:
                order = torch.randperm(tensor.numel(), generator=torch.Generator().manual_seed(number))
                with torch.no_grad():
                    tensor.copy_(tensor.flatten()[order.to(tensor.device)].view_as(tensor))
