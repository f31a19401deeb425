"""Putting a trained network on disk: weights, the list of what it has seen, and last of all its contract."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from ecgscale.archive import Archive
from ecgscale.encoders.seen import SEEN_FILE, seen_lines
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, encoder_files, write_spec
from ecgscale.encoders.splits import TEST, TRAIN, VALIDATION, Folds
from ecgscale.errors import EncoderError
from ecgscale.places import is_remote, place, upload

WEIGHTS_FILE = "weights.safetensors"


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
        """What goes into the file beside the weights."""
        return seen_lines(self.source, self.record_ids, self.patient_ids, self.parts)

    def facts(self, archive: Archive, folds: Folds) -> dict[str, Any]:
        """The lines of `[training]` about data: which archive, which folds, how many records and patients."""
        facts: dict[str, Any] = {
            "archive_id": archive.archive_id,
            "archive_digest": self.archive_digest,
            "source": self.source,
            "split": "fold" if folds.validation else "patient",
            "train_folds": self._folds_of(TRAIN) if folds.validation else list(folds.train),
            "validation_folds": list(folds.validation),
            "test_folds": list(folds.test),
        }
        for part in (TRAIN, VALIDATION):
            chosen = [i for i, used in enumerate(self.parts) if used == part]
            facts[f"{part}_records"] = len(chosen)
            facts[f"{part}_patients"] = len({self.patient_ids[i] or f"record:{self.record_ids[i]}" for i in chosen})
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


def check_out(out: Path, overwrite: bool) -> None:
    """Raise EncoderError unless an encoder may be written to `out`: asked before the training, not after it."""
    if out.exists() and not out.is_dir():
        raise EncoderError(f"{out} is a file; an encoder is a directory")
    if (out / SPEC_FILE).exists() and not overwrite:
        raise EncoderError(f"{out} already holds an encoder; give another directory, or --overwrite to replace it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncoderError(f"{out} cannot be made: {error.strerror}") from error


def check_place(out: str | Path, overwrite: bool) -> None:
    """`check_out` for any place: of an object store, that no encoder lies there that must not be replaced."""
    if not is_remote(out):
        check_out(Path(out), overwrite)
    elif (place(out) / SPEC_FILE).exists() and not overwrite:
        raise EncoderError(f"{out} already holds an encoder; give another place, or --overwrite to replace it")


@contextmanager
def place_kept(out: str | Path, overwrite: bool) -> Iterator[None]:
    """`check_place`; folders that it made go again when the block fails before anything lies in them."""
    made = [] if is_remote(out) else [folder for folder in (Path(out), *Path(out).parents) if not folder.exists()]
    check_place(out, overwrite)
    try:
        yield
    except BaseException:
        # Not empty, or gone: somebody else uses it.
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def move_encoder(folder: Path, out: str | Path) -> None:
    """Put a finished encoder's files to `out`, the contract last: without it, what lies there is no encoder."""
    if is_remote(out):
        upload(folder, out, last=SPEC_FILE)
        return
    (Path(out) / SPEC_FILE).unlink(missing_ok=True)
    for file in sorted(encoder_files(folder), key=lambda file: file.name == SPEC_FILE):
        _put(Path(out) / file.name, file.read_bytes())


def write_encoder(out: Path, spec: EncoderSpec, module: nn.Module, seen: SeenRecords) -> None:
    """Write the directory; it has no encoder.toml, and so is no encoder, until everything else is in place."""
    (out / SPEC_FILE).unlink(missing_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    _put(out / WEIGHTS_FILE, save(state))
    _put(out / SEEN_FILE, seen.text().encode())
    write_spec(out, spec)


def _put(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
