"""SCP-ECG (EN 1064), read by ecgdatakit: Huffman codes, differences and subtracted beats are undone there.

Where that library warns and goes on, with a scale of 1 or without a check, the file is refused here.
"""

from __future__ import annotations

import binascii
import struct
import warnings
from datetime import datetime
from fractions import Fraction
from pathlib import Path

import numpy as np

from ecgscale.archive.sources.formats.recording import NotUnderstood, Recorded, library, made, moment, sex_of
from ecgscale.leads import canonical_lead


def read_scp(path: Path) -> Recorded:
    """The rhythm of section 6."""
    told = _check(path.read_bytes())
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


def _check(data: bytes) -> list[str]:
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
