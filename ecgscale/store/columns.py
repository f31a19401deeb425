"""The columns of a dataset: one schema for all of its files, whatever order they came in.

A file is what its shard makes it, and is never changed; labels of the next year may be wider, more or fewer. So each
manifest says the schema of all that it publishes, and whoever opens the dataset is given every file in it:

    absent, or of type null      null
    int, float                   the type that holds both exactly (int64 and float: none)
    strings, lists, dictionaries however they are laid out: the plain type; items as values
    timestamps                   the finer unit; two zones: UTC
    structs                      fields may be added at the end

What fits none of these is refused before it is published, with both types.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from ecgscale.errors import ShardError
from ecgscale.io.parquet import read_schema

READERS = 16
AS_UTC = frozenset({"acquired_at"})
"""Timestamps of these columns are UTC where they have no zone."""
_UNITS = ("s", "ms", "us", "ns")


class Columns(BaseModel):
    """A schema in a manifest: names and types for people, and the schema itself, as Arrow writes it, in base64."""

    model_config = ConfigDict(frozen=True)

    types: dict[str, str]
    arrow: str

    @classmethod
    def of(cls, schema: pa.Schema) -> Columns:
        """What says this schema."""
        plain = schema.remove_metadata()
        encoded = base64.b64encode(plain.serialize().to_pybytes()).decode("ascii")
        return cls(types={field.name: str(field.type) for field in plain}, arrow=encoded)

    @property
    def arrow_schema(self) -> pa.Schema:
        """The schema."""
        return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self.arrow)))


def joined(schema: pa.Schema, more: Iterable[pa.Field], where: str) -> pa.Schema:
    """`schema`, wide enough for these columns too. `ShardError`, naming `where` they come from, when they cannot go
    together."""
    fields = {field.name: field for field in schema}
    for field in more:
        known = fields.get(field.name)
        kind = field.type if known is None else widened(known.type, field.type, field.name in AS_UTC)
        if known is not None and kind is None:
            raise ShardError(
                f"{where}: column {field.name} is {field.type}, and {known.type} in other shards; no type holds both "
                "exactly. Write it again with the other type, or under another name"
            )
        fields[field.name] = pa.field(field.name, kind)
    return pa.schema(list(fields.values()))


def goes_into(field: pa.Field, schema: pa.Schema) -> bool:
    """Whether a schema is wide enough for a column."""
    known = schema.field(field.name).type if field.name in schema.names else None
    return known is not None and widened(known, field.type, field.name in AS_UTC) == known


def widened(one: pa.DataType, other: pa.DataType, as_utc: bool = False) -> pa.DataType | None:
    """The type that holds the values of both exactly; None when there is none."""
    one, other = (_plain(one), _plain(other)) if one != other else (one, one)
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if pa.types.is_timestamp(one) and pa.types.is_timestamp(other):
        return _timestamp(one, other, as_utc)
    if _is_list(one) and _is_list(other):
        item = widened(one.value_type, other.value_type)
        return None if item is None else pa.list_(item)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _struct(one, other)
    return _number(one, other)


def _plain(kind: pa.DataType) -> pa.DataType:
    """A type without the way in which it is laid out."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    if _is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(child.name, _plain(child.type)) for child in kind])
    return kind


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def _timestamp(one: pa.DataType, other: pa.DataType, as_utc: bool) -> pa.DataType | None:
    unit = max(one.unit, other.unit, key=_UNITS.index)
    zones = {zone or ("UTC" if as_utc else None) for zone in (one.tz, other.tz)}
    if None in zones and len(zones) > 1:
        return None
    return pa.timestamp(unit, zones.pop() if len(zones) == 1 else "UTC")


def _struct(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    # Arrow's casts go by position: fields in another order would come out as null.
    longer, shorter = (list(one), list(other)) if one.num_fields >= other.num_fields else (list(other), list(one))
    fields = []
    for i, field in enumerate(longer):
        kind = widened(field.type, shorter[i].type) if i < len(shorter) else field.type
        if kind is None or (i < len(shorter) and shorter[i].name != field.name):
            return None
        fields.append(pa.field(field.name, kind))
    return pa.struct(fields)


def _number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    kinds = (one, other)
    floats = [kind.bit_width for kind in kinds if pa.types.is_floating(kind)]
    ints = [kind for kind in kinds if pa.types.is_integer(kind)]
    if len(floats) + len(ints) < 2:
        return None
    if floats:
        # A float of 16, 32, 64 bits holds every integer of so many.
        needed = [{8: 16, 16: 32, 32: 64}.get(kind.bit_width, 128) for kind in ints]
        return {16: pa.float16(), 32: pa.float32(), 64: pa.float64()}.get(max(floats + needed))
    unsigned = [kind.bit_width for kind in ints if pa.types.is_unsigned_integer(kind)]
    signed = [kind.bit_width for kind in ints if pa.types.is_signed_integer(kind)]
    if not signed:
        return max(ints, key=lambda kind: int(kind.bit_width))
    bits = max(signed + [2 * width for width in unsigned])
    return {8: pa.int8(), 16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)


def schemas_of(files: Sequence[str]) -> list[pa.Schema]:
    """The schemas of the data files at these locations, in their order. `StoreError` for one that cannot be read."""
    with ThreadPoolExecutor(READERS) as readers:
        return [schema.remove_metadata() for schema in readers.map(read_schema, files)]


def schema_over(files: Mapping[str, str]) -> pa.Schema:
    """The schema that all these files (name → location) go into; `ShardError` where there is none."""
    found = pa.schema([])
    for name, schema in zip(files, schemas_of(list(files.values())), strict=True):
        found = joined(found, schema, name)
    return found
