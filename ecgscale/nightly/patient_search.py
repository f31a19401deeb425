"""A search of everything below a place for what is left of a patient: decoded tables, JSON, texts, raw bytes."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ecgscale.nightly.traces_of_patient import Traces
from ecgscale.places import is_remote
from ecgscale.progress import Stage
from ecgscale.storage import s3
from ecgscale.store.objects import ObjectStore

READERS = 4
_TEXTS = (".toml", ".tsv", ".csv", ".txt", ".html", ".md", ".log", ".beat", ".end", ".svg", ".xml")
_BLOCK = 2**20


@dataclass(frozen=True)
class Hit:
    """One object that still holds something; `unreadable`: nobody can tell whether it does, and why."""

    store: ObjectStore
    key: str
    unreadable: str = ""

    @property
    def where(self) -> str:
        """The object, as a path or a URL."""
        return self.store.location(self.key)


@dataclass(frozen=True)
class Searched:
    """How many objects were looked into, and those that hold something, in order."""

    objects: int
    hits: tuple[Hit, ...]


def search(
    store: ObjectStore, traces: Traces, stage: Stage, skip: Callable[[str], bool] = lambda key: False, below: str = ""
) -> Searched:
    """Look into every object below a folder of a store, leftovers of killed writers included, but for those to skip."""
    keys = {*store.list_prefix(below), *(key for key in store.list_leftovers() if key.startswith(below))}
    wanted = sorted(key for key in keys if not skip(key))

    def look(key: str) -> Hit | None:
        try:
            found = holds_traces(store, key, traces)
        except (pa.ArrowException, OSError, ValueError) as error:
            return Hit(store, key, f"{type(error).__name__}: {error}")
        finally:
            stage.advance()
        return Hit(store, key) if found else None

    with ThreadPoolExecutor(READERS) as readers:
        hits = [hit for hit in readers.map(look, wanted) if hit is not None]
    return Searched(len(wanted), tuple(hits))


def holds_traces(store: ObjectStore, key: str, traces: Traces) -> bool:
    """Whether an object tells anything of the patient, its own name included; raises what its reader raises."""
    if traces.is_in(key):
        return True
    if key.endswith(".parquet") or "/staged/" in key:
        return _in_parquet(store, key, traces)
    data = store.read(key)
    if data is None:
        return False
    if key.endswith(".json"):
        with contextlib.suppress(ValueError):
            return traces.in_json(json.loads(data))
    if key.endswith((*_TEXTS, ".json")):
        return traces.is_in(data.decode("utf-8", "replace"))
    return _in_bytes(data, traces.distinctive)


def _in_bytes(data: bytes, names: Sequence[str] | frozenset[str]) -> bool:
    """Whether one of the names stands in the bytes as a word of its own."""
    for name in names:
        sought = name.encode("utf-8", "surrogatepass")
        if sought in data and re.search(rb"(?<![0-9A-Za-z])" + re.escape(sought) + rb"(?![0-9A-Za-z])", data):
            return True
    return False


def _in_parquet(store: ObjectStore, key: str, traces: Traces) -> bool:
    with _opened(store, key) as source, pq.ParquetFile(source, pre_buffer=False, buffer_size=_BLOCK) as file:
        told = file.metadata.metadata or {}
        if any(traces.is_in(value.decode("utf-8", "replace")) for value in told.values()):
            return True
        columns = [field.name for field in file.schema_arrow if has_text(field.type)]
        for group in range(file.num_row_groups):
            if _in_statistics(file.metadata.row_group(group), traces):
                return True
            table = file.read_row_group(group, columns=columns, use_threads=False)
            named = zip(table.column_names, table.columns, strict=True)
            leaves = (leaf for name, column in named for leaf in _leaves(column, name))
            if any(_in_texts(leaf, name, traces) for leaf, name in leaves):
                return True
    return False


@contextlib.contextmanager
def _opened(store: ObjectStore, key: str) -> Iterator[Any]:
    where = store.location(key)
    if not is_remote(where):
        yield where
        return
    with s3().open(where, "rb", block_size=_BLOCK, cache_type="readahead") as file:
        yield file


def _in_statistics(group: pq.RowGroupMetaData, traces: Traces) -> bool:
    for i in range(group.num_columns):
        column = group.column(i)
        told = column.statistics if column.physical_type == "BYTE_ARRAY" else None
        name = column.path_in_schema.rsplit(".", 1)[-1]
        if told is not None and told.has_min_max and any(traces.is_in(str(v), name) for v in (told.min, told.max)):
            return True
    return False


def _in_texts(texts: pa.Array, name: str, traces: Traces) -> bool:
    """Whether a flat array of strings or bytes, of the field of that name, has one that tells of the patient."""
    if pa.types.is_binary(texts.type) or pa.types.is_large_binary(texts.type):
        return any(_in_bytes(value, traces.distinctive) for value in texts.drop_null().to_pylist())
    return any(traces.is_in(text, name) for text in pc.unique(texts).to_pylist() if text is not None)


def _leaves(column: pa.ChunkedArray | pa.Array, name: str) -> Iterator[tuple[pa.Array, str]]:
    """All arrays of strings or bytes in a column, however nested, each with the name of its field."""
    if isinstance(column, pa.ChunkedArray):
        for chunk in column.chunks:
            yield from _leaves(chunk, name)
        return
    kind = column.type
    if not has_text(kind):
        return
    if pa.types.is_dictionary(kind):
        yield from _leaves(column.dictionary, name)
    elif pa.types.is_struct(kind):
        for i, inner in enumerate(column.flatten()):
            yield from _leaves(inner, kind.field(i).name)
    elif pa.types.is_map(kind):
        yield from _leaves(column.keys, name)
        yield from _leaves(column.items, name)
    elif pa.types.is_nested(kind):
        yield from _leaves(column.flatten(), name)
    else:
        yield column, name


def has_text(kind: pa.DataType) -> bool:
    """Whether a type holds strings or bytes, at any depth."""
    if pa.types.is_dictionary(kind):
        return has_text(kind.value_type)
    if pa.types.is_nested(kind):
        return any(has_text(kind.field(i).type) for i in range(kind.num_fields))
    return any(
        is_kind(kind)
        for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    )
