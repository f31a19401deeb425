"""The samples and the annotated waves of one WFDB record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.schema import SignalType
from ecgscale.archive.wfdb_header import INVALID_SAMPLE, Header, UnreadableRecord
from ecgscale.leads import canonical_lead

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
