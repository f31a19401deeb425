"""A source that grows, and an archive that follows it, for the tests of arrivals."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ecgscale.archive import Archive
from ecgscale.archive.intake.arrivals import Arrivals, ingest_arrivals
from ecgscale.config import ArchiveConfig
from ecgscale.io.places import is_remote, place, upload
from tests.worlds.formula.recordings import all_records, wave, write_wfdb

LEADS = ("I", "II", "V1")
HOUR = 3600.0


def age(folder: Path, seconds: float) -> None:
    """Let all files below a folder have been written so long ago."""
    moment = time.time() - seconds
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (moment, moment))


@dataclass
class Ward:
    """A folder (or a prefix in an object store, filled from a folder) at which WFDB records arrive."""

    folder: Path
    archive: str
    src: str | None = None
    source: str = "wfdb"

    def record(self, name: str, seed: int = 0, seconds: float = HOUR, **how: Any) -> np.ndarray:
        """A record arrived so long ago; its signal."""
        digital = wave(seed or sum(map(ord, name)), 3)
        where = self.folder / name
        stem = write_wfdb(where.parent, where.name, digital, LEADS, **how)
        moment = time.time() - seconds
        for file in where.parent.glob(f"{stem.name}.*"):
            os.utime(file, (moment, moment))
        return digital

    def config(self, **options: Any) -> ArchiveConfig:
        return ArchiveConfig(path=self.archive, source=self.source, src=self.src or self.folder, **options)

    def night(self, settle: float = 15.0, give_up: float = 24.0, **options: Any) -> Arrivals:
        """One call; what lies in the folder is put where the source is before, if that is elsewhere."""
        if self.src is not None and is_remote(self.src):
            upload(self.folder, place(self.src))
            settle = 0.0
        return ingest_arrivals(self.config(**options), settle, give_up)

    def ids(self) -> list[str]:
        """Record ids of the archive in the order of their rows."""
        return [str(record_id) for record_id, _ in all_records(Archive.open(self.archive))]

    def signals(self) -> dict[str, np.ndarray]:
        """The newest signal of every record."""
        return {str(record_id): signal for record_id, signal in all_records(Archive.open(self.archive))}

    def check(self) -> None:
        """What `_archive.json` says is there, and nothing is left over that waits for nobody."""
        archive = Archive.open(self.archive)
        assert archive.info["shards"] == len(archive.shards)
        assert archive.info["records"] == len(self.ids())
        assert [shard.key for shard in archive.shards] == [f"part-{i:05d}.parquet" for i in range(len(archive.shards))]

    def twice(self) -> list[str]:
        """Records that stand in the archive more than once."""
        return [name for name, count in Counter(self.ids()).items() if count > 1]

    def copy(self, to: Path) -> Ward:
        """The same state elsewhere, times kept."""
        shutil.copytree(self.folder, to / "src")
        if Path(self.archive).exists():
            shutil.copytree(self.archive, to / "archive")
        return Ward(to / "src", str(to / "archive"), source=self.source)
