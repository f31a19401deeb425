"""The header of one WFDB record: what each field says, or why it cannot be read.

A field that is absent has the default of header(5) of the WFDB manual, which is told where it matters; one that is
there and does not parse never gets a default: the record is unreadable, and its reason quotes the field. `wfdb`'s own
reader puts defaults in such places, and refuses record lines that name `E00001.mat` instead of `E00001`.
"""

from __future__ import annotations

import codecs
import math
import posixpath
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from ecgscale.archive.sources.wfdb_comments import keyed_comments
from ecgscale.errors import EcgscaleError
from ecgscale.leads import CANONICAL_LEADS, canonical_lead

HEADER = ".hea"
NO_FILE = ("~", "-")
"""What header(5) writes where a signal has no file."""

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_WHOLE = re.compile(r"[-+]?[0-9]{1,18}")
_RATE = re.compile(rf"(?P<rate>{_NUMBER})(?:/(?P<counter>{_NUMBER})(?:\((?P<base>{_NUMBER})\))?)?")
_FORMAT = re.compile(
    r"(?P<format>[0-9]+)(?:x(?P<per_frame>[0-9]+))?(?::(?P<skew>[0-9]+))?(?:\+(?P<offset>[0-9]+))?", re.ASCII
)
_GAIN = re.compile(rf"(?P<gain>{_NUMBER})(?:\((?P<baseline>{_NUMBER})\))?(?:/(?P<units>\S+))?")
_LEAVES = re.compile(r"^[/\\]|^[A-Za-z]:|://|(?:^|[/\\])\.\.(?:[/\\]|$)|[\x00-\x1f]")
"""Of file names: absolute, of another system, a URL, or above the record's folder."""

_DEFAULT_RATE = 250.0
_DEFAULT_GAIN = 200.0
_MOST_BYTES = 2**22
_MOST_SIGNALS = 4096
"""Of a header that is one: lists of a week's segments have some hundred thousand bytes."""
_MOST_HZ = 1e7
_PER_MV = (1e-9, 1e15)
"""Units per mV beyond which a gain is no gain, and a sample no 32-bit float."""
_YEARS = range(1800, 2500)
"""Of recordings, those with shifted dates among them."""

_VOLTS = {"v": 1e3, "mv": 1.0, "millivolt": 1.0, "milliv": 1.0, "mvolt": 1.0, "volt": 1e3, "nv": 1e-6, "nanovolt": 1e-6}
_VOLTS |= dict.fromkeys(("uv", "µv", "μv", "microvolt", "microv", "uvolt", "µvolt", "μvolt"), 1e-3)
_UNITS_IN_MV = _VOLTS | {f"{name}s": factor for name, factor in _VOLTS.items() if name.endswith("volt")}

WITHOUT_RATE = "in {:,} records the header gives no sampling frequency: 250 Hz, as header(5) of the WFDB manual says"
UNCALIBRATED = (
    "in {:,} records a gain is 0 or not given: not calibrated, says header(5) of the WFDB manual, and taken as 200 "
    "units a mV as it says. If the scale is known, ingest with --units-per-mv"
)
WITHOUT_MOMENT = (
    "in {:,} records the date and time are not both there in WFDB's form (12:33:59 31/12/2020); acquired_at left null"
)

_BITS = {"80": 8, "508": 8, "310": 10, "311": 10, "212": 12, "16": 16, "61": 16, "160": 16, "516": 16}
_BITS |= {"24": 24, "524": 24, "32": 32}
"""Of one sample in each storage format (signal(5) of the WFDB manual)."""


def invalid_sample(name: str) -> int:
    """The digital value that stands for "no sample" in a storage format."""
    return -(2 ** (_BITS.get(name, 64) - 1))


class UnreadableRecord(EcgscaleError):
    """A WFDB record that cannot be read; it keeps its row, with an empty signal."""


@dataclass(frozen=True)
class Channel:
    """One signal line: adu = physical * gain + baseline. `per_mv` is adu per millivolt, None if not a voltage.

    per_frame: samples of this channel in a frame; skew: how many frames later than they should its samples are stored
    first, checksum: of its samples, as the header gives them; None where it does not
    """

    file: str
    format: str
    byte_offset: int
    per_frame: int
    skew: int
    baseline: int
    per_mv: float | None
    units: str
    is_calibrated: bool
    zero: int
    first: int | None
    checksum: int | None
    lead: str


@dataclass(frozen=True)
class Header:
    """One `.hea`: frames a second and frames (0 if not given), channels, comments without `#`.

    segments: names of the records that this one is put together from; empty for one that has samples of its own
    notes: what is to be told of it (texts for `count_notes`)
    """

    stem: Path
    segments: tuple[str, ...]
    frame_rate: float
    frames: int
    acquired_at: datetime | None
    channels: tuple[Channel, ...]
    comments: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def voltages(self) -> tuple[int, ...]:
        """Numbers of the channels that hold a voltage; where those have several rates, of one rate: that of most leads
        of an ECG, then that of most channels, then the highest."""
        found = [i for i, channel in enumerate(self.channels) if channel.per_mv is not None]
        rates = Counter(self.channels[i].per_frame for i in found)
        if len(rates) < 2:
            return tuple(found)
        leads = Counter(self.channels[i].per_frame for i in found if self.channels[i].lead in CANONICAL_LEADS)
        taken = max(rates, key=lambda rate: (leads[rate], rates[rate], rate))
        return tuple(i for i in found if self.channels[i].per_frame == taken)

    @property
    def leads(self) -> tuple[str, ...]:
        """Canonical names of the voltage channels."""
        return tuple(self.channels[i].lead for i in self.voltages)

    @property
    def per_frame(self) -> int:
        """Samples that each voltage channel has in a frame."""
        return self.channels[self.voltages[0]].per_frame if self.voltages else 1

    @property
    def sampling_rate(self) -> float:
        """Of the voltage channels, in Hz."""
        return self.frame_rate * self.per_frame

    def left_out(self) -> str:
        """Which channels are not taken, and why; "" when all are."""
        taken = self.voltages
        rest = [channel for i, channel in enumerate(self.channels) if i not in taken]
        others = [c for c in rest if c.per_mv is None]
        said = [f"channels {_names(others)} hold no voltage ({_units(others)})"] if others else []
        rates = [c for c in rest if c.per_mv is not None]
        hertz = ", ".join(dict.fromkeys(f"{self.frame_rate * c.per_frame:g} Hz" for c in rates))
        said += (
            [f"channels {_names(rates)} have {hertz}, not the {self.sampling_rate:g} Hz of the leads"] if hertz else []
        )
        return "; ".join(said) if taken else ""

    def signal_files(self, folder: str) -> dict[str, str]:
        """Names of its signal files, and their paths when it lies in `folder`."""
        names = (channel.file for channel in self.channels if channel.file not in NO_FILE)
        return {name: posixpath.normpath(posixpath.join(folder, name)) for name in names}

    def fits_int16(self) -> bool:
        """True if one resolution represents every voltage channel exactly in 16 bits, whatever the samples are."""
        channels = [self.channels[i] for i in self.voltages]
        resolutions = {channel.per_mv for channel in channels}
        return len(resolutions) == 1 and all(
            (channel.per_mv or 0) > 0 and _largest(channel.format) + abs(channel.baseline) < 2**15
            for channel in channels
        )

    @cached_property
    def keyed(self) -> dict[str, str]:
        """`key: value` comments, keys as written but for `<>`: "Age", "Sex", "Dx", "Rhythm", "age", "sex" ..."""
        return keyed_comments(self.comments)


def _names(channels: Sequence[Channel]) -> str:
    return ", ".join(channel.lead or "unnamed" for channel in channels)


def _units(channels: Sequence[Channel]) -> str:
    return ", ".join(dict.fromkeys(repr(channel.units)[1:-1] for channel in channels))


def _largest(name: str) -> int:
    """Magnitude that a valid sample of a storage format can have."""
    bits = _BITS.get(name, 32)
    return int(2 ** (bits - 1)) - (bits == 16)


def read_header(stem: Path, units_per_mv: float | None = None) -> Header:
    """Parse `stem`.hea; `UnreadableRecord`, and no other error, says what is wrong with it.

    With `units_per_mv`, every voltage channel has so many adu per millivolt and no baseline, whatever the header says.
    """
    path = stem.with_name(stem.name + HEADER)
    try:
        if not path.is_file():
            raise UnreadableRecord("header cannot be read: no such file" if not path.exists() else "header is no file")
        with open(path, "rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise UnreadableRecord(f"header has more than {_MOST_BYTES:,} bytes")
        header = parse_header(stem, _text(data))
    except UnreadableRecord:
        raise
    except OSError as error:
        raise UnreadableRecord(f"header cannot be read: {error.strerror or error}") from error
    # One record never ends a run: what nobody thought of is told like what somebody did.
    except Exception as error:
        raise UnreadableRecord(f"header cannot be read: {type(error).__name__}: {str(error)[:200]}") from error
    if units_per_mv is None:
        return header
    scaled = [c if c.per_mv is None else replace(c, baseline=0, per_mv=units_per_mv) for c in header.channels]
    return replace(header, channels=tuple(scaled), notes=tuple(n for n in header.notes if n != UNCALIBRATED))


def _text(data: bytes) -> str:
    """UTF-8, or what a byte order mark says, or else the 8-bit text of Western Windows machines and Latin-1."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", errors="replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


def parse_header(stem: Path, text: str) -> Header:
    """The header that this text is; raises `UnreadableRecord` for a field that does not parse."""
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    comments = tuple(line.lstrip("#").strip() for line in lines if line.startswith("#"))
    lines = [line for line in lines if not line.startswith("#")]
    if not lines:
        raise UnreadableRecord("empty header")
    fields = lines[0].split()
    name = re.fullmatch(r"\S+?(?:/(?P<segments>[0-9]+))?", fields[0])
    if len(fields) < 2 or name is None or not fields[1].isdecimal() or not fields[1].isascii():
        raise UnreadableRecord(f"no record line in the header, but {lines[0][:60]!r}")
    n_signals = _whole(fields[1], "number of signals")
    rate, frames, moment, notes = _record_fields(fields[2:])
    channels: list[Channel] = []
    segments: tuple[str, ...] = ()
    if name["segments"] is None:
        channels = _signal_lines(lines[1:], n_signals)
    else:
        segments = _segment_lines(lines[1:], _whole(name["segments"], "number of segments"))
    if any(channel.per_mv is not None and not channel.is_calibrated for channel in channels):
        notes.append(UNCALIBRATED)
    return Header(stem, segments, rate, frames, moment, tuple(channels), comments, tuple(notes))


def _record_fields(fields: Sequence[str]) -> tuple[float, int, datetime | None, list[str]]:
    """Frames a second, frames, moment and notes of a record line, from what stands behind the number of signals."""
    notes = []
    rate, frames, rest = _DEFAULT_RATE, 0, list(fields)
    if rest:
        text = rest.pop(0)
        found = _RATE.fullmatch(text)
        numbers = [float(number) for number in found.groups() if number is not None] if found else [math.nan]
        if not all(map(math.isfinite, numbers)) or not 0 < numbers[0] <= _MOST_HZ or numbers[1:2] == [0.0]:
            raise UnreadableRecord(f"sampling frequency {text[:60]!r} is none that can be")
        rate = numbers[0]
    else:
        notes.append(WITHOUT_RATE)
    # Without a number of samples no time may follow, but where one does it is no number.
    if rest and ":" not in rest[0]:
        frames = _whole(rest.pop(0), "number of samples")
        if frames < 0:
            raise UnreadableRecord(f"number of samples {frames} is none that can be")
    moment = _moment(" ".join(rest))
    if rest and moment is None:
        notes.append(WITHOUT_MOMENT)
    return rate, frames, moment, notes


def _moment(text: str) -> datetime | None:
    """Base time and date, "12:33:59 12/05/2020", taken as UTC; None unless both are there in the WFDB form."""
    for form in ("%H:%M:%S %d/%m/%Y", "%H:%M:%S.%f %d/%m/%Y"):
        try:
            moment = datetime.strptime(text, form).replace(tzinfo=UTC)
        except ValueError:
            continue
        return moment if moment.year in _YEARS else None
    return None


def _signal_lines(lines: Sequence[str], n_signals: int) -> list[Channel]:
    if n_signals > _MOST_SIGNALS:
        raise UnreadableRecord(f"header announces {n_signals} signals; {_MOST_SIGNALS:,} are the most that are read")
    if len(lines) < n_signals:
        raise UnreadableRecord(f"header announces {n_signals} signals and describes {len(lines)}")
    for line in lines[n_signals:]:
        parts = line.split(None, 2)
        if len(parts) > 1 and _FORMAT.fullmatch(parts[1]):
            raise UnreadableRecord(f"header announces {n_signals} signals and describes more: {line[:60]!r}")
    return [_channel(line) for line in lines[:n_signals]]


def _segment_lines(lines: Sequence[str], announced: int) -> tuple[str, ...]:
    if not announced or len(lines) != announced:
        raise UnreadableRecord(f"header announces {announced} segments and names {len(lines)}")
    return tuple(line.split()[0] for line in lines)


def _channel(line: str) -> Channel:
    parts = line.split(None, 8)
    kind = _FORMAT.fullmatch(parts[1]) if len(parts) > 1 else None
    if kind is None:
        raise UnreadableRecord(f"signal line {line[:60]!r} names no storage format")
    if _LEAVES.search(parts[0]):
        raise UnreadableRecord(f"signal file {parts[0][:200]!r} is not in the record's folder or one below; not opened")
    per_frame = _whole(kind["per_frame"] or "1", "samples a frame")
    if per_frame < 1:
        raise UnreadableRecord(f"signal line {line[:60]!r} has no sample in a frame")
    gain, baseline, units = _scale(parts[2]) if len(parts) > 2 else (0.0, None, "mV")
    numbers: list[int | None] = [None] * 5
    names = ("ADC resolution", "ADC zero", "initial value", "checksum", "block size")
    for i, (text, what) in enumerate(zip(parts[3:8], names, strict=False)):
        numbers[i] = _whole(text, what)
    zero = numbers[1] or 0
    in_mv = _UNITS_IN_MV.get(units.lower().strip("_;,.:()[]'\""))
    # header(5): a gain of 0 or none means uncalibrated, 200 adu per unit; no baseline means the ADC's zero.
    per_mv = None if in_mv is None else (gain or _DEFAULT_GAIN) / in_mv
    if per_mv is not None and not _PER_MV[0] <= abs(per_mv) <= _PER_MV[1]:
        raise UnreadableRecord(f"gain {parts[2][:60]!r} is none that can be")
    return Channel(
        file=parts[0],
        format=str(int(kind["format"])),
        byte_offset=_whole(kind["offset"] or "0", "byte offset"),
        per_frame=per_frame,
        skew=_whole(kind["skew"] or "0", "skew"),
        baseline=zero if baseline is None else baseline,
        per_mv=per_mv,
        units=units,
        is_calibrated=gain != 0,
        zero=zero,
        first=numbers[2],
        checksum=numbers[3],
        lead=canonical_lead(parts[8]) if len(parts) > 8 else "",
    )


def _scale(text: str) -> tuple[float, int | None, str]:
    """Gain (0: not calibrated), baseline if given, and units of the field that has all three."""
    found = _GAIN.fullmatch(text)
    gain = float(found["gain"]) if found else math.nan
    if found is None or not math.isfinite(gain):
        raise UnreadableRecord(f"gain {text[:60]!r} is not understood; expected one such as 1000(0)/mV")
    baseline = None if found["baseline"] is None else _whole(found["baseline"], "baseline")
    return gain, baseline, found["units"] or "mV"


def _whole(text: str, what: str) -> int:
    """A whole number, also as `0.0`; `UnreadableRecord` for anything else."""
    if _WHOLE.fullmatch(text):
        return int(text)
    number = float(text) if re.fullmatch(_NUMBER, text) else math.nan
    if not (math.isfinite(number) and number == int(number) and abs(number) < 2**53):
        raise UnreadableRecord(f"{what} {text[:60]!r} is no whole number")
    return int(number)
