"""Files as devices export them, made exactly: levels (n_leads, T) of whole numbers in, a file of each format out."""

from __future__ import annotations

import base64
import binascii
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CODES = {"I": 1, "II": 2, "III": 61, "aVR": 62, "aVL": 63, "aVF": 64} | {f"V{i}": 2 + i for i in range(1, 7)}
"""Of leads, in SCP-ECG and DICOM."""
Levels = NDArray[np.int64]
LEADS = ("I", "II", "V1")
NAME, BORN = "Doe^Jane", "19530508"


def levels(seed: int = 0, samples: int = 500, n: int = 3, reach: int = 3000) -> Levels:
    """Whole numbers of 16 bits."""
    return np.random.default_rng(seed).integers(-reach, reach, (n, samples))


def dicom(
    path: Path,
    stored: Levels,
    *,
    leads: Sequence[str] = LEADS,
    sensitivity: str = "4.88",
    unit: str = "uV",
    correction: str = "1",
    baseline: str = "0",
    rate: str = "500",
    syntax: str = "1.2.840.10008.1.2.1",
    change: Callable[[Any, Any], None] = lambda dataset, group: None,
) -> Path:
    """A 12-lead object of int16 samples; `change` has its way with dataset and waveform before they are written."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import UID, generate_uid

    dataset, group = Dataset(), Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.9.1.1", generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.PatientBirthDate = NAME, "p1", BORN
    dataset.PatientSex, dataset.Modality, dataset.Manufacturer = "F", "ECG", "Maker"
    dataset.AcquisitionDateTime = "20021122091000-0500"
    group.WaveformOriginality, group.NumberOfWaveformChannels = "ORIGINAL", len(stored)
    group.NumberOfWaveformSamples, group.SamplingFrequency = stored.shape[1], rate
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    channels = []
    for lead in leads:
        channel, source, units = Dataset(), Dataset(), Dataset()
        source.CodeValue, source.CodingSchemeDesignator = f"2:{CODES[lead]}", "MDC"
        source.CodeMeaning = f"Lead {lead} (Einthoven)"
        units.CodeValue, units.CodingSchemeDesignator, units.CodeMeaning = unit, "UCUM", unit
        channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [units]
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor = sensitivity, correction
        channel.ChannelBaseline, channel.WaveformBitsStored = baseline, 16
        channels.append(channel)
    group.ChannelDefinitionSequence = channels
    group.WaveformData = stored.T.astype("<i2").tobytes()
    dataset.WaveformSequence = [group]
    change(dataset, group)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return path


def muse(path: Path, stored: Levels, *, leads: Sequence[str] = LEADS, per_bit: str = "4.88") -> Path:
    """A RestingECG with a median waveform before its rhythm, as they come."""

    def lead_data(lead: str, samples: NDArray[np.int64]) -> str:
        payload = samples.astype("<i2").tobytes()
        return (
            f"<LeadData><LeadSampleCountTotal>{len(samples)}</LeadSampleCountTotal>"
            f"<LeadAmplitudeUnitsPerBit>{per_bit}</LeadAmplitudeUnitsPerBit>"
            f"<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits><LeadID>{lead}</LeadID>"
            f"<LeadSampleSize>2</LeadSampleSize><LeadDataCRC32>{zlib.crc32(payload)}</LeadDataCRC32>"
            f"<WaveFormData>\n{base64.encodebytes(payload).decode()}</WaveFormData></LeadData>"
        )

    def waveform(kind: str, data: Levels) -> str:
        each = "".join(lead_data(lead, one) for lead, one in zip(leads, data, strict=True))
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>500</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{each}</Waveform>"
        )

    path.write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>'
        "<PatientDemographics><PatientID>p1</PatientID><PatientAge>49</PatientAge><AgeUnits>YEARS</AgeUnits>"
        "<DateofBirth>05-08-1953</DateofBirth><Gender>FEMALE</Gender><PatientLastName>Döe</PatientLastName>"
        "</PatientDemographics><TestDemographics><AcquisitionDevice>MAC55</AcquisitionDevice>"
        "<AcquisitionTime>14:10:00</AcquisitionTime><AcquisitionDate>11-22-2002</AcquisitionDate></TestDemographics>"
        f"{waveform('Median', stored[:, :100] + 1)}{waveform('Rhythm', stored)}</RestingECG>",
        encoding="latin-1",
    )
    return path


def aecg(
    path: Path,
    stored: Levels,
    *,
    leads: Sequence[str] = LEADS,
    scale: str = "4.88",
    unit: str = "uV",
    origin: str = "0",
) -> Path:
    """An AnnotatedECG with a derived beat below its series."""

    def sequences(data: Levels) -> str:
        each = "".join(
            f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}"/><value xsi:type="SLIST_PQ">'
            f'<origin value="{origin}" unit="{unit}"/><scale value="{scale}" unit="{unit}"/>'
            f"<digits>{' '.join(map(str, one.tolist()))}</digits></value></sequence></component>"
            for lead, one in zip(leads, data, strict=True)
        )
        return (
            '<component><sequenceSet><component><sequence><code code="TIME_ABSOLUTE"/><value xsi:type="GLIST_TS">'
            '<head value="20021122091000.000-0500"/><increment value="0.002" unit="s"/></value></sequence></component>'
            f"{each}</sequenceSet></component>"
        )

    path.write_text(
        '<?xml version="1.0" encoding="UTF-8"?><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><componentOf><timepointEvent><componentOf>'
        '<subjectAssignment><subject><trialSubject><id root="1.2" extension="p1"/><subjectDemographicPerson>'
        f'<name>{NAME}</name><administrativeGenderCode code="F"/><birthTime value="{BORN}"/></subjectDemographicPerson>'
        "</trialSubject></subject></subjectAssignment></componentOf></timepointEvent></componentOf>"
        '<component><series><code code="RHYTHM"/>'
        f'{sequences(stored)}<derivation><derivedSeries><code code="REPRESENTATIVE_BEAT"/>'
        f"{sequences(stored[:, :50] + 1)}</derivedSeries></derivation></series></component></AnnotatedECG>"
    )
    return path


def edf(path: Path, stored: Levels, *, leads: Sequence[str] = LEADS, unit: str = "uV") -> Path:
    """EDF+, 0.1 µV (or what `unit` is) a level, with a respiration of another rate."""
    import datetime

    from edfio import Edf, EdfSignal, Patient, Recording

    signals = []
    for lead, one in zip(leads, stored, strict=True):
        signal = EdfSignal(
            np.zeros(one.size), 500, label=f"ECG {lead}", physical_dimension=unit, physical_range=(-3276.8, 3276.7)
        )
        signal._digital = one.astype(np.int16)
        signals.append(signal)
    breath = EdfSignal(np.zeros(one.size // 10), 50, label="Resp", physical_dimension="L", physical_range=(-1, 1))
    Edf(
        [*signals, breath],
        patient=Patient(code="p1", sex="F", birthdate=datetime.date(1953, 5, 8), name="Jane"),
        recording=Recording(startdate=datetime.date(2002, 11, 22), equipment_code="Maker"),
        starttime=datetime.time(14, 10),
    ).write(path)
    return path


_KINDS = {"I": 5, "II": 6, "III": 7, "aVR": 8, "aVL": 9, "aVF": 10} | {f"V{i}": 10 + i for i in range(1, 7)}


def ishne(
    path: Path, stored: Levels, *, leads: Sequence[str] = LEADS, nanovolts: int = 2500, whole: bool = False
) -> Path:
    """A Holter file with a variable block; `whole` counts the samples of all leads in the header."""
    block = b"a comment"
    n, padding = len(leads), [-9] * (12 - len(leads))
    fields: list[Any] = [len(block), stored.shape[1] * (n if whole else 1), 522, 522 + len(block), 1]
    fields += [b"Jane", b"Doe", b"p1", 2, 1, 8, 5, 1953, 22, 11, 2002, 23, 11, 2002, 14, 10, 0, n]
    fields += [_KINDS[lead] for lead in leads] + padding + [1] * n + padding + [nanovolts] * n + padding
    fields += [0, b"Maker", 500, b"", b"", b""]
    header = struct.pack("<iiiih40s40s20shh3h3h3h3hh12h12h12hh40sh80s80s88s", *fields) + block
    path.write_bytes(
        b"ISHNE1.0" + struct.pack("<H", binascii.crc_hqx(header, 0xFFFF)) + header + stored.T.astype("<i2").tobytes()
    )
    return path


def scp(
    path: Path,
    stored: Levels,
    *,
    leads: Sequence[str] = LEADS,
    nanovolts: int = 2500,
    differences: int = 0,
    huffman: bool = False,
) -> Path:
    """Sections 0, 1, 3 and 6, and 2 for Huffman codes of the default table."""
    data = stored.copy()
    if differences == 1:
        data[:, 1:] = np.diff(stored, axis=1)
    if differences == 2:
        data[:, 2:] = stored[:, 2:] - 2 * stored[:, 1:-1] + stored[:, :-2]
    packed = [_huffman(one) if huffman else one.astype("<i2").tobytes() for one in data]
    tags = [(0, b"Doe\0"), (2, b"p1\0"), (5, struct.pack("<HBB", 1953, 5, 8)), (8, b"\2")]
    tags += [(25, struct.pack("<HBB", 2002, 11, 22)), (26, bytes([14, 10, 0])), (255, b"")]
    bodies = {
        1: b"".join(struct.pack("<BH", tag, len(value)) + value for tag, value in tags),
        3: bytes([len(leads), 4 | len(leads) << 3])
        + b"".join(struct.pack("<IIB", 1, stored.shape[1], CODES[lead]) for lead in leads),
        6: struct.pack("<HHBB", nanovolts, 2000, differences, 0)
        + struct.pack(f"<{len(packed)}H", *map(len, packed))
        + b"".join(packed),
    }
    if huffman:
        bodies[2] = struct.pack("<H", 19999)
    position, pointers, sections = 6 + 16 + 120, {0: (136, 7)}, b""
    for number in sorted(bodies):
        section = _scp_section(number, bodies[number])
        pointers[number] = (len(section), position + 1)
        position, sections = position + len(section), sections + section
    listed = b"".join(struct.pack("<HII", i, *pointers.get(i, (0, 0))) for i in range(12))
    record = struct.pack("<I", position) + _scp_section(0, listed) + sections
    path.write_bytes(struct.pack("<H", binascii.crc_hqx(record, 0xFFFF)) + record)
    return path


def _scp_section(number: int, body: bytes) -> bytes:
    body += b"\0" * (len(body) % 2)
    section = struct.pack("<HIBB6s", number, 16 + len(body), 20, 20, b"SCPECG" if number == 0 else b"") + body
    return struct.pack("<H", binascii.crc_hqx(section, 0xFFFF)) + section


def _huffman(values: NDArray[np.int64]) -> bytes:
    bits = ""
    for value in values.tolist():
        if abs(value) <= 8:
            bits += "0" if value == 0 else "1" * abs(value) + "0" + ("1" if value < 0 else "0")
        elif -128 <= value < 128:
            bits += "1111111110" + f"{value & 0xFF:08b}"
        else:
            bits += "1111111111" + f"{value & 0xFFFF:016b}"
    bits += "0" * (-len(bits) % 16)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


WRITERS: dict[str, Callable[..., Path]] = {
    "dicom": dicom, "muse": muse, "aecg": aecg, "edf": edf, "ishne": ishne, "scp": scp,
}  # fmt: skip
MICROVOLTS = {"dicom": 4.88, "muse": 4.88, "aecg": 4.88, "edf": 0.1, "ishne": 2.5, "scp": 2.5}
"""Of a level, in each format as it is written here."""
