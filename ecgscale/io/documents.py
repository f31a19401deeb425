"""JSON that people, pages and other programs may have changed: read within bounds, or refused in one sentence."""

from __future__ import annotations

import errno
import hashlib
import json
import math
from typing import Any

from ecgscale.io.objects import open_objects
from ecgscale.io.places import Place

LONGEST = 64 * 2**20
"""Bytes that are read at most, where nothing else is said."""


class DocumentError(ValueError):
    """A file that is no JSON of a sensible size; the message says why, without the file's name."""


def read_document(folder: Place, name: str, most: int = LONGEST) -> Any:
    """What the JSON file `name` in `folder` holds; at most `most` bytes are read.

    Raises FileNotFoundError when there is none, `DocumentError` for a longer file and for one that is no JSON,
    `StoreError` for one that cannot be read.
    """
    store = open_objects(folder)
    found = store.stat(name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", name)
    if found.size > most:
        raise DocumentError(f"it has {found.size:,} bytes, and at most {most:,} are read")
    data = store.read(name)
    if data is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", name)
    return parsed(data)


def parsed(data: bytes) -> Any:
    """The value of a JSON text in UTF-8. Numbers are finite: NaN and Infinity are no JSON, and 1e999 is no number."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refused, parse_float=_finite)
    except DocumentError:
        raise
    except RecursionError:
        raise DocumentError("it is nested too deeply") from None
    except ValueError as error:
        raise DocumentError(f"it is no JSON: {error}") from error


def _refused(constant: str) -> float:
    raise DocumentError(f"it holds {constant}, which is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DocumentError(f"the number {text[:40]} is too large")
    return value


def canonical_digest(content: Any) -> str:
    """SHA-256 (hex) of a value as JSON has it, whatever the order of its keys; ValueError for NaN and infinity."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
