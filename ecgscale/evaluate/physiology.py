"""Localisation of what was published below a ROOT: waves from annotations or NeuroKit2, scores, average beats, hops."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.chosen import chosen_batches
from ecgscale.archive.waves import QRS, WAVES, Waves
from ecgscale.encoders.preprocess import pick_leads
from ecgscale.errors import ArchiveError, ShardError, UsageError
from ecgscale.evaluate.agreement import explained_entropy
from ecgscale.evaluate.annotated import Chosen, FoundWaves, WaveSource, choose, find_waves
from ecgscale.evaluate.average_beat import BeatSums
from ecgscale.evaluate.checkerboard import HopTest, checkerboard
from ecgscale.evaluate.holdout import patients_of
from ecgscale.evaluate.localisation import Localisation, localise
from ecgscale.evaluate.seen import what_was_seen
from ecgscale.evaluate.shifts import counts_by_record
from ecgscale.evaluate.source import by_shard
from ecgscale.evaluate.timelines import MAIN_PARTS, Timelines, explained_timelines
from ecgscale.evaluate.written import write_evaluation
from ecgscale.leads import MissingLeads
from ecgscale.places import place
from ecgscale.progress import SILENT, Progress

RECORDS = 1000
NAME = "localisation"


@dataclass(frozen=True)
class PublishedLocalisation:
    """Localisation of one dataset, the tests for checkerboards, and where the evaluation was written."""

    result: Localisation
    checkerboard: tuple[HopTest, ...]
    facts: dict[str, Any]
    path: Path


def localise_published(
    root: str | Path,
    *,
    dataset: str | None = None,
    archive: str | Path | None = None,
    records: int | None = RECORDS,
    waves: WaveSource = "auto",
    seed: int = 0,
    progress: Progress = SILENT,
) -> PublishedLocalisation:
    """Compare the newest explanations below `root` with the heartbeat, on a seeded choice of `records` (None: all).

    `waves` "auto" takes annotations where any record has some, else NeuroKit2. Writes ROOT/evaluations/<dataset>/
    localisation.json with its tables (shares, beats, boundaries, records). Raises `UsageError` when nothing is
    published, when no record has waves, and when NeuroKit2 or the archive is needed and not there.
    """
    chosen = choose(root, dataset, archive, records, waves, seed)
    found = find_waves(chosen, progress)
    lines = explained_timelines(chosen.table, found.waves)
    if not (lines.stop > lines.start).any():
        told = Counter(reason for reason in found.reasons if reason).most_common(1)
        raise UsageError(
            f"none of {len(lines)} records has waves within what was explained"
            + (f"; most often: {told[0][0]}" if told else "")
        )
    patients = patients_of(chosen.table).tolist()
    progress.say(f"comparing clusters and waves of {(lines.stop > lines.start).sum()} records")
    result = localise(lines, chosen.model.n_clusters, patients, seed=seed)
    tests, histogram = checkerboard(lines.labels, chosen.spec.layers, chosen.model.layout.lengths, seed)
    beats, notes = _average_beats(chosen, found.waves, lines, progress)
    remarks = [*chosen.remarks, *found.remarks, *result.remarks, *notes]
    facts = {
        **result.to_dict(),
        "waves_from": found.source,
        "without_waves": int((lines.stop <= lines.start).sum()),
        "checkerboard": [asdict(test) for test in tests],
        "beats": beats.beats,
        "mean_rr_s": beats.mean_rr_s,
        "clusters_in_beat": beats.where(),
        **_seen_before(chosen, root, lines.stop > lines.start),
        "remarks": remarks,
    }
    tables = {"shares": result.shares, "boundaries": histogram, "records": _record_table(chosen, found, lines)}
    if beats.beats:
        tables["beats"] = beats.table()
    settings = {"records": records, "waves": waves, "seed": seed}
    dataset_id = chosen.manifest.content.dataset_id
    path = write_evaluation(root, dataset_id, NAME, facts, tables, settings=settings)
    return PublishedLocalisation(result, tests, facts, path)


def _average_beats(chosen: Chosen, waves: Waves, lines: Timelines, progress: Progress) -> tuple[BeatSums, list[str]]:
    """Beats of all records with waves, in the leads that the network sees; and remarks."""
    leads = chosen.spec.input.leads
    sums = BeatSums(chosen.model.n_clusters, leads)
    if chosen.archive is None:
        return sums, [f"no average beats: {chosen.archive_note}"]
    names = {str(name): i for i, name in enumerate(chosen.table.column("record_id").to_pylist())}
    start_s = chosen.table.column("start_s").to_numpy()
    is_qrs, lacking = waves.kind == QRS, 0
    remarks: list[str] = []
    with progress.stage("average beats", len(names), "records") as stage:
        try:
            for raw, rows in chosen_batches(chosen.archive, by_shard(chosen.table)):
                for row in rows:
                    i = names[str(raw.record_ids[row])]
                    own = slice(waves.offsets[i], waves.offsets[i + 1])
                    try:
                        signal = pick_leads(raw.signal(row)[None], raw.leads[row], leads)[0]
                    except MissingLeads:
                        lacking += 1
                        continue
                    peaks = np.sort(waves.peak[own][is_qrs[own]])
                    signal /= float(raw.units_per_mv[row])
                    sums.add(signal, float(raw.sampling_rate[row]), peaks, lines.labels[i], lines.rate, start_s[i])
                stage.advance(len(rows))
        except (ShardError, ArchiveError) as error:
            remarks.append(f"average beats are of a part of the records: {error}")
    if lacking:
        remarks.append(f"{lacking} records no longer have the network's leads: not in the average beats")
    if not sums.beats:
        remarks.append("no average beats: no record has three QRS complexes in a row within what was explained")
    return sums, remarks


def _seen_before(chosen: Chosen, root: str | Path, used: NDArray[np.bool_]) -> dict[str, int | None]:
    """Of the records that score, how many encoder and K-means had seen; None where that is not known."""
    table, identity = chosen.table, chosen.manifest.content.identity
    records = [str(name) for name in table.column("record_id").to_pylist()]
    patients = table.column("patient_id").to_pylist()
    directory = place(root) / "encoders" / identity.encoder_id
    seen = what_was_seen(chosen.manifest, chosen.spec, directory, chosen.model, records, patients)
    return {
        f"seen_by_{who}": None if mask is None else int(mask[used].sum())
        for who, mask in (("encoder", seen.encoder), ("clusters", seen.clusters))
    }


def _record_table(chosen: Chosen, found: FoundWaves, lines: Timelines) -> pa.Table:
    """One row a chosen record: what is known of its waves, and its own mutual information."""
    counts = counts_by_record(lines, chosen.model.n_clusters)[..., :MAIN_PARTS]
    columns: dict[str, Any] = {
        "record_id": chosen.table.column("record_id"),
        "reason": pa.array([reason or None for reason in found.reasons], pa.string()),
        "timesteps": counts.sum((1, 2)),
        "information": pa.array(explained_entropy(counts), pa.float64(), from_pandas=True),
    }
    for kind, name in enumerate(WAVES):
        record = found.waves.record[found.waves.kind == kind]
        columns[f"{name.lower()}_waves"] = np.bincount(record, minlength=len(lines))
    return pa.table(columns)
