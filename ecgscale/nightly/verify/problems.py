"""What `verify` finds: all of it counted, the first of each kind kept.

No record explained twice over all files of a dataset: from sorted hashes first, then from the ids themselves.

Eight bytes a record are kept, and compared a stretch of the range of hashes at a time, so that memory stays bounded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscale.archive.validate import OK
from ecgscale.io.objects import ObjectStore
from ecgscale.io.places import arrow_place
from ecgscale.store.records import hash_record_ids, shared_hashes

Kind = Literal[
    "manifest",
    "model",
    "missing_file",
    "size",
    "sha256",
    "unreadable",
    "schema",
    "identity",
    "rows",
    "quarantined",
    "status",
    "source_shard",
    "facts",
    "valid_span",
    "proportions",
    "entropy",
    "numbers",
    "segments",
    "clusters",
    "commit",
    "record_ids",
    "doubled",
    "recomputed",
]
KINDS: tuple[str, ...] = get_args(Kind)
"""Every kind of problem; docs/operations.md says what each means."""

KEPT = 20


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it has to be. where: file, row and record id, as far as it is about one."""

    kind: Kind
    where: str
    message: str


class Problems:
    """A growing list; of each kind the first `KEPT` are kept, and all are counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: list[Problem] = []

    def add(self, kind: Kind, where: str, message: str) -> None:
        """One problem."""
        if self.counts[kind] < KEPT:
            self.first.append(Problem(kind, where, message))
        self.counts[kind] += 1

    def add_many(self, kind: Kind, items: Iterable[int], told: Callable[[int], tuple[str, str]]) -> None:
        """One for each of `items`; `told` gives (where, message) of one, and is asked for those alone that are kept."""
        for item in items:
            if self.counts[kind] < KEPT:
                self.first.append(Problem(kind, *told(item)))
            self.counts[kind] += 1

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()


def place_of(file: str, row: int, record_id: str | None) -> str:
    """A row as it is told: file, row from 0, record id."""
    return f"{file}, row {row}, record {record_id!r}"


AT_ONCE = 4_000_000
"""Hashes compared at a time: about 200 MB."""


def check_doubles(store: ObjectStore, hashes: Mapping[str, NDArray[np.uint64]], problems: Problems) -> None:
    """Tell every record id that is explained in more than one file.

    hashes: file → sorted, distinct hashes of the ids of its explained rows
    """
    files = list(hashes)
    suspects: defaultdict[str, set[int]] = defaultdict(set)
    for stretch in _stretches(list(hashes.values())):
        for value, positions in shared_hashes(stretch):
            for position in positions:
                suspects[files[position]].add(value)
    places: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
    for file, shared in suspects.items():
        for row, record_id in _explained(store, file):
            # A chance collision has two ids, which stand in one place each.
            if int(hash_record_ids([record_id])[0]) in shared:
                places[record_id].append((file, row))
    for record_id, found in sorted(places.items()):
        distinct = {file for file, _ in found}
        if len(distinct) > 1:
            told = " and ".join(f"{file} row {row}" for file, row in found)
            problems.add("doubled", place_of(*found[-1], record_id), f"explained in {told}")


def _stretches(hashes: list[NDArray[np.uint64]]) -> list[list[NDArray[np.uint64]]]:
    """The same arrays, cut at the same values into parts of about `AT_ONCE` hashes in all."""
    parts = max(1, -(-sum(map(len, hashes)) // AT_ONCE))
    cuts = np.array([2**64 * part // parts for part in range(1, parts)], dtype=np.uint64)
    pieces = [np.split(one, np.searchsorted(one, cuts)) for one in hashes]
    return [list(stretch) for stretch in zip(*pieces, strict=True)]


def _explained(store: ObjectStore, file: str) -> list[tuple[int, str]]:
    path, system = arrow_place(store.location(file))
    table = pq.read_table(path, filesystem=system, columns=["record_id", "status"], partitioning=None)
    rows = np.flatnonzero(pc.fill_null(pc.equal(table["status"], OK), False).to_numpy())
    ids = table["record_id"].take(rows).to_pylist()
    return [(int(row), name) for row, name in zip(rows, ids, strict=True) if name is not None]
