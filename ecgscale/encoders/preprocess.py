"""Signals as an archive holds them → the encoder's input, exactly as its contract says, valid span carried along.

Short gaps filled, if that is asked for → leads by name → × millivolt / units_per_mv → `scipy.signal.resample_poly` over
the whole signal (only if the rates differ) → normalisation if one is named → zero padding, or the first `length`
samples.

Everything is computed in float64, elementwise or along single traces, and rounded to float32 at the end: a record's
bits do not depend on the records it is batched with.

`load_signals` preprocesses the records a network is trained on, once, and keeps them at hand for every epoch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ecgscale.encoders.spec import InputSpec
from ecgscale.errors import EcgscaleError
from ecgscale.leads import MissingLeads, lead_matrix, taken_leads

if TYPE_CHECKING:
    from ecgscale.archive.reader import RawBatch
import shutil
import tempfile
from collections import Counter

import pyarrow as pa

from ecgscale.archive import Archive
from ecgscale.archive.validate import OK, check_batch
from ecgscale.errors import UsageError
from ecgscale.progress import SILENT, Progress

CROPPED = "cropped"
NOT_WANTED = "not_wanted"
"""The status of a record that nobody asked for."""


@dataclass
class Prepared:
    """A batch on the encoder's time axis of D = `spec.length` samples; zeros wherever `status` is not "ok"."""

    x: NDArray[np.float32]  # (N, n_leads, D), the encoder's leads and units
    valid_start: NDArray[np.int32]  # (N,) half-open span of samples that are not padding
    valid_stop: NDArray[np.int32]
    start_s: NDArray[np.float64]  # (N,) recording time of sample 0, negative when padded
    cropped: NDArray[np.int32]  # (N,) source samples cut off at the end
    status: list[str]
    flags: list[list[str]]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(N,) records with status "ok"."""
        return np.array([state == OK for state in self.status], bool)

    def spans(self, rows: NDArray, include_padding: bool = False) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """Valid start and stop (n,) of these rows; all D timesteps count as valid with `include_padding`."""
        start, stop = self.valid_start[rows], self.valid_stop[rows]
        return (np.zeros_like(start), np.full_like(stop, self.x.shape[-1])) if include_padding else (start, stop)


def prepare_batch(
    raw: RawBatch,
    spec: InputSpec,
    hop: int,
    seen: set[str] | None = None,
    rows: Iterable[int] | None = None,
    gaps_ms: float = 0.0,
) -> Prepared:
    """A raw batch, checked as far as the encoder's leads go and brought to its input.

    `seen`: record ids of the shard so far (`check_batch`). Of `rows`, those outside are not wanted: they are checked,
    for a doubled id counts wherever it stands, and not prepared. Gaps of up to `gaps_ms` are filled, and flagged.
    """
    wanted = None if rows is None else set(rows)
    raw, filled = fill_gaps(raw, spec.leads, gaps_ms, wanted)
    status, flags = check_batch(raw, set() if seen is None else seen, spec.leads, wanted)
    if wanted is not None:
        status = [state if i in wanted else NOT_WANTED for i, state in enumerate(status)]
    for i, marks in filled.items():
        flags[i] += marks if status[i] == OK else []
    return prepare(raw, status, flags, spec, hop)


def prepare(
    raw: RawBatch, status: Sequence[str], flags: Sequence[Sequence[str]], spec: InputSpec, hop: int
) -> Prepared:
    """Bring a raw batch to the encoder's input.

    `status` and `flags` come from `check_batch`; records that are not "ok" stay zero and keep their status. Those
    that lack a lead become "missing_leads", those whose valid span is shorter than `hop` (samples on the encoder's
    axis) "too_short", those that overflow float32 "non_finite_samples"; cropped ones are flagged "cropped".
    """
    n = len(raw)
    out = Prepared(
        x=np.zeros((n, len(spec.leads), spec.length), np.float32),
        valid_start=np.zeros(n, np.int32),
        valid_stop=np.zeros(n, np.int32),
        start_s=np.zeros(n, np.float64),
        cropped=np.zeros(n, np.int32),
        status=list(status),
        flags=[list(flag) for flag in flags],
    )
    groups: dict[tuple[tuple[str, ...], float, int], list[int]] = defaultdict(list)
    for i, state in enumerate(status):
        if state == OK:
            leads = tuple(raw.leads[i])
            n_samples = int(raw.offsets[i + 1] - raw.offsets[i]) // len(leads)
            groups[leads, float(raw.sampling_rate[i]), n_samples].append(i)
    for (leads, rate, n_source), rows in groups.items():
        try:
            ratio = resampling_ratio(rate, spec.sampling_rate)
            needed = _needed(spec.length, *ratio)
            signals = pick_leads(np.stack([raw.signal(i)[:, :needed] for i in rows]), leads, spec.leads)
        except (MissingLeads, BadRate) as error:
            for i in rows:
                out.status[i] = "missing_leads" if isinstance(error, MissingLeads) else "bad_sampling_rate"
                if isinstance(error, MissingLeads):
                    out.flags[i] = [f"needs:{lead}" for lead in error.missing] + [f"has:{lead}" for lead in leads]
            continue
        index = np.asarray(rows)
        spans = raw.valid_start[index].astype(np.int64), raw.valid_stop[index].astype(np.int64)
        batch = _Group(index, signals, ratio, raw.units_per_mv[index].astype(np.float64), n_source, *spans)
        _place(out, batch, spec, hop)
    return out


def pick_leads(signals: NDArray, leads: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.float64]:
    """(N, n_leads, T) of any type → (N, len(wanted), T) float64, missing limb leads derived; raises MissingLeads."""
    matrix = lead_matrix(leads, wanted)
    out = np.empty((len(signals), len(wanted), signals.shape[-1]))
    for row, weights in enumerate(matrix):
        # Term by term: BLAS would give other bits for other batch sizes, and 0 * NaN of an unused lead spreads.
        first, *others = np.flatnonzero(weights)
        out[:, row] = signals[:, first]
        if weights[first] != 1:
            out[:, row] *= weights[first]
        for other in others:
            out[:, row] += weights[other] * signals[:, other].astype(np.float64)
    return out


class BadRate(EcgscaleError):
    """A sampling rate so far from the encoder's that it can only be a mistake."""


@lru_cache(maxsize=256)
def resampling_ratio(rate: float, wanted: float) -> tuple[int, int]:
    """(up, down) with wanted / rate = up / down; rates read to 1 mHz, the drift over a record far under a sample."""
    if not wanted / 1000 <= rate <= wanted * 1000:
        raise BadRate(f"a sampling rate of {rate:g} Hz cannot sensibly be brought to {wanted:g} Hz")
    ratio = Fraction(wanted).limit_denominator(1000) / Fraction(rate).limit_denominator(1000)
    return ratio.limit_denominator(10_000).as_integer_ratio()


def _needed(length: int, up: int, down: int) -> int:
    """Source samples that the first `length` resampled ones depend on: a Holter recording costs no more than an ECG.

    The default window of `resample_poly` reaches 10 · max(up, down) samples of the upsampled axis to either side.
    """
    return length if up == down else -(-length * down // up) + 10 * max(up, down) // up + 2


@dataclass(frozen=True)
class _Group:
    """Records of equal leads, rate and length: those of a batch that can be worked on at once."""

    rows: NDArray[np.intp]  # (n,) where they stand in the batch
    signals: NDArray[np.float64]  # (n, n_leads, T) in source units; T covers what the encoder will see
    ratio: tuple[int, int]
    units_per_mv: NDArray[np.float64]
    n_source: int  # samples in the source
    valid_start: NDArray[np.int64]
    valid_stop: NDArray[np.int64]


def _place(out: Prepared, group: _Group, spec: InputSpec, hop: int) -> None:
    """Scale, resample, normalise and pad the group's signals into its rows of `out`."""
    (up, down), length = group.ratio, spec.length
    signals = group.signals * (spec.millivolt / group.units_per_mv)[:, None, None]
    if up != down:
        from scipy.signal import resample_poly  # half a second that `ecgscale status` need not wait

        signals = resample_poly(signals, up, down, axis=-1)
    n = -(-group.n_source * up // down)
    left = (length - n) // 2 if spec.padding == "center" and n < length else 0
    kept = min(n, length)
    # Source sample i sits at i * up / down: a span's first and last sample round up to those at or after them.
    start = np.minimum(-(-group.valid_start * up // down), kept)
    stop = np.minimum(-(-group.valid_stop * up // down), kept)
    cut = max(0, group.n_source - -(-length * down // up))
    if spec.normalisation == "zscore-lead":
        _standardise(signals, start, stop)
    fits = stop - start >= max(hop, 1)
    with np.errstate(over="ignore"):  # becomes a status
        x = signals[..., :kept].astype(np.float32)
    finite = np.isfinite(x).all(axis=(1, 2))
    good = fits & finite
    for row, long_enough in zip(group.rows[~good], fits[~good], strict=True):
        out.status[row] = "non_finite_samples" if long_enough else "too_short"
    rows = group.rows[good]
    out.x[rows, :, left : left + kept] = x[good]
    out.valid_start[rows] = start[good] + left
    out.valid_stop[rows] = stop[good] + left
    out.start_s[rows] = -left / spec.sampling_rate
    out.cropped[rows] = cut
    if cut:
        for row in rows:
            out.flags[row].append(CROPPED)


def _standardise(signals: NDArray[np.float64], start: NDArray[np.int64], stop: NDArray[np.int64]) -> None:
    """Each lead to mean 0 and standard deviation 1 over its valid samples, in place; padding and flat leads to 0."""
    for signal, first, last in zip(signals, start, stop, strict=True):
        valid = signal[:, first:last]
        if valid.shape[-1]:
            centred = valid - valid.mean(axis=-1, keepdims=True)
            spread = centred.std(axis=-1, keepdims=True)
            signal[...] = 0.0
            signal[:, first:last] = np.divide(centred, spread, out=np.zeros_like(centred), where=spread > 0)


def fill_gaps(
    raw: RawBatch, taken: tuple[str, ...], milliseconds: float, rows: Iterable[int] | None = None
) -> tuple[RawBatch, dict[int, list[str]]]:
    """The batch with gaps of up to so many milliseconds filled, in leads that are needed for those `taken`; and the
    flags of records that had such gaps ("filled_gap:V1"). Only NaN is a gap: infinite samples are faults."""
    flags: dict[int, list[str]] = {}
    if raw.values.dtype.kind in "iu" or not milliseconds > 0:
        return raw, flags
    places = np.flatnonzero(np.isnan(raw.values))
    asked = None if rows is None else set(rows)
    records = np.unique(np.searchsorted(raw.offsets, places, side="right") - 1).tolist()
    values = raw.values.copy() if records else raw.values
    for i in records:
        rate, leads = float(raw.sampling_rate[i]), raw.leads[i]
        own = values[raw.offsets[i] : raw.offsets[i + 1]]
        if (asked is not None and i not in asked) or not leads or len(own) % len(leads) or not 0 < rate < np.inf:
            continue
        limit, span = round(milliseconds * rate / 1000, 6), (int(raw.valid_start[i]), int(raw.valid_stop[i]))
        signal = own.reshape(len(leads), -1)
        filled = [k for k in np.flatnonzero(taken_leads(leads, taken)) if _fill(signal[k], limit, span)]
        if filled:
            flags[i] = [f"filled_gap:{leads[k]}" for k in filled]
    return replace(raw, values=values), flags


def _fill(lead: NDArray, limit: float, span: tuple[int, int]) -> bool:
    """Fill gaps of up to `limit` samples in place; whether there were some."""
    edges = np.diff(np.isnan(lead).astype(np.int8), prepend=0, append=0)
    some = False
    for start, stop in zip(np.flatnonzero(edges == 1).tolist(), np.flatnonzero(edges == -1).tolist(), strict=True):
        if stop - start <= limit and span[0] < start and stop < min(span[1], len(lead)):
            ends = lead[[start - 1, stop]].astype(np.float64)
            if np.isfinite(ends).all():
                lead[start:stop] = np.interp(np.arange(start, stop), [start - 1, stop], ends)
                some = True
    return some


MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Signals:
    """`x` (M, n_leads, D) float32, in memory or on disk; `rows` (M,) are their places in the archive's table."""

    x: NDArray[np.float32]
    rows: NDArray[np.intp]
    rejected: dict[str, int]  # status → how many of the wanted records


def load_signals(
    archive: Archive,
    table: pa.Table,
    wanted: NDArray[np.bool_],
    spec: InputSpec,
    hop: int,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = SILENT,
) -> Signals:
    """Preprocess the `wanted` records of the archive; `table` has their `shard` and `row`.

    Beyond `memory_bytes` they go to a temporary file (in TMPDIR) that is gone when the array is. Unusable records are
    left out and counted by status. Raises UsageError when there is no room.
    """
    n_wanted = int(wanted.sum())
    x = _room((n_wanted, len(spec.leads), spec.length), memory_bytes, progress)
    shards = np.array(table.column("shard").to_pylist(), dtype=object)
    filled, rows, rejected = 0, [], Counter[str]()
    with progress.stage("read", n_wanted, "records") as stage:
        for shard in archive.shards:
            places = np.flatnonzero(shards == shard.key)
            if not wanted[places].any():
                continue
            seen: set[str] = set()
            for raw in archive.batches(shard, columns=[]):
                here = places[raw.first_row : raw.first_row + len(raw)]
                prepared = prepare_batch(raw, spec, hop, seen, np.flatnonzero(wanted[here]).tolist())
                good = prepared.usable
                n_good = int(good.sum())
                x[filled : filled + n_good] = prepared.x[good]
                rows.append(here[good])
                filled += n_good
                rejected.update(state for state in prepared.status if state not in (OK, NOT_WANTED))
                stage.advance(int(wanted[here].sum()))
    return Signals(x[:filled], np.concatenate(rows) if rows else np.array([], np.intp), dict(rejected))


def _room(shape: Sequence[int], memory_bytes: int, progress: Progress) -> NDArray[np.float32]:
    size = int(np.prod(shape)) * 4
    if size <= memory_bytes:
        return np.empty(shape, np.float32)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size * 1.05:
        raise UsageError(
            f"the preprocessed signals take {size / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} GiB free; set "
            "TMPDIR to a larger disk, or train on fewer folds"
        )
    progress.say(f"keeping {size / 2**30:.1f} GiB of preprocessed signals in {folder} while training")
    # The nameless file lives as long as the mapping does, whatever ends the process.
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))
