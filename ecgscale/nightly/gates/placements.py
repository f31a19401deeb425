"""Where a record lies within the reference, and how surely a group of records lies elsewhere.

The placement of a value x among m reference values is v = P(reference < x) − P(reference > x), from −1 to 1, ties
shared. Its mean over a group is Cliff's delta (Cliff 1993, Psychol. Bull. 114:494) against the reference, and its
test is that of Mann and Whitney. Each record is placed within the reference records of its own site and device, so a
night on which only one site records is compared with that site: the mean over strata is that of van Elteren (1960,
Bull. Inst. Int. Stat. 37:351), weighted by the group.

Two probabilities are computed of each delta, and the larger one counts:

- the normal one, with the variance of Mann and Whitney, which knows how small the reference is;
- Chernoff's bound (1952, Ann. Math. Stat. 23:493), min over λ of exp(n K(λ) − n λ |delta|), with K the cumulant
  function of the placements that reference records have among themselves. It holds for every n and however skewed they
  are, which the normal one does not: a cluster that one record in fifty shows at all is far from normal in 30 records.

`quantities` are the numbers of a record in which drift is looked for, one column each, named as an operator reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import norm

from ecgscale.archive.traits import TRAITS
from ecgscale.errors import EcgscaleError
from ecgscale.nightly.gates.evidence import texts

CLUSTER, FLAG = "cluster ", "flag "
SECONDS = "seconds recorded"
TRAIT_NAMES = dict(
    zip(TRAITS, ("amplitude (mV)", "correlation of I and V6", "mains hum (mV)", "frequency (Hz)"), strict=True)
)
STEPS = {
    SECONDS: 0.5,
    "mean_entropy": 0.005,
    **dict(zip(TRAIT_NAMES.values(), (0.02, 0.1, 0.01, 0.5), strict=True)),
}
"""Quantities are rounded to steps, shares of clusters to `SHARE_STEP`. To ranks alone, recordings that are
all a hundredth of a second longer would be as far from the others as can be."""
SHARE_STEP = 0.002


@dataclass(frozen=True)
class Quantities:
    """N explained records by F quantities.

    names: "cluster 0" … "cluster K−1", "mean_entropy", "distortion", "output X" …, "seconds recorded", traits
        of the signal, "flag X" …
    values: float32 (N, F), NaN where unknown; site, device: (N,) strings, "" where unknown
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    site: NDArray[np.object_]
    device: NDArray[np.object_]


def quantities(rows: pa.Table, output_names: Sequence[str], kinds: Sequence[str]) -> Quantities:
    """The quantities of explained rows (status "ok"), with a column for each of the `kinds` of flags.

    EcgscaleError when their outputs are not those named.
    """
    shares = _lists(rows["proportions"], None, "proportions")
    outputs = _lists(rows["prediction"], len(output_names), "outputs of the network")
    columns: dict[str, NDArray] = {f"{CLUSTER}{k}": shares[:, k] for k in range(shares.shape[1])}
    columns["mean_entropy"] = _numbers(rows, "mean_entropy")
    columns["distortion"] = _numbers(rows, "distortion")
    columns |= {f"output {name}": outputs[:, i] for i, name in enumerate(output_names)}
    columns[SECONDS] = _seconds(rows)
    columns |= {name: _numbers(rows, trait) for trait, name in TRAIT_NAMES.items()}
    columns |= {f"{FLAG}{kind}": _flagged(rows, kind) for kind in kinds}
    return Quantities(
        names=tuple(columns),
        values=np.stack([_rounded(name, column) for name, column in columns.items()], axis=1),
        site=np.array(texts(rows, "site"), dtype=object),
        device=np.array(texts(rows, "device"), dtype=object),
    )


def _rounded(name: str, column: NDArray) -> NDArray[np.float32]:
    step = SHARE_STEP if name.startswith(CLUSTER) else STEPS.get(name)
    return (np.round(column / step) * step if step else column).astype(np.float32)


def flag_kinds(rows: pa.Table) -> set[str]:
    """Kinds of the flags that are set: "flat_lead:V1" is of the kind "flat_lead"."""
    return {flag.split(":")[0] for flag in pc.unique(pc.list_flatten(rows["flags"])).to_pylist()}


def _flagged(rows: pa.Table, kind: str) -> NDArray[np.float32]:
    """1 where a flag of this kind is set, else 0."""
    lists = rows["flags"].combine_chunks()
    flat = pc.list_flatten(lists)
    wanted = [flag for flag in pc.unique(flat).to_pylist() if flag.split(":")[0] == kind]
    found = np.zeros(rows.num_rows, np.float32)
    here = pc.is_in(flat, value_set=pa.array(wanted, flat.type)).to_numpy(zero_copy_only=False)
    found[pc.list_parent_indices(lists).to_numpy()[here]] = 1
    return found


def _lists(column: pa.ChunkedArray, size: int | None, what: str) -> NDArray[np.float32]:
    """(N, size) of a column of lists that are as long as each other."""
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1 or None in lengths or (size is not None and lengths not in ([], [size])):
        raise EcgscaleError(
            f"the explanations have {' or '.join(map(str, lengths))} {what} a record"
            + (f"; expected {size}" if size is not None else "")
            + ". Judge the rows of one dataset, with its own reference and output names"
        )
    return np.asarray(pc.list_flatten(column).to_numpy(), np.float32).reshape(len(column), -1)


def _numbers(rows: pa.Table, column: str) -> NDArray[np.float32]:
    """A column of numbers, NaN where it is null or not there."""
    if column not in rows.column_names:
        return np.full(rows.num_rows, np.nan, np.float32)
    return np.asarray(rows[column].to_numpy(), np.float32)


def _seconds(rows: pa.Table) -> NDArray[np.float32]:
    """Length of the recording as its sampling rate has it.

    A record that was cut at the encoder's length is as long as that; "flag cropped" tells the rest.
    """
    span = _numbers(rows, "valid_stop") - _numbers(rows, "valid_start")
    return np.asarray(span / _numbers(rows, "sampling_rate"))


STRATUM_RECORDS = 30
"""Reference records of one site and device from which on records are compared with these alone. Few of the same kind
say more than many of another: devices differ more than chance does, and the probability knows how few they are."""

# Every λ gives a bound that holds, so a grid costs tightness at most.
_STEEPNESS = np.geomspace(0.05, 200.0, 96)
# Placements are rounded up to this grid before K is computed, which can only raise the bound.
_GRID = np.linspace(-1.0, 1.0, 401)
_POWERS = np.exp(_GRID[:, None] * _STEEPNESS)


@dataclass(frozen=True)
class Stratum:
    """Reference records of one site and device, or of a wider circle.

    ordered: for each of F quantities, float32 (m,) ascending, unknown values left out
    spread: (F,), mean square of their placements among themselves, no less than 1 / m: m equal values do not rule out
        another one
    cumulants: (2, F, λ), K of the placements and of their negatives
    """

    ordered: tuple[NDArray[np.float32], ...]
    spread: NDArray[np.float64]
    cumulants: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float32]) -> Stratum:
        """The stratum of (m, F) reference values, NaN where unknown."""
        ordered = tuple(np.sort(column[~np.isnan(column)]) for column in values.T)
        own = [placed(column, column).astype(np.float64) for column in ordered]
        spread = [max(float((v**2).mean()), 1 / len(v)) if len(v) else 1.0 for v in own]
        cumulants = [[_cumulants(v) for v in own], [_cumulants(-v) for v in own]]
        return cls(ordered, np.array(spread), np.array(cumulants))

    @property
    def sizes(self) -> NDArray[np.intp]:
        """(F,) known values."""
        return np.array([len(column) for column in self.ordered])

    def place(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, F) placements of (n, F) values; NaN where the value, or all of the reference, is unknown."""
        return np.stack([placed(among, column) for among, column in zip(self.ordered, values.T, strict=True)], axis=1)


def _cumulants(own: NDArray[np.float64]) -> NDArray[np.float64]:
    """(λ,) log of the mean of exp(λ v) over m placements and one more at 1, for what m records cannot rule out."""
    at = np.searchsorted(_GRID, own - 1e-9, "left").clip(0, len(_GRID) - 1)
    weights = np.bincount(at, minlength=len(_GRID)).astype(np.float64)
    weights[-1] += 1
    # einsum, not BLAS: no difference between machines at a threshold.
    return np.asarray(np.log(np.einsum("g,gl->l", weights, _POWERS) / (len(own) + 1)))


def placed(among: NDArray[np.float32], values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n,) placements of (n,) values in an ascending (m,); NaN for NaN, and for all where m is 0."""
    if not len(among):
        return np.full(len(values), np.nan, np.float32)
    found = (np.searchsorted(among, values, "left") + np.searchsorted(among, values, "right")) / len(among) - 1
    return np.where(np.isnan(values), np.nan, found).astype(np.float32)


_Circle = tuple[str | None, str | None]
"""Site and device of some reference records; None for any."""


class Strata:
    """The reference, by site and device where it has enough records of them, else by device, by site, or whole."""

    def __init__(self, reference: Quantities) -> None:
        self._reference = reference
        self._made: dict[_Circle, Stratum] = {}

    def place(self, records: Quantities) -> Placed:
        """Place records among those of the reference that they are to be compared with."""
        found: dict[_Circle, int] = {}
        stratum = np.zeros(len(records.values), np.intp)
        placements = np.empty(records.values.shape, np.float32)
        for site in sorted(set(records.site)):
            for device in sorted(set(records.device[records.site == site])):
                here = (records.site == site) & (records.device == device)
                circle = self._nearest(site, device)
                stratum[here] = found.setdefault(circle, len(found))
                placements[here] = self._stratum(circle).place(records.values[here])
        return Placed(placements, stratum, tuple(self._stratum(circle) for circle in found))

    def _nearest(self, site: str, device: str) -> _Circle:
        for circle in ((site, device), (None, device), (site, None)):
            if "" not in circle and self._in(circle).sum() >= STRATUM_RECORDS:
                return circle
        return None, None

    def _in(self, circle: _Circle) -> NDArray[np.bool_]:
        """bool (m,): reference records of a circle."""
        here = np.ones(len(self._reference.values), bool)
        for name, of in zip(circle, (self._reference.site, self._reference.device), strict=True):
            if name is not None:
                here &= of == name
        return here

    def _stratum(self, circle: _Circle) -> Stratum:
        if circle not in self._made:
            self._made[circle] = Stratum.of(self._reference.values[self._in(circle)])
        return self._made[circle]


@dataclass(frozen=True)
class Shift:
    """A group of records against the reference, all (F,): how many have a known placement, their Cliff's delta (0 where
    there is none), and its two-sided probability."""

    n: NDArray[np.intp]
    delta: NDArray[np.float64]
    p: NDArray[np.float64]


@dataclass(frozen=True)
class Placed:
    """n records placed within the reference: placements float32 (n, F), and which of `strata` each was placed in."""

    placements: NDArray[np.float32]
    stratum: NDArray[np.intp]
    strata: tuple[Stratum, ...]

    def shift(self, member: NDArray[np.bool_]) -> Shift:
        """How far the records of `member` (n,) lie from the reference."""
        placements, stratum = self.placements[member], self.stratum[member]
        known = ~np.isnan(placements)
        counts = np.stack([known[stratum == s].sum(axis=0) for s in range(len(self.strata))])
        n = counts.sum(axis=0)
        delta = np.where(known, placements, 0).sum(axis=0, dtype=np.float64) / np.maximum(n, 1)
        return Shift(n, delta, np.maximum(self._normal(counts, delta), self._bound(counts, delta)))

    def _normal(self, counts: NDArray[np.intp], delta: NDArray[np.float64]) -> NDArray[np.float64]:
        """(F,) from (strata, F) counts."""
        n, variance = np.maximum(counts.sum(axis=0), 1), np.zeros(len(delta))
        for count, stratum in zip(counts, self.strata, strict=True):
            m = np.maximum(stratum.sizes, 1)
            variance += count / n**2 * stratum.spread * (count + m + 1) / m
        return np.asarray(2 * norm.sf(np.abs(delta) / np.sqrt(np.where(variance > 0, variance, 1.0))))

    def _bound(self, counts: NDArray[np.intp], delta: NDArray[np.float64]) -> NDArray[np.float64]:
        falls = (delta < 0).astype(np.intp)
        exponent = -(counts.sum(axis=0) * np.abs(delta))[:, None] * _STEEPNESS
        for count, stratum in zip(counts, self.strata, strict=True):
            exponent += count[:, None] * stratum.cumulants[falls, np.arange(len(delta))]
        return np.asarray(np.minimum(1.0, 2 * np.exp(np.minimum(exponent.min(axis=1), 0.0))))
