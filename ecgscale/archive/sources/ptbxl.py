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
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.archive.schema import SignalType, archive_schema, signal_of
from ecgscale.archive.sources.files import AT_ONCE, Known, SourceFile, SourceFolder, SourceSet
from ecgscale.archive.sources.pseudonyms import QuotesSource
from ecgscale.archive.sources.source import (
    DEFAULTS,
    Ingest,
    IngestOptions,
    IngestResult,
    Portion,
    Source,
    empty_signal,
    full_shards,
    ingest_whole,
)
from ecgscale.archive.sources.tables import carried_columns, column_values, read_csv, utc, whole_number_texts
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
_SEXES = {0: "male", 1: "female"}
_LABELS = (
    pa.field("superclasses", pa.list_(pa.string())),
    pa.field("scp_codes", pa.list_(pa.struct([("code", pa.string()), ("likelihood", pa.float32())]))),
)
_NEEDED = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr")
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
        return read_csv(self.files.path(DATABASE), _NEEDED)

    @property
    def total(self) -> int:
        if self._table.num_rows == 0:
            raise ArchiveError(f"{self.files.path(DATABASE)} lists no records")
        return int(self._table.num_rows)

    def _names(self, table: pa.Table) -> list[str]:
        """Paths of the recordings of these rows, without suffix."""
        return [str(name) for name in table.column("filename_hr" if self._rate == 500 else "filename_lr").to_pylist()]

    def _columns(self, options: IngestOptions) -> list[pa.Field]:
        # Types come from the whole table, so that they are the same every night.
        return [*_LABELS, *carried_columns(self._table, options, self.files.path(DATABASE))]

    def ingest(self, target: Place, options: IngestOptions = DEFAULTS, listed_at: str | None = None) -> IngestResult:
        portion, table = options.portion, self._table.slice(0, self.total)
        extra = self._columns(options)
        if portion is not None and portion.rows is not None:
            table = table.slice(portion.rows[0], portion.rows[1] - portion.rows[0])
        elif portion is not None:
            table = table.filter(pa.array([name in portion.sets for name in whole_number_texts(table, "ecg_id")]))
        signal = self._sample_type(self._names(table)) if options.schema is None else signal_of(options.schema)
        ingest = self.writing(target, options, listed_at, {"rate": self._rate}, signal, extra)
        superclasses = superclass_of_code(self.files.path(STATEMENTS))
        return ingest.write(self._rows(ingest, table, superclasses), table.num_rows)

    def _sample_type(self, names: Sequence[str]) -> SignalType:
        """The type that the first readable recording fits; `ArchiveError` if there is none."""
        for i, name in enumerate(names):
            if i % AT_ONCE == 0:
                # The first one is enough as a rule.
                self.files.fetch(name + HEADER for name in names[i : i + AT_ONCE])
            try:
                return "int16" if read_header(self.files.path(name)).fits_int16() else "float32"
            except UnreadableRecord:
                # Named when its row is written.
                continue
        other = 100 if self._rate == 500 else 500
        raise ArchiveError(
            f"{self.files.folder}: none of {len(names)} listed recordings at {self._rate} Hz is there, such as "
            f"{self.files.path(names[0])}.hea; download records{self._rate}/ or use --rate {other}"
        )

    def _rows(self, ingest: Ingest, table: pa.Table, superclasses: dict[str, str]) -> Iterator[dict[str, Any]]:
        labels = [field.name for field in _LABELS]
        columns: dict[str, list[Any]] = {
            "patient_id": whole_number_texts(table, "patient_id"),
            "acquired_at": [utc(moment) for moment in column_values(table, "recording_date", pa.timestamp("us"))],
            "site": whole_number_texts(table, "site"),
            "device": [device and device.strip() for device in column_values(table, "device", pa.string())],
            "age": [_age(age) for age in column_values(table, "age", pa.float64())],
            "sex": [_SEXES.get(sex) for sex in column_values(table, "sex", pa.int64())],
            "fold": column_values(table, "strat_fold", pa.int16()),
            **{
                field.name: column_values(table, field.name, field.type)
                for field in ingest.extra
                if field.name not in labels
            },
        }
        texts = table.column("scp_codes").to_pylist()
        record_ids = [str(record_id) for record_id in whole_number_texts(table, "ecg_id")]
        for i, (record_id, name) in enumerate(zip(record_ids, self._names(table), strict=True)):
            row: dict[str, Any] = {"record_id": record_id, **{column: values[i] for column, values in columns.items()}}
            codes = scp_codes(texts[i], record_id)
            row["scp_codes"] = [{"code": code, "likelihood": likelihood} for code, likelihood in codes.items()]
            row["superclasses"] = sorted({superclasses[code] for code in codes if code in superclasses})
            yield row | _signal(ingest, self.files.path(name), record_id, self._rate)

    def schema(self, options: IngestOptions) -> pa.Schema:
        return archive_schema(self._sample_type(self._names(self._table)), self._columns(options))

    def pieces(self, options: IngestOptions) -> list[Portion]:
        ids, patients = (whole_number_texts(self._table, name) for name in ("ecg_id", "patient_id"))
        names, pieces = self._names(self._table), []
        for first, stop, what in full_shards(zip(map(str, ids), patients, strict=True), options):
            named = () if self.files.is_local else tuple(f"{n}{end}" for n in names[first:stop] for end in _ENDS)
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
        ids, stems = whole_number_texts(table, "ecg_id"), self._names(table)
        for name, stem, row in zip(map(str, ids), stems, used.to_pylist(), strict=True):
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


def superclass_of_code(path: Path) -> dict[str, str]:
    """SCP code to diagnostic superclass, from the rows of `scp_statements.csv` with `diagnostic` 1."""
    table = read_csv(path, ("diagnostic", "diagnostic_class"))
    table = table.filter(pc.equal(table.column("diagnostic").cast(pa.float64()), 1.0))
    pairs = zip(table.column(0).to_pylist(), table.column("diagnostic_class").to_pylist(), strict=True)
    return {code: superclass for code, superclass in pairs if superclass}


def scp_codes(text: str | None, record_id: str) -> dict[str, float]:
    """SCP codes and likelihoods of one cell, such as "{'NORM': 100.0, 'SR': 0.0}"."""
    try:
        codes = ast.literal_eval(text or "{}")
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        expected = "expected a dictionary of code and likelihood"
        raise QuotesSource(
            f"{DATABASE}, ecg_id {record_id}: scp_codes is {text!r}, {expected}",
            f"{DATABASE}: scp_codes of a record cannot be read, {expected}",
        ) from error


def _signal(ingest: Ingest, stem: Path, record_id: str, rate: int) -> dict[str, Any]:
    try:
        header = read_header(stem)
        if ingest.signal == "int16" and not header.fits_int16():
            raise UnreadableRecord("its gain or format differs from the first record's")
        read = read_signal(header, ingest.signal)
        rate_found = header.sampling_rate
        # When they were recorded says the table.
        ingest.counted.update(note for note in header.notes if note != WITHOUT_MOMENT)
    except UnreadableRecord as error:
        ingest.problems.add(record_id, f"{error}; kept with an empty signal")
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
