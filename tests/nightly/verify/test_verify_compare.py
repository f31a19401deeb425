"""Bits and tolerances: what counts as the same record computed again."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from ecgscale.explain.segments import SEGMENT_TYPE
from ecgscale.nightly.verify.sample import HALF_PRECISION, TOLERANCES, beyond_tolerance, different_columns

TYPES = {
    "prediction": pa.list_(pa.float32()),
    "proportions": pa.list_(pa.float32(), 2),
    "mean_entropy": pa.float32(),
    "segments": pa.list_(SEGMENT_TYPE),
    "age": pa.float32(),
    "status": pa.string(),
}


def table(name: str, values: list[Any]) -> pa.Table:
    return pa.table({name: pa.array(values, TYPES[name])})


def beyond(name: str, one: Any, other: Any, factor: float = 1.0) -> bool:
    [found] = beyond_tolerance(name, table(name, [one]), table(name, [other]), factor).tolist()
    return bool(found)


def segments(*spans: tuple[int, int, int]) -> list[dict[str, Any]]:
    return [{"start": start, "stop": stop, "cluster": k, "entropy": 0.5} for start, stop, k in spans]


def test_a_single_bit_is_seen_and_equal_nan_is_equal() -> None:
    one = table("age", [1.0, float("nan"), None])
    assert different_columns(one, table("age", [1.0, float("nan"), None])) == {}
    [rows] = different_columns(one, table("age", [1.0000001, float("nan"), 0.0])).values()
    assert rows.tolist() == [True, False, True]
    # A carried column that only one of them has is the archive's affair; a fact that is lacking is not.
    assert different_columns(table("status", ["ok"]), table("age", [1.0])) == {}
    assert list(different_columns(table("status", ["ok"]), table("mean_entropy", [1.0]))) == ["mean_entropy"]


@pytest.mark.parametrize(
    ("name", "one", "near", "far"),
    [
        ("mean_entropy", 0.5, 0.5005, 0.502),
        ("prediction", [0.0, 100.0], [0.0, 100.05], [0.0, 100.2]),
        ("proportions", [0.5, 0.5], [0.505, 0.495], [0.52, 0.48]),
        ("segments", segments((0, 100, 1), (100, 300, 2)), segments((0, 102, 1), (102, 300, 2)), segments((0, 300, 1))),
    ],
)
def test_tolerances(name: str, one: Any, near: Any, far: Any) -> None:
    assert not beyond(name, one, near)
    assert beyond(name, one, far)
    assert beyond(name, one, None)
    assert beyond(name, None, one)


def test_what_has_no_tolerance_has_to_be_equal() -> None:
    assert beyond("age", 40.0, 40.000004)
    assert beyond("prediction", [1.0], [1.0, 1.0])
    assert beyond("segments", segments((0, 10, 1)), segments((1, 10, 1)))
    assert beyond("mean_entropy", 0.5, float("nan"))


def test_half_precision_is_given_more_room() -> None:
    off = 0.5 + 5 * TOLERANCES["mean_entropy"]
    assert beyond("mean_entropy", 0.5, off)
    assert not beyond("mean_entropy", 0.5, off, HALF_PRECISION)
