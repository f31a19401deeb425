"""Files of a source that belong together, and what is known of those that were ingested.

A set is what becomes one record (WFDB, PTB-XL) or the records of one part (CODE-15 %). Its stamp is a digest of what a
listing says of its files; a set whose stamp is known is not looked into. Names are kept as hashes alone, so that the
log of an archive tells nobody's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from ecgscale.archive.sources.pseudonyms import Pseudonyms
from ecgscale.archive.sources.view import SourceFile, SourceView

_KEY_DIGITS = 24
_STAMP_DIGITS = 16
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class SourceSet:
    """One set of files as a listing shows it.

    name: path of the header without suffix; ecg_id; file name of the part
    record_id: what it is called in the archive (of a part: its name, since its exams have ids of their own)
    namesake: key of the record that has its name, where it is called by its path for that reason
    files: those that are there; facts: what else its content depends on (its row in the source's table)
    look: what the listing says is not enough to know it again; lacks: what it is waiting for, if it is incomplete
    refusal: why it cannot come into this archive; hopeless: it cannot be taken as it is, however long it stays so
    pseudonyms: under which it is in the archive, and in the log
    """

    name: str
    record_id: str
    files: tuple[SourceFile, ...]
    facts: tuple[str, ...] = ()
    look: bool = False
    lacks: str = ""
    refusal: str = ""
    hopeless: bool = False
    namesake: str = ""
    pseudonyms: Pseudonyms | None = field(default=None, compare=False)

    @cached_property
    def archived_as(self) -> str:
        """Its record_id in the archive."""
        return archive_id_of(self.record_id, self.pseudonyms)

    @cached_property
    def key(self) -> str:
        """What the log knows it by."""
        return key_of(self.archived_as)

    @cached_property
    def at(self) -> str:
        """Where it is, as a hash."""
        return place_of(self.name, self.pseudonyms)

    @cached_property
    def stamp(self) -> str:
        """Changes when a file (or the row of the table) does, and not when all of them move to another folder."""
        files = sorted((file.name.rsplit("/", 1)[-1], file.size, file.version) for file in self.files)
        return _digest([files, self.facts])[:_STAMP_DIGITS]

    @property
    def newest(self) -> datetime:
        """When the youngest of its files was written."""
        return newest_of(self.files)

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(file.size for file in self.files)

    def content(self, view: SourceView) -> str:
        """A digest of the bytes of its files, which have been fetched, and of its facts."""
        hasher = hashlib.sha256(json.dumps(self.facts).encode())
        for file in sorted(self.files, key=lambda file: file.name.rsplit("/", 1)[-1]):
            hasher.update(f"\0{file.name.rsplit('/', 1)[-1]}\0{file.size}\0".encode())
            path = view.path(file.name)
            if path.is_file():
                with open(path, "rb") as stream:
                    hasher.update(hashlib.file_digest(stream, "sha256").digest())
        return hasher.hexdigest()[:_STAMP_DIGITS]


class KnownSet(NamedTuple):
    """What the log says of one set: digests of its listing and its bytes ("" when never read), where it was, whether to
    look inside every night, and why it was refused ("" when it was ingested)."""

    stamp: str
    content: str
    at: str
    look: bool = False
    refusal: str = ""


@dataclass
class Known:
    """All sets that were dealt with, by key; `since` tells when incomplete ones were first seen.

    pseudonyms: under which the archive has its records; None: as the source does
    """

    sets: dict[str, KnownSet] = field(default_factory=dict)
    since: dict[str, datetime] = field(default_factory=dict)
    pseudonyms: Pseudonyms | None = None

    def of(self, one: SourceSet) -> KnownSet | None:
        """What is known of a set; None for one that is new."""
        return self.sets.get(one.key)

    def has_content(self, one: SourceSet, content: str) -> bool:
        """Whether a set says what was ingested before, under its own id or by the namesake that it is a copy of."""
        past, namesake = self.of(one), self.sets.get(one.namesake)
        if past is not None and not past.refusal and past.content == content:
            return True
        return (
            namesake is not None
            and not namesake.refusal
            and (namesake.content or namesake.stamp)
            in (
                content,
                one.stamp,
            )
        )


def archive_id_of(record_id: str, pseudonyms: Pseudonyms | None) -> str:
    """What the archive calls a record of the source."""
    return record_id if pseudonyms is None else pseudonyms.record(record_id)


def key_of(record_id: str) -> str:
    """The hash under which a record is logged; `record_id` is that of the archive."""
    return hashlib.sha256(f"record\0{record_id}".encode()).hexdigest()[:_KEY_DIGITS]


def place_of(name: str, pseudonyms: Pseudonyms | None = None) -> str:
    """The hash of a set's path."""
    if pseudonyms is not None:
        return pseudonyms.place(name)
    return hashlib.sha256(f"place\0{name}".encode()).hexdigest()[:_STAMP_DIGITS]


def _digest(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, separators=(",", ":")).encode()).hexdigest()


def name_records(stems: Mapping[str, tuple[SourceFile, ...]], known: Known, by_path: bool) -> list[SourceSet]:
    """Sets of WFDB records, from their paths (in the order in which they may claim a name) and files.

    A record is called by its path, or, in an archive that knows records by name, by its name. There, a name belongs to
    the path that had it first; another path with that name is the same record if that was moved (no file differs, and
    the first path is gone), and else a record of its own, called by its path. So nothing overwrites anything.
    """
    hidden = known.pseudonyms
    if by_path:
        return [SourceSet(stem, stem, files, pseudonyms=hidden) for stem, files in stems.items()]

    def key(record_id: str) -> str:
        return key_of(archive_id_of(record_id, hidden))

    taken: set[str] = set()
    places: frozenset[str] | None = None
    sets = []
    for stem, files in stems.items():
        name = stem.rsplit("/", 1)[-1]
        path = stem if "/" in stem else f"./{stem}"
        first = known.sets.get(key(name))
        if first is None:
            own = key(path) in known.sets
        elif first.at == place_of(stem, hidden):
            own = False
        else:
            places = places or frozenset(place_of(one, hidden) for one in stems)
            moved = first.at not in places and SourceSet(stem, name, files).stamp == first.stamp
            own = not moved or key(path) in known.sets
        record_id = path if own or name in taken else name
        taken.add(record_id)
        namesake = key(name) if record_id == path != name else ""
        sets.append(SourceSet(stem, record_id, files, namesake=namesake, pseudonyms=hidden))
    return sets


def newest_of(files: Iterable[SourceFile]) -> datetime:
    """When the youngest of these files was written."""
    return max((file.modified for file in files), default=_LONG_AGO)
