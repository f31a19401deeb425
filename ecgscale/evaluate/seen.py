"""Which of the explained records had been seen before: by the encoder in training, by K-means in the fit.

Both keep lists of hashed record and patient names beside themselves (`encoders.seen`); folds are told for readers.

Which records fit a surrogate and which score it, by folds that are named.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.seen import SEEN_FILE, hashed, seen_by
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.store.manifest import Manifest


@dataclass(frozen=True)
class Seen:
    """For N records, whether encoder and K-means had seen them or another record of their patient.

    `validation`: the records themselves on which the encoder was stopped, a part of what it has seen. None where that
    cannot be known: the encoder came from elsewhere, or the archive moved. Folds are None where the split was not by
    fold.
    """

    encoder: NDArray[np.bool_] | None
    clusters: NDArray[np.bool_] | None
    encoder_folds: tuple[int, ...] | None
    clusters_folds: tuple[int, ...] | None
    validation: NDArray[np.bool_] | None = None

    @property
    def neither(self) -> NDArray[np.bool_] | None:
        """(N,) records seen by neither; None unless both are known."""
        return None if self.encoder is None or self.clusters is None else ~(self.encoder | self.clusters)

    def of(self, records: NDArray[np.bool_]) -> Seen:
        """The same of some of the records (N,)."""
        masks = {name: getattr(self, name) for name in ("encoder", "clusters", "validation")}
        return replace(self, **{name: None if mask is None else mask[records] for name, mask in masks.items()})


def what_was_seen(
    manifest: Manifest,
    spec: EncoderSpec,
    encoder_dir: Path,
    model: ClusterModel,
    record_ids: Sequence[str],
    patient_ids: Sequence[str | None],
) -> Seen:
    """What encoder and clusters of a published dataset had seen of these records."""
    source = _source_kind(manifest, spec)
    training, fitted_on = spec.training, model.info.get("fitted_on", {})
    by_fold = training.get("split") == "fold" and training.get("source") == source
    return Seen(
        encoder=None if source is None else seen_by(encoder_dir, source, record_ids, patient_ids),
        clusters=None if source is None else _fitted_on(model, source, record_ids, patient_ids),
        encoder_folds=_folds([*training["train_folds"], *training["validation_folds"]]) if by_fold else None,
        clusters_folds=_folds(fitted_on.get("folds") or ()),
        validation=None if source is None else _validated_on(encoder_dir, spec, source, record_ids),
    )


def _source_kind(manifest: Manifest, spec: EncoderSpec) -> str | None:
    """The kind of source the explained archive came from: names of records mean the same within one kind only."""
    facts = manifest.content.archive
    if facts.archive_id == spec.training.get("archive_id"):
        return str(spec.training.get("source", ""))
    try:
        return str(Archive.open(facts.path).info.get("source", {}).get("kind", ""))
    except ArchiveError:
        return None


def _fitted_on(
    model: ClusterModel, source: str, record_ids: Sequence[str], patient_ids: Sequence[str | None]
) -> NDArray[np.bool_] | None:
    """(N,) whether K-means saw the record or its patient; None for a model without a list."""
    if model.directory is None or not (model.directory / SEEN_FILE).is_file():
        return None
    lines = (model.directory / SEEN_FILE).read_text(encoding="utf-8").splitlines()[1:]
    known = {word for line in lines for word in line.split("\t")[1:]}
    names = zip(record_ids, patient_ids, strict=True)
    seen = [
        hashed(source, "record", record) in known or (patient and hashed(source, "patient", patient) in known)
        for record, patient in names
    ]
    return np.array(seen, dtype=bool)


def _validated_on(
    encoder_dir: Path, spec: EncoderSpec, source: str, record_ids: Sequence[str]
) -> NDArray[np.bool_] | None:
    """(N,) whether the encoder was stopped on the record; None for one without a list."""
    name = spec.training.get("seen")
    if not name or not (encoder_dir / str(name)).is_file():
        return None
    lines = (encoder_dir / str(name)).read_text(encoding="utf-8").splitlines()[1:]
    known = {line.split("\t")[1] for line in lines if line.startswith("validation\t")}
    return np.array([hashed(source, "record", record) in known for record in record_ids], dtype=bool)


def _folds(folds: Sequence[int]) -> tuple[int, ...] | None:
    return tuple(sorted(set(folds))) or None


FEWEST_TRAIN, FEWEST_TEST = 20, 5


@dataclass(frozen=True)
class Holdout:
    """(N,) which records fit and which score; `told` says how they were chosen, `remarks` what was odd."""

    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    told: str
    remarks: tuple[str, ...] = ()


def patients_of(table: pa.Table) -> NDArray[np.str_]:
    """(N,) the patient of each record; a record without one is a patient of its own."""
    pairs = zip(table.column("patient_id").to_pylist(), table.column("record_id").to_pylist(), strict=True)
    return np.array([f"p:{patient}" if patient else f"r:{record}" for patient, record in pairs], dtype=str)


def choose(table: pa.Table, train_folds: Sequence[int] = (), test_folds: Sequence[int] = ()) -> Holdout:
    """Split records by the folds that are named; all others take the part that is not.

    A patient who scores does not fit. Raises `UsageError` for folds that do not exist or overlap, and for too few
    records.
    """
    patients, folds = patients_of(table), folds_of(table)
    fitting, scoring = _named(folds, train_folds, test_folds)
    train, test = np.isin(folds, fitting), np.isin(folds, scoring)
    told = f"fitted on folds {_told(fitting)}, scored on fold{'s' if len(scoring) > 1 else ''} {_told(scoring)}"
    shared = train & np.isin(patients, patients[test])
    train &= ~shared
    remarks = (f"{shared.sum()} records do not fit the surrogate: their patients score it",) if shared.any() else ()
    if train.sum() < FEWEST_TRAIN or test.sum() < FEWEST_TEST:
        raise UsageError(
            f"{train.sum()} records to fit and {test.sum()} to score the surrogate are too few; it needs at least "
            f"{FEWEST_TRAIN} and {FEWEST_TEST} ({told}; {table.num_rows} records are explained)"
        )
    return Holdout(train, test, told, remarks)


def _named(
    folds: NDArray[np.int64], train_folds: Sequence[int], test_folds: Sequence[int]
) -> tuple[list[int], list[int]]:
    """(folds that fit, folds that score), the ones not named filled in."""
    have = sorted({int(fold) for fold in folds} - {-1})
    if unknown := sorted({*train_folds, *test_folds} - set(have)):
        there = f"there are folds {_told(have)}" if have else "there is no fold column; leave the folds out"
        raise UsageError(f"no explained record is in fold {_told(unknown)}: {there}")
    if both := sorted(set(train_folds) & set(test_folds)):
        raise UsageError(f"fold {_told(both)} cannot both fit and score the surrogate")
    fitting = list(train_folds) or [fold for fold in have if fold not in test_folds]
    return fitting, list(test_folds) or [fold for fold in have if fold not in train_folds]


def folds_of(table: pa.Table) -> NDArray[np.int64]:
    """(N,) the fold of each record, −1 where it has none."""
    if "fold" not in table.column_names:
        return np.full(table.num_rows, -1)
    return np.array([-1 if fold is None else fold for fold in table.column("fold").to_pylist()], dtype=np.int64)


def _told(folds: Sequence[int]) -> str:
    return ", ".join(str(fold) for fold in folds)
