"""What is said of recordings beside them: labels and demographics by tables, and whose they are by a rule.

Numbers and true or false come along by themselves, texts only with --carry: they may be names, or what somebody wrote.
`age`, `sex` (`gender`), `fold`, the patient and the time become columns of the archive where the recording does not say
them itself. A row belongs to the record whose name, or whose path, its id is (`tables.id_text`).

Whose a recording is, where its source does not say so by itself: by folder, by file name, by comment, by a table.

`--patients` and `[archive] patients` take one of

    folder                  the folder that the record lies in (PTB Diagnostic: patient001/s0010_re)
    comment:KEY             the value of a header's comment `KEY: value`
    FILE, FILE:ID:PATIENT   a table, CSV or Parquet, of record to patient; the columns ID and PATIENT, which are called
                            record_id and patient_id otherwise
    a regular expression    with one group, on the record's path below the source, such as (p\\d+)/s\\d+

A table is told from an expression by its suffix: .csv, .tsv, .parquet or .pq, before the columns.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecgscale.archive.schema import CORE_COLUMNS, RESERVED_COLUMNS, sex_of
from ecgscale.archive.sources.pseudonyms import QuotesSource
from ecgscale.archive.sources.tables import (
    Odd,
    column_values,
    id_text,
    ids_of,
    read_headless,
    read_table,
    rows_by_id,
    utc,
)
from ecgscale.archive.sources.wfdb_comments import UNKNOWN_WORDS
from ecgscale.errors import UsageError, did_you_mean
from ecgscale.io.places import local_copy

WITHOUT_ROW = "{:,} records have a row in none of the tables beside them"
PATIENTS = ("patient_id", "subject_id", "patient")
TIMES = ("ecg_time", "acquired_at", "recording_date")
_CORE = {"age": pa.float32(), "fold": pa.int16()}
_FOUND = {
    "record_list.csv": ("study_id", ()),
    "machine_measurements.csv": ("study_id", ()),
    "REFERENCE.csv": (None, ("record", "reference")),
    "REFERENCE-v3.csv": (None, ("record", "reference")),
}
"""Tables that are found by themselves, beside the recordings of MIMIC-IV-ECG, CinC 2017 and CPSC 2018: their id column
(None: the first one), and what their columns are called where their first line is a record."""


Said = tuple[dict[str, Any], list[str], int]
"""What tables say of a record: columns to values, what was odd about them, and in how many it has a row."""


@dataclass(frozen=True)
class TableBeside:
    """One table: its rows by id, the fields that it gives by default, and those that it has on request.

    values: columns that were asked for, by name and type; odd: what was odd in their cells
    """

    name: str
    table: pa.Table
    rows: Mapping[str, int]
    id: str
    fields: Mapping[str, pa.DataType]
    texts: Mapping[str, pa.DataType]
    values: dict[tuple[str, pa.DataType], list[Any]] = field(default_factory=dict)
    odd: Odd = field(default_factory=dict)

    def column(self, name: str, column: str, kind: pa.DataType) -> list[Any]:
        """A column as the archive's column of that name has it; what it cannot be is None, and odd."""
        if (column, kind) not in self.values:
            values = column_values(self.table, column, kind, self.odd)
            if name == "acquired_at":
                values = list(map(utc, values))
            if name == "sex":
                for row, text in enumerate(values):
                    values[row] = sex_of(text)
                    if text is not None and values[row] is None and text.strip().casefold() not in UNKNOWN_WORDS:
                        told = f"{column} is {text[:60]!r}, expected a word such as male, F (numbers mean either)"
                        self.odd.setdefault(row, []).append(told)
            self.values[column, kind] = values
        return self.values[column, kind]


class Beside:
    """All of them. Of two that have a column, the first one counts."""

    def __init__(
        self,
        asked: Sequence[tuple[Path, str]],
        folder: Path,
        found: Sequence[str],
        notes: dict[str, None],
    ) -> None:
        self._notes = notes
        self.tables = [self._opened(path, column, ()) for path, column in asked]
        known = {path.name for path, _ in asked}
        for name in found:
            if name not in known:
                self.tables.append(self._opened(folder / name, *_FOUND[name]))

    @staticmethod
    def among(names: Container[str]) -> list[str]:
        """Which of these files at the top of a source are such tables."""
        return [name for name in _FOUND if name in names]

    def _opened(self, path: Path, column: str | None, names: Sequence[str]) -> TableBeside:
        path = _here(path, f"--table {path}: there is no such table")
        if names:
            table = read_headless(path, names, self._notes)
            column = table.column_names[0]
        else:
            table = read_table(path, ids=[column or "", *PATIENTS], notes=self._notes)
        if column is None or column not in table.column_names:
            near = did_you_mean(str(column), table.column_names)
            lacks = f"--id {column}: {path.name} has no such column."
            raise QuotesSource(f"{lacks}{near} There are: {', '.join(table.column_names)}", lacks)
        rows, hidden = rows_by_id(ids_of(table, column))
        if hidden:
            self._notes[f"{path.name}: {hidden:,} rows have an id of another row further down, which counts"] = None
        fields: dict[str, pa.DataType] = {}
        texts: dict[str, pa.DataType] = {}
        for one in table.schema:
            name, kind = one.name, one.type
            if name in (column, *PATIENTS, *TIMES, *CORE_COLUMNS) or name.casefold() in ("age", "sex", "gender"):
                continue
            if name in RESERVED_COLUMNS:
                taken = f"{path.name}: column {name} was left out: explanations have one that is called so"
                self._notes[taken] = None
            elif names or _is_label(name, kind):
                fields[name] = kind
            else:
                texts[name] = pa.string() if pa.types.is_null(kind) else kind
        if texts:
            listed = ", ".join(texts)
            self._notes[f"{path.name}: only with --carry come {listed}"] = None
        return TableBeside(path.name, table, rows, column, fields, texts)

    def fields(self, carry: Sequence[str]) -> dict[str, pa.DataType]:
        """Columns that come along, those of `carry` among them."""
        fields: dict[str, pa.DataType] = {}
        for one in self.tables:
            asked = {name: kind for name, kind in one.texts.items() if name in carry}
            fields = {**one.fields, **asked, **fields}
        return fields

    def texts(self) -> dict[str, pa.DataType]:
        """Columns that come along only when they are asked for."""
        return {name: kind for one in reversed(self.tables) for name, kind in one.texts.items()}

    def lookup(self, wanted: Mapping[str, pa.DataType]) -> Callable[[str, str], Said]:
        """What gives what the tables say of a record, from its id and path: these columns and the archive's own."""
        asked = [
            (one, {name: one.column(name, *column) for name, column in self._asked(one, wanted).items()})
            for one in self.tables
        ]

        def of(record_id: str, path: str) -> Said:
            said: dict[str, Any] = {}
            odd: list[str] = []
            matched, keys = 0, _keys(record_id, path) if asked else []
            for one, columns in asked:
                row = next((one.rows[key] for key in keys if key in one.rows), None)
                if row is not None:
                    matched += 1
                    odd += one.odd.get(row, ())
                    said = {name: values[row] for name, values in columns.items() if values[row] is not None} | said
            return said, odd, matched

        return of

    def _asked(self, one: TableBeside, wanted: Mapping[str, pa.DataType]) -> dict[str, tuple[str, pa.DataType]]:
        """Columns of the archive to columns of a table, and their types."""
        asked = {name: (name, wanted[name]) for name in (*one.fields, *one.texts) if name in wanted}
        for column in one.table.column_names:
            if column.casefold() in _CORE:
                asked[column.casefold()] = (column, _CORE[column.casefold()])
            elif column.casefold() in ("sex", "gender"):
                asked["sex"] = (column, pa.string())
            elif column in PATIENTS and column != one.id:
                asked["patient_id"] = (column, pa.string())
            elif column in TIMES:
                asked["acquired_at"] = (column, pa.timestamp("us"))
        return asked

    def check(self, records: Mapping[str, str]) -> None:
        """`ArchiveError` where no row of a table finds any of the records (id to path)."""
        keys = {key for record, path in records.items() for key in _keys(record, path)}
        for one in self.tables:
            if one.rows and records and not keys & one.rows.keys():
                text = f"none of {len(one.rows):,} rows of {one.name} is of one of the {len(records):,} records"
                like = f"ids in {one.id} look like {next(iter(one.rows))!r}, records like {next(iter(records))!r}"
                raise QuotesSource(f"{text}: {like}. Name the right column with --id", text)


def tables_with_ids(tables: Sequence[Path], ids: Sequence[str]) -> list[tuple[Path, str]]:
    """Each table with the column of its ids; `UsageError` unless there is one id for each, or one for all."""
    if len(ids) != len(tables) and (len(ids) != 1 or not tables):
        wanted = "--table FILE --id COLUMN: name the column of every table, or one that all of them have"
        raise UsageError(f"{len(tables)} tables and {len(ids)} id columns; {wanted}")
    return list(zip(tables, ids if len(ids) == len(tables) else list(ids) * len(tables), strict=True))


def _keys(record_id: str, path: str) -> list[str]:
    """Under which ids a record may stand in a table: its id, its path, its name."""
    keys = (id_text(name) for name in (record_id, path, path.rsplit("/", 1)[-1]))
    return [key for key in dict.fromkeys(keys) if key is not None]


def _is_label(name: str, kind: pa.DataType) -> bool:
    """Numbers and true or false, unless they are somebody's: by what it is called, an id is none."""
    if name.casefold().endswith(("_id", "id")) and not pa.types.is_boolean(kind):
        return False
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


FOLDER, COMMENT = "folder", "comment:"
_TABLE = re.compile(r"(?P<file>.*\.(?:csv|tsv|parquet|pq))(?::(?P<id>[^:]+):(?P<patient>[^:]+))?", re.IGNORECASE)
UNKNOWN = "{:,} records have no patient: none is known to `patients`"
"""Counted by an ingest, a record."""


class Patients:
    """The rule, and the patients that it finds. `UsageError` for a rule that can be none."""

    def __init__(self, rule: str, notes: dict[str, None] | None = None) -> None:
        self.rule, self._notes = rule, {} if notes is None else notes
        self._table = _TABLE.fullmatch(rule)
        self._pattern: re.Pattern[str] | None = None
        if rule != FOLDER and not rule.startswith(COMMENT) and self._table is None:
            self._pattern = _expression(rule)

    @property
    def kind(self) -> str:
        """What `_archive.json` says of it: folder, comment, table or pattern."""
        if self.rule == FOLDER:
            return FOLDER
        return "table" if self._table else "pattern" if self._pattern else "comment"

    def of(self, record_id: str, path: str, comments: Mapping[str, str]) -> str | None:
        """The patient of a record at `path` below the source, without suffix; None where the rule finds none."""
        if self.rule == FOLDER:
            return id_text(posixpath.basename(posixpath.dirname(path)))
        if self._pattern is not None:
            found = self._pattern.search(path)
            return id_text(found[1]) if found else None
        if self._table is None:
            wanted = self.rule.removeprefix(COMMENT).strip().casefold()
            return next((id_text(value) for key, value in comments.items() if key.strip().casefold() == wanted), None)
        for name in (record_id, path, posixpath.basename(path)):
            if (known := id_text(name)) in self._patients:
                return self._patients[str(known)]
        return None

    @cached_property
    def _patients(self) -> dict[str, str | None]:
        assert self._table is not None
        record, patient = self._table["id"] or "record_id", self._table["patient"] or "patient_id"
        named = self._table["file"]
        file = _here(named, f"--patients {self.rule}: there is no table {named}")
        table = read_table(file, (record, patient), ids=(record, patient), notes=self._notes)
        ids, patients = ids_of(table, record), ids_of(table, patient)
        rows, hidden = rows_by_id(ids)
        if hidden and any(name and patients[row] != patients[rows[name]] for row, name in enumerate(ids)):
            text = f"{file.name}: a record has rows with different patients in {patient}"
            raise QuotesSource(text, text)
        return {name: patients[row] for name, row in rows.items()}


def _expression(rule: str) -> re.Pattern[str]:
    try:
        pattern = re.compile(rule)
    except re.error as error:
        raise UsageError(
            f"--patients {rule}: no regular expression ({error}); give folder, comment:KEY, a table (.csv, .parquet), "
            "or an expression with one group, such as '(p\\d+)/s\\d+'"
        ) from error
    if pattern.groups != 1:
        raise UsageError(
            f"--patients {rule}: an expression needs one group, which is the patient, and has {pattern.groups}; "
            "such as '(p\\d+)/s\\d+'. Else give folder, comment:KEY or a table (.csv, .parquet)"
        )
    return pattern


def _here(where: str | Path, absent: str) -> Path:
    """The file on this machine, fetched if it lies in an object store; `UsageError` if it is not there."""
    try:
        found = local_copy(where)
    except FileNotFoundError:
        raise UsageError(absent) from None
    if not found.is_file():
        raise UsageError(absent)
    return found
