"""Archive schema 1: the columns of a shard, one row a recording.

`docs/data-format.md` describes them for readers; here they are for code. A source adds its own columns (labels and
metadata) behind the core ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pyarrow as pa

from ecgscale.errors import ArchiveError

SCHEMA_VERSION = 1

SignalType = Literal["int16", "float32"]

FIDUCIAL_TYPE = pa.list_(
    pa.struct(
        [
            ("lead", pa.string()),
            ("wave", pa.string()),
            ("onset", pa.int32()),
            ("peak", pa.int32()),
            ("offset", pa.int32()),
        ]
    )
)

_CORE_TYPES: dict[str, pa.DataType] = {
    "record_id": pa.string(),
    "patient_id": pa.string(),
    "signal": pa.list_(pa.float32()),
    "leads": pa.list_(pa.string()),
    "sampling_rate": pa.float32(),
    "units_per_mv": pa.float32(),
    "valid_start": pa.int32(),
    "valid_stop": pa.int32(),
    "acquired_at": pa.timestamp("us", tz="UTC"),
    "site": pa.string(),
    "device": pa.string(),
    "age": pa.float32(),
    "sex": pa.string(),
    "fold": pa.int16(),
    "fiducials": FIDUCIAL_TYPE,
}
CORE_COLUMNS: tuple[str, ...] = tuple(_CORE_TYPES)

REQUIRED_COLUMNS: tuple[str, ...] = (
    "record_id",
    "signal",
    "leads",
    "sampling_rate",
    "units_per_mv",
    "valid_start",
    "valid_stop",
)
"""Without these a file is no shard; the other core columns may be absent, which reads as null."""

NOT_CARRIED: frozenset[str] = frozenset({*REQUIRED_COLUMNS, "patient_id"})
"""Core columns that the output has in its own form, or not at all."""

RESERVED_COLUMNS: frozenset[str] = frozenset(
    {
        "prediction",
        "proportions",
        "soft_proportions",
        "mean_entropy",
        "distortion",
        "segments",
        "entropy",
        "status",
        "flags",
        "source_shard",
        "length",
        "source_sampling_rate",
        "start_s",
        "cropped",
    }
)
"""Columns of the explanations: a label column of one of these names could not be carried there."""

DIGEST_KEY = b"ecgscale.content_digest"
VERSION_KEY = b"ecgscale.schema_version"


def signal_type(signal: str) -> pa.DataType:
    """Arrow type of one sample; `ArchiveError` unless `signal` is "int16" or "float32"."""
    if signal not in ("int16", "float32"):
        raise ArchiveError(f"signal type {signal!r} is neither 'int16' nor 'float32'")
    return pa.int16() if signal == "int16" else pa.float32()


def check_extra_names(names: Sequence[str]) -> None:
    """Raise `ArchiveError` if a label column has a reserved name, a core column's name, or appears twice."""
    reserved = sorted(set(names) & RESERVED_COLUMNS)
    if reserved:
        raise ArchiveError(
            f"column{'s' if len(reserved) > 1 else ''} {', '.join(reserved)}: reserved for the explanations; "
            f"rename in the source (reserved are {', '.join(sorted(RESERVED_COLUMNS))})"
        )
    doubled = sorted({name for name in names if name in _CORE_TYPES or list(names).count(name) > 1})
    if doubled:
        raise ArchiveError(
            f"column {', '.join(doubled)} would be there twice; core columns are {', '.join(_CORE_TYPES)}"
        )


_SEXES = dict.fromkeys(("m", "male", "man", "männlich", "masculino", "homme", "hombre"), "male")
_SEXES |= dict.fromkeys(("f", "female", "woman", "w", "weiblich", "femenino", "femme", "mujer"), "female")

_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_KINDS = {
    "age": (*_NUMBERS, pa.types.is_null),
    "fold": (*_NUMBERS, pa.types.is_null),
    "acquired_at": (pa.types.is_timestamp, pa.types.is_null),
    "fiducials": (lambda kind: is_list(kind) and pa.types.is_struct(kind.value_type), pa.types.is_null),
}


def carried_columns(schema: pa.Schema) -> list[pa.Field]:
    """Columns of a shard that go on to the explanations as they are. `ArchiveError` if one has a reserved name, or a
    core column is something else than docs/data-format.md says."""
    check_extra_names([name for name in schema.names if name not in CORE_COLUMNS])
    for field in schema:
        if not any(fits(field.type) for fits in _KINDS.get(field.name, (lambda _: True,))):
            raise ArchiveError(f"column {field.name} is {field.type}, expected {_CORE_TYPES[field.name]}")
    return [field for field in schema if field.name not in NOT_CARRIED]


def archive_schema(signal: SignalType, extra: Sequence[pa.Field] = ()) -> pa.Schema:
    """The schema of a whole archive: the core columns with samples of type `signal`, then `extra`.

    Raises `ArchiveError` for an extra column whose name is taken (core or reserved) or given twice.
    """
    check_extra_names([field.name for field in extra])
    types = {**_CORE_TYPES, "signal": pa.list_(signal_type(signal))}
    return pa.schema([pa.field(name, kind) for name, kind in types.items()] + list(extra))


def sex_of(text: object) -> str | None:
    """What the column `sex` says for a word, in some languages; None for any other, and for numbers: 1 is either."""
    return _SEXES.get(str(text or "").strip(" .").casefold())


def signal_of(schema: pa.Schema) -> SignalType:
    """The sample type of an archive of this schema."""
    return "int16" if schema.field("signal").type.value_type == pa.int16() else "float32"


def is_list(kind: pa.DataType) -> bool:
    """True for list, large_list and fixed_size_list."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
