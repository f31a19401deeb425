"""What a person wants to know of an encoder before a night's run: its layers, and whether its taps keep time.

A tap's lag is measured, not derived: an impulse goes in at a known place, and the centre of what changes in the
activations, on the upsampled time axis (step l of L sits at (l + ½) · D / L − ½), is compared with that place.
A lag of more than half a hop means that clusters would be painted beside what the network saw.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecgscale.encoders.taps import Encoder, split_layer

_POSITIONS = 32
_RESPONSE_FLOOR = 1e-3


@dataclass(frozen=True)
class LayerFact:
    """A named module that ran: what it gives for one batch, and under which name it could be tapped."""

    name: str  # as in `layers`: with #i where the module returns a tuple
    module: str  # class
    shape: tuple[int, ...]
    tapped: bool
    tappable: bool  # (records, channels, steps) with at most D steps, run once


@dataclass(frozen=True)
class TapFact:
    """One tap: its shape, and when it answers. Lags and widths are None when no impulse moved it."""

    layer: str
    channels: int
    steps: int
    hop: float  # samples between steps
    hop_ms: float
    lag: float | None  # samples; positive means that the answer comes after the signal
    lag_ms: float | None
    lag_hops: float | None
    width_ms: float | None  # root mean square spread of the answer around its centre
    field_ms: float | None  # from the first to the last step that answers with 0.1 % of the largest answer

    @property
    def late(self) -> bool:
        """More than half a hop off."""
        return self.lag_hops is not None and abs(self.lag_hops) > 0.5


@dataclass(frozen=True)
class EncoderReport:
    """Everything `ecgscale encoder check` prints."""

    encoder_id: str
    contract: dict[str, Any]
    parameters: int
    prediction: tuple[int, ...]
    layers: tuple[LayerFact, ...]
    taps: tuple[TapFact, ...]

    @property
    def warnings(self) -> list[str]:
        """What should make one hesitate."""
        found = []
        for tap in self.taps:
            if tap.lag is None:
                found.append(f"{tap.layer} does not answer to impulses of 1 mV: it is dead, or its input is cut off")
            elif tap.late:
                found.append(
                    f"{tap.layer} lags by {tap.lag_ms:+.0f} ms, {tap.lag_hops:+.2f} of its hop: clusters will be drawn "
                    "beside what the network saw (causal or unevenly padded convolutions?)"
                )
        if all(tap.steps == 1 for tap in self.taps):
            found.append("every tap has a single step: there is no time left to explain; tap earlier layers")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        taps = [{**asdict(tap), "late": tap.late} for tap in self.taps]
        return {**asdict(self), "prediction": list(self.prediction), "taps": taps, "warnings": self.warnings}


def check_encoder(directory: str | Path, device: str = "cpu", batch: int = 4) -> EncoderReport:
    """Load the encoder, run batches through it, and report; EncoderError when it does not load or run."""
    encoder = Encoder.load(directory, device=device, batch=batch)
    layers, prediction = _layers(encoder)
    return EncoderReport(
        encoder_id=encoder.encoder_id,
        contract=encoder.spec.model_dump(mode="json", exclude_none=True),
        parameters=encoder.n_parameters,
        prediction=prediction,
        layers=layers,
        taps=measure_taps(encoder),
    )


def _layers(encoder: Encoder) -> tuple[tuple[LayerFact, ...], tuple[int, ...]]:
    """Every named module that runs, with the shapes it gives for one batch of zeros."""
    ran: dict[str, list[Any]] = {}

    def listen(name: str) -> Any:
        def caught(_module: nn.Module, _inputs: Any, output: Any) -> None:
            ran.setdefault(name, []).append(output)

        return caught

    modules = {name: module for name, module in encoder.module.named_modules() if name}
    hooks = [module.register_forward_hook(listen(name)) for name, module in modules.items()]
    try:
        zeros = np.zeros((encoder.batch, len(encoder.spec.input.leads), encoder.spec.input.length), np.float32)
        prediction = encoder.forward(zeros).prediction
    finally:
        for hook in hooks:
            hook.remove()
    tapped = {split_layer(layer) for layer in encoder.spec.layers}
    facts = []
    for name, outputs in ran.items():
        elements = outputs[0] if isinstance(outputs[0], tuple | list) else [outputs[0]]
        for number, element in enumerate(elements):
            if isinstance(element, torch.Tensor):
                shape = tuple(element.shape)
                fits = len(shape) == 3 and shape[0] == encoder.batch and 0 < shape[2] <= encoder.spec.input.length
                kind = type(modules[name]).__name__
                label = f"{name}#{number}" if number else name
                facts.append(LayerFact(label, kind, shape, (name, number) in tapped, fits and len(outputs) == 1))
    order = {name: place for place, name in enumerate(modules)}
    facts.sort(key=lambda fact: order[split_layer(fact.name)[0]])
    return tuple(facts), tuple(prediction.shape)


def measure_taps(encoder: Encoder, positions: int = _POSITIONS) -> tuple[TapFact, ...]:
    """Lag, width and field of every tap, averaged over impulses in all leads at `positions` places.

    The places cover one hop of the coarsest tap around the middle of the record, so that neither the grid of steps
    nor the borders weigh in; half of the impulses are negative.
    """
    spec = encoder.spec.input
    widest = spec.length / min(length for _, length in encoder.layout)
    offsets = (np.arange(positions) + 0.5) / positions - 0.5
    places = np.clip(np.rint((spec.length - 1) / 2 + offsets * widest).astype(int), 0, spec.length - 1)
    signs = np.where(np.arange(positions) // 2 % 2, -1.0, 1.0)
    still = encoder.forward(np.zeros((1, len(spec.leads), spec.length), np.float32)).blocks
    answers: list[list[NDArray[np.float64]]] = [[] for _ in still]
    for start in range(0, positions, encoder.batch):
        chunk = slice(start, start + encoder.batch)
        x = np.zeros((len(places[chunk]), len(spec.leads), spec.length), np.float32)
        x[np.arange(len(x)), :, places[chunk]] = (signs[chunk] * spec.millivolt)[:, None]
        for block, (moved, quiet) in enumerate(zip(encoder.forward(x).blocks, still, strict=True)):
            answers[block].append((moved - quiet).abs().sum(dim=1).double().cpu().numpy())
    names = encoder.spec.layers
    return tuple(
        _tap_fact(layer, shape, np.concatenate(answer), places, spec.length, spec.sampling_rate)
        for layer, shape, answer in zip(names, encoder.layout, answers, strict=True)
    )


def _tap_fact(
    layer: str, shape: tuple[int, int], answer: NDArray[np.float64], places: NDArray, length: int, rate: float
) -> TapFact:
    """From the summed answers (positions, L) of one tap."""
    channels, steps = shape
    hop, ms = length / steps, 1000 / rate
    lag = width = span = None
    weight = answer.sum(axis=1)
    if (heard := weight > 0).any():
        centres = (np.arange(steps) + 0.5) * hop - 0.5
        shares = answer[heard] / weight[heard, None]
        middles = shares @ centres
        lag = float(np.mean(middles - places[heard]))
        width = float(np.sqrt(np.mean((shares * (centres - middles[:, None]) ** 2).sum(axis=1))))
        loud = answer[heard] > _RESPONSE_FLOOR * answer[heard].max(axis=1, keepdims=True)
        last = steps - loud[:, ::-1].argmax(axis=1)
        span = float(np.max(last - loud.argmax(axis=1))) * hop
    return TapFact(
        layer=layer,
        channels=channels,
        steps=steps,
        hop=hop,
        hop_ms=hop * ms,
        lag=lag,
        lag_ms=None if lag is None else lag * ms,
        lag_hops=None if lag is None else lag / hop,
        width_ms=None if width is None else width * ms,
        field_ms=None if span is None else span * ms,
    )
