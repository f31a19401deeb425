"""Samples of one WFDB record, held to what its header says of them: first values and checksums; scaled to millivolts.

A record of an ordinary length is read at once. Recordings of a day stay in their files until somebody asks. Annotated
waves, P, QRS and T, come from annotation files that are named after leads.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.schema import SignalType
from ecgscale.archive.sources.wfdb_header import Channel, Header, UnreadableRecord, invalid_sample
from ecgscale.archive.sources.wfdb_storage import WHOLE, SignalFile, files_of
from ecgscale.leads import canonical_lead

LONG = 2**26
"""Samples of a record, of all channels, that are not held at once: half an hour of 12 leads has a third of that."""
STRETCH = 2**22
_WAVES = {"p": "P", "N": "QRS", "t": "T"}
_MOST_ANNOTATED = 2**24


@dataclass(frozen=True)
class WfdbSignal:
    """(n_leads, n_samples) in the archive's sample type, and what 1 mV is in it.

    Samples that the source marks as missing are masked where the type is int16, and NaN where it is float32.
    Samples of a day stay in their files until they are asked for, a stretch at a time.
    told: what is odd about the files, though the samples are what the header says
    """

    signal: NDArray[Any] | LongSignal
    leads: tuple[str, ...]
    units_per_mv: float
    told: str = ""


def read_signal(header: Header, kind: SignalType) -> WfdbSignal:
    """Read one record's voltage channels.

    int16: digital values less the baseline, untouched by floating point; needs `header.fits_int16()`.
    float32: millivolts. Raises `UnreadableRecord`, and no other error, with what went wrong.
    """
    try:
        return _read_signal(header, kind)
    except UnreadableRecord:
        raise
    except OSError as error:
        raise UnreadableRecord(f"{error.filename or 'its samples'}: {error.strerror or error}") from error
    # A damaged file makes readers raise nearly anything, and each of it means this record only.
    except Exception as error:
        raise UnreadableRecord(f"samples cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _read_signal(header: Header, kind: SignalType) -> WfdbSignal:
    if header.segments:
        names = ", ".join([*header.segments[:3], *(["..."] if len(header.segments) > 3 else [])])
        said = f"a list of {len(header.segments)} segments ({names})"
        raise UnreadableRecord(f"{said}, each of which is a record of its own where it is in the folder")
    used = header.voltages
    if not used:
        units = ", ".join(dict.fromkeys(repr(channel.units)[1:-1] for channel in header.channels)) or "no units"
        raise UnreadableRecord(f"none of {len(header.channels)} channels holds a voltage ({units})")
    files = files_of(header)
    if sum(file.frames * file.width for file in files) > LONG and all(file.can_stretch for file in files):
        told = _told(files, _check(header, *_sums_of(header, files)))
        long = LongSignal(header, tuple(files), kind)
        return WfdbSignal(long, header.leads, long.units_per_mv, told)
    digital = _columns(header, files)
    told = _told(files, _check(header, [int(values[0]) for values in digital], list(map(_sum, digital))))
    columns = [_without_skew(digital[i], header.channels[i]) for i in used]
    if len({len(column) for column in columns}) > 1:
        raise UnreadableRecord("its signal files hold different numbers of samples")
    digital_TL = np.stack(columns, axis=1)
    return WfdbSignal(_scaled(header, digital_TL, kind), header.leads, _units_per_mv(header, kind), told)


@dataclass(frozen=True)
class LongSignal:
    """Samples [start, stop) of a recording of a day: (n_leads, n_samples), which are read when they are asked for."""

    header: Header
    files: tuple[SignalFile, ...]
    kind: SignalType
    start: int = 0
    end: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(n_leads, n_samples)"""
        stop = self.files[0].frames * self.header.per_frame if self.end is None else self.end
        return len(self.header.voltages), stop - self.start

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of what `read` gives."""
        return np.dtype(self.kind)

    @property
    def units_per_mv(self) -> float:
        """What 1 mV is in the samples."""
        return _units_per_mv(self.header, self.kind)

    def __getitem__(self, where: tuple[slice, slice]) -> LongSignal:
        """`[:, start:stop]`, still in the files."""
        start, stop, _ = where[1].indices(self.shape[1])
        return replace(self, start=self.start + start, end=self.start + max(start, stop))

    def read(self) -> NDArray[Any]:
        """These samples, masked or NaN where missing; an OSError or ValueError if the files have changed meanwhile."""
        signal, missing = np.empty(self.shape, self.dtype), None
        per_frame, stop = self.header.per_frame, self.start + self.shape[1]
        for first, last in _stretches(self.files, self.start // per_frame, -(-stop // per_frame)):
            digital = _columns(self.header, self.files, first, last)
            begins = max(first * per_frame, self.start)
            ends = min(last * per_frame, stop)
            taken = slice(begins - first * per_frame, ends - first * per_frame)
            digital_TL = np.stack([digital[i][taken] for i in self.header.voltages], axis=1)
            part, here = _scaled(self.header, digital_TL, self.kind), slice(begins - self.start, ends - self.start)
            signal[:, here] = np.ma.getdata(part)
            if np.ma.isMaskedArray(part):
                missing = np.zeros(self.shape, bool) if missing is None else missing
                missing[:, here] = np.ma.getmaskarray(part)
        return signal if missing is None else np.ma.MaskedArray(signal, missing)


def _stretches(files: Sequence[SignalFile], first: int, last: int) -> Iterator[tuple[int, int]]:
    """Frames [first, last) a few MiB at a time, each from where a whole block of a file begins."""
    step = max(WHOLE * (STRETCH // max(sum(file.width for file in files), 1) // WHOLE), WHOLE)
    for start in range(first // WHOLE * WHOLE, last, step):
        yield start, min(start + step, last)


def _columns(
    header: Header, files: Sequence[SignalFile], first: int = 0, last: int | None = None
) -> list[NDArray[Any]]:
    """Digital values of all channels, in frames [first, last)."""
    digital = [np.empty(0)] * len(header.channels)
    for file in files:
        for i, values in zip(file.numbers, file.read(first, last), strict=True):
            digital[i] = values
    return digital


def _sums_of(header: Header, files: Sequence[SignalFile]) -> tuple[list[int], list[int]]:
    """The first value and the sum of each channel of a long recording."""
    firsts, sums = [0] * len(header.channels), [0] * len(header.channels)
    for first, last in _stretches(files, 0, files[0].frames):
        for i, values in enumerate(_columns(header, files, first, last)):
            sums[i] += _sum(values)
            firsts[i] = firsts[i] if first else int(values[0])
    return firsts, sums


def _sum(values: NDArray[Any]) -> int:
    return int(np.sum(values, dtype=np.int64))


def _told(files: Sequence[SignalFile], has_checks: bool) -> str:
    return "; ".join(said for file in files for said in file.surplus(has_checks))


def _units_per_mv(header: Header, kind: SignalType) -> float:
    per_mv = header.channels[header.voltages[0]].per_mv
    return per_mv if kind == "int16" and per_mv is not None else 1.0


def _scaled(header: Header, digital_TL: NDArray[Any], kind: SignalType) -> NDArray[Any]:
    channels = [header.channels[i] for i in header.voltages]
    invalid = np.array([invalid_sample(channel.format) for channel in channels])
    missing_LT = np.ascontiguousarray((digital_TL == invalid).T)
    baseline = np.array([channel.baseline for channel in channels])
    per_mv = np.array([channel.per_mv for channel in channels], dtype=np.float64)
    levels_TL = digital_TL if not baseline.any() else digital_TL.astype(np.int64) - baseline
    if kind == "int16":
        signal = np.ascontiguousarray(levels_TL.T, dtype=np.int16)
        if missing_LT.any():
            signal = np.ma.MaskedArray(signal, missing_LT)
        return signal
    millivolts = (levels_TL / per_mv).T.astype(np.float32, order="C")
    millivolts[missing_LT] = np.nan
    return millivolts


def _without_skew(values: NDArray[Any], channel: Channel) -> NDArray[Any]:
    """Samples at their own times; those that were not recorded any more are missing."""
    shift = min(channel.skew * channel.per_frame, len(values))
    if not shift:
        return values
    rest = np.full(shift, invalid_sample(channel.format))
    return np.concatenate([values[shift:], rest])


def _check(header: Header, firsts: Sequence[int], sums: Sequence[int]) -> bool:
    """Hold the first value and the sum of each channel to those of the header; True if it gives checksums.

    Many programs write 0 for what they did not compute, so that a 0 says nothing.
    """
    wrong = []
    for channel, first, found in zip(header.channels, firsts, sums, strict=True):
        lead = channel.lead or "unnamed"
        # In first differences it is what the first sample is counted from.
        if channel.first and channel.format != "8" and first != channel.first:
            wrong.append(f"{lead} begins with {first}, not {channel.first}")
        elif channel.checksum and (found - channel.checksum) % 2**16:
            wrong.append(f"{lead} has the checksum {(found + 2**15) % 2**16 - 2**15}, not {channel.checksum}")
    if wrong:
        more = f" (and {len(wrong) - 2} more)" if len(wrong) > 2 else ""
        raise UnreadableRecord(f"its samples are not those that its header describes: {', '.join(wrong[:2])}{more}")
    return any(channel.checksum for channel in header.channels)


def read_fiducials(header: Header, extensions: Sequence[str], samples: int) -> list[dict[str, Any]]:
    """Waves of annotation files named after leads, as in LUDB (`1.ii`, `1.avr`): dicts of `FIDUCIAL_TYPE`.

    A wave is written `( peak )`; a bracket that is missing gives a null onset or offset, and a pair of brackets
    without a peak is no wave. Raises `UnreadableRecord`, and no other error, if a file is damaged, or marks something
    outside of the record's `samples` (0: nothing is known of those).
    """
    waves = []
    for extension in extensions:
        name = f"{header.stem.name}.{extension}"
        try:
            marks = _marks(header, extension)
        except UnreadableRecord:
            raise
        # One record never ends a run, and what the reader of a damaged file raises is nearly anything.
        except Exception as error:
            raise UnreadableRecord(f"annotations {name} cannot be read: {str(error)[:200]}") from error
        outside = [sample for sample, _ in marks if not 0 <= sample < (samples or 2**31)]
        if outside:
            raise UnreadableRecord(f"annotations {name} mark sample {outside[0]}, which the record does not have")
        waves += _waves(canonical_lead(extension), marks)
    return waves


def _marks(header: Header, extension: str) -> list[tuple[int, str]]:
    """Samples, counted at the rate of the record's leads, and symbols."""
    import wfdb

    path = header.stem.with_name(f"{header.stem.name}.{extension}")
    size = path.stat().st_size
    if size > _MOST_ANNOTATED or size % 2:
        raise UnreadableRecord(f"annotations {path.name} have {size:,} bytes, and no annotation file has that many")
    with tempfile.TemporaryDirectory(prefix="ecgscale-waves-") as alone:
        # Beside its header, wfdb reads that again for every file of annotations, which takes ten times as long.
        os.symlink(path.resolve(), Path(alone) / path.name)
        annotation = wfdb.rdann(str(Path(alone) / header.stem.name), extension)
    # Where a frame has several samples, annotations are counted in frames.
    factor = header.sampling_rate / (annotation.fs or header.frame_rate)
    samples = annotation.sample.tolist()
    if factor != 1:
        samples = [round(sample * factor) for sample in samples]
    return list(zip(samples, annotation.symbol, strict=True))


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
