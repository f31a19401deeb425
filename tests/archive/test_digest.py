"""Equal rows, equal digests; anything else, not."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ecgscale.archive.schema import FIDUCIAL_TYPE
from ecgscale.archive.shard import ContentDigest

SCHEMA = pa.schema(
    [
        ("a", pa.int32()),
        ("b", pa.string()),
        ("c", pa.list_(pa.string())),
        ("d", pa.bool_()),
        ("f", FIDUCIAL_TYPE),
        ("t", pa.timestamp("us", "UTC")),
    ]
)
WAVE = {"lead": "I", "wave": "P", "onset": 1, "peak": 2, "offset": None}
ROWS = [
    {"a": 1, "b": "x", "c": ["p", "q"], "d": True, "f": [WAVE], "t": 5},
    {"a": None, "b": None, "c": None, "d": None, "f": None, "t": None},
    {"a": 3, "b": "", "c": [], "d": False, "f": [], "t": 7},
]


def digest(rows: list[dict], schema: pa.Schema = SCHEMA) -> str:
    one = ContentDigest(schema)
    one.update(pa.Table.from_pylist(rows, schema))
    return one.hexdigest()


def test_chunks_slices_and_what_lies_behind_a_null_do_not_count() -> None:
    table = pa.Table.from_pylist([ROWS[2], *ROWS, ROWS[0]], SCHEMA)
    sliced = ContentDigest(SCHEMA)
    sliced.update(table.slice(1, 3))
    assert sliced.hexdigest() == digest(ROWS)
    chunked = ContentDigest(SCHEMA)
    chunked.update(pa.concat_tables([table.slice(1, 1), table.slice(2, 2)]))
    assert chunked.hexdigest() == digest(ROWS)
    hidden = pa.Table.from_arrays(
        [pa.array([1, 99, 3], pa.int32(), mask=pa.array([False, True, False])), *table.slice(1, 3).columns[1:]],
        schema=SCHEMA,
    )
    behind = ContentDigest(SCHEMA)
    behind.update(hidden)
    assert behind.hexdigest() == digest(ROWS)


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (0, {"a": 2}),
        (0, {"a": None}),
        (1, {"a": 0}),
        (2, {"b": None}),
        (0, {"c": ["pq"]}),
        (0, {"c": ["p", None]}),
        (1, {"c": []}),
        (2, {"d": None}),
        (0, {"f": [WAVE | {"offset": 0}]}),
        (0, {"f": [WAVE, WAVE]}),
        (0, {"t": 6}),
    ],
)
def test_every_change_counts(row: int, change: dict) -> None:
    rows = [dict(one) for one in ROWS]
    rows[row] |= change
    assert digest(rows) != digest(ROWS)


def test_order_names_and_types_count() -> None:
    assert digest(ROWS[::-1]) != digest(ROWS)
    rows = [{"a": 1}, {"a": 2}]
    digests = {digest(rows, pa.schema([("a", kind)])) for kind in (pa.int32(), pa.int64(), pa.float32())}
    digests.add(digest([{"b": 1}, {"b": 2}], pa.schema([("b", pa.int32())])))
    assert len(digests) == 4


def test_moving_text_between_rows_counts() -> None:
    schema = pa.schema([("b", pa.string())])
    assert digest([{"b": "ab"}, {"b": "c"}], schema) != digest([{"b": "a"}, {"b": "bc"}], schema)
