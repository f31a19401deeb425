"""One WFDB record: its header, samples and annotated waves, and whether all of its files are there.

Headers are read leniently: what a first pass over a large folder needs, and what odd headers still say. `wfdb` reads
the rarer sample formats and the annotations; its own header reader refuses record lines that name `E00001.mat` instead
of `E00001`, and puts defaults where it cannot parse a field. Format: header(5) of the WFDB manual.
"""

from __future__ import annotations

import math
import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.schema import SignalType, signal_of
from ecgscale.archive.sources.files import SourceFolder, SourceSet
from ecgscale.errors import EcgscaleError
from ecgscale.leads import canonical_lead

HEADER = ".hea"
NO_FILE = ("~", "-")
"""What header(5) writes where a signal has no file."""

_RECORD_LINE = re.compile(
    r"^(?P<name>\S+?)(?:/(?P<segments>\d+))?\s+(?P<signals>\d+)"
    r"(?:\s+(?P<rate>[\d.]+(?:[eE][+-]?\d+)?)\S*)?(?:\s+(?P<samples>\d+))?(?:\s+(?P<time>.*?))?\s*$"
)
_FORMAT = re.compile(r"^(?P<format>\d+)(?:x(?P<per_frame>\d+))?(?::(?P<skew>\d+))?(?:\+(?P<offset>\d+))?$")
_GAIN = re.compile(r"^(?P<gain>[-+]?[\d.]+(?:[eE][+-]?\d+)?)(?:\((?P<baseline>-?\d+)\))?(?:/(?P<units>\S+))?$")
_COMMENT = re.compile(r"^<?(?P<key>[^:<>]+?)>?\s*:\s*(?P<value>.*?)\s*$")

_DEFAULT_RATE = 250.0
_DEFAULT_GAIN = 200.0
_UNITS_IN_MV = {"mv": 1.0, "uv": 1e-3, "µv": 1e-3, "μv": 1e-3, "v": 1e3, "nv": 1e-6}

_BITS = {"80": 8, "508": 8, "310": 10, "311": 10, "212": 12, "16": 16, "61": 16, "160": 16, "516": 16}
_BITS |= {"24": 24, "524": 24, "32": 32}
"""Of one sample in each storage format (signal(5) of the WFDB manual)."""
_BYTES = {"8": 1.0} | {name: _BITS[name] / 8 for name in ("80", "16", "61", "160", "212", "24", "32")}
"""Of one sample in a file, in the formats of fixed size."""


def invalid_sample(name: str) -> int:
    """The digital value that stands for "no sample" in a storage format."""
    return -(2 ** (_BITS.get(name, 64) - 1))


class UnreadableRecord(EcgscaleError):
    """A WFDB record that cannot be read; it keeps its row, with an empty signal."""


@dataclass(frozen=True)
class Channel:
    """One signal line: adu = physical * gain + baseline. `per_mv` is adu per millivolt, None if not a voltage.

    `is_plain` says that samples follow each other without skew, one a frame.
    """

    file: str
    format: str
    byte_offset: int
    is_plain: bool
    baseline: int
    per_mv: float | None
    lead: str


@dataclass(frozen=True)
class Header:
    """One `.hea`: sampling rate in Hz, samples per channel (0 if not given), channels, comments without `#`."""

    stem: Path
    segments: int
    sampling_rate: float
    samples: int
    acquired_at: datetime | None
    channels: tuple[Channel, ...]
    comments: tuple[str, ...]

    @property
    def voltages(self) -> tuple[int, ...]:
        """Numbers of the channels that hold a voltage."""
        return tuple(i for i, channel in enumerate(self.channels) if channel.per_mv is not None)

    @property
    def leads(self) -> tuple[str, ...]:
        """Canonical names of the voltage channels."""
        return tuple(self.channels[i].lead for i in self.voltages)

    def signal_files(self, folder: str) -> dict[str, str]:
        """Names of its signal files, and their paths when it lies in `folder`."""
        names = (channel.file for channel in self.channels if channel.file not in NO_FILE)
        return {name: posixpath.join(folder, name) for name in names}

    def fits_int16(self) -> bool:
        """True if one resolution represents every voltage channel exactly in 16 bits, whatever the samples are."""
        channels = [self.channels[i] for i in self.voltages]
        resolutions = {channel.per_mv for channel in channels}
        return len(resolutions) == 1 and all(
            (channel.per_mv or 0) > 0 and _largest(channel.format) + abs(channel.baseline) < 2**15
            for channel in channels
        )

    def keyed(self) -> dict[str, str]:
        """`key: value` comments, keys as written but for `<>`: "Age", "Sex", "Dx", "Rhythm", "age", "sex" ..."""
        found = (_COMMENT.match(comment) for comment in self.comments)
        return {match["key"].strip(): match["value"] for match in found if match}


def _largest(name: str) -> int:
    """Magnitude that a valid sample of a storage format can have."""
    bits = _BITS.get(name, 32)
    return int(2 ** (bits - 1)) - (bits == 16)


def read_header(stem: Path, units_per_mv: float | None = None) -> Header:
    """Parse `stem`.hea; `UnreadableRecord` says what is wrong with it.

    With `units_per_mv`, every voltage channel has so many adu per millivolt and no baseline, whatever the header says.
    """
    try:
        text = stem.with_name(stem.name + HEADER).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UnreadableRecord(f"header cannot be read: {error.strerror or error}") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    comments = tuple(line.lstrip("#").strip() for line in lines if line.startswith("#"))
    lines = [line for line in lines if not line.startswith("#")]
    record = _RECORD_LINE.match(lines[0]) if lines else None
    if record is None:
        raise UnreadableRecord(f"no record line in the header, but {lines[0][:60]!r}" if lines else "empty header")
    segments = int(record["segments"] or 1)
    n_signals = int(record["signals"])
    if segments == 1 and len(lines) - 1 < n_signals:
        raise UnreadableRecord(f"header announces {n_signals} signals and describes {len(lines) - 1}")
    channels = [_channel(line) for line in lines[1 : 1 + n_signals]] if segments == 1 else []
    if units_per_mv is not None:
        channels = [c if c.per_mv is None else replace(c, baseline=0, per_mv=units_per_mv) for c in channels]
    return Header(
        stem=stem,
        segments=segments,
        sampling_rate=float(record["rate"]) if record["rate"] else _DEFAULT_RATE,
        samples=int(record["samples"] or 0),
        acquired_at=_moment(record["time"]),
        channels=tuple(channels),
        comments=comments,
    )


def _channel(line: str) -> Channel:
    parts = line.split(None, 8)
    kind = _FORMAT.match(parts[1]) if len(parts) > 1 else None
    if kind is None:
        raise UnreadableRecord(f"signal line {line[:60]!r} names no storage format")
    scale = _GAIN.match(parts[2]) if len(parts) > 2 else None
    gain = float(scale["gain"]) if scale else 0.0
    # header(5): a gain of 0 or none means uncalibrated, 200 adu per unit; no baseline means the ADC's zero.
    gain = gain or _DEFAULT_GAIN
    zero = int(parts[4]) if len(parts) > 4 and parts[4].lstrip("-").isdigit() else 0
    baseline = int(scale["baseline"]) if scale and scale["baseline"] is not None else zero
    in_mv = _UNITS_IN_MV.get((scale["units"] if scale and scale["units"] else "mV").lower())
    lead = canonical_lead(parts[8]) if len(parts) > 8 else ""
    return Channel(
        file=parts[0],
        format=kind["format"],
        byte_offset=int(kind["offset"] or 0),
        is_plain=(kind["per_frame"] or "1") == "1" and not int(kind["skew"] or 0),
        baseline=baseline,
        per_mv=None if in_mv is None else gain / in_mv,
        lead=lead,
    )


def _moment(text: str | None) -> datetime | None:
    """Base time and date, "12:33:59 12/05/2020", taken as UTC; None unless both are there in the WFDB form."""
    for form in ("%H:%M:%S %d/%m/%Y", "%H:%M:%S.%f %d/%m/%Y"):
        try:
            return datetime.strptime((text or "").strip(), form).replace(tzinfo=UTC)
        except ValueError:
            continue
    return None


_WAVES = {"p": "P", "N": "QRS", "t": "T"}


@dataclass(frozen=True)
class WfdbSignal:
    """(n_leads, n_samples) in the archive's sample type, and what 1 mV is in it.

    Samples that the source marks as missing are masked where the type is int16, and NaN where it is float32.
    """

    signal: NDArray[Any]
    leads: tuple[str, ...]
    units_per_mv: float


def read_signal(header: Header, kind: SignalType) -> WfdbSignal:
    """Read one record's voltage channels.

    int16: digital values less the baseline, untouched by floating point; needs `header.fits_int16()`.
    float32: millivolts. Raises `UnreadableRecord` with what went wrong.
    """
    if header.segments > 1:
        raise UnreadableRecord(f"{header.segments} segments; each is a record of its own in the same folder")
    used = header.voltages
    if not used:
        raise UnreadableRecord(f"none of {len(header.channels)} channels holds a voltage")
    digital_TL = _digital(header)[:, used]
    channels = [header.channels[i] for i in used]
    invalid = np.array([invalid_sample(channel.format) for channel in channels])
    missing_LT = np.ascontiguousarray((digital_TL == invalid).T)
    baseline = np.array([channel.baseline for channel in channels])
    per_mv = np.array([channel.per_mv for channel in channels], dtype=np.float64)
    levels_TL = digital_TL if not baseline.any() else digital_TL.astype(np.int64) - baseline
    if kind == "int16":
        signal = np.ascontiguousarray(levels_TL.T, dtype=np.int16)
        if missing_LT.any():
            signal = np.ma.MaskedArray(signal, missing_LT)
        return WfdbSignal(signal, header.leads, float(per_mv[0]))
    millivolts = (levels_TL / per_mv).T.astype(np.float32, order="C")
    millivolts[missing_LT] = np.nan
    return WfdbSignal(millivolts, header.leads, 1.0)


def _digital(header: Header) -> NDArray[Any]:
    """(n_samples, n_channels) digital values as stored."""
    plain = _plain_16_bit(header)
    if plain is not None:
        return plain
    import wfdb

    wide = any(channel.format in ("24", "32", "524") for channel in header.channels)
    try:
        record = wfdb.rdrecord(str(header.stem), physical=False, return_res=64 if wide else 16)
    # A damaged file makes wfdb raise nearly anything, and each of it means this record only.
    except Exception as error:
        raise UnreadableRecord(f"wfdb cannot read it: {str(error) or type(error).__name__}") from error
    digital = record.d_signal
    if digital is None or digital.shape[1] != len(header.channels):
        raise UnreadableRecord("wfdb finds no samples in it")
    return np.asarray(digital)


def _plain_16_bit(header: Header) -> NDArray[np.int16] | None:
    """Samples of the commonest layout, one file of interleaved 16-bit values; None if the record is another.

    PTB-XL, MIMIC-IV-ECG, LUDB and the CinC challenges are all of it. wfdb would take milliseconds a record to parse
    the header again, and refuses the Georgia headers whose record line names a `.mat` file.
    """
    first = header.channels[0]
    alike = {(channel.file, channel.format, channel.byte_offset, channel.is_plain) for channel in header.channels}
    if alike != {(first.file, "16", first.byte_offset, True)} or not header.samples:
        return None
    path = header.stem.with_name(first.file)
    expected = header.samples * len(header.channels)
    try:
        values = np.fromfile(path, dtype="<i2", offset=first.byte_offset, count=expected)
    except OSError as error:
        raise UnreadableRecord(f"{first.file}: {error.strerror or error}") from error
    if len(values) != expected:
        raise UnreadableRecord(
            f"{first.file} is cut short: {len(values)} of {expected} samples ({len(header.channels)} channels)"
        )
    return values.reshape(header.samples, len(header.channels)).astype(np.int16, copy=False)


def read_fiducials(stem: Path, extensions: Sequence[str]) -> list[dict[str, Any]]:
    """Waves of annotation files named after leads, as in LUDB (`1.ii`, `1.avr`): dicts of `FIDUCIAL_TYPE`.

    A wave is written `( peak )`; a bracket that is missing gives a null onset or offset, and a pair of brackets
    without a peak is no wave. Raises `UnreadableRecord` if a file is damaged.
    """
    import wfdb

    waves = []
    for extension in extensions:
        try:
            annotation = wfdb.rdann(str(stem), extension)
        except Exception as error:
            raise UnreadableRecord(f"annotations {stem.name}.{extension} cannot be read: {error}") from error
        marks = zip(annotation.sample.tolist(), annotation.symbol, strict=True)
        waves += _waves(canonical_lead(extension), list(marks))
    return waves


def _waves(lead: str, marks: list[tuple[int, str]]) -> list[dict[str, Any]]:
    waves: list[dict[str, Any]] = []
    onset: int | None = None
    is_open = False
    for sample, symbol in marks:
        if symbol == "(":
            onset, is_open = sample, False
        elif symbol in _WAVES:
            waves.append({"lead": lead, "wave": _WAVES[symbol], "onset": onset, "peak": sample, "offset": None})
            onset, is_open = None, True
        elif symbol == ")" and is_open:
            waves[-1]["offset"] = sample
            is_open = False
        elif symbol == ")":
            onset = None
    return waves


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
            named.update(map(posixpath.normpath, header.signal_files(posixpath.dirname(name)).values()))
    source.fetch(path for path in sorted(named) if not path.startswith(("../", "/")))


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
    if len(sizes) != 1 or not all(channel.is_plain for channel in channels):
        return 0
    [(kind, offset)] = sizes
    return offset + math.ceil(header.samples * len(channels) * _BYTES[kind]) if kind in _BYTES else 0
