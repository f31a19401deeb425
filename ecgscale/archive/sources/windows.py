"""Long recordings cut into windows, each of which is a record that knows its place.

A network takes ten seconds or so: of a recording of a day it would see the first ten alone. A window is called
`RECORDING@SECONDS` after where it begins, and has the columns `recording_id` and `window_start_s`. A recording that
names no patient gives its own id to its windows as the patient's, so that a split does not tear it apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscale.archive.schema import SignalType
from ecgscale.archive.writer import MOST_SAMPLES
from ecgscale.words import size

WINDOW_COLUMNS = (pa.field("recording_id", pa.string()), pa.field("window_start_s", pa.float64()))
"""What every record of such an archive has besides; both null where a recording could not be read."""

COPIES = 3
"""Of a record's samples, until they are pages of a shard."""

WITH_REST = "{:,} recordings had a rest shorter than a window, which was left out"
SHORTER = "{:,} recordings are shorter than a window, and were kept whole"
NOBODYS = "{:,} recordings name no patient: patient_id is their own id, so that no split tears their windows apart"


def with_window_columns(schema: pa.Schema, seconds: float | None) -> pa.Schema:
    """The schema of an archive whose records are windows; the same where nothing is cut."""
    return schema if seconds is None else pa.schema([*schema, *WINDOW_COLUMNS])


def with_patient(row: dict[str, Any], counted: Counter[str]) -> dict[str, Any]:
    """The row of a recording, which belongs to itself where nobody says to whom."""
    if row.get("patient_id"):
        return row
    counted[NOBODYS] += 1
    return row | {"patient_id": row["record_id"]}


def cut(rows: Iterable[dict[str, Any]], seconds: float, counted: Counter[str]) -> Iterator[dict[str, Any]]:
    """Rows of windows of so many seconds (to the nearest sample), in order of time; `counted` counts notes.

    Samples outside of a row's `valid_start` and `valid_stop` are padding, and in no window. `signal` is an array
    (n_leads, n_samples), or what has a `shape` and gives `[:, start:stop]`, which need not have been read yet.
    """
    for row in rows:
        rate, samples = float(row.get("sampling_rate") or 0), row["signal"].shape[1]
        width = round(seconds * rate) if np.isfinite(rate) and rate > 0 else 0
        if not samples or not width:
            yield row
            continue
        first, last = row.get("valid_start", 0), row.get("valid_stop", samples)
        n_windows = (last - first) // width
        counted[SHORTER] += not n_windows
        counted[WITH_REST] += bool(n_windows and (last - first) % width)
        whole = row | {"recording_id": row["record_id"]}
        for start in range(first, first + max(n_windows, 1) * width, width):
            yield _window(whole, start, min(start + width, last), rate)


def _window(row: dict[str, Any], start: int, stop: int, rate: float) -> dict[str, Any]:
    begins = start / rate
    window = row | {
        # Padded with zeros, so that names sort as windows do; who has no name gets none.
        "record_id": row["record_id"] and f"{row['record_id']}@{begins:09.3f}",
        "window_start_s": begins,
        "signal": row["signal"][:, start:stop],
        "valid_start": 0,
        "valid_stop": stop - start,
    }
    if row.get("acquired_at") is not None:
        window["acquired_at"] = row["acquired_at"] + timedelta(seconds=begins)
    if row.get("fiducials") is not None:
        window["fiducials"] = [_moved(w, start, stop) for w in row["fiducials"] if start <= w["peak"] < stop]
    return window


def _moved(wave: dict[str, Any], start: int, stop: int) -> dict[str, Any]:
    """A wave as the window has it; what lies outside of it is null."""
    ends = {name: wave[name] for name in ("onset", "peak", "offset")}
    inside = {name: at - start if at is not None and start <= at < stop else None for name, at in ends.items()}
    return wave | inside


def read_in(
    row: dict[str, Any], kind: SignalType, problem: Callable[[str, str], None], memory: int | None
) -> dict[str, Any]:
    """The row with its samples at hand; one that cannot be held gets an empty signal, and `problem` learns why.

    memory: bytes that a record may take while it is written (COPIES of its samples); None: as much as one can have.
    """
    signal, record_id = row["signal"], str(row["record_id"])
    n_leads, samples = signal.shape
    needed = COPIES * n_leads * samples * signal.dtype.itemsize
    reason = ""
    if n_leads * samples > MOST_SAMPLES or (memory is not None and needed > memory):
        limit = "a record can have" if n_leads * samples > MOST_SAMPLES else f"--memory {size(memory or 0)} holds"
        asked = f"{n_leads} leads of {samples:,} samples need {size(needed)}"
        reason = f"{asked}, more than {limit}; --windows 10s cuts them"
    elif not isinstance(signal, np.ndarray):
        try:
            return row | {"signal": signal.read()}
        except Exception as error:  # one record never ends an ingest, whatever its reader raises
            reason = f"its samples cannot be read any more: {type(error).__name__}: {error}"
    if not reason:
        return row
    problem(record_id, f"{reason}; kept with an empty signal")
    empty = np.zeros((n_leads, 0), dtype=kind)
    return row | {"signal": empty, "valid_start": 0, "valid_stop": 0, "fiducials": None}
