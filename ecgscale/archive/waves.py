"""P, QRS and T of many recordings: annotations a lead brought to one wave of the heart, or found by NeuroKit2.

The rule for merging leads: at every sample it is counted how many leads are inside a wave of a kind; where at least
half of the record's annotated leads are, there is a wave, and its onset, peak and offset are the medians over the
annotations that overlap it. A record with one annotated lead, or with the simulator's "global" one, keeps its waves as
they are. Annotations without an onset or an offset cannot be placed and are left out.

All records are worked on at once: nothing of this loops over records or waves.

Of recordings that nobody annotated, up to three leads are delineated each for itself by NeuroKit2 (Makowski et al.
2021; its "prominence" method comes nearest to the annotations of LUDB, and takes milliseconds), and merged by the same
rule: a wave has to be seen in two of three. A recording in which it fails, or finds no beat, has no waves and a reason.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.archive.reader import RawBatch
from ecgscale.errors import UsageError

WAVES = ("P", "QRS", "T")
P, QRS, T = range(3)

LEAST_SHARE = 0.5
"""Of a record's annotated leads that have to be inside a wave."""
PREFERRED_LEADS = ("II", "V5", "V2")
METHOD = "prominence"
FEWEST_BEATS = 2
_NEUROKIT_NAMES = {P: "P", QRS: "R", T: "T"}
_ROUNDING = 1e-6
"""Timesteps: a sample that lies on one must not miss it by rounding."""


@dataclass(frozen=True)
class Waves:
    """Waves of N records, in the order of record and onset; record i has those at offsets[i]:offsets[i + 1].

    kind: int8, index of WAVES; onset, peak, offset: float64 samples of the recording, both ends inside the wave
    """

    offsets: NDArray[np.int64]
    kind: NDArray[np.int8]
    onset: NDArray[np.float64]
    peak: NDArray[np.float64]
    offset: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def record(self) -> NDArray[np.int64]:
        """Which record each wave belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    @property
    def counts(self) -> NDArray[np.int64]:
        """(N,) waves a record."""
        return np.diff(self.offsets)


def waves_of(
    n_records: int,
    record: NDArray[np.integer],
    kind: NDArray[np.integer],
    onset: NDArray[np.floating],
    peak: NDArray[np.floating],
    offset: NDArray[np.floating],
) -> Waves:
    """Waves in any order as `Waves`."""
    order = np.lexsort((onset, record))
    offsets = np.zeros(n_records + 1, np.int64)
    np.cumsum(np.bincount(record, minlength=n_records), out=offsets[1:])
    points = (values[order].astype(np.float64) for values in (onset, peak, offset))
    return Waves(offsets, kind[order].astype(np.int8), *points)


def on_axis(
    waves: Waves, source_rate: NDArray[np.floating], start_s: NDArray[np.floating], rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(onset, offset) of every wave in timesteps, with fractions, of an axis of `rate` Hz.

    source_rate (N,): Hz of the records' samples; start_s (N,): recording time of timestep 0 in seconds.
    """
    record = waves.record
    per_sample, axis_start = 1.0 / source_rate.astype(np.float64)[record], start_s.astype(np.float64)[record]
    return (waves.onset * per_sample - axis_start) * rate, (waves.offset * per_sample - axis_start) * rate


def whole_steps(onset: NDArray[np.float64], offset: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Half-open (first, past): the timesteps whose time lies between onset and offset, both included."""
    return np.ceil(onset - _ROUNDING).astype(np.int64), np.floor(offset + _ROUNDING).astype(np.int64) + 1


def merge_leads(fiducials: pa.ListArray | pa.ChunkedArray, least_share: float = LEAST_SHARE) -> Waves:
    """The waves of N records from a column of `FIDUCIAL_TYPE` (null or empty: a record without waves)."""
    record = _chunk(pc.list_parent_indices(fiducials)).to_numpy().astype(np.int64)
    marks = _chunk(pc.list_flatten(fiducials))
    lead = _chunk(marks.field("lead")).dictionary_encode().indices.fill_null(-1).to_numpy(zero_copy_only=False)
    kind = pc.index_in(marks.field("wave"), pa.array(WAVES)).fill_null(-1).to_numpy(zero_copy_only=False)
    onset, peak, offset = (
        marks.field(name).cast(pa.float64()).fill_null(np.nan).to_numpy(zero_copy_only=False)
        for name in ("onset", "peak", "offset")
    )
    return merge_annotations(len(fiducials), record, lead, kind, onset, peak, offset, least_share)


def merge_annotations(
    n_records: int,
    record: NDArray[np.integer],
    lead: NDArray[np.integer],
    kind: NDArray[np.integer],
    onset: NDArray[np.float64],
    peak: NDArray[np.float64],
    offset: NDArray[np.float64],
    least_share: float = LEAST_SHARE,
) -> Waves:
    """The waves of N records from annotations, one value each, in any order.

    `lead` and `kind` are numbers (kind as in WAVES, −1 for others); points are samples, NaN where unknown.
    """
    n_leads = _distinct(record, lead, n_records)
    with np.errstate(invalid="ignore"):
        whole = (kind >= 0) & (offset >= onset)
    group = record[whole].astype(np.int64) * len(WAVES) + kind[whole]
    onset, peak, offset = (values[whole] for values in (onset, peak, offset))
    region, first, last = _covered(group, onset, offset, np.multiply(n_leads, least_share, dtype=np.float64))
    member = _member_of(group, onset, offset, region, first, last)
    peak = np.where(np.isfinite(peak), peak, (onset + offset) / 2)
    onset, peak, offset = (_medians(values, member, len(region)) for values in (onset, peak, offset))
    return waves_of(n_records, region // len(WAVES), region % len(WAVES), onset, peak, offset)


def _distinct(record: NDArray[np.integer], lead: NDArray[np.integer], n_records: int) -> NDArray[np.int64]:
    """(n_records,) how many different leads a record has annotations of."""
    pairs = np.unique(np.stack([record, lead]).astype(np.int64), axis=1)
    return np.bincount(pairs[0], minlength=n_records)


def _covered(
    group: NDArray[np.int64], onset: NDArray[np.float64], offset: NDArray[np.float64], needed: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """(group, first, last) of the stretches that at least `needed` (a record's) intervals cover, in order."""
    groups, at = np.concatenate([group, group]), np.concatenate([onset, offset + 1])
    change = np.repeat([1, -1], len(group))
    order = np.lexsort((at, groups))
    groups, at = groups[order], at[order]
    # A group's changes sum to zero, so the running sum starts every group at zero.
    depth = np.cumsum(change[order])
    is_last = np.append((groups[1:] != groups[:-1]) | (at[1:] != at[:-1]), True)[: len(at)]
    groups, at, depth = groups[is_last], at[is_last], depth[is_last]
    enough = (depth > 0) & (depth >= needed[groups // len(WAVES)])
    before = np.append(False, enough[:-1])[: len(enough)]
    begins, ends = enough & ~before, ~enough & before
    return groups[begins], at[begins], at[ends] - 1


def _member_of(
    group: NDArray[np.int64],
    onset: NDArray[np.float64],
    offset: NDArray[np.float64],
    region: NDArray[np.int64],
    first: NDArray[np.float64],
    last: NDArray[np.float64],
) -> NDArray[np.int64]:
    """For each interval the number of the first stretch of its group that it overlaps, −1 for none."""
    if not len(region):
        return np.full(len(group), -1, np.int64)
    reach = float(max(offset.max(), last.max()) + 2)
    found = np.searchsorted(region * reach + last, group * reach + onset)
    near = np.minimum(found, len(region) - 1)
    overlaps = (found < len(region)) & (region[near] == group) & (first[near] <= offset)
    return np.where(overlaps, near, -1)


def _medians(values: NDArray[np.float64], member: NDArray[np.int64], n: int) -> NDArray[np.float64]:
    """(n,) the median of the values of each member number, which all occur."""
    values, member = values[member >= 0], member[member >= 0]
    ordered = values[np.lexsort((values, member))]
    count = np.bincount(member, minlength=n)
    start = np.cumsum(count) - count
    return (ordered[start + (count - 1) // 2] + ordered[start + count // 2]) / 2


def _chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


@dataclass(frozen=True)
class Delineated:
    """Waves of N records, and for each the reason why it has none ("" where it has)."""

    waves: Waves
    failures: list[str]


def has_neurokit() -> bool:
    """Whether waves can be found here."""
    return importlib.util.find_spec("neurokit2") is not None


def require_neurokit() -> None:
    """Raise `UsageError` with what to install where NeuroKit2 is not there."""
    if not has_neurokit():
        raise UsageError(
            "the recordings have no annotated waves, and finding them takes NeuroKit2, which is not installed: "
            "pip install 'ecgscale[evaluate]'"
        )


def delineate(raw: RawBatch, rows: Sequence[int]) -> Delineated:
    """Waves of these rows of a batch, in their order; rows must have passed the archive's check."""
    require_neurokit()
    found, failures = [], []
    for number, row in enumerate(rows):
        # NeuroKit2 raises nearly anything on a recording that it cannot read, and each of it means this one only.
        try:
            points = _points(raw, row)
            failures.append("" if (points[:, 1] == QRS).any() else "no heartbeat was found")
        except Exception as error:
            points = np.zeros((0, 5))
            failures.append(f"{type(error).__name__}: {error}")
        found.append(np.column_stack([np.full(len(points), float(number)), points]))
    marks = np.concatenate([np.zeros((0, 6)), *found])
    record, lead, kind = (marks[:, i].astype(np.int64) for i in range(3))
    merged = merge_annotations(len(failures), record, lead, kind, marks[:, 3], marks[:, 4], marks[:, 5])
    return Delineated(*_only_with_beats(merged, failures))


def _points(raw: RawBatch, row: int) -> NDArray[np.float64]:
    """(n, 5): lead, kind, onset, peak, offset of one recording; waves at the edge of padding are none."""
    leads, rate = raw.leads[row], float(raw.sampling_rate[row])
    chosen = [lead for lead in PREFERRED_LEADS if lead in leads] or list(leads[: len(PREFERRED_LEADS)])
    first, last = int(raw.valid_start[row]), int(raw.valid_stop[row])
    signal = raw.signal(row)[:, first:last].astype(np.float64) / float(raw.units_per_mv[row])
    parts = [
        np.column_stack([np.full(len(points), float(number)), points])
        for number, lead in enumerate(chosen)
        if len(points := _lead_points(signal[leads.index(lead)], rate))
    ]
    points = np.concatenate(parts) if parts else np.zeros((0, 5))
    points[:, 2:] += first
    return points


def _lead_points(signal: NDArray[np.float64], rate: float) -> NDArray[np.float64]:
    """(n, 4): kind, onset, peak, offset in samples; none for a lead that is flat, has gaps, or fewer than two beats."""
    import neurokit2

    if not np.ptp(signal) > 0:
        return np.zeros((0, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NeuroKit2 warns of what it does itself; its result is checked below
        clean = neurokit2.ecg_clean(signal, sampling_rate=round(rate))
        beats = neurokit2.ecg_peaks(clean, sampling_rate=round(rate))[1]["ECG_R_Peaks"]
        if len(beats) < FEWEST_BEATS:
            return np.zeros((0, 4))
        found = neurokit2.ecg_delineate(clean, beats, sampling_rate=round(rate), method=METHOD)[1]
    rows = []
    for kind, name in _NEUROKIT_NAMES.items():
        onset, offset = (np.asarray(found[f"ECG_{name}_{end}"], np.float64) for end in ("Onsets", "Offsets"))
        peak = np.asarray(beats if kind == QRS else found[f"ECG_{name}_Peaks"], np.float64)
        rows.append(np.column_stack([np.full(len(onset), float(kind)), onset, peak, offset]))
    points = np.concatenate(rows)
    return points[np.isfinite(points).all(axis=1)]


def _only_with_beats(waves: Waves, failures: list[str]) -> tuple[Waves, list[str]]:
    """Leave out the waves of records with fewer than two merged beats, and say so."""
    beats = np.bincount(waves.record[waves.kind == QRS], minlength=len(waves))
    reasons = [
        reason or ("" if enough else f"fewer than {FEWEST_BEATS} heartbeats on which leads agree")
        for reason, enough in zip(failures, beats >= FEWEST_BEATS, strict=True)
    ]
    kept = (beats >= FEWEST_BEATS)[waves.record]
    points = (waves.onset[kept], waves.peak[kept], waves.offset[kept])
    return waves_of(len(waves), waves.record[kept], waves.kind[kept], *points), reasons
