"""What two types of a column have in common."""

from __future__ import annotations

import pyarrow as pa
import pytest

from ecgscale.errors import ShardError
from ecgscale.store.columns import Columns, joined, widened

STRUCT = pa.struct([("code", pa.string()), ("likelihood", pa.int32())])
PAIRS = [
    (pa.int32(), pa.int64(), pa.int64()),
    (pa.int8(), pa.uint8(), pa.int16()),
    (pa.uint8(), pa.uint32(), pa.uint32()),
    (pa.int64(), pa.uint64(), None),
    (pa.float32(), pa.float64(), pa.float64()),
    (pa.int16(), pa.float32(), pa.float32()),
    (pa.int32(), pa.float32(), pa.float64()),
    (pa.int64(), pa.float64(), None),
    (pa.null(), pa.list_(pa.string()), pa.list_(pa.string())),
    (pa.bool_(), pa.int8(), None),
    (pa.string(), pa.int32(), None),
    (pa.string(), pa.large_string(), pa.string()),
    (pa.dictionary(pa.int8(), pa.large_string()), pa.string(), pa.string()),
    (pa.list_(pa.int32(), 3), pa.list_(pa.int32()), pa.list_(pa.int32())),
    (pa.large_list(pa.float32()), pa.list_(pa.float64()), pa.list_(pa.float64())),
    (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
    (pa.list_(pa.int32()), pa.int32(), None),
    (pa.timestamp("ms", "UTC"), pa.timestamp("us", "Europe/Berlin"), pa.timestamp("us", "UTC")),
    (pa.timestamp("us"), pa.timestamp("us", "UTC"), None),
    (pa.list_(STRUCT), pa.list_(pa.struct([*STRUCT, pa.field("by", pa.string())])), "added"),
    (STRUCT, pa.struct([STRUCT.field(1), STRUCT.field(0)]), None),
]


@pytest.mark.parametrize(("one", "other", "both"), PAIRS)
def test_the_type_that_holds_both_exactly(one: pa.DataType, other: pa.DataType, both: object) -> None:
    expected = other if both == "added" else both
    assert widened(one, other) == widened(other, one) == expected
    assert widened(one, one) == one


def test_times_of_recordings_without_a_zone_are_utc() -> None:
    schema = joined(
        pa.schema([("acquired_at", pa.timestamp("us", "UTC"))]), [pa.field("acquired_at", pa.timestamp("s"))], "x"
    )
    assert schema.field("acquired_at").type == pa.timestamp("us", "UTC")


def test_what_does_not_go_together_is_named() -> None:
    schema = pa.schema([("AF", pa.bool_()), ("fold", pa.int16())])
    wider = joined(schema, [pa.field("fold", pa.int64()), pa.field("site", pa.string())], "part-1")
    assert wider == pa.schema([("AF", pa.bool_()), ("fold", pa.int64()), ("site", pa.string())])
    with pytest.raises(ShardError, match="part-2: column AF is string, and bool in other shards"):
        joined(wider, [pa.field("AF", pa.string())], "part-2")


def test_a_manifest_says_it_for_people_and_for_programs() -> None:
    schema = pa.schema([("AF", pa.bool_()), ("acquired_at", pa.timestamp("us", "UTC"))], metadata={"a": "b"})
    columns = Columns.model_validate_json(Columns.of(schema).model_dump_json())
    assert columns.types == {"AF": "bool", "acquired_at": "timestamp[us, tz=UTC]"}
    assert columns.arrow_schema == schema.remove_metadata()
