"""Which explained records are compared with the heartbeat, and where their waves come from.

Annotations where any record has some: those are better than anything found by a program. Else NeuroKit2, on the
recordings themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.archive.reader import chosen_batches, chunks
from ecgscale.archive.validate import check_batch
from ecgscale.archive.waves import PREFERRED_LEADS, Waves, delineate, merge_leads, require_neurokit, waves_of
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import EncoderSpec, load_spec
from ecgscale.errors import ArchiveError, ShardError, UsageError
from ecgscale.evaluate.published import by_shard, draw_records, left_out, open_source
from ecgscale.io.places import absolute, place
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import Progress
from ecgscale.store.dataset import find_dataset, open_explanations
from ecgscale.store.manifest import Manifest

WaveSource = Literal["auto", "fiducials", "delineated"]
_COLUMNS = (
    "record_id",
    "patient_id",
    "source_shard",
    "segments",
    "sampling_rate",
    "length",
    "start_s",
    "source_sampling_rate",
)
_SHOWN_FAILURES = 3


@dataclass(frozen=True)
class FoundWaves:
    """Waves of the chosen records, the reason why a record has none, and remarks."""

    waves: Waves
    reasons: list[str]
    source: str
    remarks: list[str]


@dataclass(frozen=True)
class Chosen:
    """The records that are looked at, and everything that belongs to them."""

    table: pa.Table
    manifest: Manifest
    spec: EncoderSpec
    model: ClusterModel
    archive: Archive | None
    archive_note: str
    source: str
    remarks: tuple[str, ...] = ()


def choose(
    root: str | Path,
    dataset: str | None,
    moved_to: str | Path | None,
    records: int | None,
    waves: WaveSource,
    seed: int,
) -> Chosen:
    """A seeded choice of at most `records` explained records (None: all), those with annotated waves if any has some.

    Raises `UsageError` when nothing is published, and when `waves` asks for annotations that are not there.
    """
    found = find_dataset(root, dataset)
    assert found.manifest is not None
    identity = found.manifest.content.identity
    explanations = open_explanations(root, found.dataset_id)
    annotated = "fiducials" in explanations.schema.names
    marks = (
        pc.coalesce(pc.list_value_length(pc.field("fiducials")), pa.scalar(0, pa.int32()))
        if annotated
        else pa.scalar(0)
    )
    there = explanations.to_table(
        columns={"record_id": pc.field("record_id"), "marks": marks}, filter=pc.field("status") == "ok"
    )
    has_marks = there.column("marks").to_numpy() > 0
    if waves == "fiducials" and not has_marks.any():
        raise UsageError(
            f"none of the {there.num_rows} explained records has annotated waves (`fiducials`); "
            "leave --waves out, or give --waves delineated"
        )
    source = "fiducials" if waves == "fiducials" or (waves == "auto" and has_marks.any()) else "delineated"
    candidates = np.flatnonzero(has_marks) if source == "fiducials" else np.arange(there.num_rows)
    if not len(candidates):
        raise UsageError(f"dataset {found.dataset_id} below {root} holds no explained recording: all are quarantined")
    rows = candidates[draw_records(len(candidates), records, seed)]
    names = there.column("record_id").take(pa.array(rows))
    wanted = (pc.field("status") == "ok") & pc.field("record_id").isin(names.combine_chunks())
    table = explanations.to_table(columns=[*_COLUMNS, *(["fiducials"] if annotated else [])], filter=wanted)
    archive, note = open_source(found.manifest, moved_to)
    return Chosen(
        table=table,
        manifest=found.manifest,
        spec=load_spec(place(root) / "encoders" / identity.encoder_id),
        model=ClusterModel.load(place(root) / "models" / identity.model_id),
        archive=archive,
        archive_note=note,
        source=source,
        remarks=tuple(left_out(explanations)),
    )


def find_waves(chosen: Chosen, progress: Progress, spread: Spread = HERE) -> FoundWaves:
    """The waves of the chosen records: their annotations merged over leads, or what NeuroKit2 finds, record by record,
    on the workers of `spread`.

    Raises `UsageError` when NeuroKit2 is needed, and it or the archive is not there.
    """
    if chosen.source == "fiducials":
        waves = merge_leads(chosen.table.column("fiducials"))
        reasons = ["" if count else "annotations that leads do not agree on" for count in waves.counts]
        return FoundWaves(waves, reasons, "fiducials", [])
    require_neurokit()
    if chosen.archive is None:
        raise UsageError(f"no annotated waves, and finding them takes the recordings: {chosen.archive_note}")
    leads = ", ".join(PREFERRED_LEADS)
    remarks = [f"waves were found by NeuroKit2 (leads {leads} where there), not annotated by a person"]
    names = {str(name): i for i, name in enumerate(chosen.table.column("record_id").to_pylist())}
    reasons = ["the archive no longer holds it"] * len(names)
    parts: list[tuple[NDArray[np.int64], Waves]] = []
    tasks = chunks(by_shard(chosen.table))
    with progress.stage("delineate", len(names), "records") as stage:
        archive = Archive.open(absolute(chosen.archive.path))
        sizes, keys = [len(own) for _, own in tasks], [key for key, _ in tasks]
        done = spread.map(_delineated, archive, tasks, stage, sizes, keys)
    errors: list[str] = []
    for found, waves, failures, error in done:
        numbers = np.array([names[name] for name in found], np.int64)
        for number, reason in zip(numbers, failures, strict=True):
            reasons[number] = reason
        parts.append((numbers, waves))
        if error and error not in errors:
            errors.append(error)
    remarks += [f"left out: {error}" for error in errors]
    failed = [(name, reasons[i]) for name, i in names.items() if reasons[i]]
    if failed:
        shown = "; ".join(f"{name}: {reason}" for name, reason in failed[:_SHOWN_FAILURES])
        remarks.append(f"{len(failed)} of {len(names)} records could not be delineated ({shown})")
    return FoundWaves(_joined(parts, len(names)), reasons, "delineated", remarks)


def _delineated(archive: Archive, wanted: tuple[str, tuple[str, ...]]) -> tuple[list[str], Waves, list[str], str]:
    """Of some records of one shard: the ids of those that are there, their waves, why they have none; and an error of
    the shard, "" without."""
    key, names = wanted
    found: list[str] = []
    failures: list[str] = []
    parts: list[tuple[NDArray[np.int64], Waves]] = []
    error = ""
    try:
        for raw, rows in chosen_batches(archive, {key: names}):
            status, _ = check_batch(raw, set())
            usable = [row for row in rows if status[row] == "ok"]
            done = delineate(raw, usable)
            parts.append((len(found) + np.arange(len(usable)), done.waves))
            found += [str(raw.record_ids[row]) for row in usable]
            failures += done.failures
    except (ShardError, ArchiveError) as told:
        error = str(told)
    return found, _joined(parts, len(found)), failures, error


def _joined(parts: list[tuple[NDArray[np.int64], Waves]], n_records: int) -> Waves:
    """Waves of several batches under the numbers that their records have."""
    record = np.concatenate([np.zeros(0, np.int64), *(numbers[waves.record] for numbers, waves in parts)])
    kind = np.concatenate([np.zeros(0, np.int8), *(waves.kind for _, waves in parts)])
    onset, peak, offset = (
        np.concatenate([np.zeros(0), *(getattr(waves, name) for _, waves in parts)])
        for name in ("onset", "peak", "offset")
    )
    return waves_of(n_records, record, kind, onset, peak, offset)
