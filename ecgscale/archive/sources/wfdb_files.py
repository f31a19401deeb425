"""Which files of a folder are WFDB records, how those are called, what only looks like one, whether all is there."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ecgscale.archive.schema import signal_of
from ecgscale.archive.sources.files import Known, SourceFile, SourceFolder, SourceSet, archive_id_of, key_of, place_of
from ecgscale.archive.sources.source import count_notes
from ecgscale.archive.sources.wfdb_header import HEADER, Header, UnreadableRecord, read_header
from ecgscale.archive.sources.wfdb_storage import bytes_of, has_fixed_size
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


def fetch_records(source: SourceFolder, names: Sequence[str]) -> None:
    """Have these files of records, and those that the headers among them name."""
    if source.is_local:
        return
    source.fetch(names)
    named: set[str] = set()
    for name in names:
        if name.endswith(HEADER):
            try:
                header = read_header(source.path(name.removesuffix(HEADER)))
            except UnreadableRecord:
                # Named when its row is written.
                continue
            named.update(header.signal_files(posixpath.dirname(name)).values())
    source.fetch(sorted(named))


def with_signal_files(
    source: SourceFolder, sets: Sequence[SourceSet], read: Callable[[Path], Header], schema: pa.Schema | None
) -> list[SourceSet]:
    """The sets, looked into: each with all files that its header names, and with what it lacks.

    A header that cannot be read makes a complete set, which becomes a row with an empty signal. A record that int16
    cannot represent exactly is refused where the archive's schema holds that.
    """
    int16_only = schema is not None and signal_of(schema) == "int16"
    source.fetch(name for one in sets if (name := _header_of(one)) is not None)
    return [_looked_into(source, one, read, int16_only) for one in sets]


def _header_of(one: SourceSet) -> str | None:
    return next((file.name for file in one.files if file.name.endswith(HEADER)), None)


def _looked_into(source: SourceFolder, one: SourceSet, read: Callable[[Path], Header], int16_only: bool) -> SourceSet:
    name = _header_of(one)
    if name is None:
        return replace(one, lacks="its header is not there")
    stem = name.removesuffix(HEADER)
    try:
        header = read(source.path(stem))
    except UnreadableRecord:
        return one
    if int16_only and header.voltages and not header.fits_int16():
        why = "its gains or format need float32, and this archive holds int16; ingest the whole source into a new one"
        return replace(one, refusal=why)
    folder, own = posixpath.split(stem)
    named = header.signal_files(folder)
    there = {file.name: file for file in one.files}
    there |= {path: source.listed[path] for path in named.values() if path in source.listed}
    return replace(
        one,
        files=tuple(there.values()),
        # A file that is called otherwise than its record stands elsewhere in the listing.
        look=any(not file.startswith(f"{own}.") for file in named),
        lacks=_lacks(source, header, named),
    )


def _lacks(source: SourceFolder, header: Header, named: dict[str, str]) -> str:
    """The first signal file that is not there, or not in full; "" when all are."""
    for file, path in named.items():
        found, expected = source.listed.get(path), _expected_bytes(header, file)
        if found is None:
            return f"{file} is not there"
        if found.size < expected:
            return f"{file} has {found.size:,} of {expected:,} bytes"
    return ""


def _expected_bytes(header: Header, file: str) -> int:
    """How long a signal file is at least; 0 where the header does not say."""
    channels = [channel for channel in header.channels if channel.file == file]
    sizes = {(channel.format, channel.byte_offset) for channel in channels}
    [(kind, offset), *others] = sizes
    if others or not has_fixed_size(kind):
        return 0
    return offset + bytes_of(kind, header.frames * sum(channel.per_frame for channel in channels))
