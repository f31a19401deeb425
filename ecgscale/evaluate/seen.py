"""Which of the explained records had been seen before: by the encoder in training, by K-means in the fit.

Both keep lists of hashed record and patient names (`encoders.seen`); folds are there for readers. Scores are kept
apart by it: only records that nothing has seen say what new recordings will bring.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.seen import SEEN_FILE, on_list, seen_by
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.encoders.splits import split_by
from ecgscale.errors import ArchiveError
from ecgscale.store.manifest import Manifest

FEWEST_TEST = 5


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
    training, folds = spec.training, model.info.get("fitted_on", {}).get("folds") or ()
    by_fold = training.get("split") == "fold" and training.get("source") == source
    encoder = clusters = validation = None
    if source is not None:
        encoder = seen_by(encoder_dir, source, record_ids, patient_ids)
        if model.directory is not None and (model.directory / SEEN_FILE).is_file():
            clusters = on_list(model.directory / SEEN_FILE, source, record_ids, patient_ids)
        listed = encoder_dir / str(training.get("seen"))
        if encoder is not None and listed.is_file():
            # Records alone: a patient's other recordings did not stop the training.
            validation = on_list(listed, source, record_ids, [None] * len(record_ids), "validation\t")
    stopped = [*training["train_folds"], *training["validation_folds"]] if by_fold else []
    return Seen(encoder, clusters, _folds(stopped), _folds(folds), validation)


def _source_kind(manifest: Manifest, spec: EncoderSpec) -> str | None:
    """The kind of source the explained archive came from: names of records mean the same within one kind only."""
    facts = manifest.content.archive
    if facts.archive_id == spec.training.get("archive_id"):
        return str(spec.training.get("source", ""))
    try:
        return str(Archive.open(facts.path).info.get("source", {}).get("kind", ""))
    except ArchiveError:
        return None


def _folds(folds: Sequence[int]) -> tuple[int, ...] | None:
    return tuple(sorted(set(folds))) or None


def patients_of(table: pa.Table) -> NDArray[np.str_]:
    """(N,) the patient of each record; a record without one is a patient of its own."""
    pairs = zip(table.column("patient_id").to_pylist(), table.column("record_id").to_pylist(), strict=True)
    return np.array([f"p:{patient}" if patient else f"r:{record}" for patient, record in pairs], dtype=str)


def kept_apart_by(patients: Iterable[str]) -> str:
    """By what records with these patients, as `patients_of` has them, are kept apart and resampled (`split_by`)."""
    return split_by(patient if patient.startswith("p:") else None for patient in patients)


NEITHER, CLUSTERS, ENCODER, ALL = "neither", "clusters", "encoder", "all"

GROUPS = {
    NEITHER: "seen by neither encoder nor K-means",
    CLUSTERS: "seen by K-means, not by the encoder",
    ENCODER: "seen by the encoder",
    ALL: "all records scored",
}


def groups_of(scored: NDArray[np.bool_], seen: Seen | None) -> dict[str, NDArray[np.bool_]]:
    """Name → which of N records; "encoder", "clusters" and "neither" share nothing, "all" is everything scored.

    Of those three, the ones that are known: without lists of what was seen there is "all" alone. Empty ones are left
    out.
    """
    groups = {ALL: scored}
    if seen is not None and seen.encoder is not None:
        groups[ENCODER] = scored & seen.encoder
        if seen.clusters is not None:
            groups[CLUSTERS] = scored & seen.clusters & ~seen.encoder
            groups[NEITHER] = scored & ~seen.clusters & ~seen.encoder
    return {name: groups[name] for name in (NEITHER, CLUSTERS, ENCODER, ALL) if name in groups and groups[name].any()}


def headline_of(groups: dict[str, NDArray[np.bool_]]) -> tuple[str, str | None]:
    """The group whose scores come first, and what has to be said about that.

    Records seen by neither; where they are fewer than FEWEST_TEST, those seen by K-means alone (it learns no labels);
    else all.
    """
    for name in (NEITHER, CLUSTERS):
        if name in groups and groups[name].sum() >= FEWEST_TEST:
            return name, None if name == NEITHER else (
                "too few of the records scored are new to K-means: the headline is of records that K-means has seen "
                "and the encoder has not"
            )  # fmt: skip
    if ENCODER in groups:
        return ALL, (
            "too few of the records scored are new to the encoder: the headline is of records that it has learnt, "
            "and says little about others"
        )
    return ALL, "what encoder and K-means had seen is not known: the headline is of all records scored"
