"""ECGs as XML: RestingECG of GE MUSE, and HL7 annotated ECG (aECG). Entities are refused, by defusedxml."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from datetime import datetime
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
from ecgscale.leads import canonical_lead

Element = Any
"""Of xml.etree, as defusedxml gives it."""


def _parsed(path: Path) -> Element:
    """The root, with names without their namespaces."""
    tree, refused = library("defusedxml.ElementTree"), library("defusedxml")
    try:
        root = tree.fromstring(path.read_bytes())
    except refused.DefusedXmlException as error:
        raise NotUnderstood(
            f"XML with entities or references to other files ({type(error).__name__}); refused"
        ) from error
    except tree.ParseError as error:
        raise NotUnderstood(f"it is not whole XML: {error}") from error
    for element in root.iter():
        if isinstance(element.tag, str):
            element.tag = element.tag.rpartition("}")[2]
    return root


def _text(element: Element, path: str) -> str:
    found = element.find(path)
    return (found.text or "").strip() if found is not None else ""


# MUSE


def read_muse(path: Path) -> Recorded:
    """The rhythm waveform of a RestingECG; III and the augmented leads are not in such files, and follow from I, II."""
    root = _parsed(path)
    if root.tag != "RestingECG":
        raise NotUnderstood(f"XML of {root.tag}")
    rhythms = [one for one in root.iter("Waveform") if _text(one, "WaveformType").lower() == "rhythm"]
    if len(rhythms) != 1:
        raise NotUnderstood(f"{len(rhythms)} waveforms of type Rhythm; one is expected")
    [rhythm] = rhythms
    exponent = whole(_text(rhythm, "SampleExponent") or 0, "SampleExponent")
    if abs(exponent) > 6:
        raise NotUnderstood(f"SampleExponent is {exponent}")
    rate = exactly(_text(rhythm, "SampleBase"), "SampleBase") * Fraction(10) ** exponent
    told: list[str] = []
    begins: set[str] = set()
    leads, levels, resolutions = [], [], []
    for data in rhythm.iter("LeadData"):
        lead = canonical_lead(_text(data, "LeadID"))
        if not lead:
            raise NotUnderstood("LeadData without a LeadID")
        leads.append(lead)
        levels.append(_muse_samples(data, lead, told))
        unit = microvolts_of(_text(data, "LeadAmplitudeUnits"))
        if unit is None:
            raise NotUnderstood(
                f"LeadAmplitudeUnits of lead {lead} is {_text(data, 'LeadAmplitudeUnits')!r}, no voltage"
            )
        resolutions.append(unit * exactly(_text(data, "LeadAmplitudeUnitsPerBit"), "LeadAmplitudeUnitsPerBit"))
        begins.add(_text(data, "LeadTimeOffset") or "0")
        if _text(data, "LeadOff").upper() == "TRUE":
            told.append(f"the device says that lead {lead} was off")
    if len(begins) > 1:
        raise NotUnderstood("leads that were not recorded at the same time")
    acquired = _muse_time(
        _text(root, "TestDemographics/AcquisitionDate"), _text(root, "TestDemographics/AcquisitionTime")
    )
    people = root.find("PatientDemographics")
    person = people if people is not None else root
    born = _muse_time(_text(person, "DateofBirth"), "")
    years = _text(person, "PatientAge") if _text(person, "AgeUnits").upper() in ("YEARS", "") else ""
    found = Recorded(
        "muse",
        tuple(leads),
        _together(leads, levels),
        tuple(resolutions),
        float(rate),
        patient_id=_text(person, "PatientID") or None,
        acquired_at=acquired,
        sex=sex_of(_text(person, "Gender")),
        device=_text(root, "TestDemographics/AcquisitionDevice") or None,
        told=tuple(told),
    )
    return made(
        found, born=born.date() if born else None, age=float(years) if re.fullmatch(r"\d{1,3}", years) else None
    )


def _muse_samples(data: Element, lead: str, told: list[str]) -> NDArray[np.int64]:
    size = whole(_text(data, "LeadSampleSize") or 2, "LeadSampleSize")
    if size != 2:
        raise NotUnderstood(f"samples of {size} bytes, which are not read")
    try:
        payload = base64.b64decode("".join(_text(data, "WaveFormData").split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise NotUnderstood(f"the samples of lead {lead} are not base64: {error}") from error
    expected = whole(_text(data, "LeadSampleCountTotal"), "LeadSampleCountTotal")
    if len(payload) != 2 * expected or not expected:
        raise NotUnderstood(f"lead {lead} has {len(payload) / 2:,.0f} of {expected:,} samples")
    said = _text(data, "LeadDataCRC32")
    if said and said != str(zlib.crc32(payload)):
        told.append(f"the checksum of lead {lead} is not that of its samples")
    # FirstSampleBaseline belongs to difference coding, which this format does not use any more.
    if whole(_text(data, "FirstSampleBaseline") or 0, "FirstSampleBaseline"):
        raise NotUnderstood(f"lead {lead} has a FirstSampleBaseline, which is not understood")
    return np.frombuffer(payload, dtype="<i2").astype(np.int64)


def _muse_time(day: str, time: str) -> datetime | None:
    """ "01-13-2018" and "17:13:27"; None for dates that are not written so."""
    date_ = re.fullmatch(r"(\d{1,2})[-/](\d{1,2})[-/](\d{4})", day)
    clock = re.fullmatch(r"(\d{1,2}):(\d{2})(?::(\d{2}))?", time)
    if date_ is None:
        return None
    month, day_, year = map(int, date_.groups())
    return (
        moment(year, month, day_, *(int(part or 0) for part in clock.groups())) if clock else moment(year, month, day_)
    )


def _together(leads: list[str], levels: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    lengths = {len(one) for one in levels}
    if len(lengths) > 1:
        raise NotUnderstood(
            "leads of different lengths: "
            + ", ".join(f"{n} {len(one):,}" for n, one in zip(leads, levels, strict=True))
        )
    return np.array(levels, dtype=np.int64).reshape(len(leads), -1)


# HL7 aECG


def read_aecg(path: Path) -> Recorded:
    """The first rhythm series of an AnnotatedECG: origin + scale × digit, in the units that stand there."""
    root = _parsed(path)
    if root.tag != "AnnotatedECG":
        raise NotUnderstood(f"XML of {root.tag}")
    # Averages are derived series, one level below.
    series = [one for one in root.findall("component/series") if one.find("component/sequenceSet") is not None]
    rhythms = [one for one in series if _code(one) in ("RHYTHM", "")]
    if not rhythms:
        raise NotUnderstood(f"no series of code RHYTHM; there are {', '.join(map(_code, series)) or 'none'}")
    sets = rhythms[0].findall("component/sequenceSet")
    told = [
        f"{n} {what}; the first one is taken"
        for n, what in ((len(rhythms), "rhythm series"), (len(sets), "sequence sets"))
        if n > 1
    ]
    rate, started, leads, levels, resolutions = None, None, [], [], []
    for sequence in sets[0].findall("component/sequence"):
        code, value = _code(sequence), sequence.find("value")
        if value is None:
            raise NotUnderstood(f"sequence {code} has no value")
        if code in ("TIME_ABSOLUTE", "TIME_RELATIVE"):
            rate, started = _increment(value), _hl7_time(_attribute(value, "head", "value"))
            continue
        if not code.startswith("MDC_ECG_LEAD_"):
            told.append(f"sequence {code or 'without a code'} is no lead; left out")
            continue
        lead = canonical_lead(code)
        digits, scale = _digits(value, lead)
        leads.append(lead)
        levels.append(digits)
        resolutions.append(scale)
    if rate is None:
        raise NotUnderstood("no sequence of times, so the sampling rate is not known")
    acquired = _hl7_time(_attribute(rhythms[0], "effectiveTime/low", "value")) or started
    acquired = acquired or _hl7_time(_attribute(root, "effectiveTime/low", "value"))
    subject = next(root.iter("trialSubject"), None)
    person = next(root.iter("subjectDemographicPerson"), None)
    born = _hl7_time(_attribute(person, "birthTime", "value")) if person is not None else None
    found = Recorded(
        "aecg",
        tuple(leads),
        _together(leads, levels),
        tuple(resolutions),
        float(1 / rate),
        patient_id=(_attribute(subject, "id", "extension") or None) if subject is not None else None,
        acquired_at=acquired,
        sex=sex_of(_attribute(person, "administrativeGenderCode", "code")) if person is not None else None,
        device=_text(rhythms[0], "author/seriesAuthor/manufacturedSeriesDevice/manufacturerModelName") or None,
        told=tuple(told),
    )
    return made(found, born=born.date() if born else None)


def _code(element: Element) -> str:
    return _attribute(element, "code", "code")


def _attribute(element: Element, path: str, name: str) -> str:
    found = element.find(path)
    return (found.get(name) or "").strip() if found is not None else ""


def _increment(value: Element) -> Fraction:
    """Seconds from a sample to the next."""
    unit = {"s": Fraction(1), "ms": Fraction(1, 1000), "us": Fraction(1, 1_000_000)}.get(
        _attribute(value, "increment", "unit")
    )
    if unit is None:
        raise NotUnderstood(f"the times are in {_attribute(value, 'increment', 'unit') or 'no unit'}")
    step = unit * exactly(_attribute(value, "increment", "value"), "the increment of time")
    if step <= 0:
        raise NotUnderstood(f"an increment of time of {float(step):g} s")
    return step


def _digits(value: Element, lead: str) -> tuple[NDArray[np.int64], Fraction]:
    """Levels of one lead, and what a level is in microvolts."""
    units = {what: microvolts_of(_attribute(value, what, "unit")) for what in ("origin", "scale")}
    origin = exactly(_attribute(value, "origin", "value"), f"the origin of lead {lead}")
    if units["scale"] is None or (origin and units["origin"] is None):
        raise NotUnderstood(f"lead {lead} is in {_attribute(value, 'scale', 'unit') or 'no unit'}, no voltage")
    scale = units["scale"] * exactly(_attribute(value, "scale", "value"), f"the scale of lead {lead}")
    if scale <= 0:
        raise NotUnderstood(f"lead {lead} has a scale of {float(scale):g} µV")
    zero = origin * (units["origin"] or 1) / scale
    text = _text(value, "digits").split()
    if not text:
        raise NotUnderstood(f"lead {lead} has no digits")
    odd = next((one for one in text if not re.fullmatch(r"[+-]?\d{1,9}", one)), None)
    if odd is not None:
        raise NotUnderstood(f"lead {lead} has the digits {odd[:20]!r}, which are no whole number")
    return from_zero(np.array(text, dtype=np.int64), scale, zero, f"lead {lead}")


def _hl7_time(text: str) -> datetime | None:
    """ "20021122091000.000-0500"; without a zone it is taken as UTC."""
    match = re.fullmatch(r"(\d{4})(\d{2})?(\d{2})?(\d{2})?(\d{2})?(\d{2})?(?:\.\d+)?([+-]\d{4})?", text)
    if match is None or not match[3]:
        return None
    return at_zone(moment(*(int(part or 0) for part in match.groups()[:6])), match[7])
