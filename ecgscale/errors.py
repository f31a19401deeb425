"""Errors that a user sees, and the exit codes that scripts see.

Every message says what was found, what was expected, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from enum import IntEnum


class ExitCode(IntEnum):
    """What `ecgscale COMMAND` and `jobs/*` exit with."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    SHARDS_SET_ASIDE = 3
    GATE_HELD = 4
    LOCKED = 5
    STOPPED = 6


class EcgscaleError(Exception):
    """Base of all errors shown to the user without a traceback."""

    exit_code = ExitCode.FAILED


class UsageError(EcgscaleError):
    """A wrong argument, path or configuration: found before any work starts."""

    exit_code = ExitCode.USAGE


class ArchiveError(UsageError):
    """A folder that is not an archive, or a source that cannot be ingested."""


class ShardError(EcgscaleError):
    """One shard cannot be read; it fails alone and the run goes on."""


class EncoderError(UsageError):
    """An encoder directory whose contract, layers or weights do not fit."""


class ModelError(UsageError):
    """A cluster model that is absent, unfinished or made for another encoder."""


class PublishError(EcgscaleError):
    """Committed shards that cannot be published together; nothing is lost."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean 'x'?' for the nearest known name, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
