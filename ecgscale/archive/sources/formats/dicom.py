"""DICOM waveform objects (12-lead, general, ambulatory ECG), read by pydicom."""

from __future__ import annotations

import re
import warnings
from datetime import date, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.schema import sex_of
from ecgscale.archive.sources.formats.recording import (
    NotUnderstood,
    Recorded,
    at_zone,
    exactly,
    from_zero,
    library,
    made,
    microvolts_of,
    moment,
    whole,
)
from ecgscale.leads import CANONICAL_LEADS, canonical_lead

_DEFLATED = "1.2.840.10008.1.2.1.99"
_BIG_ENDIAN = "1.2.840.10008.1.2.2"
_TYPES = {(8, "SB"): "i1", (8, "UB"): "u1", (16, "SS"): "i2", (16, "US"): "u2", (32, "SL"): "i4", (32, "UL"): "u4"}
"""Bits and interpretation → how a sample is stored. µ-law and A-law are audio."""
_NUMBERED = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"} | {2 + i: f"V{i}" for i in range(1, 7)}
"""Of the codes "2:N" of MDC and "5.6.3-9-N" of SCP-ECG."""
_YEARS = {"D": Fraction(1, 365), "W": Fraction(7, 365), "M": Fraction(1, 12), "Y": Fraction(1)}


def read_dicom(path: Path) -> Recorded:
    """The original waveform of an object: (sample × sensitivity × correction + baseline), as the standard has it."""
    pydicom = library("pydicom")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that break the standard; those that are needed are checked here
        syntax = str(getattr(pydicom.filereader.read_file_meta_info(path), "TransferSyntaxUID", ""))
        if syntax == _DEFLATED:
            # It would be inflated in one go, to whatever size.
            raise NotUnderstood("a deflated transfer syntax; store it with another one (dcmconv +te)")
        dataset = pydicom.dcmread(path)
        return _recorded(dataset, ">" if syntax == _BIG_ENDIAN else "<")


def _recorded(dataset: Any, order: str) -> Recorded:
    groups = list(dataset.get("WaveformSequence") or [])
    if not groups:
        raise NotUnderstood(f"a DICOM object without a waveform ({dataset.get('Modality', 'no modality')})")
    originals = [one for one in groups if one.get("WaveformOriginality", "ORIGINAL") == "ORIGINAL"]
    if not originals:
        raise NotUnderstood("derived waveforms only (averages), none that was recorded")
    group = max(originals, key=_size)  # the first of equals
    told: list[str] = []
    if len(originals) > 1:
        told.append(f"{len(originals)} recorded waveforms; the longest one is taken, with the most leads")
    channels = list(group.get("ChannelDefinitionSequence") or [])
    stored = _samples(group, len(channels), order)
    rate = exactly(group.get("SamplingFrequency"), "the sampling frequency")
    padding = group.get("WaveformPaddingValue")
    missing = None if padding is None else stored == _padding(padding, stored.dtype)
    leads, levels, resolutions, kept = [], [], [], []
    for number, channel in enumerate(channels):
        lead = _lead(channel, told)
        unit = _unit(channel)
        if unit is None:
            told.append(f"channel {lead or number + 1} holds no voltage; left out")
            continue
        if not lead:
            raise NotUnderstood(f"channel {number + 1} does not say which lead it is")
        if channel.get("ChannelSensitivity") is None:
            raise NotUnderstood(f"lead {lead} has no channel sensitivity, so its millivolts are not known")
        sensitivity = unit * exactly(channel.ChannelSensitivity, "the channel sensitivity")
        correction = channel.get("ChannelSensitivityCorrectionFactor")
        sensitivity *= 1 if correction is None else exactly(correction, "the correction factor")
        baseline = unit * exactly(channel.get("ChannelBaseline") or 0, "the channel baseline")
        if sensitivity <= 0:
            raise NotUnderstood(f"lead {lead} has a sensitivity of {float(sensitivity):g} µV")
        samples, resolution = from_zero(
            stored[number].astype(np.int64), sensitivity, baseline / sensitivity, f"lead {lead}"
        )
        leads.append(lead)
        levels.append(samples)
        resolutions.append(resolution)
        kept.append(number)
    acquired = _acquired(dataset)
    found = Recorded(
        "dicom",
        tuple(leads),
        np.array(levels, dtype=np.int64).reshape(len(leads), -1),
        tuple(resolutions),
        float(rate),
        missing=missing[kept] if missing is not None and missing[kept].any() else None,
        patient_id=str(dataset.get("PatientID") or "").strip() or None,
        acquired_at=acquired,
        sex=sex_of(dataset.get("PatientSex")),
        device=" ".join(filter(None, (_text(dataset, "Manufacturer"), _text(dataset, "ManufacturerModelName"))))
        or None,
        told=tuple(told),
    )
    return made(found, born=_date(_text(dataset, "PatientBirthDate")), age=_age(_text(dataset, "PatientAge")))


def _size(group: Any) -> tuple[int, int]:
    samples = whole(group.get("NumberOfWaveformSamples", 0), "the number of samples")
    channels = whole(group.get("NumberOfWaveformChannels", 0), "the number of channels")
    return samples * channels, channels


def _samples(group: Any, defined: int, order: str) -> NDArray[Any]:
    """(channels, samples) as stored."""
    samples = whole(group.get("NumberOfWaveformSamples"), "the number of samples")
    channels = whole(group.get("NumberOfWaveformChannels"), "the number of channels")
    if channels != defined:
        raise NotUnderstood(f"{channels} channels, and definitions of {defined}")
    bits, interpretation = group.get("WaveformBitsAllocated"), group.get("WaveformSampleInterpretation")
    kind = _TYPES.get((bits, interpretation))
    if kind is None:
        raise NotUnderstood(f"samples of {bits} bits, interpretation {interpretation}, which are not read")
    data = group.get("WaveformData") or b""
    expected = samples * channels * np.dtype(kind).itemsize
    if not samples or len(data) not in (expected, expected + expected % 2):
        raise NotUnderstood(f"{len(data):,} of {expected:,} bytes of samples ({channels} channels × {samples:,})")
    return np.frombuffer(data[:expected], dtype=f"{order}{kind}").reshape(samples, channels).T


def _padding(value: Any, kind: np.dtype[Any]) -> Any:
    """The value that stands where there is none; pydicom gives bytes or a number."""
    return np.frombuffer(value[: kind.itemsize], dtype=kind)[0] if isinstance(value, bytes) else kind.type(int(value))


def _lead(channel: Any, told: list[str]) -> str:
    """The lead by what its code means, else by the code, else by the channel's label."""
    source = (channel.get("ChannelSourceSequence") or [{}])[0]
    code = str(source.get("CodeValue") or "")
    numbered = re.fullmatch(r"(?:2:|5\.6\.3-9-)(\d{1,3})", code)
    by_code = _NUMBERED.get(int(numbered[1]), "") if numbered else canonical_lead(code)
    # "Lead I (Einthoven)", "Lead aVR, augmented": the meaning with its explanation
    texts = [re.split(r"[(,]", str(text or ""))[0] for text in (source.get("CodeMeaning"), channel.get("ChannelLabel"))]
    meaning, label = map(canonical_lead, texts)
    if len({name for name in (meaning, by_code) if name in CANONICAL_LEADS}) > 1:
        told.append(f"lead {meaning} has the code of {by_code}; taken by its meaning")
    names = (meaning, by_code, label)
    known = [name for name in names if name in CANONICAL_LEADS]
    return next((name for name in (*known, *names) if name), "")


def _unit(channel: Any) -> Fraction | None:
    units = channel.get("ChannelSensitivityUnitsSequence") or []
    if not units:
        raise NotUnderstood("a channel has no units, so its millivolts are not known")
    return microvolts_of(str(units[0].get("CodeValue") or ""))


def _text(dataset: Any, name: str) -> str:
    return str(dataset.get(name) or "").strip()


def _date(text: str) -> date | None:
    try:
        return datetime.strptime(text, "%Y%m%d").date() if text else None
    except ValueError:
        return None


def _acquired(dataset: Any) -> datetime | None:
    """When it was recorded; a time without a zone is taken as UTC."""
    text = _text(dataset, "AcquisitionDateTime")
    for name in ("Acquisition", "Content", "Study"):
        text = text or (_text(dataset, f"{name}Date") and _text(dataset, f"{name}Date") + _text(dataset, f"{name}Time"))
    match = re.fullmatch(r"(\d{4})(\d{2})(\d{2})(\d{2})?(\d{2})?(\d{2})?(?:\.\d+)?([+-]\d{4})?", text)
    if match is None:
        return None
    return at_zone(
        moment(*(int(part or 0) for part in match.groups()[:6])), match[7] or _text(dataset, "TimezoneOffsetFromUTC")
    )


def _age(text: str) -> float | None:
    """Completed years of "065Y", "018M", "003W", "010D"."""
    match = re.fullmatch(r"(\d{1,3})([DWMY])", text)
    return float(int(match[1]) * _YEARS[match[2]] // 1) if match else None
