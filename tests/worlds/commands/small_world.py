"""A small ROOT that was explained and published, and hands that damage it the way that disks, people and bugs do."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.reader import Archive
from ecgscale.explain.schema import to_parquet
from ecgscale.io.numbered import to_json
from ecgscale.io.objects import ObjectStore
from ecgscale.nightly.verify.verify import Verified, verify_root
from ecgscale.passes.explain.explain import ExplainResult, explain_archive
from ecgscale.store.commit import read_commit
from ecgscale.store.dataset import dataset_store, find_dataset
from ecgscale.store.manifest import Manifest, ShardEntry, manifest_key
from tests.explain.golden import write_archive, write_model

METADATA = "ecgscale."


@dataclass(frozen=True)
class SmallWorld:
    """ROOT, on a disk or in an object store, and the archive whose newest state it publishes."""

    root: str
    archive: Path
    model: Path

    @classmethod
    def made(cls, folder: Path, rows: dict[str, dict[str, Any]], **options: Any) -> SmallWorld:
        """10 records in shards of 4, 4 and 2, of which `rows` are changed, explained and published."""
        archive = write_archive(folder / "archive", **rows)
        world = cls(str(folder / "root"), archive, write_model(folder / "elsewhere"))
        world.explain(**options)
        return world

    def copied(self, folder: Path) -> SmallWorld:
        """A copy of ROOT that may be damaged."""
        shutil.copytree(self.root, folder / "root")
        return SmallWorld(str(folder / "root"), self.archive, self.model)

    def explain(self, **options: Any) -> ExplainResult:
        """Explain what is new, in batches of 4, in this process."""
        options = {"batch": 4, "device": "cpu", **options}
        return explain_archive(Archive.open(self.archive), self.model, self.root, **options)

    @property
    def manifest(self) -> Manifest:
        """The newest one."""
        found = find_dataset(self.root).manifest
        assert found is not None
        return found

    @property
    def store(self) -> ObjectStore:
        """Of the only dataset."""
        return dataset_store(self.root, self.manifest.content.dataset_id)

    def verify(self, sample: float = 0.0, **options: Any) -> Verified:
        """Without recomputing, unless a sample is asked for."""
        return verify_root(self.root, sample=sample, **options)

    def problems(self, sample: float = 0.0, **options: Any) -> dict[str, int]:
        """Problems by kind."""
        [dataset] = self.verify(sample, **options).datasets
        return dataset.counts

    def table(self, position: int = 0) -> pa.Table:
        """The published rows of a shard."""
        data = self.store.read(self.manifest.content.shards[position].file)
        return pq.read_table(pa.BufferReader(data))

    def forge(
        self,
        change: Callable[[pa.Table], pa.Table] = lambda table: table,
        position: int = 0,
        metadata: dict[str, str] | None = None,
        commit_too: bool = True,
        **entry: Any,
    ) -> ShardEntry:
        """Replace the file of a shard by `change` of its rows, with a manifest and a commit record that agree to it.

        `metadata` replaces what the file says of itself, `entry` what the manifest says of it.
        """
        store, manifest = self.store, self.manifest
        old = manifest.content.shards[position]
        table = change(self.table(position))
        said = {
            key.decode().removeprefix(METADATA): value.decode()
            for key, value in (table.schema.metadata or {}).items()
            if key.decode().startswith(METADATA)
        } | (metadata or {})
        data = to_parquet(table.replace_schema_metadata(None).to_batches(), table.schema.remove_metadata(), said)
        sha256 = hashlib.sha256(data).hexdigest()
        facts = {"file": f"data/forged-{sha256[:16]}.parquet", "file_size": len(data), "sha256": sha256, **entry}
        new = old.model_copy(update=facts)
        store.put(new.file, data)
        self.put_entry(position, new)
        commit = read_commit(store, old.commit)
        if commit_too and commit is not None:
            output = {"file": new.file, "size": new.file_size, "sha256": new.sha256, "quarantined": new.quarantined}
            store.put(
                old.commit,
                to_json(commit.model_copy(update={"output": commit.output.model_copy(update=output)})),
            )
        return new

    def put_entry(self, position: int, entry: ShardEntry) -> None:
        """Put the newest manifest in place with another entry, and totals to match."""
        manifest = self.manifest
        shards = [*manifest.content.shards]
        shards[position] = entry
        quarantined: dict[str, int] = {}
        for one in shards:
            for status, count in one.quarantined.items():
                quarantined[status] = quarantined.get(status, 0) + count
        totals = manifest.content.totals.model_copy(
            update={"records": sum(one.published_rows for one in shards), "quarantined": quarantined}
        )
        content = manifest.content.model_copy(update={"shards": tuple(shards), "totals": totals})
        self.store.put(manifest_key(manifest.number), to_json(manifest.model_copy(update={"content": content})))


def with_column(table: pa.Table, name: str, change: Callable[[list], list]) -> pa.Table:
    """The table with `change` of the values of a column."""
    field = table.schema.field(name)
    values = pa.array(change(table[name].to_pylist()), field.type)
    return table.set_column(table.schema.get_field_index(name), field, values)


def with_value(name: str, row: int, change: Callable[[Any], Any]) -> Callable[[pa.Table], pa.Table]:
    """A change of one value."""

    def changed(values: list) -> list:
        return [change(value) if i == row else value for i, value in enumerate(values)]

    return lambda table: with_column(table, name, changed)
