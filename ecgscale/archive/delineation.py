"""P, QRS and T of recordings that nobody annotated, found by NeuroKit2 (Makowski et al. 2021).

Up to three leads are delineated each for itself by NeuroKit2's "prominence" method, and merged by the rule of
`archive.waves`: a wave has to be seen in two of three. On the annotated recordings of LUDB this method comes nearest to
the annotations among NeuroKit2's, and takes milliseconds. A recording in which it fails, or finds no beat, has no waves
and a reason.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.batch import RawBatch
from ecgscale.archive.waves import QRS, P, T, Waves, merge_annotations, waves_of
from ecgscale.errors import UsageError

PREFERRED_LEADS = ("II", "V5", "V2")
METHOD = "prominence"
FEWEST_BEATS = 2
_NEUROKIT_NAMES = {P: "P", QRS: "R", T: "T"}


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
    """(n, 4): kind, onset, peak, offset in samples; none for a flat lead or one with fewer than two beats."""
    import neurokit2

    if np.ptp(signal) == 0:
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
    told = [
        reason or ("" if enough else f"fewer than {FEWEST_BEATS} heartbeats on which leads agree")
        for reason, enough in zip(failures, beats >= FEWEST_BEATS, strict=True)
    ]
    kept = (beats >= FEWEST_BEATS)[waves.record]
    points = (waves.onset[kept], waves.peak[kept], waves.offset[kept])
    return waves_of(len(waves), waves.record[kept], waves.kind[kept], *points), told
