"""Records that two datasets explained, counted together: a pair of files at a time, on whatever worker.

Records are joined by record_id; their clusters lie on the finer of the two time axes, over what both explained. What
chance gives is counted beside: the clusters of B are moved round, by at least a quarter of what is looked at together,
so that recordings meet other recordings' clusters and every segment keeps its length.

Counts are whole numbers, so nothing depends on who counted what. No file is held for longer than it takes to count it.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.encoders.spec import OutputSpec
from ecgscale.evaluate.localise.timelines import cluster_labels
from ecgscale.evaluate.questions import decisions, list_matrix, probabilities
from ecgscale.io.parquet import read_parquet

GROUPS, SHIFTS = 50, 20
RECORDS_AT_ONCE = 512
_COLUMNS = ("record_id", "patient_id", "status", "segments", "sampling_rate", "length", "start_s", "prediction")

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Answers:
    """Outputs that both networks name: `names` (labels, or every class that either has) and their numbers in A and B,
    −1 for a class that one does not have; `kind` as in `OutputSpec`."""

    kind: str
    names: tuple[str, ...]
    at_a: tuple[int, ...]
    at_b: tuple[int, ...]

    def codes(self, prediction: NDArray[np.floating], output: OutputSpec, at: tuple[int, ...]) -> NDArray:
        """What a network says about n records: (n, labels) 0/1, (n, 1) numbers of `names`, or (n, 1) values."""
        said = decisions(prediction, output)
        if self.kind == "multilabel":
            return said[:, list(at)]
        if self.kind == "regression":
            return said[:, None]
        return np.array([at.index(i) for i in range(len(output.names))])[said][:, None]

    def probabilities(self, prediction: NDArray[np.floating], output: OutputSpec, at: tuple[int, ...]) -> NDArray:
        """(n, names): 0 for a class that the network does not have."""
        known = np.concatenate([probabilities(prediction, output), np.zeros((len(prediction), 1))], axis=1)
        return known[:, list(at)]


def common_answers(a: OutputSpec, b: OutputSpec) -> tuple[Answers | None, str]:
    """The outputs that can be set beside each other, or None and why there are none."""
    shared = [name for name in a.names if name in b.names]
    if a.kind != b.kind:
        return None, f"predictions are not compared: A is a {a.kind} network, B a {b.kind} one"
    if not shared:
        return None, f"predictions are not compared: no output of A ({', '.join(a.names)}) is one of B's"
    names = [*a.names, *(name for name in b.names if name not in a.names)] if a.kind == "multiclass" else shared
    if a.kind == "regression":
        names = shared[:1]
    at = [tuple(own.names.index(name) if name in own.names else -1 for name in names) for own in (a, b)]
    return Answers(a.kind, tuple(names), *at), ""


@dataclass(frozen=True)
class Pair:
    """A file of A and one of B; None where the shard is on one side only. `ids`: these records alone."""

    key: str
    a: str | None
    b: str | None
    ids: frozenset[str] | None = None


@dataclass(frozen=True)
class Asked:
    """What all tasks share. `partners` (K_a,): B's cluster for each of A's, −1 for none; None while that is counted."""

    clusters: tuple[int, int]
    outputs: tuple[OutputSpec, OutputSpec]
    answers: Answers | None
    seed: int = 0
    partners: tuple[int, ...] | None = None


@dataclass
class Tally:
    """What was counted of some shards.

    time: (GROUPS, K_a, K_b) timesteps by group of patients; moved: (SHIFTS, K_a, K_b) with B's clusters moved round
    said: (GROUPS, labels, C, C) records by what A and B say
    apart: (GROUPS, names) Σ|b−a| of probabilities, in millionths
    values: (GROUPS, 5) n, Σa, Σb, Σ|b−a|, Σ(b−a)² of a regression
    left: by side and shard, the records that the other side has not
    """

    time: Counts
    moved: Counts
    said: Counts
    apart: Counts
    values: NDArray[np.float64]
    rate: float = 0.0
    numbers: Counter[str] = field(default_factory=Counter)
    left: tuple[dict[str, list[str]], dict[str, list[str]]] = field(default_factory=lambda: ({}, {}))

    @classmethod
    def empty(cls, asked: Asked) -> Tally:
        """Nothing counted yet."""
        k_a, k_b = asked.clusters
        n = len(asked.answers.names) if asked.answers else 0
        multiclass = asked.answers is not None and asked.answers.kind == "multiclass"
        said = np.zeros((GROUPS, 1, n, n) if multiclass else (GROUPS, n, 2, 2), np.int64)
        time, moved = np.zeros((GROUPS, k_a, k_b), np.int64), np.zeros((SHIFTS, k_a, k_b), np.int64)
        return cls(time, moved, said, np.zeros((GROUPS, n), np.int64), np.zeros((GROUPS, 5)))

    def add(self, other: Tally) -> None:
        """Take another's counts in."""
        for name in ("time", "moved", "said", "apart", "values"):
            getattr(self, name).__iadd__(getattr(other, name))
        self.rate = max(self.rate, other.rate)
        self.numbers.update(other.numbers)
        for own, more in zip(self.left, other.left, strict=True):
            own.update(more)


def counted_pairs(asked: Asked, pairs: Sequence[Pair]) -> Tally:
    """The tally of some pairs of files: a task of the first round."""
    tally = Tally.empty(asked)
    for pair in pairs:
        for a, b in _joined(pair, tally):
            labels_a, labels_b, tally.rate = on_one_axis(a, b)
            group = np.array([zlib.crc32(name.encode()) % GROUPS for name in _patients(a)], np.int64)
            both = (labels_a >= 0) & (labels_b >= 0)
            k_a, k_b = asked.clusters
            cell = labels_a[both].astype(np.int64) * k_b
            other = labels_b[both].astype(np.int64)
            owner = np.broadcast_to(group[:, None], both.shape)[both] * (k_a * k_b)
            tally.time += np.bincount(owner + cell + other, minlength=tally.time.size).reshape(tally.time.shape)
            rng = np.random.default_rng([asked.seed, zlib.crc32(str(a.column("record_id")[0]).encode())])
            n = len(cell)
            for i, shift in enumerate(rng.integers(n // 4, n - n // 4, SHIFTS, endpoint=True).tolist()):
                met = np.bincount(cell + np.roll(other, shift), minlength=k_a * k_b)
                tally.moved[i] += met.reshape(k_a, k_b)
            if asked.answers is not None:
                _count_answers(tally, asked, a, b, group)
    return tally


def _count_answers(tally: Tally, asked: Asked, a: pa.Table, b: pa.Table, group: Counts) -> None:
    assert asked.answers is not None
    said_a, said_b = _said(asked, a, b)
    if asked.answers.kind == "regression":
        apart = said_b - said_a
        columns = np.column_stack([np.ones(len(apart)), said_a, said_b, np.abs(apart), apart**2])
        np.add.at(tally.values, group, columns)
        return
    _, labels, n, _ = tally.said.shape
    cell = ((group[:, None] * labels + np.arange(labels)) * n + said_a) * n + said_b
    tally.said += np.bincount(cell.ravel(), minlength=tally.said.size).reshape(tally.said.shape)
    own, other = (
        asked.answers.probabilities(list_matrix(table, "prediction"), output, at)
        for table, output, at in zip((a, b), asked.outputs, (asked.answers.at_a, asked.answers.at_b), strict=True)
    )
    np.add.at(tally.apart, group, np.rint(np.abs(other - own) * 1e6).astype(np.int64))


def _said(asked: Asked, a: pa.Table, b: pa.Table) -> tuple[NDArray, NDArray]:
    assert asked.answers is not None
    own = (a, asked.outputs[0], asked.answers.at_a), (b, asked.outputs[1], asked.answers.at_b)
    said = [asked.answers.codes(list_matrix(table, "prediction"), output, at) for table, output, at in own]
    return said[0], said[1]


RECORDS = pa.schema(
    [
        *((name, pa.string()) for name in ("record_id", "patient_id", "source_shard")),
        *((name, pa.float64()) for name in ("seconds", "apart")),
        ("flips", pa.list_(pa.string())),
        ("difference", pa.float64()),
    ]
)
"""A row a record of both: how much of it both explained, the share of that in which their clusters are no pair, the
answers that flip ("+AF": B alone says so, "-AF": A alone; "SR > AF" of classes), and B less A of a regression."""


def compared_records(asked: Asked, pairs: Sequence[Pair]) -> pa.Table:
    """The records of some pairs of files, as RECORDS has them: a task of the second round."""
    assert asked.partners is not None
    partner = np.array(asked.partners, np.int64)
    found = [RECORDS.empty_table()]
    for pair in pairs:
        for a, b in _joined(pair, Tally.empty(asked)):
            labels_a, labels_b, rate = on_one_axis(a, b)
            both = (labels_a >= 0) & (labels_b >= 0)
            steps = both.sum(axis=1)
            apart = (both & (partner[labels_a] != labels_b)).sum(axis=1) / np.maximum(steps, 1)
            flips: list[list[str] | None] = [None] * len(steps)
            difference = pa.nulls(len(steps), pa.float64())
            if asked.answers is not None:
                said_a, said_b = _said(asked, a, b)
                if asked.answers.kind == "regression":
                    difference = pa.array((said_b - said_a)[:, 0])
                else:
                    flips = [_flips(asked.answers, *row) for row in zip(said_a, said_b, strict=True)]
            ids, patients = (a.column(name).combine_chunks() for name in ("record_id", "patient_id"))
            shard = pa.array([pair.key] * len(steps))
            columns = [ids, patients, shard, pa.array(steps / rate), pa.array(apart), pa.array(flips), difference]
            found.append(pa.table(columns, RECORDS.names).cast(RECORDS))
    return pa.concat_tables(found)


def _flips(answers: Answers, a: NDArray, b: NDArray) -> list[str]:
    if answers.kind == "multiclass":
        return [] if a[0] == b[0] else [f"{answers.names[a[0]]} > {answers.names[b[0]]}"]
    return [f"{'+' if b[i] else '-'}{answers.names[i]}" for i in np.flatnonzero(a != b)]


def on_one_axis(a: pa.Table, b: pa.Table) -> tuple[NDArray[np.int16], NDArray[np.int16], float]:
    """(n, D) clusters of the same n records by both, −1 where one explained nothing, on the finer axis; and its Hz."""
    own, other = (_lines(table) for table in (a, b))
    if other[2] > own[2]:
        second, first, rate = on_one_axis(b, a)
        return first, second, rate
    labels, start, rate = own
    theirs, their_start, their_rate = other
    time = (start - their_start)[:, None] * their_rate + np.arange(labels.shape[1]) * (their_rate / rate)
    step = np.floor(time + 0.5).astype(np.int64)
    inside = (step >= 0) & (step < theirs.shape[1])
    taken = np.take_along_axis(theirs, np.clip(step, 0, theirs.shape[1] - 1), axis=1)
    return labels, np.where(inside, taken, -1).astype(np.int16), rate


def _lines(table: pa.Table) -> tuple[NDArray[np.int16], NDArray[np.float64], float]:
    """Clusters (n, D) of these records, the second at which each one's axis begins (n,), and its Hz."""
    length, rate = int(table.column("length")[0].as_py()), float(table.column("sampling_rate")[0].as_py())
    return cluster_labels(table.column("segments").combine_chunks(), length), np.asarray(table.column("start_s")), rate


def _patients(table: pa.Table) -> list[str]:
    pairs = zip(table.column("patient_id").to_pylist(), table.column("record_id").to_pylist(), strict=True)
    return [f"p:{patient}" if patient else f"r:{record}" for patient, record in pairs]


def _joined(pair: Pair, tally: Tally) -> Iterator[tuple[pa.Table, pa.Table]]:
    """The records that both explained, some hundred at a time, the same in both tables; the rest is counted."""
    tables = [read_parquet(where, _COLUMNS) if where else _NOBODY for where in (pair.a, pair.b)]
    sides = [_by_status(table, pair.ids) for table in tables]
    (ok_a, bad_a), (ok_b, bad_b) = sides
    if pair.ids is None:
        for own, (other, bad), left in zip((ok_a, ok_b), (sides[1], sides[0]), tally.left, strict=True):
            if alone := [name for name in own if name not in other and name not in bad]:
                left[pair.key] = alone
    tally.numbers["quarantined_by_a"] += len(bad_a & ok_b.keys())
    tally.numbers["quarantined_by_b"] += len(bad_b & ok_a.keys())
    both = [name for name in ok_a if name in ok_b]
    for i in range(0, len(both), RECORDS_AT_ONCE):
        names = both[i : i + RECORDS_AT_ONCE]
        a, b = (
            table.take(pa.array([own[name] for name in names])) for table, (own, _) in zip(tables, sides, strict=True)
        )
        patients = [table.column("patient_id").to_pylist() for table in (a, b)]
        tally.numbers["records"] += len(names)
        tally.numbers["patients_known"] += sum(bool(patient) for patient in patients[0])
        tally.numbers["other_patient"] += sum(bool(x and y and x != y) for x, y in zip(*patients, strict=True))
        yield a, b


_NOBODY = pa.table({name: pa.array([], pa.string()) for name in ("record_id", "status")})


def _by_status(table: pa.Table, ids: frozenset[str] | None) -> tuple[dict[str, int], set[str]]:
    """Record → row of those explained, and the quarantined ones."""
    ok: dict[str, int] = {}
    bad: set[str] = set()
    for i, (name, status) in enumerate(zip(*(table.column(c).to_pylist() for c in _NOBODY.column_names), strict=True)):
        if name is not None and (ids is None or name in ids):
            if status == "ok":
                ok[str(name)] = i
            else:
                bad.add(str(name))
    return ok, bad - ok.keys()
