"""What is left of a patient where: ids in cells and texts, and the hashes under which lists and logs know them.

Ids may be as short as "5", which stands in every other file as something else. An id counts as a word of its own when
it is distinctive (six characters, of digits alone eight), and else where it is said to be one: in a column or under a
key that is called so, or in a text ("record 5", "patient_id: 5").
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.source_sets import key_of
from ecgscale.encoders.seen import hashed
from ecgscale.store.record_ids import decode_hashes, hash_record_ids

FORGOTTEN = "(forgotten)"
"""What stands where an id stood."""

_ID_NAMES = frozenset(
    {"id", "other"}
    | {f"{what}{end}" for what in ("record", "patient", "exam", "ecg") for end in ("", "s", "_id", "_ids")}
)
"""Columns, and keys of JSON, that hold ids."""
_WORD = re.compile(r"[^\W_]+")
_SAID = re.compile(r"(?i)(?:record|patient|exam|ecg)(?:[ _-]?id)?[\"']?\s{0,2}[:=]?\s{0,2}[\"'(]?$")
_LISTED = re.compile(r"[:;] $")
_LOOK_BACK = 24
_LEAST, _LEAST_DIGITS = 6, 8


@dataclass(frozen=True)
class Traces:
    """One patient (None: some records alone) with all records that are nobody else's, by the ids of the archive.

    source: the kind of source, which lists of what was seen are salted with
    typed: the id as it was given, where the archive has a pseudonym for it
    """

    patient: str | None
    records: frozenset[str]
    source: str
    typed: str | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        """All ids."""
        return frozenset({*self.records, *(name for name in (self.patient, self.typed) if name)})

    @cached_property
    def hashes(self) -> frozenset[str]:
        """Under which lists of what was seen, and the log of an archive, know the ids."""
        # As typed too: an encoder may have seen the source before it was pseudonymised.
        typed = (self.typed,) if self.typed else ()
        own = (self.patient,) if self.patient else ()
        patients = (hashed(self.source, "patient", name) for name in (*own, *typed))
        seen = (hashed(self.source, "record", name) for name in (*self.records, *typed))
        return frozenset({*patients, *seen, *map(key_of, self.records)})

    @cached_property
    def distinctive(self) -> frozenset[str]:
        """Ids and hashes that nothing else is called by chance."""
        long = {name for name in self.names if len(name) >= (_LEAST_DIGITS if name.isdigit() else _LEAST)}
        return frozenset(long | self.hashes)

    @cached_property
    def record_hashes(self) -> NDArray[np.uint64]:
        """Sorted hashes of the record ids, as commit records hold them."""
        return hash_record_ids(self.records)

    def rows(self, table: pa.Table) -> NDArray[np.bool_]:
        """(N,) the patient's rows of a table with `record_id` and, where it is known, `patient_id`.

        A record that another patient has too is told apart by the patient.
        """
        records = _texts(table, "record_id")
        patients = _texts(table, "patient_id")
        if self.patient is None:
            return np.array([record in self.records for record in records], dtype=bool)
        pairs = zip(records, patients, strict=True)
        return np.array(
            [patient == self.patient or (patient is None and record in self.records) for record, patient in pairs],
            dtype=bool,
        )

    def is_in(self, text: str, name: str = "") -> bool:
        """Whether a cell or a text tells one of the ids or hashes; `name` is that of its column or key."""
        return (text in self.names and name in _ID_NAMES) or next(self._spans(text), None) is not None

    def in_json(self, value: Any, name: str = "") -> bool:
        """Whether anything in JSON tells one of them; `name` is the key that it stands under."""
        if isinstance(value, str):
            return self.is_in(value, name) or (name == "record_ids" and self._in_hashes(value))
        if isinstance(value, dict):
            return any(self.is_in(key) or self.in_json(inner, key) for key, inner in value.items())
        return isinstance(value, list) and any(self.in_json(inner, name) for inner in value)

    def redacted(self, value: Any, name: str = "") -> Any:
        """JSON with `(forgotten)` in the place of every id; entries named by one are left out."""
        if isinstance(value, str):
            return FORGOTTEN if value in self.names and name in _ID_NAMES else self._redacted_text(value)
        if isinstance(value, dict):
            return {key: self.redacted(inner, key) for key, inner in value.items() if not self.is_in(key)}
        return [self.redacted(inner, name) for inner in value] if isinstance(value, list) else value

    def _redacted_text(self, text: str) -> str:
        parts, end = [], 0
        for start, stop in self._spans(text):
            if start >= end:
                parts += [text[end:start], FORGOTTEN]
                end = stop
        return "".join([*parts, text[end:]])

    def _spans(self, text: str) -> Iterator[tuple[int, int]]:
        """Where in a text ids and hashes stand."""
        if len(text) < self._shortest:
            return
        for word in _WORD.finditer(text):
            for name, offset in self._by_word.get(word.group(), ()):
                start = word.start() - offset
                stop = start + len(name)
                if start >= 0 and text.startswith(name, start) and self._counts(text, name, start, stop):
                    yield start, stop

    def _counts(self, text: str, name: str, start: int, stop: int) -> bool:
        after = text[stop : stop + 1]
        if after.isalnum() and name[-1].isalnum():
            return False
        if name in self.distinctive:
            return True
        before = text[max(start - _LOOK_BACK, 0) : start]
        return bool(_SAID.search(before)) or (bool(_LISTED.search(before)) and text.startswith(": ", stop))

    @cached_property
    def _by_word(self) -> dict[str, list[tuple[str, int]]]:
        """First word of each name → the name, and where in it the word is."""
        found: defaultdict[str, list[tuple[str, int]]] = defaultdict(list)
        for name in self.names | self.hashes:
            word = _WORD.search(name)
            if word is not None:
                found[word.group()].append((name, word.start()))
        return dict(found)

    @cached_property
    def _shortest(self) -> int:
        return min(map(len, self.names), default=0)

    def _in_hashes(self, text: str) -> bool:
        """Whether the record ids of a commit record hold one of the patient's."""
        try:
            return bool(np.isin(self.record_hashes, decode_hashes(text)).any())
        except ValueError:
            return False


def _texts(table: pa.Table, name: str) -> list[str | None]:
    values = table.column(name).to_pylist() if name in table.column_names else [None] * table.num_rows
    return [None if value is None else str(value) for value in values]
