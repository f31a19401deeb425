"""Which explained records are compared with the heartbeat, and where their waves come from.

Annotations where any record has some: those are better than anything found by a program. Else NeuroKit2, on the
recordings themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
from ecgscale.errors import ArchiveError, ShardError, UsageError
from ecgscale.evaluate.localise.localisation import localise
from ecgscale.evaluate.localise.timelines import timelines
from ecgscale.evaluate.published import USABLE, Published, by_shard, draw_records, open_published
from ecgscale.evaluate.seen import patients_of
from ecgscale.io.places import absolute
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import Progress

WaveSource = Literal["auto", "fiducials", "delineated"]
MOST_ANNOTATED, MOST_DELINEATED = 200, 60
_COLUMNS = ("record_id", "patient_id", "source_shard", "segments", "sampling_rate", "length", "start_s")
_SHOWN_FAILURES = 3
_SHIFTS, _RESAMPLES = 20, 2


@dataclass(frozen=True)
class Chosen:
    """The records of a published dataset that are looked at, with the archive or why it cannot be opened; `source` is
    where their waves come from, "fiducials" or "delineated"."""

    published: Published
    table: pa.Table
    archive: Archive | None
    archive_note: str
    source: str


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
    published = open_published(root, dataset)
    explanations = published.explanations
    annotated = "fiducials" in published.schema.names
    none = pa.scalar(0, pa.int32())
    marks = pc.coalesce(pc.list_value_length(pc.field("fiducials")), none) if annotated else none
    there = explanations.to_table(columns={"record_id": pc.field("record_id"), "marks": marks}, filter=USABLE)
    has_marks = there.column("marks").to_numpy() > 0
    if waves == "fiducials" and not has_marks.any():
        raise UsageError(
            f"none of the {there.num_rows} explained records has annotated waves (`fiducials`); "
            "leave --waves out, or give --waves delineated"
        )
    source = "fiducials" if waves != "delineated" and has_marks.any() else "delineated"
    candidates = np.flatnonzero(has_marks) if source == "fiducials" else np.arange(there.num_rows)
    if not len(candidates):
        raise UsageError(
            f"dataset {published.dataset_id} below {root} holds no explained recording: all are quarantined"
        )
    rows = candidates[draw_records(len(candidates), records, seed)]
    names = there.column("record_id").take(pa.array(rows)).combine_chunks()
    table = published.table(
        [*_COLUMNS, "source_sampling_rate"], if_there=["fiducials"], wanted=USABLE & pc.field("record_id").isin(names)
    )
    archive, note = published.archive(moved_to)
    return Chosen(published, table, archive, note, source)


@dataclass(frozen=True)
class FoundWaves:
    """Waves of the chosen records, the reason why a record has none, and remarks."""

    waves: Waves
    reasons: list[str]
    remarks: list[str]


def find_waves(chosen: Chosen, progress: Progress, spread: Spread = HERE) -> FoundWaves:
    """The waves of the chosen records: their annotations merged over leads, or what NeuroKit2 finds, record by record,
    on the workers of `spread`.

    Raises `UsageError` when NeuroKit2 is needed, and it or the archive is not there.
    """
    if chosen.source == "fiducials":
        waves = merge_leads(chosen.table.column("fiducials"))
        return FoundWaves(waves, ["" if n else "annotations that leads do not agree on" for n in waves.counts], [])
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
    for found, waves, failures, _ in done:
        numbers = np.array([names[name] for name in found], np.int64)
        for number, reason in zip(numbers, failures, strict=True):
            reasons[number] = reason
        parts.append((numbers, waves))
    remarks += [f"left out: {error}" for error in dict.fromkeys(error for *_, error in done if error)]
    failed = [(name, reasons[i]) for name, i in names.items() if reasons[i]]
    if failed:
        shown = "; ".join(f"{name}: {reason}" for name, reason in failed[:_SHOWN_FAILURES])
        remarks.append(f"{len(failed)} of {len(names)} records could not be delineated ({shown})")
    return FoundWaves(_joined(parts, len(names)), reasons, remarks)


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
    except (ShardError, ArchiveError) as broken:
        error = str(broken)
    return found, _joined(parts, len(found)), failures, error


def _joined(parts: list[tuple[NDArray[np.int64], Waves]], n_records: int) -> Waves:
    """Waves of several batches under the numbers that their records have."""
    rows = [
        np.column_stack([numbers[waves.record], waves.kind, waves.onset, waves.peak, waves.offset])
        for numbers, waves in parts
    ]
    record, kind, onset, peak, offset = np.concatenate([np.zeros((0, 5)), *rows]).T
    return waves_of(n_records, record.astype(np.int64), kind, onset, peak, offset)


@dataclass(frozen=True)
class Heartbeat:
    """Waves of W records that many clusterings are held against in turn.

    `rows` (W,): where each of them stands among the N records whose labels come (−1: not there).
    """

    record_ids: tuple[str, ...]
    shards: tuple[str, ...]
    waves: Waves
    rate: float
    start_s: NDArray[np.float64]
    source_rate: NDArray[np.float64]
    patients: tuple[str, ...]
    rows: NDArray[np.int64]

    def among(self, record_ids: tuple[str, ...]) -> Heartbeat:
        """The same for labels of these records."""
        number = {record: i for i, record in enumerate(record_ids)}
        return replace(self, rows=np.array([number.get(record, -1) for record in self.record_ids], np.int64))

    def compare(self, labels: NDArray[np.int16], n_clusters: int) -> dict[str, float | None]:
        """`information` (of the waves' entropy) and `qrs_f1`, and the mean of 20 circular shifts of the former, from
        labels (N, D)."""
        there = np.where(self.rows[:, None] < 0, np.int16(-1), labels[np.maximum(self.rows, 0)])
        lines = timelines(there, self.waves, self.rate, self.start_s, self.source_rate)
        scores = localise(lines, n_clusters, self.patients, n_shifts=_SHIFTS, n_bootstrap=_RESAMPLES).scores
        return {
            "information": scores["information"].value,
            "information_shifted": scores["information"].shifted_mean,
            "qrs_f1": scores["qrs_f1"].value,
        }


def find_beats(
    root: Path, dataset: str | None, archive: Path | None, seed: int, progress: Progress, spread: Spread = HERE
) -> Heartbeat | str:
    """Waves of up to MOST_ANNOTATED explained records, of MOST_DELINEATED where NeuroKit2 has to find them; a text that
    says why there are none."""
    try:
        chosen = choose(root, dataset, archive, MOST_ANNOTATED, "auto", seed)
        if chosen.source != "fiducials":
            chosen = choose(root, dataset, archive, MOST_DELINEATED, "auto", seed)
        waves = find_waves(chosen, progress, spread).waves
    except UsageError as error:
        return str(error)
    table = chosen.table
    if not waves.counts.any():
        return "no record has waves"
    return Heartbeat(
        record_ids=tuple(map(str, table.column("record_id").to_pylist())),
        shards=tuple(map(str, table.column("source_shard").to_pylist())),
        waves=waves,
        rate=float(table.column("sampling_rate")[0].as_py()),
        start_s=table.column("start_s").to_numpy(),
        source_rate=table.column("source_sampling_rate").to_numpy().astype(np.float64),
        patients=tuple(patients_of(table).tolist()),
        rows=np.arange(table.num_rows),
    )
