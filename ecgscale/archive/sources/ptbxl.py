"""PTB-XL (Wagner et al. 2020, doi 10.13026/kfzx-aw45) in its native layout as an archive.

`superclasses` are the diagnostic classes (CD, HYP, MI, NORM, STTC) of all SCP codes listed for a record, whatever
their likelihood: a likelihood of 0 means "unknown" in PTB-XL, and the data set's own example aggregates the same way.
The likelihoods stand in `scp_codes` for whoever wants a threshold. Ages above 89 are 300 in PTB-XL, and null here.
Recording times have no zone and are taken as UTC. Report texts and names come along only when asked for.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa

from ecgscale.archive.schema import SignalType, archive_schema, signal_of
from ecgscale.archive.sources.files import AT_ONCE, Known, SourceFile, SourceFolder, SourceSet, ingest_whole
from ecgscale.archive.sources.source import (
    DEFAULTS,
    Ingest,
    IngestOptions,
    IngestResult,
    Portion,
    Source,
    empty_signal,
)
from ecgscale.archive.sources.tables import Odd, carried_columns, column_values, ids_of, read_csv, telling, utc
from ecgscale.archive.sources.tombstones import full_shards
from ecgscale.archive.sources.wfdb_files import fetch_records, with_signal_files
from ecgscale.archive.sources.wfdb_header import HEADER, WITHOUT_MOMENT, UnreadableRecord, read_header
from ecgscale.archive.sources.wfdb_signal import WfdbSignal, read_signal
from ecgscale.errors import ArchiveError
from ecgscale.io.places import Place
from ecgscale.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

RATES = (500, 100)

DATABASE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
_OLDEST_AGE = 89
_LONGEST_CODES = 2**16
_SEXES = {0: "male", 1: "female"}
_LABELS = (
    pa.field("superclasses", pa.list_(pa.string())),
    pa.field("scp_codes", pa.list_(pa.struct([("code", pa.string()), ("likelihood", pa.float32())]))),
)
_NEEDED = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr")
_IDS = ("ecg_id", "patient_id", "site")
_WHERE_THERE = ("recording_date", "site", "device")
"""Columns that are read where they are there."""


def ingest_ptbxl(
    src: str | Path, archive_path: str | Path, rate: int = 500, options: IngestOptions = DEFAULTS
) -> IngestResult:
    """Write an archive from PTB-XL at `rate` Hz (500 or 100), one record a row of `ptbxl_database.csv`, in its order.

    Digital values go over as they are (int16, 1000 per mV). A listed record whose files are missing or damaged keeps a
    row with an empty signal. Raises `ArchiveError` if the layout is not PTB-XL's, no record of that rate is there, or
    a column to carry does not exist.
    """
    if rate not in RATES:
        raise ArchiveError(f"PTB-XL has recordings at {' and '.join(map(str, RATES))} Hz, not {rate}")
    holds = f"{DATABASE}, {STATEMENTS} and records{rate}/"
    return ingest_whole(lambda files: PtbxlSource(files, rate), src, archive_path, options, holds)


class PtbxlSource(Source):
    """A row of the database, and its header and samples at one rate."""

    kind = "ptbxl"
    tables = (DATABASE, STATEMENTS)

    def __init__(self, files: SourceFolder, rate: int = 500) -> None:
        super().__init__(files)
        self._rate = rate

    @classmethod
    def configured(cls, files: SourceFolder, config: ArchiveConfig) -> Self:
        return cls(files, config.rate)

    @cached_property
    def _table(self) -> pa.Table:
        self.files.fetch(self.tables)
        return read_csv(self.files.path(DATABASE), _NEEDED, ids=_IDS, notes=self.notes)

    @property
    def total(self) -> int:
        if self._table.num_rows == 0:
            raise ArchiveError(f"{self.files.path(DATABASE)} lists no records")
        return int(self._table.num_rows)

    def _names(self, table: pa.Table) -> list[str]:
        """Paths of the recordings of these rows, without suffix; "" where there is none below the source."""
        names = table.column("filename_hr" if self._rate == 500 else "filename_lr").to_pylist()
        return [_below(str(name or "").strip()) for name in names]

    def _columns(self, options: IngestOptions) -> list[pa.Field]:
        # Types come from the whole table, so that they are the same every night.
        return [*_LABELS, *carried_columns(self._table, options, self.files.path(DATABASE))]

    def ingest(self, target: Place, options: IngestOptions = DEFAULTS, listed_at: str | None = None) -> IngestResult:
        portion, table = options.portion, self._table.slice(0, self.total)
        extra, names = self._columns(options), _names_of(table)
        if portion is not None and portion.rows is not None:
            table = table.slice(portion.rows[0], portion.rows[1] - portion.rows[0])
            names = names[slice(*portion.rows)]
        elif portion is not None:
            table = table.filter(pa.array([name in portion.sets for name in names], pa.bool_()))
            names = [name for name in names if name in portion.sets]
        signal = self._sample_type(self._names(table)) if options.schema is None else signal_of(options.schema)
        ingest = self.writing(target, options, listed_at, {"rate": self._rate}, signal, extra)
        superclasses = superclass_of_code(self.files.path(STATEMENTS), self.notes)
        return ingest.write(self._rows(ingest, table, names, superclasses), table.num_rows)

    def _sample_type(self, names: Sequence[str]) -> SignalType:
        """The type that the first readable recording fits; `ArchiveError` if there is none."""
        for i, name in enumerate(names):
            if i % AT_ONCE == 0:
                # The first one is enough as a rule.
                self.files.fetch(name + HEADER for name in names[i : i + AT_ONCE] if name)
            try:
                if name:
                    return "int16" if read_header(self.files.path(name)).fits_int16() else "float32"
            except UnreadableRecord:
                # Named when its row is written.
                continue
        other = 100 if self._rate == 500 else 500
        raise ArchiveError(
            f"{self.files.folder}: none of {len(names)} listed recordings at {self._rate} Hz is there, such as "
            f"{self.files.path(names[0])}.hea; download records{self._rate}/ or use --rate {other}"
        )

    def _rows(
        self, ingest: Ingest, table: pa.Table, names: Sequence[str], superclasses: dict[str, str]
    ) -> Iterator[dict[str, Any]]:
        labels = [field.name for field in _LABELS]
        odd = Odd()
        columns: dict[str, list[Any]] = {
            "record_id": ids_of(table, "ecg_id"),
            "patient_id": ids_of(table, "patient_id"),
            "acquired_at": [utc(moment) for moment in column_values(table, "recording_date", pa.timestamp("us"), odd)],
            "site": ids_of(table, "site"),
            "device": [device and device.strip() for device in column_values(table, "device", pa.string(), odd)],
            "age": [_age(age) for age in column_values(table, "age", pa.float64(), odd)],
            "sex": [_SEXES.get(sex) for sex in column_values(table, "sex", pa.int64(), odd)],
            "fold": column_values(table, "strat_fold", pa.int16(), odd),
            **{
                field.name: column_values(table, field.name, field.type, odd)
                for field in ingest.extra
                if field.name not in labels
            },
        }
        texts = table.column("scp_codes").to_pylist()
        for i, (name, path) in enumerate(zip(names, self._names(table), strict=True)):
            row: dict[str, Any] = {column: values[i] for column, values in columns.items()}
            if row["record_id"] is None:
                ingest.problems.add(name, "its ecg_id is none; kept without an id")
            telling(ingest.problems.add, name, odd.get(i, ()))
            codes = scp_codes(texts[i])
            if codes is None:
                found = f"scp_codes is {str(texts[i])[:60]!r}, expected a dictionary of code and likelihood"
                ingest.problems.add(name, f"{found}; kept without labels")
            else:
                row["scp_codes"] = [{"code": code, "likelihood": likelihood} for code, likelihood in codes.items()]
                row["superclasses"] = sorted({superclasses[code] for code in codes if code in superclasses})
            yield row | _signal(ingest, self.files.folder, path, name, self._rate)

    def schema(self, options: IngestOptions) -> pa.Schema:
        return archive_schema(self._sample_type(self._names(self._table)), self._columns(options))

    def pieces(self, options: IngestOptions) -> list[Portion]:
        names, pieces = self._names(self._table), []
        ids = [one or "" for one in ids_of(self._table, "ecg_id")]
        for first, stop, what in full_shards(ids, lambda: ids_of(self._table, "patient_id"), options):
            named = tuple(f"{name}{end}" for name in filter(None, names[first:stop]) for end in _ENDS)
            pieces.append(Portion(rows=(first, stop), what=what, records=stop - first, files=named))
        return pieces

    def fetch(self, portion: Portion) -> None:
        super().fetch(portion)
        fetch_records(self.files, portion.files)

    def sets(self, known: Known, until: datetime | None = None) -> list[SourceSet]:
        table, listed = self._table, self.files.listed
        texts = read_csv(self.files.path(DATABASE), texts=table.column_names)
        wanted = {*_NEEDED, *_WHERE_THERE, *known.columns}
        used = texts.select([name for name in texts.column_names if name in wanted])
        files: dict[str, dict[str, SourceFile]] = {}
        rows: dict[str, list[str]] = {}
        for name, stem, row in zip(_names_of(table), self._names(table), used.to_pylist(), strict=True):
            there = files.setdefault(name, {})
            there |= {f"{stem}{end}": listed[f"{stem}{end}"] for end in _ENDS if f"{stem}{end}" in listed}
            rows.setdefault(name, []).append(_row_digest(row))
        return [
            SourceSet(name, name, tuple(own.values()), tuple(rows[name]), pseudonyms=known.pseudonyms)
            for name, own in files.items()
        ]

    def looked_into(self, sets: Sequence[SourceSet], schema: pa.Schema | None) -> list[SourceSet]:
        return with_signal_files(self.files, sets, read_header, schema)


_ENDS = (HEADER, ".dat")


def superclass_of_code(path: Path, notes: dict[str, None]) -> dict[str, str]:
    """SCP code to diagnostic superclass, from the rows of `scp_statements.csv` with `diagnostic` 1."""
    table, odd = read_csv(path, ("diagnostic", "diagnostic_class"), notes=notes), Odd()
    diagnostic = column_values(table, "diagnostic", pa.float64(), odd)
    if odd:
        notes[f"{path.name}: {len(odd):,} rows say something else than a number for diagnostic, and count as 0"] = None
    pairs = zip(table.column(0).to_pylist(), table.column("diagnostic_class").to_pylist(), diagnostic, strict=True)
    return {str(code): str(superclass) for code, superclass, is_one in pairs if superclass and is_one == 1}


def scp_codes(text: str | None) -> dict[str, float] | None:
    """SCP codes and likelihoods of one cell, such as "{'NORM': 100.0, 'SR': 0.0}"; None where it is no such thing."""
    try:
        codes = ast.literal_eval(str(text or "{}")[:_LONGEST_CODES])
        found = {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError, MemoryError, RecursionError, OverflowError):
        return None
    return found if all(map(math.isfinite, found.values())) else None


def _names_of(table: pa.Table) -> list[str]:
    """What rows are called in messages and in the log: by their ecg_id, or, where that is none, by their place."""
    return [name or f"in row {row + 1}" for row, name in enumerate(ids_of(table, "ecg_id"))]


def _below(name: str) -> str:
    """The name of a file, "" for one that would leave the source."""
    leaves = name.startswith(("/", "\\")) or ".." in name.split("/") or "\0" in name
    return "" if leaves else name


def _signal(ingest: Ingest, folder: Path, path: str, name: str, rate: int) -> dict[str, Any]:
    try:
        if not path:
            raise UnreadableRecord(f"{DATABASE} names no file below the source for it")
        header = read_header(folder / path)
        if ingest.signal == "int16" and not header.fits_int16():
            raise UnreadableRecord("its gain or format differs from the first record's")
        read = read_signal(header, ingest.signal)
        rate_found = header.sampling_rate
        if read.told:
            ingest.problems.add(name, f"{read.told}; kept as the header says")
        # When they were recorded says the table.
        ingest.counted.update(note for note in header.notes if note != WITHOUT_MOMENT)
    except UnreadableRecord as error:
        ingest.problems.add(name, f"{error}; kept with an empty signal")
        read, rate_found = WfdbSignal(empty_signal(ingest.signal, 12), CANONICAL_LEADS, 1000.0), float(rate)
    return {
        "signal": read.signal,
        "leads": list(read.leads),
        "sampling_rate": rate_found,
        "units_per_mv": read.units_per_mv,
    }


def _age(age: float | None) -> float | None:
    return age if age is not None and 0 <= age <= _OLDEST_AGE else None


def _row_digest(row: dict[str, str | None]) -> str:
    """Changes when a value does; 56 and 56.0 are one value, because tools rewrite whole columns so."""
    facts = {name: _value(text) for name, text in row.items()}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _value(text: str | None) -> str:
    try:
        return repr(float(text or ""))
    except ValueError:
        return (text or "").strip()
