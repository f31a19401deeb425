"""What `verify` finds: all of it counted, the first of each kind kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal[
    "manifest",
    "model",
    "missing_file",
    "size",
    "sha256",
    "unreadable",
    "schema",
    "identity",
    "rows",
    "quarantined",
    "status",
    "source_shard",
    "facts",
    "valid_span",
    "proportions",
    "entropy",
    "numbers",
    "segments",
    "clusters",
    "commit",
    "record_ids",
    "doubled",
    "recomputed",
]
KINDS: tuple[str, ...] = get_args(Kind)
"""Every kind of problem; docs/operations.md says what each means."""

KEPT = 20


@dataclass(frozen=True)
class Problem:
    """One thing that is not as it has to be. where: file, row and record id, as far as it is about one."""

    kind: Kind
    where: str
    message: str


class Problems:
    """A growing list; of each kind the first `KEPT` are kept, and all are counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.first: list[Problem] = []

    def add(self, kind: Kind, where: str, message: str) -> None:
        """One problem."""
        if self.counts[kind] < KEPT:
            self.first.append(Problem(kind, where, message))
        self.counts[kind] += 1

    def add_many(self, kind: Kind, items: Iterable[int], told: Callable[[int], tuple[str, str]]) -> None:
        """One for each of `items`; `told` gives (where, message) of one, and is asked for those alone that are kept."""
        for item in items:
            if self.counts[kind] < KEPT:
                self.first.append(Problem(kind, *told(item)))
            self.counts[kind] += 1

    @property
    def total(self) -> int:
        """How many there are."""
        return self.counts.total()


def place_of(file: str, row: int, record_id: str | None) -> str:
    """A row as it is told: file, row from 0, record id."""
    return f"{file}, row {row}, record {record_id!r}"
