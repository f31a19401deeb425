"""Two networks on the same recordings: clusters that are the same, renumbered, split, late, or know nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.encoders.spec import OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.compare import Compared, compare
from ecgscale.evaluate.joined import Asked, Pair, common_answers, counted_pairs
from ecgscale.explain.segments import find_segments, segment_array
from ecgscale.io.parquet import to_parquet_bytes
from ecgscale.passes.spread import Spread

N, D, RATE, K = 40, 200, 100.0, 5
LABELS = OutputSpec(kind="multilabel", scale="logit", names=("AF", "MI"))
ONE = OutputSpec(kind="regression", scale="value", names=("age",))


def courses(seed: int, n: int = N, d: int = D, k: int = K) -> np.ndarray:
    """(n, d) clusters in segments of 5 to 24 timesteps."""
    rng = np.random.default_rng(seed)
    return np.stack([np.repeat(rng.integers(0, k, d), rng.integers(5, 25, d))[:d] for _ in range(n)]).astype(np.int16)


def write(path: Path, labels: np.ndarray, first: int = 0, **changes: Any) -> str:
    """A file of explanations of these records, and what is changed of it."""
    n = len(labels)
    columns: dict[str, Any] = {
        "record_id": [f"r{first + i}" for i in range(n)],
        "patient_id": [f"p{(first + i) // 2}" for i in range(n)],
        "status": ["ok"] * n,
        "segments": segment_array(find_segments(labels, np.zeros(labels.shape, np.float32)), np.ones(n, bool)),
        "sampling_rate": np.full(n, RATE, np.float32),
        "length": np.full(n, labels.shape[1], np.int32),
        "start_s": np.zeros(n),
        "prediction": np.tile([1.0, -1.0], (n, 1)).astype(np.float32).tolist(),
    }
    path.write_bytes(to_parquet_bytes(pa.table(columns | changes)))
    return str(path)


def compared(pairs: list[Pair], clusters: tuple[int, int] = (K, K), **more: Any) -> Compared:
    outputs = more.pop("outputs", (LABELS, LABELS))
    return compare(Asked(clusters, outputs, common_answers(*outputs)[0]), pairs, more.pop("n_bootstrap", 50), **more)


def both(folder: Path, a: np.ndarray, b: np.ndarray, of_a: Any = None, of_b: Any = None, **more: Any) -> Compared:
    pair = Pair("s", write(folder / "a", a, **(of_a or {})), write(folder / "b", b, **(of_b or {})))
    return compared([pair], **more)


def test_the_same_twice_is_the_identity(tmp_path: Path) -> None:
    found = both(tmp_path, courses(0), courses(0))
    assert {row["a"]: row["b"] for row in found.matched} == {k: k for k in range(K)}
    assert (found.agreement.value, found.agreement.interval) == (1.0, (1.0, 1.0))
    assert found.ami.value == pytest.approx(1.0, abs=1e-12)
    assert all(row["jaccard"] == row["of_a"] == row["of_b"] == 1.0 for row in found.matched)
    assert (found.seconds, found.records, found.resampled) == (N * D / RATE, N, "18 groups of patients")
    assert set(found.table.column("apart").to_pylist()) == {0.0}
    assert found.predictions is not None
    assert (found.predictions["agreement"]["value"], found.predictions["flipped"]) == (1.0, 0)
    assert (found.alone_a, found.alone_b, found.remarks) == ([], [], ())


def test_other_numbers_of_the_same_clusters_are_found(tmp_path: Path) -> None:
    order = np.array([3, 0, 4, 1, 2], np.int16)
    found = both(tmp_path, courses(0), order[courses(0)])
    assert {row["a"]: row["b"] for row in found.matched} == dict(enumerate(order.tolist()))
    assert (found.agreement.value, found.ami.value) == (1.0, pytest.approx(1.0, abs=1e-12))


def test_a_cluster_that_split_keeps_one_half_and_the_information(tmp_path: Path) -> None:
    a = courses(1)
    b = np.where((a == 2) & (np.arange(D) >= D // 4), 5, a).astype(np.int16)
    found = both(tmp_path, a, b, clusters=(K, K + 1))
    assert found.alone_b == [2]
    assert {row["a"]: row["b"] for row in found.matched} == {0: 0, 1: 1, 2: 5, 3: 3, 4: 4}
    expected = 1 - (b == 2).mean()
    assert found.agreement.value == pytest.approx(expected)
    assert 0.9 < (found.ami.value or 0) < 1
    [split] = [row for row in found.clusters.to_pylist() if not row["matched"]]
    assert (split["a"], split["b"], split["of_b"]) == (2, 2, 1.0)
    apart = np.array([row["apart"] for row in found.table.to_pylist()])
    assert apart.mean() == pytest.approx(1 - expected)
    assert (np.diff(apart) <= 0).all()
    assert found.most_different[0]["apart"] == apart[0] == (b == 2).mean(axis=1).max()


def test_clusters_that_know_nothing_of_each_other_are_at_chance(tmp_path: Path) -> None:
    values, covered = [], 0
    for seed in range(8):
        found = both(tmp_path, courses(2 * seed), courses(2 * seed + 1))
        assert found.ami.value is not None
        assert found.agreement.value is not None
        assert found.ami.shifted_mean is not None
        values.append(found.ami.value)
        covered += (found.ami.shifted_p99 or 0) >= found.ami.value
        assert abs(found.ami.value) < 0.02
        assert abs(found.ami.value - found.ami.shifted_mean) < 0.01
        assert found.agreement.value == pytest.approx(found.agreement.shifted_mean, abs=0.05)
    assert abs(np.mean(values)) < 0.01
    assert covered >= 6


def test_another_axis_of_time_is_brought_onto_the_finer_one(tmp_path: Path) -> None:
    """B at half the rate, its axis beginning half a second later: the same clusters at the same seconds."""
    a = np.repeat(courses(3, d=D // 4), 4, axis=1)
    later = 50
    b = a[:, later::2]
    changes = {"sampling_rate": np.full(N, RATE / 2, np.float32), "start_s": np.full(N, later / RATE)}
    for found in (both(tmp_path, a, b, of_b=changes), both(tmp_path, b, a, of_a=changes)):
        assert found.seconds == N * (D - later) / RATE
        assert (found.agreement.value or 0) > 0.95
        assert {row["a"]: row["b"] for row in found.matched} == {k: k for k in range(K)}
    assert both(tmp_path, a, b, of_b={**changes, "start_s": np.zeros(N)}).agreement.value < 0.5  # type: ignore[operator]


def test_answers_beside_each_other_and_the_records_that_flip(tmp_path: Path) -> None:
    a = np.tile([1.0, -1.0], (N, 1))
    b = a.copy()
    b[:4, 0], b[2:10, 1] = -1.0, 1.0
    other = OutputSpec(kind="multilabel", scale="logit", names=("MI", "LVH", "AF"))
    wide = np.column_stack([b[:, 1], np.ones(N), b[:, 0]])
    found = both(
        *(tmp_path, courses(0), courses(0), {"prediction": a.tolist()}, {"prediction": wide.tolist()}),
        outputs=(LABELS, other),
    )
    said = found.predictions
    assert said is not None
    assert list(said["labels"]) == ["AF", "MI"]
    af, mi = said["labels"].values()
    assert [af[name] for name in ("yes_a", "yes_b", "only_a", "only_b")] == [N, N - 4, 4, 0]
    assert [mi[name] for name in ("yes_a", "yes_b", "only_a", "only_b")] == [0, 8, 0, 8]
    assert (af["agreement"]["value"], mi["agreement"]["value"]) == (0.9, 0.8)
    assert said["agreement"]["value"] == pytest.approx(0.85)
    assert mi["probability_apart"]["value"] == pytest.approx(0.2 * (2 / (1 + np.exp(-1.0)) - 1), abs=1e-5)
    assert said["agreement"]["interval"][0] < 0.85 < said["agreement"]["interval"][1]
    flips = {row["record_id"]: row["flips"] for row in found.table.to_pylist()}
    assert (flips["r0"], flips["r2"], flips["r9"], flips["r10"]) == (["-AF"], ["-AF", "+MI"], ["+MI"], [])
    assert said["flipped"] == 10


def test_classes_and_values(tmp_path: Path) -> None:
    three = OutputSpec(kind="multiclass", scale="logit", names=("SR", "AF", "AFL"))
    two = OutputSpec(kind="multiclass", scale="logit", names=("AF", "SR"))
    a = np.eye(3)[np.arange(N) % 3]
    b = np.eye(2)[np.where(np.arange(N) % 3 == 0, 1, 0)]
    predictions = {"prediction": a.tolist()}, {"prediction": b.tolist()}
    found = both(tmp_path, courses(0), courses(0), *predictions, outputs=(three, two))
    said = found.predictions
    assert said is not None
    flutter = int((np.arange(N) % 3 == 2).sum())
    assert said["agreement"]["value"] == pytest.approx(1 - flutter / N)
    assert (said["labels"]["SR"]["kappa"]["value"], said["labels"]["AFL"]["kappa"]["value"]) == (1.0, 0.0)
    assert said["labels"]["AFL"]["probability_apart"]["value"] == pytest.approx(
        np.exp(a[:, 2]).sum() / N / (np.e + 2), abs=1e-5
    )
    assert (said["labels"]["AF"]["only_b"], said["flipped"]) == (flutter, flutter)
    assert {row["record_id"]: row["flips"] for row in found.table.to_pylist()}["r2"] == ["AFL > AF"]
    years = np.arange(N, dtype=float)[:, None]
    values = {"prediction": years.tolist()}, {"prediction": (years + np.where(years < 20, 2, -1)).tolist()}
    said = both(tmp_path, courses(0), courses(0), *values, outputs=(ONE, ONE)).predictions
    assert said is not None
    assert (said["difference"]["value"], said["absolute"]["value"]) == (0.5, 1.5)
    assert said["root_mean_square"]["value"] == pytest.approx(np.sqrt(2.5))
    assert common_answers(three, LABELS) == (None, "predictions are not compared: A is a multiclass network, B a "
                                                   "multilabel one")  # fmt: skip
    assert "no output of A (age) is one of B's" in common_answers(ONE, replace_names(ONE, "years"))[1]


def replace_names(output: OutputSpec, *names: str) -> OutputSpec:
    return output.model_copy(update={"names": names})


def test_records_are_joined_across_shards_and_what_is_on_one_side_is_counted(tmp_path: Path) -> None:
    labels = courses(4)
    status = ["ok"] * 19 + ["flat_signal"]
    a = [write(tmp_path / "a0", labels[:20]), write(tmp_path / "a1", labels[20:], 20)]
    # Of B, the shards are cut elsewhere, r19 is quarantined, r38 and r39 are not there, and one is of another patient.
    b0 = write(
        tmp_path / "b0", labels[:20], status=status, patient_id=["p0", "px", *(f"p{i // 2}" for i in range(2, 20))]
    )
    b2 = write(tmp_path / "b2", labels[20:38], 20)
    pairs = [Pair("0", a[0], b0), Pair("1", a[1], None), Pair("2", None, b2)]
    found = compared(pairs)
    numbers = (found.records, found.only_a, found.only_b, found.other_shard, found.quarantined_by_b)
    assert numbers == (37, 2, 0, 18, 1)
    assert (found.agreement.value, found.table.num_rows) == (1.0, 37)
    said = " | ".join(found.remarks)
    assert "2 records in A alone" in said
    assert "18 records in other shards" in said
    assert "1 record quarantined by B" in said
    assert "1 record of the same id, but of another patient" in said
    with pytest.raises(UsageError, match="no explained record is in both: 20 are in A alone, 18 in B alone"):
        compared([Pair("0", a[0], None), Pair("2", None, b2)])


def test_the_same_whoever_counts_and_however_files_are_cut(tmp_path: Path) -> None:
    a, b = courses(5), courses(5)
    b[:, ::3] = courses(6)[:, ::3]
    files = [
        Pair(str(i), write(tmp_path / f"a{i}", a[i : i + 8], i), write(tmp_path / f"b{i}", b[i : i + 8], i))
        for i in range(0, N, 8)
    ]
    first = compared(files)
    asked = Asked((K, K), (LABELS, LABELS), common_answers(LABELS, LABELS)[0])
    alone, travelled = counted_pairs(asked, files), pickle.loads(pickle.dumps(partial(counted_pairs, asked, files)))()
    assert all((getattr(alone, name) == getattr(travelled, name)).all() for name in ("time", "moved", "said", "apart"))
    with Spread(at_most=2) as spread:
        again = compared(files[::-1], spread=spread)
    assert replace(first, table=None, clusters=None) == replace(again, table=None, clusters=None)
    assert first.table.equals(again.table)
    assert first.clusters.equals(again.clusters)
    whole = both(tmp_path, a, b)
    assert (whole.agreement.value, whole.ami.value) == (first.agreement.value, first.ami.value)
