"""Errors of an ingest under pseudonyms: what was found and what to do, without the words of the source.

File names, paths and cells of a source may hold ids and names. So errors that quote them are told without the
quotation, paths are cut where they lead into the source, and what a library raises is told by its kind alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ecgscale.archive.sources.code15 import EXAMS
from ecgscale.archive.sources.pseudonyms import Pseudonyms, open_pseudonyms
from ecgscale.archive.sources.ptbxl import DATABASE, STATEMENTS
from ecgscale.archive.sources.source import QuotesSource
from ecgscale.errors import ArchiveError, EcgscaleError, UsageError

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

_NO_NAMES = (DATABASE, STATEMENTS, EXAMS)
"""Files that are called so in every copy of a source."""
_REST = "… (the rest is not told under pseudonyms)"
_HINT = (
    "What it says may hold ids, so it is not told under pseudonyms; to see it, ingest into a scratch folder without "
    "them, or set ECGSCALE_DEBUG=1"
)


def pseudonyms_of(config: ArchiveConfig) -> Pseudonyms | None:
    """What `[archive] pseudonymise` and `shift_dates` ask for; None: ids stay. Raises as `open_pseudonyms` does."""
    if config.pseudonymise is None:
        if config.shift_dates:
            raise UsageError('shift_dates = true needs a key: [archive] pseudonymise = "KEYFILE"')
        return None
    if config.source in (None, "simulate"):
        raise UsageError("[archive] pseudonymise is for an archive that is made from a source: ptbxl, code15, wfdb")
    beside = [config.path] if config.src is None else [config.path, config.src]
    return open_pseudonyms(config.pseudonymise, config.shift_dates, beside)


@contextmanager
def untold(pseudonyms: Pseudonyms | None, src: str | Path | None) -> Iterator[None]:
    """Within the block, errors tell nothing of what is in the source at `src`; without pseudonyms they are as ever."""
    try:
        yield
    except Exception as error:
        if pseudonyms is None or os.environ.get("ECGSCALE_DEBUG"):
            raise
        # The cause, and all that it says, is left behind.
        raise _without_words(error, str(src)) from None


def _without_words(error: Exception, src: str) -> Exception:
    if isinstance(error, QuotesSource):
        return ArchiveError(f"{error.bare}. {_HINT}")
    if isinstance(error, EcgscaleError):
        text = _cut(str(error), src)
        return error if text == str(error) else type(error)(text)
    if isinstance(error, OSError):
        return ArchiveError(f"{src}: a file of the source cannot be read: {error.strerror or type(error).__name__}")
    return ArchiveError(f"{src}: {type(error).__name__} while the source was read. {_HINT}")


def _cut(text: str, src: str) -> str:
    """The text up to the first path that leads into the source, or into a copy of it."""
    names = "|".join(map(re.escape, _NO_NAMES))
    copies = r"\S*ecgscale-(?:arrivals|ingest)-[^/\s]*(?:/source)?|\S*/ecgscale/copies/[0-9a-f]+"
    inside = re.search(rf"(?:{re.escape(src.rstrip('/'))}|{copies})/(?!(?:{names})\b)", text)
    return text if inside is None else text[: inside.end()] + _REST
