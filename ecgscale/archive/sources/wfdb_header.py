"""WFDB headers, read leniently: what a first pass over a large folder needs, and what odd headers still tell.

`wfdb` reads the samples; this reads the `.hea` text alone, quickly, and takes headers that `wfdb` refuses, such as
record lines that name `E00001.mat` instead of `E00001`. Format: header(5) of the WFDB manual.

The samples and the annotated waves of one WFDB record.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.schema import SignalType
from ecgscale.errors import EcgscaleError
from ecgscale.leads import canonical_lead

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

# Largest magnitude that a sample of each storage format can have.
_FORMAT_LIMIT = {"80": 2**7, "508": 2**7, "310": 2**9, "311": 2**9, "212": 2**11}
_FORMAT_LIMIT |= {"16": 2**15 - 1, "61": 2**15 - 1, "160": 2**15 - 1, "516": 2**15 - 1}

INVALID_SAMPLE = {"16": -(2**15), "61": -(2**15), "160": -(2**15), "516": -(2**15), "80": -(2**7), "508": -(2**7)}
"""The digital value that stands for "no sample" in each format (signal(5) of the WFDB manual)."""
INVALID_SAMPLE |= {"212": -(2**11), "310": -(2**9), "311": -(2**9), "24": -(2**23), "524": -(2**23), "32": -(2**31)}


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
    """One `.hea`: sampling rate in Hz, samples per channel (0 if not told), channels, comments without `#`."""

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

    def fits_int16(self) -> bool:
        """True if one resolution represents every voltage channel exactly in 16 bits, whatever the samples are."""
        channels = [self.channels[i] for i in self.voltages]
        resolutions = {channel.per_mv for channel in channels}
        return len(resolutions) == 1 and all(
            (channel.per_mv or 0) > 0 and _FORMAT_LIMIT.get(channel.format, 2**31) + abs(channel.baseline) < 2**15
            for channel in channels
        )

    def rescaled(self, units_per_mv: float) -> Header:
        """The same header with `units_per_mv` adu per millivolt and no baseline in every voltage channel."""
        channels = (
            channel if channel.per_mv is None else replace(channel, baseline=0, per_mv=units_per_mv)
            for channel in self.channels
        )
        return replace(self, channels=tuple(channels))

    def told(self) -> dict[str, str]:
        """`key: value` comments, keys as written but for `<>`: "Age", "Sex", "Dx", "Rhythm", "age", "sex" ..."""
        found = (_COMMENT.match(comment) for comment in self.comments)
        return {match["key"].strip(): match["value"] for match in found if match}


def read_header(stem: Path) -> Header:
    """Parse `stem`.hea; `UnreadableRecord` says what is wrong with it."""
    try:
        text = stem.with_name(stem.name + ".hea").read_text(encoding="utf-8", errors="replace")
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
    return Header(
        stem=stem,
        segments=segments,
        sampling_rate=float(record["rate"]) if record["rate"] else _DEFAULT_RATE,
        samples=int(record["samples"] or 0),
        acquired_at=_moment(record["time"]),
        channels=tuple(_channel(line) for line in lines[1 : 1 + n_signals]) if segments == 1 else (),
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
    invalid = np.array([INVALID_SAMPLE.get(channel.format, np.iinfo(np.int64).min) for channel in channels])
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


def read_fiducials(stem: Path, extensions: tuple[str, ...]) -> list[dict[str, Any]]:
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
