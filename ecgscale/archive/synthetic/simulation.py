"""A simulated 12-lead archive with known truth: diagnoses, rhythms, and where every P, QRS and T lies.

`simulate` writes a whole archive, `simulate_records` makes any stretch of one. A record is a function of (seed, its
index) and of nothing else, so the stretches can be made in any order, by anybody, and a longer archive of the same
seed begins with the same records.

Fiducials carry the lead "global": onset, peak and offset of a wave are those of the heart vector, without noise, and
stand for all leads. Waves that the recording's edges cut are left out.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ecgscale.archive.schema import FIDUCIAL_TYPE, archive_schema
from ecgscale.archive.shard import ROW_GROUP_RECORDS, ShardInMemory
from ecgscale.archive.synthetic.patients import (
    DEVICES,
    SITES,
    Visit,
    draw_beats,
    draw_patient,
    draw_visit,
    patient_of,
    record_stream,
)
from ecgscale.archive.synthetic.signal import FIDUCIAL_WAVES, UNITS_PER_MV, beat_of, draw_signal
from ecgscale.archive.writer import ArchiveWriter
from ecgscale.errors import UsageError
from ecgscale.io.objects import put_whole
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.progress import SILENT, Progress

SIMULATOR_VERSION = 1
"""Raised when the same arguments come to give other records."""

GLOBAL_LEAD = "global"
EXTRA_FIELDS = (pa.field("superclasses", pa.list_(pa.string())), pa.field("rhythm", pa.string()))
SCHEMA = archive_schema("int16", EXTRA_FIELDS)


def simulate(
    path: str | Path,
    records: int,
    seed: int = 0,
    shard_records: int | None = None,
    progress: Progress = SILENT,
    *,
    rate: float = 500.0,
    seconds: float = 10.0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a simulated archive to `path`; the same arguments give the same archive_id and the same shards.

    Returns archive, archive_id, records, shards and patients. Raises `UsageError` for arguments that make no
    recording, `ArchiveError` for a folder that cannot be written to.
    """
    with (
        simulated_writer(
            path, records, seed, shard_records, progress, rate=rate, seconds=seconds, overwrite=overwrite
        ) as writer,
        progress.stage("simulate", records, "records") as stage,
    ):
        for start in range(0, records, ROW_GROUP_RECORDS):
            stop = min(start + ROW_GROUP_RECORDS, records)
            writer.append_table(simulate_records(seed, start, stop, rate=rate, seconds=seconds))
            stage.advance(stop - start)
    return simulated_facts(writer, seed)


def simulated_writer(
    path: str | Path,
    records: int,
    seed: int,
    shard_records: int | None,
    progress: Progress,
    *,
    rate: float,
    seconds: float,
    overwrite: bool,
) -> ArchiveWriter:
    """The writer of a simulated archive, whoever makes its shards; its archive_id is a digest of the arguments."""
    _check(records, seed, rate, seconds)
    source = {
        "kind": "simulated",
        "simulator_version": SIMULATOR_VERSION,
        "records": records,
        "seed": seed,
        "rate": float(rate),
        "seconds": float(seconds),
        "shard_records": shard_records,
    }
    return ArchiveWriter(
        path,
        source,
        "int16",
        EXTRA_FIELDS,
        shard_records=shard_records,
        archive_id=hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()[:32],
        overwrite=overwrite,
        progress=progress,
    )


def simulated_facts(writer: ArchiveWriter, seed: int) -> dict[str, Any]:
    """What `simulate` returns of a finished archive."""
    return {
        "archive": str(writer.path),
        "archive_id": writer.archive_id,
        "records": writer.records,
        "shards": writer.shards,
        "patients": len({patient_of(seed, index)[0] for index in range(writer.records)}),
    }


def write_simulated_shard(
    path: Path, seed: int, start: int, stop: int, *, rate: float = 500.0, seconds: float = 10.0
) -> int:
    """Write records `start` to `stop` (exclusive) to `path` as one shard, in one piece; how many they are."""
    shard = ShardInMemory(SCHEMA)
    for first in range(start, stop, ROW_GROUP_RECORDS):
        last = min(first + ROW_GROUP_RECORDS, stop)
        shard.write(simulate_records(seed, first, last, rate=rate, seconds=seconds))
    put_whole(path, shard.close())
    return shard.rows


def simulate_records(seed: int, start: int, stop: int, *, rate: float = 500.0, seconds: float = 10.0) -> pa.Table:
    """Records `start` to `stop` (exclusive) of the archive that `seed` names, as a table of `SCHEMA`.

    Signals are (12, rate · seconds) int16 at 1000 units a millivolt, lead after lead, in the canonical order.
    """
    _check(stop - start, seed, rate, seconds)
    n_samples = round(rate * seconds)
    signals = np.empty((stop - start, len(CANONICAL_LEADS), n_samples), np.int16)
    visits: list[Visit] = []
    fiducials: list[np.ndarray] = []
    for row, index in enumerate(range(start, stop)):
        rng = record_stream(seed, index)
        number, before = patient_of(seed, index)
        visit = draw_visit(draw_patient(seed, number), before, rng)
        beats = draw_beats(visit, n_samples / rate, rng)
        waves = beat_of(visit.patient, rng)
        signals[row], points = draw_signal(waves, beats, visit.device, rate, n_samples, rng)
        visits.append(visit)
        fiducials.append(points)
    columns = {
        "record_id": pa.array([f"sim{seed}-{index:07d}" for index in range(start, stop)]),
        "signal": _lists(signals.reshape(len(visits), -1)),
        "sampling_rate": np.full(len(visits), rate, np.float32),
        "units_per_mv": np.full(len(visits), UNITS_PER_MV, np.float32),
        "valid_start": np.zeros(len(visits), np.int32),
        "valid_stop": np.full(len(visits), n_samples, np.int32),
        "leads": [CANONICAL_LEADS] * len(visits),
        "fiducials": _fiducial_lists(fiducials),
        **_visit_columns(seed, visits),
    }
    arrays = [
        column if isinstance(column := columns[field.name], pa.Array) else pa.array(column, field.type)
        for field in SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _visit_columns(seed: int, visits: list[Visit]) -> dict[str, list[Any]]:
    return {
        "patient_id": [f"sim{seed}-p{visit.patient.number:06d}" for visit in visits],
        "acquired_at": [visit.acquired_at for visit in visits],
        "site": [SITES[visit.patient.site] for visit in visits],
        "device": [DEVICES[visit.device] for visit in visits],
        "age": [float(int(visit.age)) for visit in visits],
        "sex": [visit.patient.sex for visit in visits],
        "fold": [visit.patient.fold for visit in visits],
        "superclasses": [list(visit.patient.superclasses) for visit in visits],
        "rhythm": [visit.rhythm for visit in visits],
    }


def _lists(rows: np.ndarray) -> pa.ListArray:
    """(n, m) samples as n lists of m, without copying."""
    return pa.ListArray.from_arrays(
        np.arange(len(rows) + 1, dtype=np.int32) * np.int32(rows.shape[1]), pa.array(rows.reshape(-1))
    )


def _fiducial_lists(fiducials: list[np.ndarray]) -> pa.ListArray:
    """Per record (n_beats, 3, 3) sample numbers, -1 for no wave, to the archive's lists of structs, beat by beat."""
    points = np.concatenate([points.reshape(-1, 3) for points in fiducials])
    waves = np.concatenate([np.tile(np.arange(3), len(points)) for points in fiducials])
    present = points[:, 0] >= 0
    counts = [int((points[:, :, 0] >= 0).sum()) for points in fiducials]
    points = points[present]
    structs = pa.StructArray.from_arrays(
        [
            pa.repeat(GLOBAL_LEAD, len(points)),
            pa.array(FIDUCIAL_WAVES).take(pa.array(waves[present])),
            *(pa.array(points[:, column].astype(np.int32)) for column in range(3)),
        ],
        fields=list(FIDUCIAL_TYPE.value_type),
    )
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, structs).cast(FIDUCIAL_TYPE)


def _check(records: int, seed: int, rate: float, seconds: float) -> None:
    if records < 1:
        raise UsageError(f"{records} records make no archive; give at least 1")
    if seed < 0:
        raise UsageError(f"the seed is {seed}; give 0 or more")
    if not 50 <= rate <= 5000:
        raise UsageError(f"a sampling rate of {rate:g} Hz is not simulated; give 50 to 5000")
    if not 2 <= seconds <= 3600:
        raise UsageError(f"recordings of {seconds:g} s are not simulated; give 2 to 3600")
