"""What `verify` finds, and what it looks for in rows.

`Problems`: all of them counted, the first of each kind kept. `check_rows`: are the rows of a file possible? Shares,
entropies, segments, spans, whole row groups at a time. Nothing here knows what the right numbers are: what is checked
is what holds of every record, whatever it shows. `check_doubles`: no record explained twice over all files of a
dataset, from eight bytes a record, compared a stretch of the range of hashes at a time, so that memory stays bounded;
then from the ids themselves.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.archive.validate import OK, RECORD_STATUS
from ecgscale.explain.schema import FACT_COLUMNS
from ecgscale.io.objects import ObjectStore
from ecgscale.io.parquet import read_parquet
from ecgscale.store.commit import hash_record_ids, shared_hashes

Kind = Literal[
    "manifest", "model", "missing_file", "size", "sha256", "unreadable", "schema", "identity",
    "rows", "quarantined", "status", "source_shard", "facts", "valid_span", "proportions", "entropy",
    "numbers", "segments", "clusters", "commit", "record_ids", "doubled", "archive", "recomputed",
]  # fmt: skip
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


def place_of(file: str, row: int, record_id: str | None) -> str:
    """Where a row is, in words: file, row from 0, record id."""
    return f"{file}, row {row}, record {record_id!r}"


COLUMNS = ("record_id", "source_shard", "length", "status", *FACT_COLUMNS)
"""What the checks look at."""
SUM_TOLERANCE = 1e-5
"""How far shares may be from summing to 1, and proportions from what the segments say."""


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one file, and where to tell what is wrong with them."""

    table: pa.Table
    file: str
    first_row: int
    problems: Problems

    def tell(
        self, kind: Kind, bad: NDArray[np.bool_], message: Callable[[int], str] | str, at: NDArray | None = None
    ) -> None:
        """A problem for each True of `bad`; `message` may depend on its position, `at` maps it to a row."""
        positions = np.flatnonzero(bad).tolist()
        for position in positions[:KEPT]:
            row = int(position if at is None else at[position])
            where = place_of(self.file, self.first_row + row, self.table["record_id"][row].as_py())
            self.problems.add(kind, where, message if isinstance(message, str) else message(position))
        if len(positions) > KEPT:
            self.problems.counts[kind] += len(positions) - KEPT


def check_rows(rows: Rows, shard: str, n_clusters: int, with_entropy: bool) -> None:
    """Tell what is wrong with rows that have `COLUMNS` in the types of `output_schema`.

    shard: the input shard that the file is of; with_entropy: whether the dataset has the entropy of every timestep
    """
    table = rows.table
    status = table["status"]
    ok = _flags(pc.equal(status, OK))
    rows.tell(
        "status",
        ~_flags(pc.is_in(status, value_set=pa.array(RECORD_STATUS))),
        lambda i: f"status {status[i].as_py()!r}; expected one of {', '.join(RECORD_STATUS)}",
    )
    rows.tell(
        "status",
        ok & _flags(table["record_id"].is_null()),
        "explained without a record id; expected missing_record_id",
    )
    shards = table["source_shard"]
    rows.tell(
        "source_shard",
        ~_flags(pc.equal(shards, shard)),
        lambda i: f"source_shard {shards[i].as_py()!r} in a file of shard {shard!r}",
    )
    usable = _check_presence(rows, ok, with_entropy)
    at = np.flatnonzero(usable)
    explained = _Explained(rows, at, table.filter(pa.array(usable)), n_clusters)
    explained.check_spans()
    explained.check_shares("soft_proportions")
    explained.check_shares("proportions")
    explained.check_numbers()
    if with_entropy:
        explained.check_timesteps()
    explained.check_segments()


def _check_presence(rows: Rows, ok: NDArray[np.bool_], with_entropy: bool) -> NDArray[np.bool_]:
    """Facts where the status is ok, and nowhere else; bool (n,): rows with all facts that they should have."""
    usable = ok.copy()
    for name in FACT_COLUMNS:
        absent = _flags(rows.table[name].is_null())
        wanted = ok if name != "entropy" or with_entropy else np.zeros_like(ok)
        rows.tell("facts", wanted & absent, f"{name} is null, though the record is explained")
        rows.tell("facts", ~wanted & ~absent, f"{name} is there, where it should be null")
        usable &= ~(wanted & absent)
    return usable


class _Explained:
    """The n explained rows among some; `at` says where they stand."""

    def __init__(self, rows: Rows, at: NDArray[np.intp], facts: pa.Table, n_clusters: int) -> None:
        self._rows, self._at, self._facts, self._k = rows, at, facts, n_clusters
        self._start, self._stop = self._column("valid_start"), self._column("valid_stop")

    def check_spans(self) -> None:
        """0 ≤ valid_start < valid_stop ≤ length."""
        length = self._column("length")
        good = (self._start >= 0) & (self._start < self._stop) & (self._stop <= length)
        self._tell("valid_span", ~good, lambda i: f"{self._span(i)} is no span within {length[i]:g} timesteps")

    def check_shares(self, name: str) -> None:
        """Each in [0, 1], and all of a record summing to 1."""
        shares = self._shares(name)
        sums = shares.sum(axis=1)
        good = ((shares >= 0) & (shares <= 1)).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE)
        self._tell(
            "proportions",
            ~good,
            lambda i: f"{name} are from {shares[i].min():.6g} to {shares[i].max():.6g} and sum to {sums[i]:.6g}",
        )

    def check_numbers(self) -> None:
        """mean_entropy in [0, 1]; distortion and outputs finite."""
        mean = self._column("mean_entropy")
        self._tell("entropy", ~_unit(mean), lambda i: f"mean_entropy is {mean[i]:g}; expected 0 to 1")
        distortion = self._column("distortion")
        self._tell("numbers", ~np.isfinite(distortion), lambda i: f"distortion is {distortion[i]:g}")
        owner, _, values = self._lists("prediction")
        bad = self._any(owner, ~np.isfinite(_numbers(values)))
        self._tell("numbers", bad, "prediction has a NaN, an infinity or a null")

    def check_timesteps(self) -> None:
        """An entropy in [0, 1] for every valid timestep."""
        owner, lengths, values = self._lists("entropy")
        self._tell(
            "entropy",
            lengths != self._stop - self._start,
            lambda i: f"entropy of {lengths[i]} timesteps; {self._span(i)} has {self._stop[i] - self._start[i]:g}",
        )
        bad = self._any(owner, ~_unit(_numbers(values)))
        self._tell("entropy", bad, "entropy has values outside 0 to 1")

    def check_segments(self) -> None:
        """Half-open, contiguous, from valid_start to valid_stop, of clusters that there are, and what they sum to."""
        owner, lengths, values = self._lists("segments")
        start, stop, cluster, entropy = (_numbers(part) for part in values.flatten())
        broken = lengths == 0
        first = np.cumsum(lengths) - lengths
        some = ~broken
        broken[some] |= start[first[some]] != self._start[some]
        broken[some] |= stop[(first + lengths - 1)[some]] != self._stop[some]
        bad = ~(start < stop)
        bad[1:] |= (owner[1:] == owner[:-1]) & (start[1:] != stop[:-1])
        broken |= self._any(owner, bad)
        self._tell(
            "segments",
            broken,
            lambda i: f"{_gap(start, stop, first[i], lengths[i])}; expected contiguous ones over {self._span(i)}",
        )
        foreign = ~((cluster >= 0) & (cluster < self._k))
        strange = self._any(owner, foreign)
        self._tell("clusters", strange, f"a segment's cluster is none of 0 to {self._k - 1}")
        unsure = self._any(owner, ~_unit(entropy))
        self._tell("entropy", unsure, "a segment's entropy is outside 0 to 1")
        sound = ~(broken | strange)
        kept = sound[owner]
        self._check_time(sound, owner[kept], cluster[kept].astype(np.int64), (stop - start)[kept])

    def _check_time(
        self, sound: NDArray[np.bool_], owner: NDArray[np.intp], cluster: NDArray[np.int64], steps: NDArray
    ) -> None:
        """proportions against the time that segments spend in each cluster."""
        n = len(sound)
        spent = np.bincount(owner * self._k + cluster, weights=steps, minlength=n * self._k).reshape(n, self._k)
        shares = spent / np.maximum(spent.sum(axis=1, keepdims=True), 1)
        off = np.abs(shares - self._shares("proportions")).max(axis=1, initial=0.0)
        self._tell(
            "proportions",
            sound & (off > SUM_TOLERANCE),
            lambda i: f"proportions differ from the time spent in the segments by up to {off[i]:.6g}",
        )

    def _column(self, name: str) -> NDArray[np.float64]:
        return _numbers(self._facts[name].combine_chunks())

    def _shares(self, name: str) -> NDArray[np.float64]:
        return _numbers(self._facts[name].combine_chunks().flatten()).reshape(len(self._at), self._k)

    def _lists(self, name: str) -> tuple[NDArray[np.intp], NDArray[np.int64], pa.Array]:
        """Of a list column: the record that each value belongs to, values a record, the values."""
        column = self._facts[name].combine_chunks()
        lengths = pc.list_value_length(column).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.repeat(np.arange(len(lengths)), lengths), lengths, column.flatten()

    def _any(self, owner: NDArray[np.intp], bad: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool (n,): records with at least one True among their values."""
        return np.bincount(owner[bad], minlength=len(self._at)) > 0

    def _tell(self, kind: Kind, bad: NDArray[np.bool_], message: Callable[[int], str] | str) -> None:
        self._rows.tell(kind, bad, message, self._at)

    def _span(self, i: int) -> str:
        return f"[{self._start[i]:g}, {self._stop[i]:g})"


def _gap(start: NDArray, stop: NDArray, first: int, n: int) -> str:
    if not n:
        return "there are no segments"
    starts, stops = start[first : first + n], stop[first : first + n]
    empty = np.flatnonzero(~(starts < stops))
    if len(empty):
        return f"segment {empty[0]} is [{starts[empty[0]]:g}, {stops[empty[0]]:g})"
    gaps = np.flatnonzero(starts[1:] != stops[:-1])
    if len(gaps):
        return f"segment {gaps[0]} ends at {stops[gaps[0]]:g} and the next begins at {starts[gaps[0] + 1]:g}"
    return f"the segments go from {starts[0]:g} to {stops[-1]:g}"


def _flags(answers: pa.ChunkedArray) -> NDArray[np.bool_]:
    """bool (n,); null is False."""
    return np.asarray(pc.fill_null(answers, False).to_numpy(), dtype=bool)


def _numbers(array: pa.Array) -> NDArray[np.float64]:
    """float64 (n,); null is NaN, which no comparison lets pass."""
    return np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float64)


def _unit(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (values >= 0) & (values <= 1)


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
        table = read_parquet(store.location(file), ["record_id", "status"])
        for row, record_id in explained_rows(table):
            # A chance collision has two ids, which stand in one place each.
            if int(hash_record_ids([record_id])[0]) in shared:
                places[record_id].append((file, row))
    for record_id, found in sorted(places.items()):
        distinct = {file for file, _ in found}
        if len(distinct) > 1:
            places_of = " and ".join(f"{file} row {row}" for file, row in found)
            problems.add("doubled", place_of(*found[-1], record_id), f"explained in {places_of}")


def _stretches(hashes: list[NDArray[np.uint64]]) -> list[list[NDArray[np.uint64]]]:
    """The same arrays, cut at the same values into parts of about `AT_ONCE` hashes in all."""
    parts = max(1, -(-sum(map(len, hashes)) // AT_ONCE))
    cuts = np.array([2**64 * part // parts for part in range(1, parts)], dtype=np.uint64)
    pieces = [np.split(one, np.searchsorted(one, cuts)) for one in hashes]
    return [list(stretch) for stretch in zip(*pieces, strict=True)]


def explained_rows(table: pa.Table) -> list[tuple[int, str]]:
    """Row and record id of what is explained in a table."""
    rows = np.flatnonzero(pc.fill_null(pc.equal(table["status"], OK), False).to_numpy())
    ids = table["record_id"].take(rows).to_pylist()
    return [(int(row), name) for row, name in zip(rows, ids, strict=True) if name is not None]
