"""The footer of a shard: a digest of it, in itself.

Pages have their checksums; what says where they are and how they are to be read, the names of the columns and the
content digest has none in Parquet. So a footer of ours ends with a sha256 of all the rest of it. It is looked at before
pyarrow parses the footer, since some damage there has pyarrow take the whole process along.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.schema import DATA_BYTES_KEY
from ecgscale.errors import ShardError

RESTORE = "Restore it from a copy, or ingest it again"
"""What to do about a shard that is damaged."""

_KEY = b"ecgscale.footer_digest"
_BLANK = b"0" * 64
UNSIGNED = {_KEY: _BLANK}
"""Metadata of a file whose footer is to be signed."""

_TRAILER = 8
_TAIL = 2**16
# As Thrift's compact protocol has it: behind the key a string, its length before it.
_SIGNATURE = re.compile(re.escape(_KEY) + rb"\x18\x40(.{64})", re.DOTALL)
_DATA_END = re.compile(re.escape(DATA_BYTES_KEY) + rb"\x18.(\d+)", re.DOTALL)


def sign_footer(file: pa.Buffer) -> None:
    """Put the digest of its footer into a whole file in memory that was written with `UNSIGNED`."""
    whole = memoryview(file).cast("B")
    start = len(whole) - _TRAILER - _footer_length(whole)
    footer = bytes(whole[start:-_TRAILER])
    found = _SIGNATURE.search(footer)
    assert found is not None
    whole[start + found.start(1) : start + found.end(1)] = _digest(footer, found)


def data_end(size: int, meta: pq.FileMetaData) -> int:
    """Where the data pages of a file of that size end, and its footer begins: there is nothing between them."""
    return size - _TRAILER - int(meta.serialized_size)


def checked_footer(source: Any, path: str) -> pq.FileMetaData:
    """The footer of a local path or an open stream, read once. Raises `ShardError`, naming `path`, when it is one of
    ours and not what its digest is of, and what pyarrow raises for one that it cannot parse.

    A digest counts only in the file that it was written for: a tool that rewrites a shard may copy the metadata along.
    """
    with contextlib.ExitStack() as stack:
        stream = stack.enter_context(open(source, "rb")) if isinstance(source, str) else source
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(0, size - _TAIL))
        tail = bytes(stream.read())
        length = _footer_length(tail) + _TRAILER
        if len(tail) < length <= size:
            stream.seek(size - length)
            tail = bytes(stream.read())
    footer = tail[-length:-_TRAILER]
    ends, signature = _DATA_END.search(footer), _SIGNATURE.search(footer)
    ours = ends is not None and int(ends[1]) == size - length
    if ours and signature is not None and signature[1] != _digest(footer, signature):
        raise ShardError(f"{path}: its footer is not what the digest (checksum) in it is of. {RESTORE}")
    return pq.read_metadata(pa.BufferReader(tail[-length:]))


def _footer_length(tail: bytes | memoryview) -> int:
    """Bytes of the footer, which the last 8 bytes of a file say."""
    return int.from_bytes(bytes(tail[-_TRAILER:])[:4], "little")


def _digest(footer: bytes, signature: re.Match[bytes]) -> bytes:
    """sha256, in hexadecimal, of a footer with zeros in the place of its digest."""
    blank = footer[: signature.start(1)] + _BLANK + footer[signature.end(1) :]
    return hashlib.sha256(blank).hexdigest().encode()
