"""Worlds in which somebody is to be forgotten, and a look of one's own at what is left: not that of the product."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.reader import Archive
from ecgscale.io.objects import open_objects
from ecgscale.store import open_explanations
from tests.worlds.commands.nights import NightWorld, new_world


def patients(world: NightWorld) -> dict[str, list[str]]:
    """Record ids by patient, those of the archive."""
    table = Archive.open(f"{world.where}/archive").metadata(["record_id", "patient_id"])
    found: dict[str, list[str]] = {}
    for row in table.to_pylist():
        found.setdefault(row["patient_id"], []).append(row["record_id"])
    return found


def busiest(world: NightWorld) -> tuple[str, list[str]]:
    """The patient with the most records, and these."""
    return max(patients(world).items(), key=lambda item: len(item[1]))


def forget(world: NightWorld, patient: str, *options: str, code: int = 0) -> dict[str, Any]:
    return world.run("forget", world.root, patient, "--archive", f"{world.where}/archive", *options, code=code)


def published(world: NightWorld) -> dict[str, dict[str, Any]]:
    """All published rows by record id."""
    return {row["record_id"]: row for row in open_explanations(world.root).to_table().to_pylist()}


def archived(world: NightWorld) -> dict[str, dict[str, Any]]:
    """All rows of the archive by record id, signals and all."""
    archive = Archive.open(f"{world.where}/archive")
    tables = [batch.table for shard in archive.shards for batch in archive.batches(shard)]
    return {row["record_id"]: row for table in tables for row in table.to_pylist()}


def objects_below(where: str | Path) -> Iterator[tuple[str, bytes]]:
    """Every object below a place, temporary ones too, with its bytes."""
    store = open_objects(where)
    for key in sorted({*store.list_prefix(""), *store.list_leftovers()}):
        yield store.location(key), store.read(key) or b""


def telling(where: str | Path, *secrets: str) -> list[str]:
    """Objects that hold one of these texts, in their name, their bytes, a cell of a table, or packed."""
    found = []
    for name, data in objects_below(where):
        texts = [name.encode(), data, *_unpacked(name, data)]
        found += [f"{name}: {secret}" for secret in secrets if any(secret.encode() in text for text in texts)]
    return found


def _unpacked(name: str, data: bytes) -> Iterator[bytes]:
    if name.endswith(".parquet") or data[:4] == b"PAR1":
        table = pq.read_table(pa.BufferReader(data))
        yield repr(table.to_pylist()).encode()
        yield repr(table.schema.metadata).encode()
    if data[:2] == b"\x1f\x8b":
        yield gzip.decompress(data)


def hashes_of(world: NightWorld, records: list[str]) -> list[str]:
    """Objects of ROOT that know one of these records by the hashes of the list of what was seen."""
    from ecgscale.encoders.seen import hashed

    kind = json.loads(open_objects(f"{world.where}/archive").read("_archive.json") or b"{}")["source"]["kind"]
    return telling(world.root, *(hashed(kind, "record", record) for record in records))


def grown_world(folder: Path) -> NightWorld:
    """A world on a disk that grew by one night; tests copy it."""
    world = new_world(str(folder), folder)
    world.arrive(2, seed=2)
    world.night()
    return world


def copy_of(world: NightWorld, where: Path) -> NightWorld:
    """The same elsewhere."""
    for name in ("archive", "results", "encoder"):
        shutil.copytree(Path(world.where) / name, where / name)
    (where / "job.toml").write_text(world.config.read_text().replace(world.where, str(where)))
    return NightWorld(str(where), where)
