"""Fields of WFDB headers: read as they are meant, or the record refused with the field quoted; never a default."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from ecgscale.archive.sources.wfdb_header import (
    UNCALIBRATED,
    WITHOUT_MOMENT,
    WITHOUT_RATE,
    Header,
    UnreadableRecord,
    parse_header,
    read_header,
)


def of(
    gain: str = "1000/mV", record: str = "r 1 500 100", rest: str = "16 0 0 0 0 II", signal: str = "r.dat 16"
) -> Header:
    """A header of one signal."""
    return parse_header(Path("r"), f"{record}\n{signal} {gain} {rest}\n")


@pytest.mark.parametrize(
    ("gain", "per_mv", "baseline"),
    [
        ("1000.0(0.0)/mV", 1000, 0),
        ("1000(-12)/mV", 1000, -12),
        ("+1000/mV", 1000, 0),
        ("1.0E+03(0)/mV", 1000, 0),
        ("-1000/mV", -1000, 0),
        (".5/uV", 500, 0),
        ("1000/mV;", 1000, 0),
        ("1000/_mV", 1000, 0),
        ("1/microvolts", 1000, 0),
        ("1/µV", 1000, 0),
        ("1/μVolt", 1000, 0),
        ("1000/Millivolts", 1000, 0),
        ("1e6/Volt", 1000, 0),
        ("0.001/nV", 1000, 0),
        ("1000", 1000, 0),
    ],
)
def test_gains_that_are_understood(gain: str, per_mv: float, baseline: int) -> None:
    [channel] = of(gain).channels
    assert channel.per_mv == pytest.approx(per_mv, rel=1e-12)
    assert channel.baseline == baseline
    assert of(gain).notes == ()


@pytest.mark.parametrize(
    "gain",
    ["1,000/mV", "1000/", "1000(0/mV", '"1000/mV"', "./mV", "nan/mV", "inf/mV", "1e999/mV", "1e300/mV", "1e-30/mV",
     "mV", "1000(0.5)/mV", "1000(x)/mV", "1000(1e999)/mV", "１０/mV", "--5/mV"],
)  # fmt: skip
def test_gains_that_are_not_understood(gain: str) -> None:
    with pytest.raises(UnreadableRecord, match=r"gain|baseline"):
        of(gain)
    with pytest.raises(UnreadableRecord, match="ADC resolution '/mV'"):
        of("1000 /mV")


@pytest.mark.parametrize("gain", ["0", "0/mV", "0(3)/mV", "-0.0/mV"])
def test_a_gain_of_zero_is_told(gain: str) -> None:
    header = of(gain)
    assert header.notes == (UNCALIBRATED,)
    assert header.channels[0].per_mv == 200
    assert parse_header(Path("r"), "r 1 500 100\nr.dat 16\n").notes == (UNCALIBRATED,)


@pytest.mark.parametrize("units", ["mmHg", "NU", "mV/2", "degC", "%", "V^2", "pm"])
def test_other_units_are_no_voltage_and_named(units: str) -> None:
    header = parse_header(Path("r"), f"r 2 500 100\nr.dat 16 1000/mV 16 0 0 0 0 II\nr.dat 16 1/{units} 16 0 0 0 0 X\n")
    assert header.leads == ("II",)
    assert header.left_out() == f"channels X hold no voltage ({units})"


@pytest.mark.parametrize(
    ("record", "rate", "frames"),
    [
        ("r 1 360/200(0) 100", 360, 100),
        ("r 1 500/1 100", 500, 100),
        ("r 1 1e3 100", 1000, 100),
        ("r 1 257.5 100.0", 257.5, 100),
        ("r 1 500 0", 500, 0),
        ("r 1 500 10:00:00 01/02/2003", 500, 0),
        ("r\t1\t500\t100", 500, 100),
    ],
)
def test_record_lines(record: str, rate: float, frames: int) -> None:
    assert (of(record=record).sampling_rate, of(record=record).frames) == (rate, frames)


@pytest.mark.parametrize(
    "record",
    ["r 1 0 100", "r 1 -500 100", "r 1 500.0.0 100", "r 1 . 100", "r 1 1e999 100", "r 1 nan 100", "r 1 500Hz 100",
     "r 1 500/0", "r 1 500/x 100", "r 1 500/1(y) 100", "r 1 500 -1", "r 1 500 many", "r 1 500 1e30", "r 1 500 12.5",
     "r one 500 100", "r", "r -1", "r 2 500 100", "r 1000000 500 100"],
)  # fmt: skip
def test_record_lines_that_are_refused(record: str) -> None:
    with pytest.raises(UnreadableRecord):
        of(record=record)


@pytest.mark.parametrize(
    "rest", ["--5 0 0 0 0 I", "16 x 0 0 0 I", "16 0 1.5 0 0 I", "16 0 0 sum 0 I", "16 0 0 0 ? I", "16 1e99 0 0 0 I"]
)
def test_numbers_that_are_refused(rest: str) -> None:
    with pytest.raises(UnreadableRecord, match="is no whole number"):
        of(rest=rest)


@pytest.mark.parametrize("kind", ["sixteen", "16x", "16x0", "16:-1", "16+x", "-16", "16+1+2"])
def test_formats_that_are_refused(kind: str) -> None:
    with pytest.raises(UnreadableRecord):
        of(signal=f"r.dat {kind}")


@pytest.mark.parametrize(
    "file",
    ["/etc/passwd", "../r.dat", "a/../../r.dat", "..", "C:\\r.dat", "..\\r.dat", "http://host/r.dat", "s3://b/r.dat",
     "a\x00b"],
)  # fmt: skip
def test_files_that_leave_are_not_opened(file: str) -> None:
    with pytest.raises(UnreadableRecord, match="not opened"):
        of(signal=f"{file} 16")
    assert of(signal="data/r.dat 16").signal_files("x") == {"data/r.dat": "x/data/r.dat"}
    assert of(signal="./a..b 16").signal_files("x") == {"./a..b": "x/a..b"}


def test_more_signals_than_announced() -> None:
    line = "r.dat 16 1000/mV 16 0 0 0 0 II"
    with pytest.raises(UnreadableRecord, match="announces 1 signals and describes more"):
        parse_header(Path("r"), f"r 1 500 100\n{line}\n{line}\n")
    assert parse_header(Path("r"), f"#first\n\nr 1 500 100\n#between\n{line}\nsome words\n#last").comments == (
        "first",
        "between",
        "last",
    )


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("9:05:01.250 1/5/2000", datetime(2000, 5, 1, 9, 5, 1, 250000, tzinfo=UTC)),
        ("05-May-2020 14:50:55", None),
        ("10:00:00 31/02/2020", None),
        ("10:00:00 31/12/9999", None),
        ("10:00:00 01/01/0001", None),
        ("19:46:25.757", None),
        ("2006", None),
    ],
)
def test_times_are_read_or_told(text: str, moment: datetime | None) -> None:
    header = of(record=f"r 1 500 100 {text}")
    assert header.acquired_at == moment
    assert header.notes == (() if moment else (WITHOUT_MOMENT,))
    assert of(record="r 1").notes == (WITHOUT_RATE,)


@pytest.mark.parametrize(
    ("encoding", "newline"),
    [("utf-8", "\r\n"), ("utf-8", "\r"), ("utf-8-sig", "\n"), ("utf-16", "\n"), ("latin-1", "\n"), ("cp1252", "\r\n")],
)
def test_encodings(tmp_path: Path, encoding: str, newline: str) -> None:
    lines = ["#Herzinsuffizienz, Rückenschmerz", "r 1 500 100", "r.dat 16 1/µV 16 0 0 0 0 II", "#Größe: 180"]
    (tmp_path / "r.hea").write_bytes(newline.join(lines).encode(encoding))
    header = read_header(tmp_path / "r")
    assert (header.leads, header.channels[0].per_mv) == (("II",), 1000)
    assert header.comments == ("Herzinsuffizienz, Rückenschmerz", "Größe: 180")


def test_several_samples_a_frame_have_the_rate_of_the_leads() -> None:
    lines = ["e.dat 16x4 1/uV 16 0 0 0 0 EEG", "e.dat 16x500 1/mV 16 0 0 0 0 I", "e.dat 16x500 1/mV 16 0 0 0 0 II"]
    header = parse_header(Path("e"), "\n".join(["e 4 1 10", *lines, "e.dat 16 1/degC 16 0 0 0 0 Temp"]))
    assert (header.leads, header.sampling_rate) == (("I", "II"), 500)
    assert header.left_out() == (
        "channels Temp hold no voltage (degC); channels EEG have 4 Hz, not the 500 Hz of the leads"
    )


def test_headers_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "folder.hea").mkdir()
    (tmp_path / "null.hea").write_bytes(bytes(100))
    (tmp_path / "long.hea").write_bytes(b"#" * (2**22 + 1))
    for name in ("folder", "null", "long", "none"):
        with pytest.raises(UnreadableRecord):
            read_header(tmp_path / name)
    with pytest.raises(UnreadableRecord, match="100000 signals; 4,096 are the most"):
        parse_header(Path("m"), "m 100000 500 1\n" + "m.dat 16\n" * 100_000)
    assert parse_header(Path("m"), "m/1 1 500 5000\nm_0001 5000\n").segments == ("m_0001",)
    with pytest.raises(UnreadableRecord, match="announces 3 segments and names 1"):
        parse_header(Path("m"), "m/3 1 500 5000\nm_0001 5000\n")
