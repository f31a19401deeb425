"""Pseudonyms: ids of patients and records replaced by keyed hashes while a source is ingested.

HMAC-SHA256 under a key of at least 256 random bits, cut to 128 bits: the same id gives the same pseudonym for whoever
has the key, and nobody else can compute it, however few ids there are to try. Two of n ids share a pseudonym with
probability n² / 2¹²⁹ (8e-27 for 2.3 million).

The key is read from a file that nobody else can read, and is never written anywhere. A public key id (a hash of the key
under a context of its own) stands in `_archive.json`, so that a later ingest with another key is refused.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgscale.errors import ArchiveError, EcgscaleError, UsageError
from ecgscale.io.places import Place, is_remote
from ecgscale.leads import CANONICAL_LEADS

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

DIGITS = 32
"""Hexadecimal digits of a pseudonym: 128 bits."""
KEY_BYTES = 32
OLDEST_AGE = 90.0
"""Ages from here on become this one."""
SHIFT_WEEKS = 52
"""Dates move by 1 to so many whole weeks into the past, where that is asked for."""
PSEUDONYMISED = "pseudonymised"
"""Key of what `source` in `_archive.json` says of it."""

_REST = "… (the rest is not told under pseudonyms)"
_HINT = (
    "What it says may hold ids, so it is not told under pseudonyms; to see it, ingest into a scratch folder without "
    "them, or set ECGSCALE_DEBUG=1"
)
_HOW_TO = "Make one with: (umask 077; head -c 32 /dev/urandom > KEYFILE)"
_LEAST_DISTINCT = 12
_PLACE_DIGITS = 16
_KEY_ID_DIGITS = 16
_IDENTIFYING = frozenset(
    {"patient_id", "record_id", "ecg_id", "exam_id", "filename_lr", "filename_hr", "trace_file", "comments", "name"}
)
_CODE = re.compile(r"\d{5,18}")


@dataclass(frozen=True)
class Pseudonyms:
    """Turns ids and rows of a source into what the archive may hold. Its text shows no key."""

    key: bytes = field(repr=False)
    shift_dates: bool = False

    @cached_property
    def key_id(self) -> str:
        """The public name of the key; nothing can be computed from it."""
        return self._hash("key id", "")[:_KEY_ID_DIGITS]

    def record(self, record_id: str) -> str:
        """The pseudonym of a record."""
        return self._hash("record", record_id)

    def patient(self, patient_id: str) -> str:
        """The pseudonym of a patient: the same in every archive under this key."""
        return self._hash("patient", patient_id)

    def place(self, name: str) -> str:
        """A keyed hash of a path, for the log of what was ingested."""
        return self._hash("place", name)[:_PLACE_DIGITS]

    def facts(self) -> dict[str, Any]:
        """What `_archive.json` says of it."""
        return {
            "key_id": self.key_id,
            "ages_pooled_from": OLDEST_AGE,
            "dates": f"shifted by 1 to {SHIFT_WEEKS} weeks a patient" if self.shift_dates else "kept",
        }

    def row(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """One row of a source as it may be written: no id, no age above the pool, no free text in core columns."""
        record_id, patient_id = row.get("record_id"), row.get("patient_id")
        hidden = {name: _pooled(value) if name.casefold() == "age" else value for name, value in row.items()}
        hidden["record_id"] = self.record(record_id) if record_id and record_id.strip() else record_id
        hidden["patient_id"] = self.patient(patient_id) if patient_id else None
        if self.shift_dates and row.get("acquired_at") is not None:
            hidden["acquired_at"] = row["acquired_at"] - self.shift(patient_id or record_id or "")
        if row.get("leads"):
            # What a header calls a lead is free text.
            hidden["leads"] = [n if n in CANONICAL_LEADS else f"channel {i}" for i, n in enumerate(row["leads"], 1)]
        if row.get("snomed"):
            hidden["snomed"] = [code for code in row["snomed"] if _CODE.fullmatch(code)]
        return hidden

    def shift(self, patient_id: str) -> timedelta:
        """How far into the past this patient's dates move: whole weeks, so that weekdays and hours stay."""
        number = int(self._hash("dates", patient_id)[:12], 16)
        return timedelta(weeks=1 + number % SHIFT_WEEKS)

    def check_carried(self, columns: Sequence[str]) -> None:
        """Raise `UsageError` for a column to carry that holds ids, names or paths by what it is."""
        named = [name for name in columns if name.casefold() in _IDENTIFYING]
        if named:
            raise UsageError(
                f"--carry {named[0]}: under --pseudonymise no ids, file names or whole comments come along; carry the "
                "keys that you need, one by one"
            )

    def _hash(self, context: str, text: str) -> str:
        message = f"ecgscale\0{context}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.digest(self.key, message, "sha256").hex()[:DIGITS]


def pseudonyms_of(config: ArchiveConfig) -> Pseudonyms | None:
    """What `[archive] pseudonymise` and `shift_dates` ask for; None: ids stay. Raises as `open_pseudonyms` does."""
    if config.pseudonymise is None:
        if config.shift_dates:
            raise UsageError('shift_dates = true needs a key: [archive] pseudonymise = "KEYFILE"')
        return None
    if config.source in (None, "simulate"):
        raise UsageError(
            "[archive] pseudonymise is for an archive that is made from a source, not for one that is simulated"
        )
    protected = [config.path] if config.src is None else [config.path, config.src]
    return open_pseudonyms(config.pseudonymise, config.shift_dates, protected)


def open_pseudonyms(keyfile: str | Path, shift_dates: bool = False, protected: Sequence[Place] = ()) -> Pseudonyms:
    """The pseudonyms under the key in a file: 32 random bytes or more, or the same as hexadecimal text.

    No key may lie in one of the `protected` places: what it protects. Raises `UsageError`, saying what to do, for a
    file that is not there, too short, readable by others, in an object store, or in such a place.
    """
    return Pseudonyms(read_key(keyfile, protected), shift_dates)


def read_key(keyfile: str | Path, protected: Sequence[Place] = ()) -> bytes:
    """The key in a file; raises as `open_pseudonyms` does."""
    if is_remote(keyfile):
        raise UsageError(f"{keyfile}: a key is not read from an object store; keep it on this machine. {_HOW_TO}")
    path = Path(keyfile)
    for where in protected:
        if not is_remote(where) and path.resolve().is_relative_to(Path(where).resolve()):
            raise UsageError(f"{path} lies in {where}: a key beside what it protects protects nothing; move it away")
    try:
        with open(path, "rb") as file:
            mode, content = os.fstat(file.fileno()).st_mode, file.read(2**16)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}. {_HOW_TO}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(
            f"the key {path} can be read by others (mode {stat.S_IMODE(mode):o}), so it is no secret. Make a new one, "
            f"or if nobody has read it: chmod 600 {path}"
        )
    key = _decoded(content)
    if len(key) < KEY_BYTES:
        raise UsageError(f"the key {path} has {8 * len(key)} bits; at least {8 * KEY_BYTES} are needed. {_HOW_TO}")
    if len(set(key)) < _LEAST_DISTINCT:
        raise UsageError(f"the key {path} is not random: it has {len(set(key))} different bytes. {_HOW_TO}")
    return key


def check_key(made: Mapping[str, Any], pseudonyms: Pseudonyms | None, where: Place) -> None:
    """Raise `ArchiveError` unless an archive can grow under these pseudonyms (None: under the ids of the source).

    `made` is what `source` in its `_archive.json` says.
    """
    recorded = made.get(PSEUDONYMISED)
    if recorded is None and pseudonyms is None:
        return
    if recorded is None:
        raise ArchiveError(
            f"{where} holds the ids of its source; pseudonyms beside them would help nobody, and a record would count "
            "as two. Ingest the whole source into a new archive with --pseudonymise"
        )
    if pseudonyms is None:
        raise ArchiveError(
            f"{where} was pseudonymised (key {recorded.get('key_id')}): give that key, --pseudonymise KEYFILE or "
            '[archive] pseudonymise = "KEYFILE"'
        )
    for name, value in pseudonyms.facts().items():
        if recorded.get(name) != value:
            raise ArchiveError(
                f"{where} was pseudonymised with {name} = {recorded.get(name)!r}, and this would be {value!r}: the "
                "same patient would have two names. Use the key and the options that it was made with"
            )


def _decoded(content: bytes) -> bytes:
    """Hexadecimal text as the bytes that it stands for; anything else as it is."""
    text = content.strip()
    if re.fullmatch(rb"(?:[0-9a-fA-F]{2})+", text):
        return bytes.fromhex(text.decode())
    return content


def _pooled(age: Any) -> Any:
    """An age in its own type, as a number or as text."""
    try:
        old = age is not None and float(age) >= OLDEST_AGE
    except (TypeError, ValueError):
        return age
    return type(age)(f"{OLDEST_AGE:g}") if old else age


class QuotesSource(ArchiveError):
    """An error that repeats words of the source, which may hold ids or names; `bare` says the same without them."""

    def __init__(self, text: str, bare: str) -> None:
        super().__init__(text)
        self.bare = bare

    def __reduce__(self) -> tuple[Any, ...]:
        # From a worker it has to arrive as what it is.
        return type(self), (str(self), self.bare)


@contextmanager
def redacted(pseudonyms: Pseudonyms | None, src: str | Path | None) -> Iterator[None]:
    """Within the block, errors say nothing of what is in the source at `src`; without pseudonyms they are as ever."""
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
    from ecgscale.archive.sources import kinds

    # Files that are called so in every copy of a source.
    names = "|".join(re.escape(table) for kind in kinds().values() for table in kind.tables)
    copies = r"\S*ecgscale-(?:arrivals|ingest)-[^/\s]*(?:/source)?|\S*/ecgscale/copies/[0-9a-f]+"
    inside = re.search(rf"(?:{re.escape(src.rstrip('/'))}|{copies})/(?!(?:{names})\b)", text)
    return text if inside is None else text[: inside.end()] + _REST
