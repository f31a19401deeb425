"""One recording of a file, whatever its format; which format a file has, by its content."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.schema import SignalType
from ecgscale.errors import ArchiveError

SNIFFED = 4096
"""Bytes of a file that say its format."""
MOST_BYTES = 2**30
"""Of a file; larger ones are refused before they are read, since a recording is held in memory."""
_OLDEST = 120
_FINEST = 2**31


class NotUnderstood(Exception):
    """A file, or a part of it, that is not what its format says; the message is what was found."""


@dataclass(frozen=True)
class Recorded:
    """One recording.

    levels: (n_leads, T) whole numbers as stored, less their zero; microvolts: what a level is, lead by lead, exactly
    missing: (n_leads, T) True where the file says that there is no value
    age: completed years when it was recorded; told: what somebody should know of it
    """

    format: str
    leads: tuple[str, ...]
    levels: NDArray[np.int64]
    microvolts: tuple[Fraction, ...]
    sampling_rate: float
    missing: NDArray[np.bool_] | None = None
    patient_id: str | None = None
    acquired_at: datetime | None = None
    age: float | None = None
    sex: str | None = None
    device: str | None = None
    told: tuple[str, ...] = ()

    @property
    def fits_int16(self) -> bool:
        """Whether one resolution and 16 bits represent every lead exactly."""
        low, high = (int(self.levels.min()), int(self.levels.max())) if self.levels.size else (0, 0)
        return len(set(self.microvolts)) == 1 and low >= -(2**15) and high < 2**15

    def signal(self, kind: SignalType) -> tuple[NDArray[Any], float]:
        """The samples as an archive holds them, and units a mV: int16 levels (needs `fits_int16`), or float32 mV."""
        if kind == "int16":
            signal: NDArray[Any] = self.levels.astype(np.int16)
            if self.missing is not None and self.missing.any():
                signal = np.ma.MaskedArray(signal, self.missing)
            return signal, float(1000 / self.microvolts[0])
        millivolts = np.array([float(one / 1000) for one in self.microvolts])
        signal = (self.levels * millivolts[:, None]).astype(np.float32)
        if self.missing is not None:
            signal[self.missing] = np.nan
        return signal, 1.0


def made(found: Recorded, *, born: date | None = None, age: float | None = None) -> Recorded:
    """A recording that is whole and possible, with the age on the day; the date of birth goes no further.

    age: as the file gives it, for one without a date of birth. Raises `NotUnderstood`.
    """
    told = list(found.told)
    if not found.leads:
        raise NotUnderstood("no lead in it")
    if len(set(found.leads)) < len(found.leads):
        doubled = sorted({lead for lead in found.leads if found.leads.count(lead) > 1})
        told.append(f"lead {', '.join(doubled)} is there twice")
    if not (np.isfinite(found.sampling_rate) and found.sampling_rate > 0):
        raise NotUnderstood(f"a sampling rate of {found.sampling_rate:g} Hz")
    if wrong := [one for one in found.microvolts if one <= 0]:
        raise NotUnderstood(f"a resolution of {float(wrong[0]):g} µV")
    if born is not None and found.acquired_at is not None:
        day = found.acquired_at.date()
        age = day.year - born.year - ((day.month, day.day) < (born.month, born.day))
    if age is not None and not 0 <= age <= _OLDEST:
        told.append("an age that nobody has; left out")
        age = None
    return replace(found, age=age, told=tuple(told))


def from_zero(
    levels: NDArray[np.int64], resolution: Fraction, zero: Fraction, what: str
) -> tuple[NDArray[np.int64], Fraction]:
    """Levels that lie `zero` levels higher, and their resolution: a finer one where `zero` lies between two levels."""
    if zero.denominator > _FINEST or abs(zero) > _FINEST:
        raise NotUnderstood(f"the zero of {what} is {float(zero):g} levels away")
    return levels * zero.denominator + zero.numerator, resolution / zero.denominator


def moment(year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0) -> datetime | None:
    """A time without a zone, taken as UTC; None for one that is none (a field that was left at zero)."""
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def at_zone(found: datetime | None, offset: str | None) -> datetime | None:
    """A time of `moment` that was written with an offset such as -0500."""
    if found is None or not re.fullmatch(r"[+-]\d{4}", offset or ""):
        return found
    assert offset is not None
    shift = timedelta(hours=int(offset[1:3]), minutes=int(offset[3:]))
    return found - shift if offset[0] == "+" else found + shift


_MICROVOLTS = {"nv": Fraction(1, 1000), "uv": Fraction(1), "mv": Fraction(1000), "v": Fraction(1_000_000)}


def microvolts_of(unit: str) -> Fraction | None:
    """What a unit is in microvolts; None for one that is no voltage. UCUM's case does not matter here: no MV comes."""
    text = unit.strip().replace("µ", "u").replace("μ", "u").lower()
    names = {"nanovolt": "nv", "microvolt": "uv", "millivolt": "mv", "volt": "v"}
    return _MICROVOLTS.get(names.get(text.removesuffix("s"), text))


def exactly(number: object, what: str) -> Fraction:
    """A decimal number as written; `NotUnderstood` for anything else, infinity and NaN among it."""
    text = str(number).strip()
    if not re.fullmatch(r"[+-]?(\d{1,18}\.?\d{0,18}|\.\d{1,18})([eE][+-]?\d{1,2})?", text):
        raise NotUnderstood(f"{what} is {text[:40]!r}, which is no number")
    return Fraction(text)


def whole(number: object, what: str) -> int:
    """A whole number as written."""
    found = exactly(number, what)
    if found.denominator != 1:
        raise NotUnderstood(f"{what} is {number}, which is no whole number")
    return int(found)


def library(name: str) -> ModuleType:
    """A module that the extra `formats` brings; `ArchiveError` that says so where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise ArchiveError(f"this needs {package}: pip install 'ecgscale[formats]'") from error


_ROOT = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?([A-Za-z_][\w.-]*)[\s/>]")
_ROOTS = {b"RestingECG": "muse", b"AnnotatedECG": "aecg", b"restingecgdata": "Philips XML"}

UNREAD = {
    "bdf": "BDF (24 bits), which is not read: export EDF",
    "Philips XML": "XML of Philips, whose samples are packed in a way that is not published; export DICOM or aECG",
    "ishne annotations": "an annotation file of ISHNE, without samples",
}
"""Formats that are known and not read."""


def format_of(head: bytes) -> str | None:
    """The format of a file that begins so (`SNIFFED` bytes); None for a file that is no recording."""
    if head[128:132] == b"DICM":
        return "dicom"
    if head[:8] == b"ISHNE1.0":
        return "ishne"
    if head[:8] == b"ANN  1.0":
        return "ishne annotations"
    if head[:8] == b"\xffBIOSEMI":
        return "bdf"
    if head[:8] == b"0       " and head[252:256].strip().isdigit():
        return "edf"
    if head[16:22] == b"SCPECG":
        return "scp"
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        head = head.decode("utf-16", errors="replace").encode()
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith(b"<"):
        return None
    # Comments and the internal part of a DOCTYPE may name what they like.
    text = re.sub(rb"<!--.*?(-->|$)|<!DOCTYPE[^\[>]*(\[.*?(\]\s*>|$))?", b"", text, flags=re.DOTALL)
    root = _ROOT.search(text)
    return _ROOTS.get(root[1]) if root else None


SUFFIXES = frozenset({"dcm", "dicom", "scp", "edf", "ecg", "ish", "ishne", "bdf"})
"""Of files that are meant as recordings, so that one that cannot be recognised keeps a row."""


def readers() -> dict[str, Callable[[Path], Recorded]]:
    """Format → what reads a file of it."""
    from ecgscale.archive.sources.formats import binary, dicom, ecg_xml

    return {
        "dicom": dicom.read_dicom,
        "muse": ecg_xml.read_muse,
        "aecg": ecg_xml.read_aecg,
        "scp": binary.read_scp,
        "edf": binary.read_edf,
        "ishne": binary.read_ishne,
    }


def read_recording(path: Path) -> Recorded:
    """The recording in a file. Raises `NotUnderstood`, whatever is wrong with it, and `ArchiveError` without the
    library for its format."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            kind = format_of(file.read(SNIFFED))
    except OSError as error:
        raise NotUnderstood(f"cannot be read: {error.strerror or error}") from error
    if not size:
        raise NotUnderstood("the file is empty")
    if kind is None:
        raise NotUnderstood("it begins like none of DICOM, MUSE XML, aECG XML, SCP-ECG, EDF and ISHNE")
    if kind in UNREAD:
        raise NotUnderstood(f"it is {UNREAD[kind]}")
    if size > MOST_BYTES:
        raise NotUnderstood(f"{size:,} bytes are more than the {MOST_BYTES:,} that are read at once")
    try:
        return readers()[kind](path)
    except (NotUnderstood, ArchiveError):
        raise
    # Damage makes parsers raise nearly anything, and each of it means this file alone.
    except Exception as error:
        raise NotUnderstood(f"{kind}: {_said(error)}") from error


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}" + (f": {lines[0][:200]}" if lines else "")
