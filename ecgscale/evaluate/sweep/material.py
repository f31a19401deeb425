"""What a sweep works on: of a published ROOT or of an archive with an encoder, which records fit and which score, their
activations, and the questions about them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.encoders.seen import seen_by
from ecgscale.encoders.spec import EncoderSpec, load_spec
from ecgscale.errors import UsageError
from ecgscale.evaluate.localise.heartbeat import Heartbeat, find_beats
from ecgscale.evaluate.published import draw_records, target_of
from ecgscale.evaluate.questions import Questions, pose, read_truth, suitable_columns
from ecgscale.evaluate.seen import patients_of
from ecgscale.evaluate.surrogate.check import open_records
from ecgscale.evaluate.sweep.fits import Material
from ecgscale.passes.features import extract_on
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress

SCORED_SHARE = 0.25
FEWEST_SCORED, FEWEST_FITTED = 20, 40


@dataclass(frozen=True)
class Origin:
    """Where a sweep's records come from: everything but their activations.

    `table` has record_id, patient_id, shard and the target's columns; `questions` are those about its N records where
    the network's outputs are known already; `seen` (N,) what the encoder has seen, None where that is not known.
    """

    archive: Archive
    encoder_dir: Path
    spec: EncoderSpec
    table: pa.Table
    target: str
    dataset_id: str
    seen: NDArray[np.bool_] | None
    questions: Questions | None = None
    include_padding: bool = False
    beats: Heartbeat | str = "localisation needs a published ROOT"


def from_root(
    root: Path,
    target: str | None,
    dataset: str | None = None,
    moved_to: Path | None = None,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Origin:
    """What was published below `root`; `UsageError` as `open_records`, and when its archive is gone."""
    published, data = open_records(root, target, dataset=dataset)
    archive, note = published.archive(moved_to)
    if archive is None:
        raise UsageError(f"a sweep needs the recordings: {note}")
    return Origin(
        archive=archive,
        encoder_dir=published.encoder_dir,
        spec=published.spec,
        table=data.table.rename_columns({"source_shard": "shard"}),
        target=data.target,
        dataset_id=published.dataset_id,
        seen=data.seen.encoder if data.seen else None,
        questions=data.questions,
        include_padding=bool(published.model.info.get("include_padding", False)),
        beats=find_beats(root, dataset, moved_to, seed, progress, spread),
    )


def from_archive(path: Path, encoder_dir: Path, target: str | None) -> Origin:
    """An archive that was not explained yet, with an encoder; `UsageError` for a target that it does not have."""
    archive, spec = Archive.open(path), load_spec(encoder_dir)
    schema = archive.schema()
    asked = target_of(spec, schema, target)
    labels = suitable_columns(schema, asked, spec)
    names = ["record_id", *(["patient_id"] if "patient_id" in schema.names else []), *labels]
    table = archive.metadata(names).drop(["row"])
    if "patient_id" not in names:
        table = table.append_column("patient_id", pa.nulls(table.num_rows, pa.string()))
    records = [str(record) for record in table.column("record_id").to_pylist()]
    source = str(archive.info.get("source", {}).get("kind", ""))
    seen = seen_by(encoder_dir, source, records, table.column("patient_id").to_pylist())
    return Origin(archive, encoder_dir, spec, table, asked, f"unexplained-{archive.archive_id[:16]}", seen)


def gather(
    origin: Origin,
    records: int,
    seed: int = 0,
    device: str = "auto",
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Material:
    """Draw records, run the network over them once, on the workers of `spread`, and say which fit and which score.

    A quarter score: records that the encoder has not seen, where there are enough of them; no patient stands on both
    sides. Raises `UsageError` when too few are left.
    """
    patients = patients_of(origin.table)
    fit, score, told = _sides(patients, origin.seen, records, seed)
    beats = origin.beats
    table = origin.table
    ids = np.array([str(record) for record in table.column("record_id").to_pylist()], dtype=object)
    shards = np.array(table.column("shard").to_pylist(), dtype=object)
    wanted: dict[str, list[str]] = {}
    pairs = [(shards[i], ids[i]) for i in np.flatnonzero(fit | score)]
    if not isinstance(beats, str):
        pairs += list(zip(beats.shards, beats.record_ids, strict=True))
    for shard, record in dict.fromkeys(pairs):
        wanted.setdefault(str(shard), []).append(str(record))
    padding = origin.include_padding
    extracted = extract_on(spread, origin.archive, origin.encoder_dir, wanted, padding, device, progress)
    number = {record: i for i, record in enumerate(ids.tolist())}
    rows = np.array([number[record] for record in extracted.record_ids], np.int64)
    if origin.questions is not None:
        questions = origin.questions.of(rows)
    else:
        truth = read_truth(table.take(pa.array(rows)), origin.target, origin.spec.output)
        questions = pose(extracted.predictions, truth, origin.spec.output)
    train, test = fit[rows], score[rows]
    if train.sum() < FEWEST_FITTED or test.sum() < FEWEST_SCORED // 2:
        raise UsageError(f"{train.sum()} records to fit and {test.sum()} to score are too few for a sweep")
    remarks = [f"no localisation: {beats}"] if isinstance(beats, str) else []
    return Material(
        extracted=extracted,
        questions=questions,
        patients=patients[rows],
        train=train,
        test=test,
        layer_names=origin.spec.layers,
        heartbeat=None if isinstance(beats, str) else beats.among(extracted.record_ids),
        told=told,
        remarks=tuple(remarks),
    )


def _sides(
    patients: NDArray[np.str_], seen: NDArray[np.bool_] | None, records: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], str]:
    """(N,) which records fit, which score, and how that was chosen."""
    n_score = max(round(SCORED_SHARE * min(records, len(patients))), FEWEST_SCORED)
    if seen is not None and (~seen).sum() >= FEWEST_SCORED and seen.sum() >= FEWEST_FITTED:
        candidates, told = np.flatnonzero(~seen), "scored on records that the encoder has not seen"
    else:
        known = np.unique(patients)
        drawn = np.random.default_rng([seed, 12]).permutation(known)[: max(round(SCORED_SHARE * len(known)), 1)]
        candidates = np.flatnonzero(np.isin(patients, drawn))
        told = "scored on a quarter of the patients; the encoder may have seen them"
    score = np.zeros(len(patients), dtype=bool)
    score[candidates[draw_records(len(candidates), n_score, seed)]] = True
    free = np.flatnonzero(~np.isin(patients, patients[score]))
    fit = np.zeros(len(patients), dtype=bool)
    fit[free[draw_records(len(free), max(records - int(score.sum()), FEWEST_FITTED), seed)]] = True
    return fit, score, told
