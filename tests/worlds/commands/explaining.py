"""What tests of the explain pass share: stores that trip, and the state of a dataset less the facts of runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.reader import Archive
from ecgscale.io.objects import LocalObjects
from ecgscale.passes.explain.explain import ExplainResult, explain_archive
from ecgscale.progress import SILENT, Progress, Stage
from ecgscale.store import open_explanations

RUN_FACTS = {"run", "committed_at", "created", "parent"}


def explain(archive: Path, model: Path, out: Path, progress: Progress = SILENT, **options: Any) -> ExplainResult:
    options = {"batch": 4, "device": "cpu", **options}
    return explain_archive(Archive.open(archive), model, out, progress=progress, **options)


def rows(out: Path) -> list[dict[str, Any]]:
    """The rows of the newest manifest below `out`."""
    table: list[dict[str, Any]] = open_explanations(out).to_table().to_pylist()
    return table


def state(result_path: str | Path) -> dict[str, Any]:
    """Every object of a dataset by name: data files as bytes, JSON less the facts of the run that wrote it."""
    root = Path(result_path)
    found: dict[str, Any] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            found[path.relative_to(root).as_posix()] = _less_run(json.loads(data)) if path.suffix == ".json" else data
    return found


def _less_run(facts: Any) -> Any:
    return {key: value for key, value in facts.items() if key not in RUN_FACTS}


class Stopped(KeyboardInterrupt):
    """The process is told to stop at a chosen point."""


class TrippingStore(LocalObjects):
    """Stops before or after put number `at`, counted from 1; counts on in `puts`."""

    def __init__(self, root: Path, at: int | None = None, when: Literal["before", "after"] = "before") -> None:
        super().__init__(root)
        self.at, self.when, self.puts = at, when, 0

    @contextmanager
    def _fuse(self) -> Iterator[None]:
        self.puts += 1
        if (self.puts, self.when) == (self.at, "before"):
            raise Stopped
        yield
        if (self.puts, self.when) == (self.at, "after"):
            raise Stopped

    def put_if_absent(self, key: str, data: bytes) -> bool:
        with self._fuse():
            return super().put_if_absent(key, data)

    def put(self, key: str, data: bytes) -> None:
        with self._fuse():
            super().put(key, data)


class Watching:
    """A Progress that calls `on_shard` when a shard begins and keeps what was said."""

    def __init__(self, on_shard: Any = None) -> None:
        self.said: list[str] = []
        self.advanced = 0
        self._on_shard = on_shard

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        self.total, self.unit = total, unit
        yield self

    def say(self, text: str) -> None:
        self.said.append(text)

    def advance(self, amount: int = 1) -> None:
        self.advanced += amount

    def note(self, text: str) -> None:
        if self._on_shard:
            self._on_shard(text)


def rewrite(shard: Path, change: Any) -> None:
    """Replace a shard by `change` of its table, as another program would."""
    table: pa.Table = change(pq.read_table(shard))
    pq.write_table(table.replace_schema_metadata(None), shard)


def change_a_sample(shard: Path) -> None:
    """Flip one bit of a shard such that it decodes, to another sample, by whoever looks at no checksum."""
    good, table = shard.read_bytes(), pq.read_table(shard)
    group = pq.read_metadata(shard).row_group(0)
    column = next(c for i in range(99) if (c := group.column(i)).path_in_schema.startswith("signal"))
    for at in range(column.data_page_offset + column.total_compressed_size - 1, column.data_page_offset, -1):
        bad = good[:at] + bytes([good[at] ^ 4]) + good[at + 1 :]
        try:
            found = pq.read_table(pa.BufferReader(bad))
        except OSError:
            continue
        if not found.equals(table):
            shard.write_bytes(bad)
            return
    raise AssertionError("no bit decodes to something else")
