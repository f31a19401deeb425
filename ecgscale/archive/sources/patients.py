"""Whose a recording is, where its source does not say so by itself: by folder, by file name, by comment, by a table.

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
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path

from ecgscale.archive.sources.pseudonyms import QuotesSource
from ecgscale.archive.sources.tables import id_text, ids_of, read_table, rows_by_id
from ecgscale.errors import UsageError

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

    def at(self, comments_of: Callable[[], Mapping[str, str]], record_id: str, path: str) -> str | None:
        """`of`, where reading the comments costs something and only one rule wants them."""
        return self.of(record_id, path, comments_of() if self.kind == "comment" else {})

    @cached_property
    def _patients(self) -> dict[str, str | None]:
        assert self._table is not None
        file = Path(self._table["file"])
        record, patient = self._table["id"] or "record_id", self._table["patient"] or "patient_id"
        if not file.is_file():
            raise UsageError(f"--patients {self.rule}: there is no table {file}")
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
