"""What a person wants to know of an encoder before a night's run: its layers, and whether its taps keep time.

Lags are measured, not derived: see `encoders.timing`.

A network is to be a function of its input alone: results are the same bits whenever and beside whatever a record is
explained. Dropout that stays on, noise, state that is kept between calls, and batch norm without running statistics
break that. Three forward passes find it out; where something is found, two more say which modules do it. Nor may bits
depend on how many threads there are, which is a matter of the kernels that the batch's shape chooses: two passes more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecgscale.archive.reader import Archive
from ecgscale.encoders.inputs import arranged
from ecgscale.encoders.likeness import likeness
from ecgscale.encoders.listening import nodes_of, tensors_of
from ecgscale.encoders.network import load_network
from ecgscale.encoders.propose import lines_of_taps, propose_taps
from ecgscale.encoders.shapes import NODE, plausible_axes
from ecgscale.encoders.spec import load_spec
from ecgscale.encoders.taps import BATCH, Activations, Encoder
from ecgscale.encoders.timing import TapFact, measure_taps
from ecgscale.errors import EncoderError
from ecgscale.words import counted, named


@dataclass(frozen=True)
class LayerFact:
    """A named module that ran, or a torch.fx node: what it gives for a batch, and by which name it could be tapped."""

    name: str  # as in `layers`: with #i where the module returns a tuple, #key of a dict
    module: str  # class; of a node, what makes it
    shape: tuple[int, ...]
    tapped: bool
    tappable: bool  # some axis of it may be time, with at most D steps, and it ran once


@dataclass(frozen=True)
class EncoderReport:
    """Everything `ecgscale encoder check` prints."""

    encoder_id: str
    contract: dict[str, Any]
    parameters: int
    prediction: tuple[int, ...]
    layers: tuple[LayerFact, ...]
    taps: tuple[TapFact, ...]
    unsteady: str | None = None  # why it is not a function of its input alone
    notes: tuple[str, ...] = ()  # of how its weights were found, and of recordings that were tried
    proposed: str = ""  # how layers were chosen that encoder.toml does not name
    proposed_lines: tuple[str, ...] = ()  # of encoder.toml

    @property
    def warnings(self) -> list[str]:
        """What should make one hesitate."""
        found = list(self.notes)
        if self.unsteady is not None:
            found.append(
                f"the network is not a function of its input alone: {self.unsteady}. `ecgscale fit` refuses it; make "
                "it one in evaluation mode"
            )
        for tap in self.taps:
            if not tap.answers:
                found.append(f"{tap.layer} does not answer to impulses of 1 mV: it is dead, or its input is cut off")
            elif tap.wrong:
                found.append(f"{tap.wrong}. `ecgscale fit` refuses it as it is")
        if all(tap.steps == 1 for tap in self.taps):
            found.append("every tap has a single step: there is no time left to explain; tap earlier layers")
        return found

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        taps = [tap.as_dict() for tap in self.taps]
        return {**asdict(self), "prediction": list(self.prediction), "taps": taps, "warnings": self.warnings}


def check_encoder(
    directory: str | Path,
    device: str = "cpu",
    batch: int = 4,
    nodes: bool = False,
    like: Archive | None = None,
) -> EncoderReport:
    """Load the encoder, run batches through it, and report; EncoderError when it does not load or run.

    nodes: list values of its torch.fx graph too; they are listed in any case where one is tapped
    like: try its contract on recordings of this archive
    """
    spec, proposed = load_spec(directory), ""

    def made() -> nn.Module:
        return load_network(directory, spec)[0]

    if not spec.layers:
        proposal = propose_taps(made, spec)
        spec, proposed = proposal.spec, proposal.why
    encoder = Encoder.load(directory, device=device, batch=batch, spec=spec)
    odd = tuple(likeness(made, spec, like).warnings) if like is not None else ()
    nodes = nodes or any(layer.startswith(NODE) for layer in encoder.spec.layers)
    return EncoderReport(
        encoder_id=encoder.encoder_id,
        contract=encoder.spec.model_dump(mode="json", exclude_none=True),
        parameters=encoder.n_parameters,
        prediction=(batch, len(encoder.spec.output.names)),
        layers=tuple(_layers(encoder, nodes)),
        taps=measure_taps(encoder),
        # Of the shape that a fit has by default: another one has other kernels.
        unsteady=unsteadiness(encoder) or thread_dependence(encoder.of_batch(BATCH)),
        notes=(*encoder.notes, *odd),
        proposed=proposed,
        proposed_lines=lines_of_taps(spec) if proposed else (),
    )


def _layers(encoder: Encoder, nodes: bool) -> Iterator[LayerFact]:
    """Every named module that runs, with the shapes it gives for one batch of zeros, and with `nodes` every torch.fx
    node."""
    ran: dict[str, list[Any]] = {}

    def listen(name: str) -> Any:
        def caught(_module: nn.Module, _inputs: Any, output: Any) -> None:
            ran.setdefault(name, []).append(output)

        return caught

    modules = {name: module for name, module in encoder.module.named_modules() if name}
    hooks = [module.register_forward_hook(listen(name)) for name, module in modules.items()]
    signal = encoder.spec.input
    whole = encoder.batch, len(signal.leads), signal.length
    try:
        encoder.forward(np.zeros(whole, np.float32))  # in the layout that it takes, window by window
    finally:
        for hook in hooks:
            hook.remove()
    tapped = {layer.removesuffix("#0") for layer in encoder.spec.layers}

    def fact(name: str, kind: str, shape: Sequence[int], once: bool = True) -> LayerFact:
        readable = len(shape) > 2 and any(plausible_axes(shape, encoder.batch, signal.seen_at_once, len(signal.leads)))
        return LayerFact(name, kind, tuple(shape), name in tapped, readable and once)

    for name, module in modules.items():
        for path, tensor in tensors_of(ran[name][0]).items() if name in ran else ():
            label = name if path in ("", "0") else f"{name}#{path}"
            yield fact(label, type(module).__name__, tensor.shape, len(ran[name]) == len(encoder.spec.input.starts))
    if nodes:
        one = torch.zeros((encoder.batch, len(signal.leads), signal.seen_at_once), device=encoder.device)
        zeros = arranged(one, signal.layout)
        for name, made, shape in nodes_of(encoder.module, zeros, encoder.spec.factory):
            yield fact(f"{NODE}{name}", made, shape)


_NAMED = 4


def _noise(encoder: Encoder) -> NDArray[np.float32]:
    spec = encoder.spec.input
    shape = encoder.batch, len(spec.leads), spec.length
    return (np.random.default_rng(0).standard_normal(shape) * spec.millivolt).astype(np.float32)


def unsteadiness(encoder: Encoder) -> str | None:
    """Why the network gives a record other bits another time, in a sentence or two; None when it gives the same."""
    batch, x = encoder.batch, _noise(encoder)
    others = x.copy()
    others[1:] = 3 * x[1:][::-1]
    others[1 + batch // 2 :] = 0
    first = encoder.forward(x)
    if not _same(first, encoder.forward(x), batch):
        return (
            f"the same batch gives other outputs the second time ({_between(encoder, x, x, batch)}). Dropout that "
            "stays on (F.dropout without training=self.training), noise, or state that is kept between calls do that"
        )
    if batch > 1 and not _same(first, encoder.forward(others), 1):
        return (
            f"what it gives for a record depends on the records beside it ({_between(encoder, x, others, 1)}). Batch "
            "norm without running statistics, or any other sum over the batch, does that"
        )
    return None


def thread_dependence(encoder: Encoder) -> str | None:
    """Why the network gives other bits with two threads than with one, in a sentence or two; None when it gives the
    same, and on a GPU."""
    if encoder.device.type != "cpu":
        return None
    x = _noise(encoder)
    with _threads(1):
        one = encoder.forward(x)
    with _threads(2):
        two = encoder.forward(x)
    if _same(one, two, encoder.batch):
        return None
    seen = []
    for n in (1, 2):
        with _threads(n):
            seen.append(_watched(encoder, x, encoder.batch))
    larger = "" if encoder.batch >= BATCH else f"; passes of {BATCH} (--batch {BATCH}) may not"
    return (
        f"with two threads it gives other outputs than with one ({_culprits(encoder, *seen)}). Sums that are divided "
        f"among threads do that, as kernels chosen for passes of {counted(encoder.batch, 'record')} may{larger}"
    )


@contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def require_steady(encoder: Encoder, allowed: bool = False, threads: bool = True) -> bool:
    """Whether the network is a function of its input alone, and, where `threads` are asked about, not of their number;
    EncoderError when it is not, unless that is `allowed`."""
    why = unsteadiness(encoder) or (thread_dependence(encoder) if threads else None)
    if why is not None and not allowed:
        raise EncoderError(
            f"{encoder.spec.factory} is not a function of its input alone: {why}. Its clusters and explanations would "
            "be others every time. Make it one in evaluation mode; or fit with --allow-nondeterministic, which the "
            "model records"
        )
    return why is None


def require_timely(encoder: Encoder) -> list[str]:
    """EncoderError for taps that are drawn beside the signal, or by an axis that is not time, with what settles it.

    Returns what is wrong with those that encoder.toml says to trust.
    """
    taps = {fact.layer: fact.wrong for fact in measure_taps(encoder)}
    wrong = {layer: why for layer, why in taps.items() if why is not None}
    trusted = {tap.layer for tap in encoder.taps if tap.trust}
    refused = [why for layer, why in wrong.items() if layer not in trusted]
    if refused:
        raise EncoderError(
            f"{encoder.spec.factory} has taps that do not keep time: {'; '.join(refused)}. Put that into encoder.toml, "
            "which makes it another encoder (`ecgscale encoder check` prints the lines); trust = true in the section "
            "of a tap keeps it as it is"
        )
    return [why for layer, why in wrong.items() if layer in trusted]


def _same(one: Activations, other: Activations, records: int) -> bool:
    """Whether the first `records` have the same bits, NaN included."""
    pairs = zip((*one.blocks, one.prediction), (*other.blocks, other.prediction), strict=True)
    return all(torch.equal(a[:records].view(torch.int32), b[:records].view(torch.int32)) for a, b in pairs)


_Seen = dict[tuple[str, int], tuple[str, str]]
"""By module and how often it ran before: digests of what went in and of what came out."""


def _between(encoder: Encoder, x: NDArray[np.float32], others: NDArray[np.float32], records: int) -> str:
    """The culprits of two passes."""
    return _culprits(encoder, *(_watched(encoder, batch, records) for batch in (x, others)))


def _culprits(encoder: Encoder, one: _Seen, other: _Seen) -> str:
    """The innermost modules that made of equal inputs other outputs, with what they are."""
    found = {name for (name, n), (before, after) in one.items() if _differs(before, after, other.get((name, n)))}
    inner = [name for name in found if not any(deeper != name and _within(deeper, name) for deeper in found)]
    modules = dict(encoder.module.named_modules())
    order = {name: place for place, name in enumerate(modules)}
    return (
        named([_described(name, modules[name]) for name in sorted(inner, key=order.__getitem__)], _NAMED) or "unknown"
    )


def _differs(before: str, after: str, later: tuple[str, str] | None) -> bool:
    return later is not None and later[0] == before and later[1] != after


def _within(inner: str, outer: str) -> bool:
    return outer == "" or inner.startswith(f"{outer}.")


def _described(name: str, module: nn.Module) -> str:
    kind = type(module).__name__
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and not module.track_running_stats:
        kind += " with track_running_stats=False"
    elif module.training:
        kind += " in training mode"
    elif next(module.children(), None) is not None:
        kind += ", in its own forward"
    return f"{name or 'the network itself'}: {kind}"


def _watched(encoder: Encoder, x: NDArray[np.float32], records: int) -> _Seen:
    seen: _Seen = {}
    started: dict[str, list[str]] = {}
    hooks: list[torch.utils.hooks.RemovableHandle] = []

    def listen(name: str, module: nn.Module) -> None:
        def before(_module: nn.Module, inputs: Any) -> None:
            started.setdefault(name, []).append(_digest(inputs, encoder.batch, records))

        def after(_module: nn.Module, _inputs: Any, output: Any) -> None:
            n = len(started[name]) - 1
            seen[name, n] = started[name][n], _digest(output, encoder.batch, records)

        hooks.extend((module.register_forward_pre_hook(before), module.register_forward_hook(after)))

    for name, module in encoder.module.named_modules():
        listen(name, module)
    try:
        encoder.forward(x)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def _digest(content: Any, batch: int, records: int) -> str:
    """Of the first `records` of every tensor in it."""
    if isinstance(content, torch.Tensor):
        rows = content[:records] if content.ndim and len(content) == batch else content
        values = rows.detach().cpu().contiguous()
        values = values.float() if values.dtype == torch.bfloat16 else values
        return hashlib.sha256(values.numpy().tobytes()).hexdigest()
    if isinstance(content, dict):
        content = list(content.values())
    if isinstance(content, tuple | list):
        return "".join(_digest(inner, batch, records) for inner in content)
    return repr(content) if isinstance(content, int | float | str | bool | None) else type(content).__name__
