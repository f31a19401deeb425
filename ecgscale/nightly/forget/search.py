"""A search of everything below a place for what is left of a patient: decoded tables, JSON, texts, raw bytes.

`Traces` are what is looked for: ids in cells and texts, and the hashes under which lists and logs know them. Ids may be
as short as "5", which stands in every other file as something else. An id counts as a word of its own when it is
distinctive (six characters, of digits alone eight), and else where it is said to be one: in a column or under a key
that is called so, or in a text ("record 5", "patient_id: 5").
"""

from __future__ import annotations

import contextlib
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscale.archive.sources.files import key_of
from ecgscale.encoders.seen import hashed
from ecgscale.io.objects import ObjectStore
from ecgscale.io.parquet import open_parquet_file
from ecgscale.io.places import is_remote
from ecgscale.io.settings import s3
from ecgscale.progress import Stage
from ecgscale.store.commit import decode_hashes, hash_record_ids

FORGOTTEN = "(forgotten)"
"""What stands where an id stood."""

_ID_NAMES = frozenset(
    {"id", "other"}
    | {f"{what}{end}" for what in ("record", "patient", "exam", "ecg") for end in ("", "s", "_id", "_ids")}
)
"""Columns, and keys of JSON, that hold ids."""
_WORD = re.compile(r"[^\W_]+")
_SAID = re.compile(r"(?i)(?:record|patient|exam|ecg)(?:[ _-]?id)?[\"']?\s{0,2}[:=]?\s{0,2}[\"'(]?$")
_LISTED = re.compile(r"[:;] $")
_LOOK_BACK = 24
_LEAST, _LEAST_DIGITS = 6, 8


@dataclass(frozen=True)
class Traces:
    """One patient (None: some records alone) with all records that are nobody else's, by the ids of the archive.

    source: the kind of source, which lists of what was seen are salted with
    typed: the id as it was given, where the archive has a pseudonym for it
    """

    patient: str | None
    records: frozenset[str]
    source: str
    typed: str | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        """All ids."""
        return frozenset({*self.records, *(name for name in (self.patient, self.typed) if name)})

    @cached_property
    def hashes(self) -> frozenset[str]:
        """Under which lists of what was seen, and the log of an archive, know the ids."""
        # As typed too: an encoder may have seen the source before it was pseudonymised.
        typed = (self.typed,) if self.typed else ()
        own = (self.patient,) if self.patient else ()
        patients = (hashed(self.source, "patient", name) for name in (*own, *typed))
        seen = (hashed(self.source, "record", name) for name in (*self.records, *typed))
        return frozenset({*patients, *seen, *map(key_of, self.records)})

    @cached_property
    def distinctive(self) -> frozenset[str]:
        """Ids and hashes that nothing else is called by chance."""
        long = {name for name in self.names if len(name) >= (_LEAST_DIGITS if name.isdigit() else _LEAST)}
        return frozenset(long | self.hashes)

    @cached_property
    def record_hashes(self) -> NDArray[np.uint64]:
        """Sorted hashes of the record ids, as commit records hold them."""
        return hash_record_ids(self.records)

    def rows(self, table: pa.Table) -> NDArray[np.bool_]:
        """(N,) the patient's rows of a table with `record_id` and, where it is known, `patient_id`.

        A record that another patient has too is told apart by the patient.
        """
        if self.patient is None:
            return np.array([record in self.records for record, _ in ids_in(table)], dtype=bool)
        pairs = ids_in(table)
        return np.array(
            [patient == self.patient or (patient is None and record in self.records) for record, patient in pairs],
            dtype=bool,
        )

    def is_in(self, text: str, name: str = "") -> bool:
        """Whether a cell or a text tells one of the ids or hashes; `name` is that of its column or key."""
        return (text in self.names and name in _ID_NAMES) or next(self._spans(text), None) is not None

    def in_json(self, value: Any, name: str = "") -> bool:
        """Whether anything in JSON tells one of them; `name` is the key that it stands under."""
        if isinstance(value, str):
            return self.is_in(value, name) or (name == "record_ids" and self._in_hashes(value))
        if isinstance(value, dict):
            return any(self.is_in(key) or self.in_json(inner, key) for key, inner in value.items())
        return isinstance(value, list) and any(self.in_json(inner, name) for inner in value)

    def redacted(self, value: Any, name: str = "") -> Any:
        """JSON with `(forgotten)` in the place of every id; entries named by one are left out."""
        if isinstance(value, str):
            return FORGOTTEN if value in self.names and name in _ID_NAMES else self._redacted_text(value)
        if isinstance(value, dict):
            return {key: self.redacted(inner, key) for key, inner in value.items() if not self.is_in(key)}
        return [self.redacted(inner, name) for inner in value] if isinstance(value, list) else value

    def _redacted_text(self, text: str) -> str:
        parts, end = [], 0
        for start, stop in self._spans(text):
            if start >= end:
                parts += [text[end:start], FORGOTTEN]
                end = stop
        return "".join([*parts, text[end:]])

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where in a text ids and hashes stand."""
        if len(text) < self._shortest:
            return
        for word in _WORD.finditer(text):
            for name, offset in self._by_word.get(word.group(), ()):
                start = word.start() - offset
                stop = start + len(name)
                if start >= 0 and text.startswith(name, start) and self._counts(text, name, start, stop):
                    yield start, stop

    def _counts(self, text: str, name: str, start: int, stop: int) -> bool:
        after = text[stop : stop + 1]
        if after.isalnum() and name[-1].isalnum():
            return False
        if name in self.distinctive:
            return True
        before = text[max(start - _LOOK_BACK, 0) : start]
        return bool(_SAID.search(before)) or (bool(_LISTED.search(before)) and text.startswith(": ", stop))

    @cached_property
    def _by_word(self) -> dict[str, list[tuple[str, int]]]:
        """First word of each name → the name, and where in it the word is."""
        found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for name in self.names | self.hashes:
            word = _WORD.search(name)
            if word is not None:
                found[word.group()].append((name, word.start()))
        return dict(found)

    @cached_property
    def _shortest(self) -> int:
        return min(map(len, self.names), default=0)

    def _in_hashes(self, text: str) -> bool:
        """Whether the record ids of a commit record hold one of the patient's."""
        try:
            return bool(np.isin(self.record_hashes, decode_hashes(text)).any())
        except ValueError:
            return False


def ids_in(table: pa.Table) -> list[tuple[str | None, str | None]]:
    """Record id and patient id of every row, as text; None where it is null or there is no such column."""
    columns = []
    for name in ("record_id", "patient_id"):
        values = table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows
        columns.append([None if value is None else str(value) for value in values])
    return list(zip(*columns, strict=True))


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

    def looked(key: str) -> Hit | None:
        hit = look(store, key, traces)
        stage.advance()
        return hit

    with ThreadPoolExecutor(READERS) as readers:
        hits = [hit for hit in readers.map(looked, wanted) if hit is not None]
    return Searched(len(wanted), tuple(hits))


def look(store: ObjectStore, key: str, traces: Traces) -> Hit | None:
    """The object as a hit when it tells anything of the patient, or cannot be read."""
    try:
        return Hit(store, key) if holds_traces(store, key, traces) else None
    except (pa.ArrowException, OSError, ValueError) as error:
        return Hit(store, key, f"{type(error).__name__}: {error}")


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
    with _opened(store, key) as source, open_parquet_file(source, pre_buffer=False, buffer_size=_BLOCK) as file:
        texts = (file.metadata.metadata or {}).values()
        if any(traces.is_in(value.decode("utf-8", "replace")) for value in texts):
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
        known = column.statistics if column.physical_type == "BYTE_ARRAY" else None
        name = column.path_in_schema.rsplit(".", 1)[-1]
        if known is not None and known.has_min_max and any(traces.is_in(str(v), name) for v in (known.min, known.max)):
            return True
    return False


def _in_texts(texts: pa.Array, name: str, traces: Traces) -> bool:
    """Whether a flat array of strings or bytes, of the field of that name, has one that tells of the patient."""
    if _is_bytes(texts.type):
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
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_bytes(kind)


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
