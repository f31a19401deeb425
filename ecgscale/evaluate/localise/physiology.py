"""Localisation of what was published below a ROOT: waves from annotations or NeuroKit2, scores, average beats, hops."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.archive.reader import chosen_batches, chunks
from ecgscale.archive.waves import QRS, WAVES, Waves
from ecgscale.encoders.preprocess import pick_leads
from ecgscale.errors import ArchiveError, ShardError, UsageError
from ecgscale.evaluate.localise.annotated import Chosen, FoundWaves, WaveSource, choose, find_waves
from ecgscale.evaluate.localise.average_beat import BeatSums
from ecgscale.evaluate.localise.localisation import Localisation, explained_entropy, localise
from ecgscale.evaluate.localise.shifts import HopTest, checkerboard, counts_by_record
from ecgscale.evaluate.localise.timelines import MAIN_PARTS, Timelines, explained_timelines
from ecgscale.evaluate.published import by_shard
from ecgscale.evaluate.seen import patients_of, what_was_seen
from ecgscale.evaluate.written import write_evaluation
from ecgscale.io.places import absolute, place
from ecgscale.leads import MissingLeads
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.presence import announced

RECORDS = 1000
NAME = "localisation"


@dataclass(frozen=True)
class PublishedLocalisation:
    """Localisation of one dataset, the tests for checkerboards, and where the evaluation was written."""

    result: Localisation
    checkerboard: tuple[HopTest, ...]
    facts: dict[str, Any]
    path: Path


@announced("ecgscale localise", existing=True)
def localise_published(
    root: str | Path,
    *,
    dataset: str | None = None,
    archive: str | Path | None = None,
    records: int | None = RECORDS,
    waves: WaveSource = "auto",
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> PublishedLocalisation:
    """Compare the newest explanations below `root` with the heartbeat, on a seeded choice of `records` (None: all).

    `waves` "auto" takes annotations where any record has some, else NeuroKit2. Signals are read by the workers of
    `spread`. Writes ROOT/evaluations/<dataset>/localisation.json with its tables (shares, beats, boundaries, records).
    Raises `UsageError` when nothing is published, when no record has waves, and when NeuroKit2 or the archive is needed
    and not there.
    """
    chosen = choose(root, dataset, archive, records, waves, seed)
    found = find_waves(chosen, progress, spread)
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
    beats, notes = _average_beats(chosen, found.waves, lines, spread, progress)
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


@dataclass(frozen=True)
class _Network:
    """What all stretches of recordings share: where their signals are, and what the network sees of them."""

    archive: Archive
    leads: tuple[str, ...]
    n_clusters: int
    rate: float


@dataclass(frozen=True)
class _Stretch:
    """Some records of one shard: for each its id, R peaks in samples, labels (D,), and seconds before timestep 0."""

    shard: str
    record_ids: tuple[str, ...]
    peaks: tuple[NDArray[np.float64], ...]
    labels: NDArray[np.int16]
    start_s: NDArray[np.float64]


def _average_beats(
    chosen: Chosen, waves: Waves, lines: Timelines, spread: Spread, progress: Progress
) -> tuple[BeatSums, list[str]]:
    """Beats of all records with waves, in the leads that the network sees; and remarks."""
    leads = chosen.spec.input.leads
    sums = BeatSums(chosen.model.n_clusters, leads)
    if chosen.archive is None:
        return sums, [f"no average beats: {chosen.archive_note}"]
    network = _Network(Archive.open(absolute(chosen.archive.path)), leads, chosen.model.n_clusters, lines.rate)
    tasks = _stretches(chosen, waves, lines)
    sizes, keys = [len(task.record_ids) for task in tasks], [task.shard for task in tasks]
    with progress.stage("average beats", sum(sizes), "records") as stage:
        done = spread.map(_beats_of, network, tasks, stage, sizes, keys)
    for own, _, _ in done:
        sums.include(own)
    errors = dict.fromkeys(error for _, _, error in done if error)
    remarks = [f"average beats are of a part of the records: {error}" for error in errors]
    if lacking := sum(lacks for _, lacks, _ in done):
        remarks.append(f"{lacking} records no longer have the network's leads: not in the average beats")
    if not sums.beats:
        remarks.append("no average beats: no record has three QRS complexes in a row within what was explained")
    return sums, remarks


def _stretches(chosen: Chosen, waves: Waves, lines: Timelines) -> list[_Stretch]:
    number = {str(name): i for i, name in enumerate(chosen.table.column("record_id").to_pylist())}
    start_s, is_qrs = chosen.table.column("start_s").to_numpy(), waves.kind == QRS
    found = []
    for shard, names in chunks(by_shard(chosen.table)):
        rows = [number[name] for name in names]
        own = [slice(waves.offsets[i], waves.offsets[i + 1]) for i in rows]
        peaks = tuple(np.sort(waves.peak[each][is_qrs[each]]) for each in own)
        found.append(_Stretch(shard, names, peaks, lines.labels[rows], start_s[rows]))
    return found


def _beats_of(network: _Network, stretch: _Stretch) -> tuple[BeatSums, int, str]:
    """(beats of some records of one shard, how many lack leads, an error of the shard or "")."""
    sums, lacking = BeatSums(network.n_clusters, network.leads), 0
    number = {name: i for i, name in enumerate(stretch.record_ids)}
    try:
        for raw, rows in chosen_batches(network.archive, {stretch.shard: stretch.record_ids}):
            for row in rows:
                i = number[str(raw.record_ids[row])]
                try:
                    signal = pick_leads(raw.signal(row)[None], raw.leads[row], network.leads)[0]
                except MissingLeads:
                    lacking += 1
                    continue
                signal /= float(raw.units_per_mv[row])
                rate = float(raw.sampling_rate[row])
                sums.add(signal, rate, stretch.peaks[i], stretch.labels[i], network.rate, stretch.start_s[i])
    except (ShardError, ArchiveError) as error:
        return sums, lacking, str(error)
    return sums, lacking, ""


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
