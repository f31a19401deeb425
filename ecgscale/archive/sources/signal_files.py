"""Whether the files of a WFDB record are all there, from its header and a listing alone."""

from __future__ import annotations

import math
import posixpath
from collections.abc import Sequence
from dataclasses import replace

from ecgscale.archive.sources.sets import SourceSet
from ecgscale.archive.sources.view import SourceView
from ecgscale.archive.sources.wfdb_header import Header, UnreadableRecord
from ecgscale.archive.sources.wfdb_records import HeaderReader

HEADER = ".hea"
NO_FILE = ("~", "-")
"""What header(5) writes where a signal has no file."""

_BYTES = {"8": 1.0, "80": 1.0, "16": 2.0, "61": 2.0, "160": 2.0, "212": 1.5, "24": 3.0, "32": 4.0}
"""Of one sample, in the formats of fixed size (signal(5))."""


def with_signal_files(
    view: SourceView, sets: Sequence[SourceSet], read: HeaderReader, int16_only: bool
) -> list[SourceSet]:
    """The sets, looked into: each with all files that its header names, and with what it lacks.

    A header that cannot be read makes a complete set, which becomes a row with an empty signal. With `int16_only`, a
    record that int16 cannot represent exactly is refused.
    """
    headers = [view.files[name] for one in sets if (name := _header(one)) is not None]
    view.fetch(headers)
    return [_looked_into(view, one, read, int16_only) for one in sets]


def _header(one: SourceSet) -> str | None:
    return next((file.name for file in one.files if file.name.endswith(HEADER)), None)


def _looked_into(view: SourceView, one: SourceSet, read: HeaderReader, int16_only: bool) -> SourceSet:
    name = _header(one)
    if name is None:
        return replace(one, lacks="its header is not there")
    stem = name.removesuffix(HEADER)
    try:
        header = read(view.path(stem))
    except UnreadableRecord:
        return one
    if int16_only and header.voltages and not header.fits_int16():
        why = "its gains or format need float32, and this archive holds int16; ingest the whole source into a new one"
        return replace(one, refusal=why)
    folder, own = posixpath.dirname(stem), posixpath.basename(stem)
    named = {channel.file: posixpath.join(folder, channel.file) for channel in header.channels}
    named = {file: path for file, path in named.items() if file not in NO_FILE}
    there = {file.name: file for file in one.files}
    there |= {path: view.files[path] for path in named.values() if path in view.files}
    return replace(
        one,
        files=tuple(there.values()),
        # A file that is called otherwise than its record stands elsewhere in the listing.
        look=any(not file.startswith(f"{own}.") for file in named),
        lacks=_lacks(view, header, named),
    )


def _lacks(view: SourceView, header: Header, named: dict[str, str]) -> str:
    """The first signal file that is not there, or not in full; "" when all are."""
    for file, path in named.items():
        found, expected = view.files.get(path), _expected_bytes(header, file)
        if found is None:
            return f"{file} is not there"
        if found.size < expected:
            return f"{file} has {found.size:,} of {expected:,} bytes"
    return ""


def _expected_bytes(header: Header, file: str) -> int:
    """How long a signal file is at least; 0 where the header does not tell."""
    channels = [channel for channel in header.channels if channel.file == file]
    sizes = {(channel.format, channel.byte_offset) for channel in channels}
    if len(sizes) != 1 or not all(channel.is_plain for channel in channels):
        return 0
    [(kind, offset)] = sizes
    return offset + math.ceil(header.samples * len(channels) * _BYTES[kind]) if kind in _BYTES else 0
