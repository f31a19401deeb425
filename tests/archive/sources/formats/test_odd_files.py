"""Files that are not what they say: each is told, keeps its row, and ends nothing."""

from __future__ import annotations

import struct
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.sources.formats.recording import NotUnderstood, read_recording
from ecgscale.archive.sources.formats.source import ingest_formats
from tests.archive.sources.formats import exports
from tests.archive.sources.formats.exports import WRITERS, levels


def refused(path: Path) -> str:
    with pytest.raises(NotUnderstood) as told:
        read_recording(path)
    return str(told.value)


def edited(path: Path, old: bytes, new: bytes) -> Path:
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new))
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_that_is_cut_or_goes_on(tmp_path: Path, kind: str) -> None:
    path = WRITERS[kind](tmp_path / "a", levels())
    data = path.read_bytes()
    for length in (0, 4, 200, len(data) // 2, len(data) - 2, len(data) - 1):
        path.write_bytes(data[:length])
        assert refused(path)
    path.write_bytes(data + b"\0" * 7)
    if kind != "dicom":  # what follows there are elements, or padding
        assert refused(path)


def change(name: str, value: Any) -> Callable[[Any, Any], None]:
    def changed(dataset: Any, group: Any) -> None:
        where = next((w for w in (group, group.ChannelDefinitionSequence[0], dataset) if name in w), dataset)
        if value is None:
            delattr(where, name)
        else:
            setattr(where, name, value)

    return changed


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ChannelSensitivity", None, "lead I has no channel sensitivity, so its millivolts are not known"),
        ("ChannelSensitivityUnitsSequence", None, "a channel has no units"),
        ("ChannelSensitivity", "-1", "lead I has a sensitivity of -1 µV"),
        ("SamplingFrequency", None, "the sampling frequency is 'None', which is no number"),
        ("SamplingFrequency", "0", "a sampling rate of 0 Hz"),
        ("NumberOfWaveformSamples", 501, "3,000 of 3,006 bytes of samples (3 channels × 501)"),
        ("NumberOfWaveformChannels", 4, "4 channels, and definitions of 3"),
        ("WaveformSampleInterpretation", "MB", "samples of 16 bits, interpretation MB"),
        ("WaveformOriginality", "DERIVED", "derived waveforms only"),
        ("WaveformSequence", None, "a DICOM object without a waveform (ECG)"),
        ("ChannelSourceSequence", None, "channel 1 does not say which lead it is"),
    ],
)
def test_dicom_without_what_it_takes(tmp_path: Path, name: str, value: Any, said: str) -> None:
    assert said in refused(exports.dicom(tmp_path / "a", levels(), change=change(name, value)))


def test_dicom_channels_without_a_voltage_and_missing_samples(tmp_path: Path) -> None:
    def odd(dataset: Any, group: Any) -> None:
        group.ChannelDefinitionSequence[1].ChannelSensitivityUnitsSequence[0].CodeValue = "mm[Hg]"
        group.WaveformPaddingValue = struct.pack("<h", -32768)

    stored = levels()
    stored[0, 7] = -32768
    found = read_recording(exports.dicom(tmp_path / "a", stored, change=odd))
    assert found.leads == ("I", "V1")
    assert found.told == ("channel II holds no voltage; left out",)
    signal, _ = found.signal("int16")
    assert np.ma.getmaskarray(signal).sum() == 1
    assert np.isnan(found.signal("float32")[0][0, 7])


def test_dicom_leads_by_code_label_and_meaning(tmp_path: Path) -> None:
    def renamed(dataset: Any, group: Any) -> None:
        first, second, third = (one.ChannelSourceSequence[0] for one in group.ChannelDefinitionSequence)
        first.CodeMeaning = "Ableitung I"
        second.CodeMeaning = "Lead V6"
        third.CodeMeaning, third.CodeValue = "", ""
        group.ChannelDefinitionSequence[2].ChannelLabel = "aVR"

    found = read_recording(exports.dicom(tmp_path / "a", levels(), change=renamed))
    assert found.leads == ("I", "V6", "aVR")
    assert found.told == ("lead V6 has the code of II; taken by its meaning",)


def test_a_deflated_object_is_not_inflated(tmp_path: Path) -> None:
    path = exports.dicom(tmp_path / "a", levels(), syntax="1.2.840.10008.1.2.1.99")
    assert "a deflated transfer syntax" in refused(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"MICROVOLTS", b"FURLONGS", "LeadAmplitudeUnits of lead I is 'FURLONGS', no voltage"),
        (b"<LeadAmplitudeUnits>MICROVOLTS</LeadAmplitudeUnits>", b"", "LeadAmplitudeUnits of lead I is '', no voltage"),
        (b"PerBit>4.88<", b"PerBit>4,88<", "LeadAmplitudeUnitsPerBit is '4,88', which is no number"),
        (b"<SampleBase>500<", b"<SampleBase><", "SampleBase is '', which is no number"),
        (b"<SampleBase>500<", b"<SampleBase>0<", "a sampling rate of 0 Hz"),
        (b"Total>500<", b"Total>501<", "lead I has 500 of 501 samples"),
        (b"<LeadID>II</LeadID>", b"", "LeadData without a LeadID"),
        (b"SampleSize>2<", b"SampleSize>4<", "samples of 4 bytes"),
        (b"Type>Rhythm<", b"Type>Median<", "0 waveforms of type Rhythm"),
        (b"WaveFormData>\n", b"WaveFormData>%%", "the samples of lead I are not base64"),
    ],
)
def test_muse_that_says_something_else(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    assert said in refused(edited(exports.muse(tmp_path / "a", levels()), old, new))


def test_a_checksum_and_a_lead_that_was_off_are_told(tmp_path: Path) -> None:
    path = edited(
        exports.muse(tmp_path / "a", levels()), b"<LeadDataCRC32>", b"<LeadOff>TRUE</LeadOff><LeadDataCRC32>1"
    )
    told = read_recording(path).told
    assert "the checksum of lead V1 is not that of its samples" in told
    assert "the device says that lead II was off" in told


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'scale value="4.88" unit="uV"', b'scale value="4.88" unit="furlong"', "lead I is in furlong, no voltage"),
        (b'scale value="4.88" unit="uV"', b'scale value="4.88"', "lead I is in no unit, no voltage"),
        (b'scale value="4.88"', b'scale value="0"', "lead I has a scale of 0 µV"),
        (b'scale value="4.88"', b'scale value="NaN"', "the scale of lead I is 'NaN', which is no number"),
        (b'increment value="0.002" unit="s"', b'increment value="0.002" unit="h"', "the times are in h"),
        (b'increment value="0.002"', b'increment value="0"', "an increment of time of 0 s"),
        (b"TIME_ABSOLUTE", b"TIME_OF_DAY", "no sequence of times"),
        (b"<digits>", b"<digits>1 ", "leads of different lengths"),
        (b"<digits>", b"<digits>0x1 ", "lead I has the digits '0x1', which are no whole number"),
        (b'code="RHYTHM"', b'code="OTHER"', "no series of code RHYTHM; there are OTHER"),
    ],
)
def test_aecg_that_says_something_else(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    path = exports.aecg(tmp_path / "a", levels())
    data = path.read_bytes()
    assert old in data
    path.write_bytes(data.replace(old, new, 1))
    assert said in refused(path)


BOMB = "".join(f'<!ENTITY a{i} "{f"&a{i - 1};" * 10}">' for i in range(1, 12))


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE RestingECG [<!ENTITY a SYSTEM "file:///etc/hostname">]>',
        f'<!DOCTYPE RestingECG [<!ENTITY a0 "ha">{BOMB}<!ENTITY a "&a11;">]>',
        '<!DOCTYPE RestingECG [<!ENTITY % p SYSTEM "http://127.0.0.1:9/x"> %p; <!ENTITY a "b">]>',
    ],
)
def test_entities_are_refused_before_anything_is_fetched_or_grows(tmp_path: Path, doctype: str) -> None:
    path = exports.muse(tmp_path / "a", levels())
    edited(path, b'<!DOCTYPE RestingECG SYSTEM "restecg.dtd">', doctype.encode())
    edited(path, b"<PatientID>p1", b"<PatientID>&a;")
    started = time.monotonic()
    tracemalloc.start()
    assert "XML with entities or references to other files" in refused(path)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()
    assert time.monotonic() - started < 5


def test_holter_headers_that_do_not_fit(tmp_path: Path) -> None:
    path = exports.ishne(tmp_path / "a", levels())
    data = path.read_bytes()
    for offset, value, said in (
        (272, 0, "the checksum of its header"),
        (8, 0x1234, "the checksum of its header is 0x1234"),
    ):
        path.write_bytes(data[:offset] + struct.pack("<H", value) + data[offset + 2 :])
        assert said in refused(path)
    bare = data[:8] + b"\0\0" + data[10:]
    path.write_bytes(bare)
    assert read_recording(path).told == ("its header has no checksum",)
    for offset, value, said in (
        (156, 0, "0 leads; ISHNE has 1 to 12"),
        (206, 0, "lead I has no resolution, so its millivolts are not known"),
        (272, 0, "a sampling rate of 0 Hz"),
        (14, 77, "the header says 77 samples"),
        (22, 9, "samples from byte 9"),
    ):
        path.write_bytes(bare[:offset] + struct.pack("<h", value) + bare[offset + 2 :])
        assert said in refused(path)


def test_edf_headers_that_do_not_fit(tmp_path: Path) -> None:
    path = exports.edf(tmp_path / "a", levels())
    data = path.read_bytes()
    dimension = data.index(b"uV      ")
    for offset, value, said in (
        (236, b"-1      ", "-1 data records"),
        (236, b"9       ", "9 data records"),
        (252, b"7   ", "a header of"),
        (dimension, b"        " * 3, "no signal is a voltage; they are in L, no unit"),
    ):
        path.write_bytes(data[:offset] + value + data[offset + len(value) :])
        assert said in refused(path)


def test_scp_checksums_and_a_scale_of_nothing(tmp_path: Path) -> None:
    path = exports.scp(tmp_path / "a", levels())
    data = path.read_bytes()
    path.write_bytes(data[:-5] + b"\x55" + data[-4:])
    assert "its checksum is" in refused(path)
    path.write_bytes(b"\0\0" + data[2:])
    assert read_recording(path).told == ("it has no checksum",)
    assert "an amplitude multiplier of 0" in refused(exports.scp(tmp_path / "b", levels(), nanovolts=0))


def test_every_file_of_a_folder_is_accounted_for(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    exports.dicom(src / "good.dcm", levels())
    (src / "empty.dcm").write_bytes(b"")
    (src / "noise.dcm").write_bytes(bytes(range(256)) * 9)
    (src / "noise.xml").write_bytes(b"\x00\x01noise")
    (src / "24.bdf").write_bytes(b"\xffBIOSEMI" + bytes(300))
    (src / "philips.xml").write_text("<restingecgdata></restingecgdata>")
    (src / "gone.dcm").symlink_to(src / "nowhere")
    result = ingest_formats(src, tmp_path / "a")
    assert result.records == 6
    assert Archive.open(tmp_path / "a").metadata(["record_id"]).num_rows == 6
    told = "\n".join(result.problems.first)
    for said in (
        "record empty.dcm: the file is empty; kept with an empty signal",
        "record noise.dcm: it begins like none of DICOM",
        "record noise.xml: it begins like none of DICOM",
        "record 24.bdf: it is BDF (24 bits), which is not read: export EDF",
        "record philips.xml: it is XML of Philips",
    ):
        assert said in told
    assert any("of the source left out" in note for note in result.notes), "the link into nowhere"
