"""`[archive]` of a configuration: where an archive is, and what it is made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, PlainValidator, field_validator

from ecgscale.errors import UsageError
from ecgscale.io.places import place
from ecgscale.words import byte_size, duration_s


def _place(where: Any) -> Path:
    # A place in a bucket has the methods of a path, and is none.
    if not isinstance(where, str) and not hasattr(where, "joinpath"):
        raise ValueError("expected a path or s3://BUCKET/PREFIX")
    try:
        return place(where)
    except UsageError as error:
        raise ValueError(str(error)) from error


PlaceField = Annotated[Path, PlainValidator(_place), PlainSerializer(str)]
"""A path, or s3://BUCKET/PREFIX."""


class Section(BaseModel):
    """A section of a configuration: frozen, and without keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def _lead_map(given: Any) -> Any:
    from ecgscale.leads import read_lead_map  # numpy, which most commands can do without

    return read_lead_map(given) if isinstance(given, str | dict) else given


class ArchiveConfig(Section):
    """`[archive]`: where it is, and what to make it from if it is not there yet."""

    path: PlaceField
    source: Literal["ptbxl", "code15", "wfdb", "formats", "table", "simulate"] | None = None
    src: PlaceField | None = None
    rate: Literal[100, 500] = Field(default=500, description="Which recordings, Hz.")
    units_per_mv: float | None = Field(default=None, gt=0)
    carry: tuple[str, ...] = Field(
        default=(), description="Take this column of the source along too; may be given several times."
    )
    table: tuple[PlaceField, ...] = Field(
        default=(), description="Labels, patients and times from this table too, CSV or Parquet; its ids are in --id."
    )
    id: tuple[str, ...] = Field(default=(), description="Column of --table that names the record; one a table, or one.")
    patients: str | None = Field(
        default=None,
        description="Whose a record is: folder, comment:KEY, TABLE[:ID:PATIENT] or an expression with one group.",
    )
    layout: str | None = Field(default=None, description="Layout of a table source: a TOML, or samitrop, code-test.")
    lead_map: Annotated[dict[str, str], BeforeValidator(_lead_map)] = Field(
        default={},
        description="Which lead a channel is: NAME=LEAD,…; NAME#2 is the second channel of a name, #2 that of all.",
    )
    records: int = Field(default=1000, gt=0, description="How many recordings to make.")
    seed: int = Field(default=0, description="Same seed, same recordings.")
    shard_records: int | None = Field(default=None, gt=0, description="Records a shard; by default about 128 MB.")
    windows: str | None = Field(
        default=None, description="Cut recordings into records of this length (10s, 1min), which know their place."
    )
    memory: str | None = Field(
        default=None, description="Refuse a record whose samples take more while it is written (1GiB), and name it."
    )
    pseudonymise: PlaceField | None = Field(
        default=None,
        description="Replace ids by keyed hashes, pool ages from 90 on. KEYFILE: head -c 32 /dev/urandom, mode 600.",
    )
    shift_dates: bool = Field(default=False, description="With a key: move dates by 1 to 52 whole weeks a patient.")

    @field_validator("windows")
    @classmethod
    def _length(cls, windows: str | None) -> str | None:
        if windows is not None:
            duration_s(windows)
        return windows

    @field_validator("memory")
    @classmethod
    def _size(cls, memory: str | None) -> str | None:
        if memory is not None:
            byte_size(memory)
        return memory

    @property
    def window_seconds(self) -> float | None:
        """The length of a window, None where recordings stay whole."""
        return None if self.windows is None else duration_s(self.windows)

    @property
    def memory_bytes(self) -> int | None:
        """What a record may take, None where that is not limited."""
        return None if self.memory is None else byte_size(self.memory)
