"""Whether a tap keeps time: impulses go in from edge to edge of a record, and where the tap answers is compared with
where its steps are drawn.

For each impulse the centre of the answer is taken, in steps of the tap: the mean step, weighted by the energy of what
changes there, less what changes everywhere. A line through the centres over the places of the impulses is the tap's own
time axis. Its slope tells whether the axis that was taken for time is time at all: 1 where it is, 0 where not, and then
other axes are tried. Its ends tell how far from the signal the tap is drawn. Answers that an end of the axis cuts
off would bend the line inwards and are left out of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.encoders.shapes import ALL, DEFAULT_AXES, Tap, TimeMap, plausible_axes, section_of
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError

IMPULSES = 64
_ALLOWED = 0.1
"""Of a hop, how well the place of an answer is known."""
EDGE = 0.1
"""Of a record, at each end, where no impulse goes in."""
_FOLLOWS, _FOLLOWS_BROADLY, _CLOSELY = 0.5, 0.2, 0.8
"""Slope, of broad answers too, and correlation from which an axis is time."""
_MIXED_IN = 0.2
"""The quantile of a step over impulses, and of an impulse over steps, that is taken for what changes everywhere."""
_MOST = 0.35
"""Of impulses, beyond chance, that are answered loudest along one line."""
_HANDFUL = 6
_CUT = 0.01
"""Of the largest energy, at an end of the axis: an answer with more is cut off."""
_RESPONSE_FLOOR = 1e-3

Answers = NDArray[np.float64]
"""(impulses, steps): how much a tap changes at each of its steps, over all channels."""


@dataclass(frozen=True)
class TapFact:
    """One tap: its shape, and when it answers. Lags and widths are None when no impulse moved it, or it is not time.

    lag: samples, in the middle of the record; positive means that it is drawn after the signal
    lag_from_ms, lag_to_ms: at 10 % and at 90 % of the record
    slope: how fast its time goes over that of the signal, 1 for one that keeps time
    start, step: measured, in samples; as lines of encoder.toml they would put its steps where they answer
    answers_by: axes by which it follows time, when those it is read by do not
    """

    layer: str
    channels: int
    steps: int
    hop: float  # samples between steps, where they are drawn
    hop_ms: float
    lag: float | None = None
    lag_ms: float | None = None
    lag_hops: float | None = None
    width_ms: float | None = None  # root mean square spread of the answer around its centre
    field_ms: float | None = None  # from the first to the last step that answers with 0.1 % of the largest answer
    axes: str = DEFAULT_AXES
    stated: tuple[str, ...] = ()  # the keys that encoder.toml states of it
    answers: bool = False  # whether any impulse moved it
    is_time: bool | None = None  # None where none did, or its steps are too few to tell
    slope: float | None = None
    lag_from_ms: float | None = None
    lag_to_ms: float | None = None
    skew_ms: float | None = None  # from the centre of an answer to the middle of what answers at all
    start: float | None = None
    step: float | None = None
    drop_steps: tuple[int, int] | None = None  # steps at its ends that are no time, where dropping them is the remedy
    answers_by: tuple[str, ...] = ()

    @property
    def late(self) -> bool:
        """More than half a hop beside the signal somewhere from 10 % to 90 % of the record.

        A tenth of a hop is left to the measurement. And a tap is not late for weights that weigh one side of what it
        sees: it is when it lies beside the middle half of its answer, or drifts, and so does the middle of all that
        answers, whatever the weights. Where the ends cut off most answers, their centres are known to a hop.
        """
        if self.lag_from_ms is None or self.lag_to_ms is None or self.width_ms is None:
            return False
        ends = (self.lag_from_ms, self.lag_to_ms)
        off = min(max(abs(end + skew) for end in ends) for skew in (0.0, self.skew_ms or 0.0))
        known = _ALLOWED if self.skew_ms is not None else 1.0
        drift, allowed = abs(ends[1] - ends[0]), (0.5 + known) * self.hop_ms
        return off > allowed and (off > 0.5 * self.width_ms or drift > allowed)

    @property
    def wrong(self) -> str | None:
        """What is wrong with its time, and the lines of encoder.toml that settle it; None when nothing is."""
        if self.is_time is False:
            return self._not_time()
        if not self.late:
            return None
        return f"{self.layer} {self._when()}: clusters would be drawn beside what the network saw. {self.remedy}"

    def _not_time(self) -> str:
        said = f'axes "{self.axes}"' + (", as encoder.toml states" if "axes" in self.stated else "")
        head = (
            f"{self.layer} does not follow time by {said}: its {self.steps} steps answer in the same place wherever "
            f"the impulse is (slope {self.slope or 0:.2f}; 1 where steps are time)"
        )
        return f"{head}. {self.remedy}"

    def _when(self) -> str:
        one, other = self.lag_from_ms or 0.0, self.lag_to_ms or 0.0
        where = " where encoder.toml puts its steps" if "start" in self.stated else ""
        if abs(one - other) < 0.5 * self.hop_ms:
            middle = (one + other) / 2
            return f"lags by {middle:+.0f} ms, {middle / self.hop_ms:+.2f} of its hop{where}"
        return (
            f"lags by {one:+.0f} ms at 10 % of the record to {other:+.0f} ms at 90 %{where}; its hop is "
            f"{self.hop_ms:.0f} ms"
        )

    @property
    def remedy(self) -> str:
        """What puts it right, in a sentence with the keys of encoder.toml."""
        if self.is_time is False and not self.answers_by:
            return "No other axis of it does: tap an earlier layer"
        said = {key: f"{key} = {json.dumps(value)}" for key, value in self.lines.items()}
        if len(self.answers_by) > 1:
            said["axes"] = " or ".join(f'axes = "{axes}"' for axes in self.answers_by)
        why = "Its steps are where this says"
        if self.drop_steps is not None:
            why = "Steps that are no time are among them"
        if self.is_time is False:
            why = "It does by another axis"
        return f"{why}: {section_of(self.layer)} {', '.join(said.values())}"

    @property
    def lines(self) -> dict[str, Any]:
        """The keys of its section of encoder.toml that put it right; {} where it is right, or nothing does."""
        if self.is_time is not False and not self.late:
            return {}
        keys: dict[str, Any] = {"axes": self.answers_by[0]} if self.answers_by else {}
        if self.drop_steps is not None:
            first, last = self.drop_steps
            return {**keys, "drop_steps": [first, last] if last else first}
        return {**keys, "start": self.start, "step": self.step} if self.start is not None else keys

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {**asdict(self), "late": self.late, "wrong": self.wrong, "lines": self.lines}


def proposed(facts: Sequence[TapFact]) -> list[str]:
    """The lines of encoder.toml with which all taps keep time; [] where none are needed."""
    sections = {fact.layer: fact.lines for fact in facts}
    if len(facts) > 1 and all(lines == facts[0].lines for lines in sections.values()):
        sections = {ALL: facts[0].lines}
    return [
        line
        for layer, lines in sections.items()
        if lines
        for line in (section_of(layer), *(f"{key} = {json.dumps(value)}" for key, value in lines.items()))
    ]


@dataclass(frozen=True)
class _Line:
    """The line through the centres of answers: step = at + rate · sample. width, span: in steps, of an answer.

    broad: answers fill the axis, so that its ends cut off nearly all of them and the line is flatter than time
    skew: steps from the centre of an answer to the middle of all that answers; None where ends cut off most of them
    """

    at: float
    rate: float
    correlation: float
    width: float
    span: float
    broad: bool
    skew: float | None

    @classmethod
    def through(cls, answers: Answers, places: NDArray[np.float64], step: float, axes: str) -> _Line | None:
        """None when fewer than two impulses are answered; `step`: samples, how far apart steps are thought to be."""
        heard = answers.max(axis=1) > 0
        if heard.sum() < 2 or answers.shape[1] < 2:
            return None
        answers, places = answers[heard], places[heard]
        own = _own(answers)
        span, middles = _reach(answers)[0], _reach(own)[1]
        energy = own**2 / np.maximum((own**2).sum(axis=1, keepdims=True), np.finfo(float).tiny)
        steps = np.arange(answers.shape[1])
        centres = energy @ steps
        width = float(np.sqrt(np.mean((energy * (steps - centres[:, None]) ** 2).sum(axis=1))))
        within = np.isfinite(middles)
        skew = 0.0 if axes.endswith("c") else None
        if within.mean() >= 0.5:
            skew = float(np.median((middles - centres)[within]))
        whole = np.maximum(energy[:, 0], energy[:, -1]) < _CUT * energy.max(axis=1)
        broad = bool(whole.sum() < len(places) // 4 or np.ptp(places[whole]) < 0.3 * np.ptp(places))
        at, rate, correlation = _fitted(places, centres) if broad else _fitted(places[whole], centres[whole])
        # Attention answers elsewhere too, and pulls the centre there: of tokens the loudest is the better witness.
        loudest = own.argmax(axis=1).astype(float)
        spread = correlation < _CLOSELY or (axes.endswith("c") and width > 1)
        along = _most(places, loudest, 1 / step, len(steps)) if spread else None
        if along is not None:
            return cls(*along, width, span, False, 0.0)
        return cls(at, rate, correlation, width, span, broad, skew)

    def lag(self, drawn: TimeMap, place: float) -> float:
        """Samples from an impulse at `place` to where the tap's answer is drawn."""
        return drawn.start + drawn.step * (self.at + self.rate * place) - place

    def is_time(self, step: float) -> bool:
        """Whether it follows time, where steps are `step` samples apart."""
        return self.rate * step > (_FOLLOWS_BROADLY if self.broad else _FOLLOWS) and self.correlation > _CLOSELY


def _reach(answers: Answers) -> tuple[float, NDArray[np.float64]]:
    """Steps from the first to the last that answers, the most of all impulses; and for each impulse the step in the
    middle between them, NaN where they reach an end of the axis."""
    loud = answers > _RESPONSE_FLOOR * answers.max(axis=1, keepdims=True)
    first, last = loud.argmax(axis=1), answers.shape[1] - 1 - loud[:, ::-1].argmax(axis=1)
    cut = (first == 0) | (last == answers.shape[1] - 1)
    return float(np.max(last - first + 1)), np.where(cut, np.nan, (first + last) / 2)


def _fitted(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """(at, rate, correlation) of the line through most of the points, by least squares."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float(y.mean()), 0.0, 0.0
    rate, at = np.polyfit(x, y, 1)
    apart = np.abs(y - at - rate * x)
    near = apart <= max(3 * float(np.median(apart)), 1.0)
    if near.sum() > len(x) // 2 and np.ptp(x[near]) > 0:
        rate, at = np.polyfit(x[near], y[near], 1)
    return float(at), float(rate), float(np.corrcoef(x, y)[0, 1])


def _most(x: NDArray[np.float64], y: NDArray[np.float64], rate: float, steps: int) -> tuple[float, float, float] | None:
    """As `_fitted`, of the points that lie within three steps along a line of this rate; None for too few of them."""
    beside = np.sort(y - rate * x)
    inside = np.searchsorted(beside, beside + 3, side="right") - np.arange(len(x))
    first = beside[inside.argmax()]
    if inside.max() / len(x) < _MOST + 3 / steps:
        return None
    near = (y - rate * x >= first) & (y - rate * x <= first + 3)
    return _fitted(x[near], y[near])


def _own(answers: Answers) -> Answers:
    """What each impulse moves where others do not: less what a step answers to nearly all impulses, and what nearly all
    steps answer to an impulse. Attention, pooling and norms over time mix that in; a convolution has none of it."""
    share = answers / answers.sum(axis=1, keepdims=True)
    share = np.maximum(share - np.quantile(share, _MIXED_IN, axis=0), 0)
    return np.asarray(np.maximum(share - np.quantile(share, _MIXED_IN, axis=1, keepdims=True), 0))


def measure_taps(encoder: Encoder, impulses: int = IMPULSES) -> tuple[TapFact, ...]:
    """When every tap answers to impulses of 1 mV in all leads, at 10 % to 90 % of a record; half of them negative."""
    length = encoder.spec.input.length
    # Not quite evenly, so that the places fall on all parts of a hop.
    share = (np.arange(impulses) + 0.5) / impulses + 0.3 / impulses * np.sin(np.arange(impulses) * 2.4)
    places = np.clip(np.rint((EDGE + (1 - 2 * EDGE) * share) * (length - 1)), 0, length - 1)
    heard = _answers(encoder, places.astype(int))
    return tuple(
        _tap_fact(tap, shape, by_axes, places, encoder)
        for tap, shape, by_axes in zip(encoder.taps, encoder.layout, heard, strict=True)
    )


def _answers(encoder: Encoder, places: NDArray[np.int64]) -> list[dict[str, Answers]]:
    """For each tap, its answers by the axes that it is read by, and by all others that its shape allows."""
    spec, n = encoder.spec.input, encoder.batch
    n_leads = len(spec.leads)
    signs = np.where(np.arange(len(places)) // 2 % 2, -1.0, 1.0)

    def read(tap: Tap, axes: str, raw: Any) -> Any:
        other = replace(tap, leads="stack", time=None)
        other = other if axes == tap.axes else replace(other, axes=axes, drop=(0, 0))
        return encoder.block(other, raw)

    base = _base(encoder)
    encoder.forward(base)
    still = [{tap.axes: read(tap, tap.axes, raw)[:1]} for tap, raw in zip(encoder.taps, encoder.raw, strict=True)]
    for tap, raw, each in zip(encoder.taps, encoder.raw, still, strict=True):
        for axes in plausible_axes(raw[0].shape, n, spec.seen_at_once, n_leads):
            with suppress(EncoderError):  # of windows, by axes whose steps they do not divide
                each.setdefault(axes, read(tap, axes, raw)[:1])
    found: list[dict[str, list[Answers]]] = [{axes: [] for axes in each} for each in still]
    for start in range(0, len(places), n):
        chunk = slice(start, start + n)
        x = base.repeat(len(places[chunk]), axis=0)
        x[np.arange(len(x)), :, places[chunk]] += (signs[chunk] * spec.millivolt)[:, None]
        encoder.forward(x)
        for tap, raw, quiet, each in zip(encoder.taps, encoder.raw, still, found, strict=True):
            for axes, parts in each.items():
                moved = (read(tap, axes, raw)[: len(x)] - quiet[axes]).abs().sum(dim=1)
                parts.append(moved.double().cpu().numpy())
    return [{axes: np.concatenate(parts) for axes, parts in each.items()} for each in found]


def _base(encoder: Encoder) -> NDArray[np.float32]:
    """What impulses are added to, (1, leads, D): nothing; noise of 0.1 mV for a network that divides by its spread."""
    spec = encoder.spec.input
    base = np.zeros((1, len(spec.leads), spec.length), np.float32)
    if encoder.forward(base).finite(prediction=False).all():
        return base
    noise = np.random.default_rng(0).standard_normal(base.shape)
    return (0.1 * spec.millivolt * noise).astype(np.float32)


def _tap_fact(
    tap: Tap, shape: tuple[int, int], by_axes: Mapping[str, Answers], places: NDArray[np.float64], encoder: Encoder
) -> TapFact:
    length, ms = encoder.spec.input.length, 1000 / encoder.spec.input.sampling_rate
    (channels, steps), answers = shape, by_axes[tap.axes]
    drawn = tap.time or TimeMap.half_pixel(steps, length)
    fact = TapFact(
        *(tap.layer, channels, steps, drawn.step, drawn.step * ms),
        axes=tap.axes,
        stated=tuple(sorted(tap.stated)),
        answers=bool(answers.max() > 0),
    )
    line = _Line.through(answers, places, drawn.step, tap.axes)
    if line is None:
        return fact
    fact = replace(fact, slope=line.rate * drawn.step, is_time=line.is_time(drawn.step))
    if not fact.is_time:
        others = _other_axes(tap, by_axes, places, length)
        if not others:
            # Of a handful of steps that each see most of the record nothing can be told.
            return replace(fact, is_time=None) if line.broad and steps <= _HANDFUL else fact
        other = replace(tap, axes=others[0], drop=(0, 0), time=None)
        found = _tap_fact(other, (channels, by_axes[others[0]].shape[1]), by_axes, places, encoder)
        start, step = (found.start, found.step) if found.late and found.drop_steps is None else (None, None)
        return replace(fact, answers_by=others, drop_steps=found.drop_steps, start=start, step=step)
    first, middle, last = (line.lag(drawn, share * (length - 1)) for share in (EDGE, 0.5, 1 - EDGE))
    own = _rounded(line, length)
    if line.broad:
        # What the ends leave of answers is nearer to the middle than the signal: only there they tell when.
        first = last = middle
        own = TimeMap(round(drawn.start - middle, 2), drawn.step)
    fact = replace(
        fact,
        lag=middle,
        lag_ms=middle * ms,
        lag_hops=middle / drawn.step,
        width_ms=line.width * drawn.step * ms,
        field_ms=line.span * drawn.step * ms,
        lag_from_ms=first * ms,
        lag_to_ms=last * ms,
        skew_ms=None if line.skew is None else line.skew * drawn.step * ms,
        start=own.start,
        step=own.step,
    )
    # Tokens of a transformer: those of no time come first. Of convolutions, steps at the ends are time too.
    if tap.axes.endswith("c") and tap.time is None and not any(tap.drop) and fact.late:
        return replace(fact, drop_steps=_no_time(line, steps, length))
    return fact


def _rounded(line: _Line, length: int) -> TimeMap:
    """The line as `start` and `step`; a whole step where that is as good, since strides are whole."""
    step = 1 / line.rate
    middle = line.at + line.rate * (length - 1) / 2
    whole = TimeMap((length - 1) / 2 - middle * round(step), float(round(step)))
    if round(step) > 0 and abs(line.lag(whole, EDGE * (length - 1))) < 0.25 * step:
        return TimeMap(round(whole.start, 1), whole.step)
    return TimeMap(round(-line.at * step, 2), round(step, 4))


def _no_time(line: _Line, steps: int, length: int) -> tuple[int, int] | None:
    """How many steps at either end to drop, so that the others have half-pixel centres; None where that is not it."""
    step = 1 / line.rate
    first = round((step - 1) / 2 / step + line.at)
    last = steps - first - round(length / step)
    if first < 0 or last < 0 or first + last == 0 or first + last >= steps:
        return None
    others = TimeMap.half_pixel(steps - first - last, length)
    drawn = TimeMap(others.start - first * others.step, others.step)
    lags = [line.lag(drawn, share * (length - 1)) for share in (EDGE, 1 - EDGE)]
    return (first, last) if max(map(abs, lags)) < 0.5 * others.step else None


def _other_axes(tap: Tap, by_axes: Mapping[str, Answers], places: NDArray[np.float64], length: int) -> tuple[str, ...]:
    """Axes by which it does follow time, the closest first."""
    found = []
    for axes, answers in by_axes.items():
        step = length / answers.shape[1]
        line = _Line.through(answers, places, step, axes) if axes != tap.axes else None
        if line is not None and line.is_time(step):
            found.append((abs(line.rate * step - 1), axes))
    return tuple(axes for _, axes in sorted(found))
