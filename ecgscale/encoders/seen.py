"""What an encoder has seen: the list of its training and validation records, and the question whether one is on it.

Names are kept as salted hashes, so an encoder that is handed on names no patient to a casual reader; whoever holds
the archive can ask about each of its records. (Ids that can be enumerated can be guessed: it is no anonymisation.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.encoders.spec import file_of, load_spec
from ecgscale.encoders.splits import TEST, TRAIN, VALIDATION, Folds, split_by
from ecgscale.errors import EncoderError
from ecgscale.io.places import local_copy

SEEN_FILE = "seen.tsv"


def hashed(source: str, kind: str, name: str) -> str:
    """32 hex digits for a record or patient of a source (the archive's `source.kind`)."""
    return hashlib.sha256(f"ecgscale\0{source}\0{kind}\0{name}".encode()).hexdigest()[:32]


def seen_lines(source: str, record_ids: Sequence[str], patient_ids: Sequence[str | None], parts: Sequence[str]) -> str:
    """The file's text: part, record, patient ("-" if unknown), sorted, so that it has one digest."""
    lines = sorted(
        f"{part}\t{hashed(source, 'record', record)}\t{hashed(source, 'patient', patient) if patient else '-'}"
        for record, patient, part in zip(record_ids, patient_ids, parts, strict=True)
    )
    return "part\trecord\tpatient\n" + "".join(f"{line}\n" for line in lines)


@dataclass(frozen=True)
class SeenRecords:
    """The records that trained or stopped the network (test records are not among them), and the archive's digest."""

    source: str
    record_ids: list[str]
    patient_ids: list[str | None]
    parts: list[str]
    folds: list[int | None]
    archive_digest: str

    @classmethod
    def of(cls, archive: Archive, table: pa.Table, rows: NDArray[np.intp], parts: Sequence[str]) -> SeenRecords:
        """Of the `rows` of the archive's table; `parts` says what each was used for."""
        kept = [(row, part) for row, part in zip(rows.tolist(), parts, strict=True) if part != TEST]
        index = pa.array([row for row, _ in kept], pa.int64())
        taken = table.take(index)

        def column(name: str) -> list[Any]:
            return taken.column(name).to_pylist() if name in taken.column_names else [None] * len(kept)

        return cls(
            source=str(archive.info.get("source", {}).get("kind", "")),
            record_ids=column("record_id"),
            patient_ids=column("patient_id"),
            parts=[part for _, part in kept],
            folds=column("fold"),
            archive_digest=archive_digest(archive),
        )

    def _folds_of(self, part: str) -> list[int]:
        return sorted(
            {fold for fold, used in zip(self.folds, self.parts, strict=True) if used == part and fold is not None}
        )

    def text(self) -> str:
        """What goes into the file next to the weights."""
        return seen_lines(self.source, self.record_ids, self.patient_ids, self.parts)

    def split(self, folds: Folds) -> str:
        """By what training and validation were kept apart."""
        return "fold" if folds.validation else split_by(self.patient_ids)

    def facts(self, archive: Archive, folds: Folds) -> dict[str, Any]:
        """The lines of `[training]` about data: which archive, which folds, how many records and patients."""
        facts: dict[str, Any] = {
            "archive_id": archive.archive_id,
            "archive_digest": self.archive_digest,
            "source": self.source,
            "split": self.split(folds),
            "train_folds": self._folds_of(TRAIN) if folds.validation else list(folds.train),
            "validation_folds": list(folds.validation),
            "test_folds": list(folds.test),
        }
        for part in (TRAIN, VALIDATION):
            chosen = [i for i, used in enumerate(self.parts) if used == part]
            facts[f"{part}_records"] = len(chosen)
            facts[f"{part}_patients"] = len({self.patient_ids[i] for i in chosen} - {None, ""})
        facts["seen"] = SEEN_FILE
        facts["seen_digest"] = hashlib.sha256(self.text().encode()).hexdigest()
        facts["versions"] = {name: version(name) for name in ("ecgscale", "numpy", "scipy", "torch")}
        return facts


def archive_digest(archive: Archive) -> str:
    """SHA-256 over the content digests of all shards: equal for equal content, whenever it was written."""
    digest = hashlib.sha256()
    for shard in archive.shards:
        digest.update(f"{shard.key}\0{archive.footer(shard).content_digest}\n".encode())
    return digest.hexdigest()


def seen_by(
    directory: str | Path, source: str, record_ids: Sequence[str], patient_ids: Sequence[str | None]
) -> NDArray[np.bool_] | None:
    """(N,) whether the encoder was trained or stopped on the record or another of its patient.

    None when the encoder keeps no list (it came from elsewhere). Raises EncoderError when the list is lost.
    """
    directory = local_copy(directory)
    name = load_spec(directory).training.get("seen")
    if not name:
        return None
    try:
        return on_list(file_of(directory, str(name)), source, record_ids, patient_ids)
    except OSError as error:
        raise EncoderError(
            f"{directory} names {name} as the list of what it has seen, but: {error.strerror}"
        ) from error


def on_list(
    path: Path, source: str, record_ids: Sequence[str], patient_ids: Sequence[str | None], part: str = ""
) -> NDArray[np.bool_]:
    """(N,) whether the record or its patient is on the list, or on one `part` of it; OSError where there is none.

    EncoderError for a file that is none.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
    except UnicodeDecodeError as error:
        raise EncoderError(f"{path} is no list of records and patients: {error}; restore it") from error
    known = {word for line in lines if line.startswith(part) for word in line.split("\t")[1:]}
    pairs = zip(record_ids, patient_ids, strict=True)
    return np.array(
        [
            hashed(source, "record", record) in known or bool(patient and hashed(source, "patient", patient) in known)
            for record, patient in pairs
        ],
        dtype=bool,
    )
