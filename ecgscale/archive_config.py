"""`[archive]` of a configuration: where an archive is, what it is made from, and layouts of tables of recordings."""

from __future__ import annotations

import hashlib
import posixpath
import tomllib
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
)

from ecgscale.errors import UsageError, sentences_of
from ecgscale.io.places import is_remote, place
from ecgscale.io.settings import storage_errors
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


def _as_typed(measure: Callable[[str], object]) -> AfterValidator:
    def checked(text: str) -> str:
        measure(text)
        return text

    return AfterValidator(checked)


SizeField = Annotated[str, _as_typed(byte_size)]
"""A size as people type it: "8GiB"."""

DurationField = Annotated[str, _as_typed(duration_s)]
"""A length of time: "10s"."""


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
    windows: DurationField | None = Field(
        default=None, description="Cut recordings into records of this length (10s, 1min), which know their place."
    )
    memory: SizeField | None = Field(
        default=None, description="Refuse a record whose samples take more while it is written (1GiB), and name it."
    )
    pseudonymise: PlaceField | None = Field(
        default=None,
        description="Replace ids by keyed hashes, pool ages from 90 on. KEYFILE: head -c 32 /dev/urandom, mode 600.",
    )
    shift_dates: bool = Field(default=False, description="With a key: move dates by 1 to 52 whole weeks a patient.")

    @property
    def window_seconds(self) -> float | None:
        """The length of a window, None where recordings stay whole."""
        return None if self.windows is None else duration_s(self.windows)

    @property
    def memory_bytes(self) -> int | None:
        """What a record may take, None where that is not limited."""
        return None if self.memory is None else byte_size(self.memory)


class SignalLayout(Section):
    """`[signal]`: where samples lie, and what they mean."""

    file: str = Field(description="Signal files below SRC, as a pattern: exams.hdf5, *.npy.")
    dataset: str | None = None
    """HDF5: the samples; Parquet: the column with a list of them, or nothing: then each lead has a
    column, as in a CSV."""
    axes: tuple[Literal["record", "lead", "sample"], ...]
    """In the order of the array; without `record`, a file is one record."""
    leads: tuple[str, ...] = Field(min_length=1)
    sampling_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    units_per_mv: float = Field(gt=0, allow_inf_nan=False)
    ids: str | None = None
    """HDF5 dataset or Parquet column of ids; where there is none, records are called by their numbers. CSV of many
    records: the column that says whose a sample is."""
    trim_zeros: bool = False
    """Zeros before and after a record are padding."""

    @property
    def is_pattern(self) -> bool:
        """Whether there may be many files, now or later."""
        return any(sign in self.file for sign in "*?[")


class TableLayout(Section):
    """`[table]`: what is known of records."""

    file: str
    by: Literal["id", "order"]
    id: str | None = None
    patient: str | None = None
    age: str | None = None
    sex: str | None = None
    male: tuple[str, ...] = ("male", "m", "true", "1", "1.0")
    female: tuple[str, ...] = ("female", "f", "false", "0", "0.0")
    sampling_rate: str | None = None
    labels: tuple[str, ...] = ()


class Layout(Section):
    """A whole layout."""

    signal: SignalLayout
    table: TableLayout | None = None

    @property
    def digest(self) -> str:
        """What changes when it says something else."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


_TWELVE = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
_CODE = {"axes": ("record", "sample", "lead"), "leads": _TWELVE, "sampling_rate": 400.0, "trim_zeros": True}
READY: dict[str, dict[str, Any]] = {
    "samitrop": {
        "signal": {"file": "exams.hdf5", "dataset": "tracings", "units_per_mv": 1.0, **_CODE},
        "table": {
            "file": "exams.csv",
            "by": "order",
            "id": "exam_id",
            "age": "age",
            "sex": "is_male",
            "labels": ("normal_ecg", "death", "timey", "nn_predicted_age"),
        },
    },
    "code-test": {
        "signal": {"file": "ecg_tracings.hdf5", "dataset": "tracings", "units_per_mv": 1.0, **_CODE},
        "table": {"file": "attributes.csv", "by": "order", "age": "age", "sex": "sex"},
    },
}
"""SaMi-Trop (Zenodo 4905618), and the test set of CODE (Zenodo 3765780), as released."""


_SUFFIXES = (".hdf5", ".h5", ".parquet", ".pq", ".npy", ".csv")


def read_layout(where: str) -> Layout:
    """A layout by its name, or from a TOML file; `UsageError` names the file, the key, and the nearest right one."""
    if where in READY:
        return Layout.model_validate(READY[where])
    if not where.lower().endswith(".toml"):
        raise UsageError(f"--layout {where}: expected a .toml file, or one of {', '.join(READY)}")
    try:
        found = place(where)
        with storage_errors(f"cannot read {found}") if is_remote(found) else nullcontext():
            text = found.read_text(encoding="utf-8")
        layout = Layout.model_validate(tomllib.loads(text))
    except OSError as error:
        raise UsageError(f"{where}: {error.strerror}; a layout is a TOML file, see docs/data-format.md") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{where} is not TOML: {error}") from error
    except ValidationError as error:
        raise UsageError(f"{where}: {sentences_of(error, _keys)}") from error
    return _consistent(where, layout)


def _keys(section: list[str]) -> list[str]:
    models: dict[str, type[Section]] = {"signal": SignalLayout, "table": TableLayout}
    return list(models[section[0]].model_fields if section else Layout.model_fields)


def _consistent(where: str, layout: Layout) -> Layout:
    signal, table = layout.signal, layout.table
    if sorted(signal.axes) not in (["lead", "record", "sample"], ["lead", "sample"]):
        raise UsageError(
            f"{where}: signal.axes: write each of record, lead, sample once (record only where a file has many)"
        )
    if signal.sampling_rate is None and (table is None or table.sampling_rate is None):
        raise UsageError(f'{where}: no rate: write signal.sampling_rate = 500, or table.sampling_rate = "COLUMN"')
    suffix = posixpath.splitext(signal.file)[1].lower()
    if suffix not in _SUFFIXES:
        raise UsageError(f"{where}: signal.file {signal.file}: expected one of {', '.join(_SUFFIXES)}")
    if suffix in (".hdf5", ".h5") and signal.dataset is None:
        raise UsageError(f"{where}: write signal.dataset, the name of the samples in {signal.file}")
    if suffix in (".parquet", ".pq") and signal.axes[0] != "record":
        raise UsageError(f'{where}: a row of Parquet is a record: write axes = ["record", "lead", "sample"]')
    if suffix == ".csv" and signal.axes not in (("sample", "lead"), ("record", "sample", "lead")):
        said = 'write axes = ["sample", "lead"], or ["record", "sample", "lead"] where one file has many records'
        raise UsageError(f"{where}: a CSV has a column a lead: {said}")
    if suffix == ".csv" and ("record" in signal.axes) != (signal.ids is not None):
        raise UsageError(f"{where}: signal.ids is the column of a CSV of many records that says whose a sample is")
    if table is not None and table.by == "id" and table.id is None:
        raise UsageError(f"{where}: write table.id, the column of {table.file} that names the record")
    if table is not None and table.by == "order" and (signal.is_pattern or "record" not in signal.axes):
        raise UsageError(f'{where}: table.by = "order" wants one file of many records; write by = "id"')
    return layout
