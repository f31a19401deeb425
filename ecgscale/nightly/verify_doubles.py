"""No record explained twice over all files of a dataset: from sorted hashes first, then from the ids themselves.

Eight bytes a record are kept, and compared a stretch of the range of hashes at a time, so that memory stays bounded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscale.encoders.preprocess import OK
from ecgscale.nightly.verify_problems import Problems, place_of
from ecgscale.places import arrow_place
from ecgscale.store.objects import ObjectStore
from ecgscale.store.record_ids import hash_record_ids, shared_hashes

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
