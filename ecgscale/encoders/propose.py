"""Which layers of a network to tap, found by running it.

Every named module that has weights is a candidate. Impulses tell by which axis of what it gives it follows time, if by
any (`encoders.timing`). Where to look is decided by the weights: from the network's own children, the one with most of
them is opened until at least three of what is left keep time and none that does not holds most of the network. Of what
is left, the last of each length is the end of a stage, and the last three of these are proposed; where all are of one
length, as in a transformer, the last three blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from ecgscale.encoders.code import PROGRAMS
from ecgscale.encoders.inputs import arranged
from ecgscale.encoders.listening import tensors_of
from ecgscale.encoders.shapes import ALL, DEFAULT_AXES, Tap, TapSpec, plausible_axes
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.timing import TapFact, measure_taps
from ecgscale.errors import EncoderError
from ecgscale.io.toml import to_toml
from ecgscale.words import counted

TAPPED = 3
_BATCH, _IMPULSES = 4, 24
_ROUNDS = 3
"""Of measuring, until the lines that were proposed keep time."""
_MOST_OF = 0.75
"""Of the weights: a module that holds more is opened, though it keeps time."""


@dataclass(frozen=True)
class Proposal:
    """A contract with its layers filled in, what was measured of them, and how they were chosen, in a sentence."""

    spec: EncoderSpec
    taps: tuple[TapFact, ...]
    why: str


def propose_taps(make: Callable[[], nn.Module], spec: EncoderSpec) -> Proposal:
    """Layers for a contract that names none. `make` builds the network anew, with its weights.

    EncoderError when no layer of it follows time.
    """
    if spec.input.windows is not None:
        # Of one window: that is what the network sees.
        window = spec.input.model_copy(update={"windows": None, "length": spec.input.seen_at_once})
        one = propose_taps(make, spec.model_copy(update={"input": window}))
        return replace(one, spec=one.spec.model_copy(update={"input": spec.input}))
    good, steps = _candidates(make(), spec)
    if not good and spec.factory in PROGRAMS:
        raise EncoderError(
            f"which values of a {spec.factory} program follow time is not looked for: name three in `layers` of "
            "encoder.toml (--layers of `ecgscale encoder init`); `ecgscale encoder check --all` then lists all"
        )
    if not good:
        raise EncoderError(
            f"no layer of {spec.factory} follows time, by any of its axes: an impulse moves all steps of it alike. "
            "ecgscale explains networks that keep a time axis up to their last blocks"
        )
    chosen, why = _choose(make(), list(good), steps)
    sections = {name: good[name] for name in chosen}
    facts: tuple[TapFact, ...] = ()
    for _ in range(_ROUNDS):
        found = with_taps(spec, chosen, sections)
        facts = measure_taps(Encoder(make(), found, batch=_BATCH))
        if not any(fact.wrong for fact in facts):
            break
        sections = {fact.layer: _settled(sections[fact.layer], fact) for fact in facts}
    return Proposal(found, facts, why)


def with_taps(spec: EncoderSpec, layers: Sequence[str], sections: dict[str, TapSpec] | None = None) -> EncoderSpec:
    """The contract with these layers; what all their sections say alike stands in that of all."""
    own = {name: section for name, section in (sections or {}).items() if section != TapSpec()}
    alike = len(own) == len(layers) and len(set(map(repr, own.values()))) == 1
    taps = {ALL: next(iter(own.values()))} if own and alike else own
    content = spec.model_dump(exclude={"layers", "depth_scales", "taps"})
    return EncoderSpec.model_validate({**content, "layers": tuple(layers), "taps": taps})


def lines_of_taps(spec: EncoderSpec) -> tuple[str, ...]:
    """The lines of encoder.toml that say what a contract taps."""
    keys = {"layers", "depth_scales", "taps"}
    return tuple(filter(None, to_toml(spec.model_dump(mode="json", exclude_none=True, include=keys)).splitlines()))


def _settled(section: TapSpec, fact: TapFact) -> TapSpec:
    """The section with the remedy of what was measured."""
    if fact.wrong is None:
        return section
    if fact.is_time is False and fact.answers_by:
        return TapSpec(axes=fact.answers_by[0])
    if fact.drop_steps is not None:
        first, last = fact.drop_steps
        return section.model_copy(update={"drop_steps": (first, last) if last else first})
    return section.model_copy(update={"start": fact.start, "step": fact.step})


def _candidates(module: nn.Module, spec: EncoderSpec) -> tuple[dict[str, TapSpec], dict[str, int]]:
    """Layers that follow time in the order in which they end, each with its axes and how many steps it has."""
    shapes = _shapes(module.eval(), spec)
    first = {
        name: next(plausible_axes(shape, _BATCH, spec.input.length, len(spec.input.leads)), None)
        for name, shape in shapes.items()
    }
    readable = [name for name, axes in first.items() if axes is not None]
    if not readable:
        return {}, {}
    taps = {name: TapSpec(axes=first[name]) for name in readable}
    encoder = Encoder(module, with_taps(spec, readable, taps), batch=_BATCH)
    good, steps = {}, {}
    for fact in measure_taps(encoder, _IMPULSES):
        axes = fact.axes if fact.is_time else next(iter(fact.answers_by), None)
        if axes is None:
            continue
        good[fact.layer] = TapSpec() if axes == DEFAULT_AXES else TapSpec(axes=axes)
        raw = encoder.raw[encoder.spec.layers.index(fact.layer)]
        block = encoder.block(replace(Tap.of(fact.layer, {}), axes=axes), raw)
        steps[fact.layer] = block.shape[2]
    return good, steps


def _shapes(module: nn.Module, spec: EncoderSpec) -> dict[str, tuple[int, ...]]:
    """What modules with weights give that run once, in the order in which they end: of several tensors, the first."""
    ran: dict[str, list[Any]] = {}

    def heard(name: str) -> Any:
        return lambda _module, _inputs, output: ran.setdefault(name, []).append(
            {path: tuple(tensor.shape) for path, tensor in tensors_of(output).items()}
        )

    hooks = [
        inner.register_forward_hook(heard(name))
        for name, inner in module.named_modules()
        if name and any(True for _ in inner.parameters())
    ]
    x = torch.zeros((_BATCH, len(spec.input.leads), spec.input.length))
    try:
        with torch.inference_mode():
            module(arranged(x, spec.input.layout))
    finally:
        for hook in hooks:
            hook.remove()
    found = {}
    for name, outputs in ran.items():
        if len(outputs) == 1 and outputs[0]:
            path, shape = next(iter(outputs[0].items()))
            found[name if path in ("", "0") else f"{name}#{path}"] = shape
    return found


def _choose(module: nn.Module, good: Sequence[str], steps: dict[str, int]) -> tuple[list[str], str]:
    modules = dict(module.named_modules())
    names = {name.partition("#")[0]: name for name in good}
    weights = {name: sum(one.numel() for one in inner.parameters()) for name, inner in modules.items()}

    whole: set[str] = set()

    def children(name: str) -> list[str]:
        inner = [] if name in whole else [f"{name}.{child}".lstrip(".") for child, _ in modules[name].named_children()]
        return [child for child in inner if weights[child]]

    front = children("")
    while True:
        closed = [name for name in front if name in names]
        largest = max((name for name in front if children(name)), key=weights.__getitem__, default=None)
        if largest is None:
            break
        hides = largest not in names or weights[largest] > _MOST_OF * weights[""]
        if not hides and len(closed) >= TAPPED:
            break
        if largest in names and not any(name.startswith(f"{largest}.") for name in names):
            whole.add(largest)  # nothing inside keeps time of its own
            continue
        at = front.index(largest)
        front[at : at + 1] = children(largest)
    order = {name: place for place, name in enumerate(good)}
    found = sorted((names[name] for name in front if name in names), key=order.__getitem__)
    ends = {steps[name]: name for name in found}
    if len(ends) >= TAPPED:
        chosen = sorted(ends.values(), key=order.__getitem__)[-TAPPED:]
        return chosen, f"the ends of the last {counted(len(chosen), 'stage')}, of {_listed(chosen, steps)} steps"
    # A norm behind the last block is none itself.
    typical = sorted(weights[name.partition("#")[0]] for name in found)[len(found) // 2] if found else 0
    large = [name for name in found if weights[name.partition("#")[0]] > 0.1 * typical]
    chosen = (large if len(large) >= TAPPED else found)[-TAPPED:]
    return chosen, f"the last {counted(len(chosen), 'block')} that follow time, of {_listed(chosen, steps)} steps"


def _listed(chosen: Sequence[str], steps: dict[str, int]) -> str:
    return ", ".join(str(steps[name]) for name in chosen)
