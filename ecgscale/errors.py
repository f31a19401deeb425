"""Errors that a user sees, and the exit codes that scripts see.

Every message says what was found, what was expected, where, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError


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


def first_problem(error: ValidationError, whole: str = "") -> str:
    """The first thing that a model says of a document: the key (`whole` where it is no key's), and what is wrong."""
    first = error.errors()[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])) or whole, first["msg"])))


def sentences_of(error: ValidationError, keys_of: Callable[[list[str]], list[str]]) -> str:
    """All that a model says of a file, as sentences: each with the key, what is wrong, and the key that was meant.

    keys_of: what may be below a section, by its path
    """
    return "; ".join(_sentence(detail, keys_of) for detail in error.errors())


def _sentence(detail: Any, keys_of: Callable[[list[str]], list[str]]) -> str:
    parts = [str(part) for part in detail["loc"]]
    where = ".".join(parts) or "the file"
    if detail["type"] == "extra_forbidden":
        known = keys_of(parts[:-1])
        return f"unknown key {where}; known are {', '.join(known)}.{did_you_mean(parts[-1], known)}"
    if detail["type"] == "missing":
        return f"{where} is missing"
    wanted = _FORMS.get(where) if detail["type"].startswith("string_") else None
    wanted = wanted or _WANTED.get(detail["type"])
    if wanted is None:
        return f"{where}: {detail['msg'].removeprefix('Value error, ')} (it is {detail['input']!r})"
    # An address that is refused may hold a password.
    value = "" if where == "storage.endpoint" else f" (it is {detail['input']!r})"
    return f"{where}: expected {wanted.format(**detail.get('ctx', {}))}{value}"


_FORMS = {
    "nightly.deadline": 'HH:MM, as "05:30"',
    "storage.endpoint": 'an address such as "https://store.example:9000", without user and password',
}
"""What a text has to look like that is checked by a pattern."""

_WANTED = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    "finite_number": "a finite number",
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    "string_type": "a text in quotes",
    **dict.fromkeys(("tuple_type", "list_type"), "a list in brackets, as [1, 2, 3]"),
    **dict.fromkeys(("model_type", "model_attributes_type"), "a section with keys of its own"),
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "less than {lt:g}",
    "less_than_equal": "{le:g} or less",
    "literal_error": "{expected}",
}
"""What was expected, by pydantic's types of errors, in the words of a user."""
