"""What an encoder has seen: the list of its training and validation records, and the question whether one is on it.

Names are kept as salted hashes, so an encoder that is handed on names no patient to a casual reader; whoever holds
the archive can ask about each of its records. (Ids that can be enumerated can be guessed: it is no anonymisation.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscale.encoders.spec import load_spec
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
        return on_list(directory / str(name), source, record_ids, patient_ids)
    except OSError as error:
        raise EncoderError(
            f"{directory} names {name} as the list of what it has seen, but: {error.strerror}"
        ) from error


def on_list(
    path: Path, source: str, record_ids: Sequence[str], patient_ids: Sequence[str | None], part: str = ""
) -> NDArray[np.bool_]:
    """(N,) whether the record or its patient is on the list, or on one `part` of it; OSError where there is none."""
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    known = {word for line in lines if line.startswith(part) for word in line.split("\t")[1:]}
    pairs = zip(record_ids, patient_ids, strict=True)
    return np.array(
        [
            hashed(source, "record", record) in known or bool(patient and hashed(source, "patient", patient) in known)
            for record, patient in pairs
        ],
        dtype=bool,
    )
