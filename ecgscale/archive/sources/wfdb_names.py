"""Which files of a folder are WFDB records, what those are called, and what only looks like one."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ecgscale.archive.sources.files import Known, SourceFile, SourceSet, archive_id_of, key_of, place_of
from ecgscale.archive.sources.source import count_notes
from ecgscale.archive.sources.wfdb_header import HEADER
from ecgscale.leads import CANONICAL_LEADS

BY_NAME, BY_PATH = "name", "path"
"""What a record's id is, as `record_ids` in `_archive.json` says."""

LEAD_SUFFIXES = tuple(lead.lower() for lead in CANONICAL_LEADS)
"""Of the annotation files that are read."""
_SUFFIXES = frozenset({"hea", "dat", "mat", *LEAD_SUFFIXES})

_OTHER_HEADER = re.compile(r"\.hea(\.(gz|bz2|xz|zip|txt|bak|orig|old))?$", re.IGNORECASE)
_LIKE_HEADERS = (
    "{:,} files look like headers and are not taken, for they are not called .hea (but .HEA, .hea.gz): rename them"
)
_NO_HEADERS = "{:,} signal files (.dat, .mat) are not taken: neither in their folders nor above is there a header"
_APPLE_DOUBLE = "{:,} files called ._..., which macOS writes beside others, are no recordings and not taken"


def records_among(names: Iterable[str]) -> dict[str, list[str]]:
    """Path of each record to its files that are called after it."""
    files: dict[str, list[str]] = {}
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if suffix in _SUFFIXES and not _is_apple_double(name):
            files.setdefault(stem, []).append(name)
    return {stem: own for stem, own in files.items() if stem + HEADER in own}


def not_taken(names: Iterable[str]) -> list[str]:
    """What is to be told of files that look like parts of records, and are none."""
    apple = sum(map(_is_apple_double, names := list(names)))
    names = [name for name in names if not _is_apple_double(name)]
    headers = [name for name in names if _OTHER_HEADER.search(name) and not name.endswith(HEADER)]
    with_header = {posixpath.dirname(name) for name in names if name.endswith(HEADER)}
    signals = [posixpath.dirname(name) for name in names if name.endswith((".dat", ".mat"))]
    apart = sum(not any(folder in with_header for folder in (one, *_above(one))) for one in signals)
    said = {_LIKE_HEADERS: len(headers), _NO_HEADERS: apart, _APPLE_DOUBLE: apple}
    return count_notes(said)


def _is_apple_double(name: str) -> bool:
    """Whether this is what macOS writes beside a file on disks of others: no recording, though called like one."""
    return posixpath.basename(name).startswith("._")


def _above(folder: str) -> Iterator[str]:
    """The folders that a folder lies in, up to the source itself."""
    while folder:
        folder = posixpath.dirname(folder)
        yield folder


def name_by(paths: Sequence[str]) -> tuple[list[str], str]:
    """The ids of the records at these paths, and what they are: the names if no two are the same, else the paths."""
    names = [posixpath.basename(path) for path in paths]
    return (names, BY_NAME) if len(set(names)) == len(names) else (list(paths), BY_PATH)


def natural_order(path: str) -> list[tuple[int, int | str]]:
    """Sorts 2 before 10; numbers and words never meet at one place."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", path)]


def name_records(stems: Mapping[str, tuple[SourceFile, ...]], known: Known) -> list[SourceSet]:
    """Sets of WFDB records, from their paths (in the order in which they may claim a name) and files.

    A record is called by its path, or, in an archive that knows records by name, by its name. There, a name belongs to
    the path that had it first; another path with that name is the same record if that was moved (no file differs, and
    the first path is gone), and else a record of its own, called by its path. So nothing overwrites anything.
    """
    hidden = known.pseudonyms
    if known.record_ids == BY_PATH:
        return [SourceSet(stem, stem, files, pseudonyms=hidden) for stem, files in stems.items()]

    def key(record_id: str) -> str:
        return key_of(archive_id_of(record_id, hidden))

    taken: set[str] = set()
    places: frozenset[str] | None = None
    sets = []
    for stem, files in stems.items():
        name = posixpath.basename(stem)
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
