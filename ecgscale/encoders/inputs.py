"""`[input]` of encoder.toml: what a network expects to see, and the filters that it may ask for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from ecgscale.archive_config import Section
from ecgscale.encoders.code import is_standard
from ecgscale.leads import canonical_lead

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def _several(given: Any) -> Any:
    return (given,) if isinstance(given, int | float) and not isinstance(given, bool) else given


FilterKind = Literal["highpass", "lowpass", "bandpass", "bandstop", "notch", "median-baseline"]
_ORDER = 4
_Q = 30.0
_EDGES = {"highpass": 1, "lowpass": 1, "bandpass": 2, "bandstop": 2, "notch": 1, "median-baseline": 0}
"""How many frequencies each kind has."""


class TooShort(ValueError):
    """A signal of fewer samples than a filter needs to begin with."""


class FilterSpec(Section):
    """One of `[input]` `filters`, as scipy.signal computes it.

    highpass, lowpass, bandpass, bandstop: `hz`, one or two; `design` butterworth of `order` (4; for two frequencies of
    twice as many poles, as `scipy.signal.butter` has it), or fir of `order` + 1 taps (`scipy.signal.firwin`)
    notch: `hz` and quality `q` (`scipy.signal.iirnotch`, 30)
    median-baseline: less the running median over `seconds` (`scipy.signal.medfilt` over an odd number of samples,
    zeros beyond the edges)
    phase: zero (forwards and backwards, `sosfiltfilt` or `filtfilt` with their own odd extension of the edges), or
    causal (`sosfilt` or `lfilter` from rest)
    """

    kind: FilterKind
    hz: Annotated[tuple[Positive, ...], BeforeValidator(_several)] = ()
    order: int | None = Field(default=None, ge=1, le=20_000)
    design: Literal["butterworth", "fir"] = "butterworth"
    phase: Literal["zero", "causal"] = "zero"
    q: Positive | None = None
    seconds: Positive | None = None
    before_resampling: bool = False  # at the recording's own rate, and not at the network's

    @model_validator(mode="after")
    def _fits(self) -> FilterSpec:
        kind, n = self.kind, _EDGES[self.kind]
        if len(self.hz) != n:
            raise ValueError(f"{kind} takes {('no hz', 'hz = F', 'hz = [LOW, HIGH]')[n]}")
        if n == 2 and self.hz[0] >= self.hz[1]:
            raise ValueError(f"{kind} takes hz = [LOW, HIGH], the lower one first")
        if (self.seconds is None) == (kind == "median-baseline"):
            raise ValueError("median-baseline takes seconds, and no other kind does")
        if self.q is not None and kind != "notch":
            raise ValueError(f"q is for notch, not for {kind}")
        plain = kind in ("notch", "median-baseline")
        if plain and (self.order is not None or self.design == "fir"):
            raise ValueError(f"{kind} takes neither order nor design")
        if kind == "median-baseline" and self.phase == "causal":
            raise ValueError("median-baseline looks to both sides: it has no phase")
        if self.design == "fir":
            if self.order is None:
                raise ValueError("design fir takes order: one less than its taps")
            if self.order % 2 and kind in ("highpass", "bandstop"):
                raise ValueError(f"a fir {kind} takes an even order, which {self.order} is not")
        elif self.order is not None and self.order > 20:
            raise ValueError("a butterworth of an order beyond 20 is not computed reliably")
        return self

    def fits_rate(self, rate: float) -> bool:
        """Whether its frequencies are there at a rate (Hz): below the half of it."""
        return all(hz < rate / 2 for hz in self.hz)

    def least(self, rate: float) -> int:
        """Samples that a signal at `rate` has to have at least."""
        return _designed(self, rate)[0]

    def apply(self, signal: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
        """(leads, samples) filtered, lead by lead; `TooShort` for fewer than `least(rate)` samples."""
        least, run = _designed(self, rate)
        if signal.shape[-1] < least:
            raise TooShort(f"{self.kind} needs {least} samples")
        # A lead at a time: a lead's bits are its own.
        return np.stack([run(np.ascontiguousarray(lead)) for lead in signal])


_Run = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@lru_cache(maxsize=256)
def _designed(spec: FilterSpec, rate: float) -> tuple[int, _Run]:
    """The least number of samples, and the filter of one lead."""
    from scipy import ndimage, signal  # half a second that reading a contract need not wait

    if spec.seconds is not None:
        width = int(spec.seconds * rate) + 1
        width += width % 2 == 0
        return width, lambda x: x - ndimage.median_filter(x, width, mode="constant", cval=0.0)
    hz: Any = spec.hz if len(spec.hz) == 2 else spec.hz[0]
    if spec.design == "fir":
        assert spec.order is not None
        taps = signal.firwin(spec.order + 1, hz, pass_zero=spec.kind, fs=rate)
        if spec.phase == "causal":
            return 1, lambda x: signal.lfilter(taps, 1.0, x)
        return 3 * len(taps) + 1, lambda x: signal.filtfilt(taps, 1.0, x)
    if spec.kind == "notch":
        sos = signal.tf2sos(*signal.iirnotch(hz, spec.q or _Q, rate))
    else:
        sos = signal.butter(spec.order or _ORDER, hz, spec.kind, output="sos", fs=rate)
    if spec.phase == "causal":
        return 1, lambda x: signal.sosfilt(sos, x)
    # As long as scipy extends a signal to either side.
    edge = 3 * (2 * len(sos) + 1 - min((sos[:, 2] == 0).sum(), (sos[:, 5] == 0).sum()))
    return int(edge) + 1, lambda x: signal.sosfiltfilt(sos, x, padlen=int(edge))


class WindowSpec(Section):
    """`[input.windows]`: a network of `length` samples runs over a longer input, a window every `stride` samples.

    pool: how the predictions of those windows that see anything of the recording become one, on the network's own
    scale (`[output]` `scale`)
    """

    length: int = Field(gt=0)
    stride: int = Field(gt=0)
    pool: Literal["mean", "max"] = "mean"


Normalisation = Literal["none", "zscore-lead", "zscore-record", "minmax-lead", "minmax-record"]


class InputSpec(Section):
    """`[input]`: what the encoder expects to see."""

    leads: tuple[str, ...] = Field(min_length=1)
    sampling_rate: Positive  # Hz
    length: int = Field(gt=0, lt=2**31)  # samples on the encoder's time axis
    millivolt: Positive = 1.0  # what 1 mV looks like to the encoder
    padding: Literal["center", "end"] = "center"
    layout: str = "bct"  # of the tensor that the network takes: see `arranged`
    normalisation: Normalisation = "none"
    range: tuple[Finite, Finite] = (0.0, 1.0)  # what minmax brings the smallest and the largest sample to
    mean: Annotated[tuple[Finite, ...], BeforeValidator(_several)] = ()  # of all leads, or one each; encoder's unit
    std: Annotated[tuple[Positive, ...], BeforeValidator(_several)] = ()
    offset: Finite = 0.0  # added at the end
    filters: tuple[FilterSpec, ...] = ()
    windows: WindowSpec | None = None
    preprocess: str | None = None  # "module:function" of the user's own

    _home: Path | None = PrivateAttr(default=None)

    @property
    def home(self) -> Path | None:
        """The (local) folder that it was read from, where `preprocess` is looked for first."""
        return self._home

    def read_from(self, directory: Path) -> None:
        """Remember that folder."""
        if self.preprocess is not None:
            self._home = directory

    @property
    def seen_at_once(self) -> int:
        """Samples that the network is given at a time."""
        return self.windows.length if self.windows else self.length

    @property
    def starts(self) -> Sequence[int]:
        """Where the windows begin; 0 alone without them."""
        if self.windows is None:
            return (0,)
        return _range(0, self.length - self.windows.length + 1, self.windows.stride)

    @property
    def seconds(self) -> float:
        """What the encoder sees of a recording."""
        return self.length / self.sampling_rate

    @property
    def shapes(self) -> bool:
        """Whether anything but scaling, resampling and padding is done to a signal."""
        plain = self.normalisation == "none" and not (self.mean or self.std or self.offset)
        return not plain or self.looks_around

    @property
    def looks_around(self) -> bool:
        """Whether a sample depends on those beside it, also on those that are cropped off."""
        return bool(self.filters) or self.preprocess is not None

    @field_validator("leads")
    @classmethod
    def _canonical(cls, leads: tuple[str, ...]) -> tuple[str, ...]:
        named = tuple(canonical_lead(lead) for lead in leads)
        if not all(named):
            raise ValueError("a lead has no name")
        if len(set(named)) < len(named):
            raise ValueError(f"a lead is named twice: {', '.join(leads)}")
        return named

    @field_validator("layout")
    @classmethod
    def _known_axes(cls, layout: str) -> str:
        if not re.fullmatch(r"(?:[bct1]|\([ct1]+\))+", layout) or any(layout.count(axis) != 1 for axis in "bct"):
            raise ValueError(
                f"{layout!r} is no layout: b (records), c (leads) and t (samples) once each, 1 for an axis of one, "
                "axes in parentheses are made one; as 'btc', 'b1ct', 'b(ct)'"
            )
        return layout

    @field_validator("preprocess")
    @classmethod
    def _importable(cls, preprocess: str | None) -> str | None:
        if preprocess is not None:
            require_import_path(preprocess, "module:function", "no preprocessing comes from there")
        return preprocess

    @model_validator(mode="after")
    def _consistent(self) -> InputSpec:
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (0, 1, len(self.leads)):
                raise ValueError(f"{key} has {len(values)} values for {len(self.leads)} leads; give one, or one a lead")
        if (self.mean or self.std) and self.normalisation != "none":
            raise ValueError(f"mean and std are undone by normalisation {self.normalisation!r}; leave out one of them")
        if not self.range[0] < self.range[1]:
            raise ValueError("range is [LOW, HIGH], the lower one first")
        if self.range != (0.0, 1.0) and not self.normalisation.startswith("minmax"):
            raise ValueError(f"range is for normalisation minmax-lead and minmax-record, not {self.normalisation!r}")
        if (own := self.windows) is not None:
            if not own.stride <= own.length <= self.length:
                raise ValueError("windows take a stride of at most their length, and that of at most [input] length")
            if over := (self.length - own.length) % own.stride:
                near = self.length - over
                raise ValueError(
                    f"windows of {own.length} samples every {own.stride} do not end with the {self.length} of [input] "
                    f"length: take {near} or {near + own.stride}"
                )
        for one in self.filters:
            if not one.before_resampling and not one.fits_rate(self.sampling_rate):
                of = ", ".join(f"{hz:g}" for hz in one.hz)
                raise ValueError(
                    f"filter {one.kind} of {of} Hz: at {self.sampling_rate:g} Hz there is nothing from "
                    f"{self.sampling_rate / 2:g} Hz on; before_resampling = true filters at the recording's own rate"
                )
        return self


def arranged(x: Any, layout: str) -> Any:
    """A tensor (records, leads, samples) as a network takes it: axes in the order of the letters b, c and t, 1 is an
    axis of one, those in parentheses are one, the first of them the slowest: "b(ct)" is (records, leads · samples)."""
    if layout == "bct":
        return x
    order = ["bct".index(axis) for axis in layout if axis in "bct"]
    size = dict(zip("bct", x.shape, strict=True)) | {"1": 1}
    parts = re.findall(r"\(([^)]*)\)|(.)", layout)
    shape = [math.prod(size[axis] for axis in joined or one) for joined, one in parts]
    return x.permute(order).contiguous().reshape(shape)


_range = range  # `range` is a key of the contract

RARE = ("windows", "layout", "range", "mean", "std", "offset", "filters", "preprocess")
"""Keys of `[input]` that few networks need: written where they say something."""


def require_import_path(path: str, form: str, why_not: str) -> None:
    """ValueError unless `path` is package.module:name, and none of Python's standard library."""
    if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", path):
        raise ValueError(f"{path!r} is not of the form 'package.{form}'")
    if is_standard(path.partition(":")[0]):
        raise ValueError(f"{path!r} is of Python's standard library, and {why_not}; name a function of your own module")
