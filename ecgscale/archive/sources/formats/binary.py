"""EDF and EDF+, read by edfio; SCP-ECG (EN 1064), by ecgdatakit; and ISHNE Holter files, whose header is short.

Where a library warns and goes on, with a scale of 1 or without a check, the file is refused here.
"""

from __future__ import annotations

import binascii
import re
import struct
import warnings
from collections import Counter
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from ecgscale.archive.schema import sex_of
from ecgscale.archive.sources.formats.recording import (
    NotUnderstood,
    Recorded,
    exactly,
    from_zero,
    library,
    made,
    microvolts_of,
    moment,
    whole,
)
from ecgscale.leads import CANONICAL_LEADS, canonical_lead
from ecgscale.words import counted

# EDF


_EDF_PLUS = re.compile(r"\S+ [MFX] (X|\d\d-[A-Z]{3}-\d{4}) \S")
"""How EDF+ says who it is: code, sex, date of birth, name; plain EDF is often written so as well."""


def read_edf(path: Path) -> Recorded:
    """The ECG leads of an EDF file; of signals of several rates, those of the rate that most leads have."""
    edfio = library("edfio")
    _check_edf_size(path)
    edf = edfio.read_edf(path, lazy_load_data=True, header_encoding="latin-1")
    # Elsewhere this field is free text, and often a name.
    plus = _EDF_PLUS.match(edf.local_patient_identification) is not None
    if edf.reserved.startswith("EDF+D"):
        raise NotUnderstood("a recording with gaps (EDF+D)")
    told: list[str] = []
    signals = _edf_leads(edf.signals, told)
    levels, resolutions = [], []
    for lead, signal in signals:
        low, high = signal.digital_min, signal.digital_max
        unit = microvolts_of(signal.physical_dimension) or Fraction(0)
        first = unit * exactly(signal.physical_min, f"the physical minimum of lead {lead}")
        span = unit * exactly(signal.physical_max, f"the physical maximum of lead {lead}") - first
        if high <= low or not span:
            raise NotUnderstood(f"lead {lead} goes from {low} to {high}, {float(span):g} µV: no resolution follows")
        # Some write the maximum first: then the signal stands on its head in the file.
        sign, resolution = (1, span / (high - low)) if span > 0 else (-1, -span / (high - low))
        zero = first / resolution - sign * low
        samples, resolution = from_zero(
            sign * np.asarray(signal.digital, dtype=np.int64), resolution, zero, f"lead {lead}"
        )
        levels.append(samples)
        resolutions.append(resolution)
    found = Recorded(
        "edf",
        tuple(lead for lead, _ in signals),
        np.array(levels, dtype=np.int64),
        tuple(resolutions),
        float(signals[0][1].sampling_frequency),
        patient_id=_known(edf.patient.code) if plus else None,
        acquired_at=_edf_started(edf),
        sex=sex_of(edf.patient.sex) if plus else None,
        device=_known(edf.recording.equipment_code) if plus else None,
        told=tuple(told),
    )
    return made(found, born=_day(edf.patient) if plus else None)


def _check_edf_size(path: Path) -> None:
    """A file that is shorter or longer than its header says is damaged, or was still being written."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(256)
        count = whole(head[252:256].decode("latin-1"), "the number of signals")
        samples = file.read(256 * count)[216 * count : 224 * count].decode("latin-1")
    records = whole(head[236:244].decode("latin-1"), "the number of data records")
    header = whole(head[184:192].decode("latin-1"), "the length of the header")
    if count < 1 or header != 256 * (count + 1):
        raise NotUnderstood(f"a header of {header:,} bytes for {count} signals")
    each = [whole(samples[8 * i : 8 * i + 8], "the samples of a data record") for i in range(count)]
    expected = header + 2 * records * sum(each)
    if min(each) < 0 or records < 1 or size != expected:
        raise NotUnderstood(f"{size:,} of {expected:,} bytes ({records:,} data records of {2 * sum(each):,} bytes)")


def _edf_leads(signals: Any, told: list[str]) -> list[tuple[str, Any]]:
    voltages = [one for one in signals if microvolts_of(one.physical_dimension) is not None]
    if not voltages:
        units = sorted({one.physical_dimension or "no unit" for one in signals})
        raise NotUnderstood(f"no signal is a voltage; they are in {', '.join(units) or 'nothing'}")
    named = [(_edf_lead(one.label), one) for one in voltages]
    ecg = [(lead, one) for lead, one in named if lead in CANONICAL_LEADS or _is_ecg(one.label)] or named
    if len(ecg) < len(signals):
        told.append(f"{counted(len(signals) - len(ecg), 'signal')} without an ECG; left out")
    rates = Counter(one.samples_per_data_record for _, one in ecg)
    most = max(rates, key=lambda rate: (rates[rate], rate))
    if len(rates) > 1:
        others = ", ".join(lead for lead, one in ecg if one.samples_per_data_record != most)
        told.append(f"leads {others} have another sampling rate; left out")
    return [(lead, one) for lead, one in ecg if one.samples_per_data_record == most]


def _is_ecg(label: str) -> bool:
    return label.strip().upper().startswith(("ECG", "EKG"))


def _edf_lead(label: str) -> str:
    """ "ECG II", "EKG V1", "ECG Lead aVR" → the lead."""
    text = label.strip()
    rest = text[3:].strip(" -_:") if _is_ecg(text) else text
    return canonical_lead(rest) if rest else text


def _known(text: str) -> str | None:
    """A subfield of EDF+, where X stands for what is not known."""
    return None if text.strip() in ("", "X") else text.strip()


def _edf_started(edf: Any) -> datetime | None:
    try:
        day, time = edf.startdate, edf.starttime
    except Exception:  # a date that was taken out raises, and one that is none
        return None
    return moment(day.year, day.month, day.day, time.hour, time.minute, time.second)


def _day(patient: Any) -> Any:
    try:
        return patient.birthdate
    except Exception:  # taken out, or not written as EDF+ has it
        return None


# ISHNE

_HEADER = struct.Struct("<iiiih40s40s20shh3h3h3h3hh12h12h12hh40sh80s80s88s")
"""From byte 10 to byte 522: sizes and offsets, version, names, id, sex, race, dates of birth, recording and file,
start, leads, their kinds, qualities and resolutions in nV, pacemaker, recorder, rate, and texts."""
_BEGINS, _ENDS = 10, 522
_ISHNE_LEADS = {1: "bipolar", 2: "X", 3: "Y", 4: "Z", 17: "ES", 18: "AS", 19: "AI"}
_ISHNE_LEADS |= {5 + i: lead for i, lead in enumerate(("I", "II", "III", "aVR", "aVL", "aVF"))}
_ISHNE_LEADS |= {10 + i: f"V{i}" for i in range(1, 7)}


def read_ishne(path: Path) -> Recorded:
    """A Holter recording; its samples are 16 bits, leads in turn."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(_ENDS)
    if len(head) < _ENDS:
        raise NotUnderstood(f"{len(head)} of {_ENDS} bytes of the header")
    _, said, _, begins, _, _, _, patient, sex, _, *rest = _HEADER.unpack(head[_BEGINS:])
    born, day, _, clock, (count,) = rest[0:3], rest[3:6], rest[6:9], rest[9:12], rest[12:13]
    kinds, resolutions = rest[13:25], rest[37:49]
    recorder, rate = rest[50], rest[51]
    told = _check_ishne(path, head, begins, size)
    if not 1 <= count <= 12:
        raise NotUnderstood(f"{count} leads; ISHNE has 1 to 12")
    samples, left_over = divmod(size - begins, 2 * count)
    if left_over or samples < 1 or said not in (samples, samples * count):
        raise NotUnderstood(f"{size - begins:,} bytes of samples in {count} leads; the header says {said:,} samples")
    leads = [_ISHNE_LEADS.get(kind, f"unknown {number + 1}") for number, kind in enumerate(kinds[:count])]
    if odd := [lead for lead, value in zip(leads, resolutions[:count], strict=False) if value <= 0]:
        raise NotUnderstood(f"lead {odd[0]} has no resolution, so its millivolts are not known")
    stored = np.fromfile(path, dtype="<i2", offset=begins).reshape(samples, count)
    found = Recorded(
        "ishne",
        tuple(leads),
        np.ascontiguousarray(stored.T, dtype=np.int64),
        tuple(Fraction(value, 1000) for value in resolutions[:count]),
        float(rate),
        patient_id=_ishne_text(patient) or None,
        acquired_at=moment(day[2], day[1], day[0], *clock),
        sex={1: "male", 2: "female"}.get(sex),
        device=_ishne_text(recorder) or None,
        told=tuple(told),
    )
    birth = moment(born[2], born[1], born[0])
    return made(found, born=birth.date() if birth else None)


def _check_ishne(path: Path, head: bytes, begins: int, size: int) -> list[str]:
    """The checksum of header and variable block; what is to be told of it."""
    if not _ENDS <= begins < size:
        raise NotUnderstood(f"samples from byte {begins:,} of {size:,} on")
    (said,) = struct.unpack_from("<H", head, 8)
    if not said:
        return ["its header has no checksum"]
    with open(path, "rb") as file:
        computed = binascii.crc_hqx(file.read(begins)[_BEGINS:], 0xFFFF)
    # The standard does not say in which order the two bytes stand.
    if said not in (computed, (computed & 0xFF) << 8 | computed >> 8):
        raise NotUnderstood(f"the checksum of its header is {said:#06x}, and should be {computed:#06x}")
    return []


def _ishne_text(field: bytes) -> str:
    return field.split(b"\0")[0].decode("latin-1").strip()


# SCP-ECG


def read_scp(path: Path) -> Recorded:
    """The rhythm of section 6; Huffman codes, differences and subtracted beats are undone by the library."""
    told = _check_scp(path.read_bytes())
    parsers = library("ecgdatakit.parsing.parsers.scp_ecg")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        record = parsers.SCPECGParser().parse(path)
    told += [str(one.message) for one in warned if "CRC" not in str(one.message)]
    facts, leads = record.raw_metadata, record.leads
    if not leads or any(lead.resolution_unit != "uV" for lead in leads):
        raise NotUnderstood("an amplitude multiplier of 0, so its millivolts are not known")
    begins = {lead.annotations.get("start_sample", "1") for lead in leads}
    lengths = {len(lead.samples) for lead in leads}
    if len(begins) > 1 or len(lengths) > 1:
        raise NotUnderstood("leads that were not recorded at the same time")
    interval = int(facts["rhythm_sample_interval_us"])
    person, recording = record.patient, record.recording
    found = Recorded(
        "scp",
        tuple(canonical_lead(lead.label) for lead in leads),
        np.array([lead.samples for lead in leads], dtype=np.int64),
        # The multiplier is a whole number of nanovolts; of subtracted beats a common divisor of two.
        tuple(Fraction(round(lead.resolution * 1000), 1000) for lead in leads),
        1_000_000 / interval,
        patient_id=person.patient_id.strip() or None,
        acquired_at=_utc(recording.date),
        sex=sex_of(person.sex),
        device=" ".join(filter(None, (recording.device.manufacturer, recording.device.model))) or None,
        told=tuple(told),
    )
    born = _utc(person.birth_date)
    return made(found, born=born.date() if born else None, age=None if person.age is None else float(person.age))


def _check_scp(data: bytes) -> list[str]:
    """Length and checksum of the record, which cover all sections; what is to be told of them."""
    said, size = struct.unpack_from("<HI", data)
    if size != len(data):
        raise NotUnderstood(f"{len(data):,} of {size:,} bytes")
    if not said:
        return ["it has no checksum"]
    computed = binascii.crc_hqx(data[2:], 0xFFFF)
    if said != computed:
        raise NotUnderstood(f"its checksum is {said:#06x}, and should be {computed:#06x}")
    return []


def _utc(found: datetime | None) -> datetime | None:
    if found is None:
        return None
    return moment(found.year, found.month, found.day, found.hour, found.minute, found.second)
