"""The files that belong to a WFDB record: local copies of them, and whether all of them are there."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from ecgscale.archive.schema import signal_of
from ecgscale.archive.sources.files import SourceFolder, SourceSet
from ecgscale.archive.sources.wfdb_header import HEADER, Header, UnreadableRecord, read_header
from ecgscale.archive.sources.wfdb_storage import bytes_of, has_fixed_size


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
