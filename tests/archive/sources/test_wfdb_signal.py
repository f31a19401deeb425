"""Samples of WFDB files: every storage format, and files that are not what their headers say."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import soundfile
import wfdb

from ecgscale.archive.sources.wfdb_header import UnreadableRecord, read_header
from ecgscale.archive.sources.wfdb_signal import read_signal
from tests.worlds.formula.recordings import wave, write_wfdb


def header(folder: Path, *lines: str, record: str = "r 2 500 200") -> Path:
    (folder / "r.hea").write_text("\n".join([record, *lines]) + "\n")
    return folder / "r"


def millivolts(stem: Path) -> np.ndarray:
    return read_signal(read_header(stem), "float32").signal


def refused(stem: Path) -> str:
    with pytest.raises(UnreadableRecord) as caught:
        read_signal(read_header(stem), "float32")
    return str(caught.value)


BITS = {"80": 8, "212": 12, "16": 16, "24": 24, "32": 32, "508": 8, "516": 16, "524": 24}
SHAPES = [(1, 1), (1, 2), (2, 31), (3, 100), (3, 101), (5, 7)]


def extremes(leads: int, samples: int, bits: int) -> np.ndarray:
    """Values over the whole range of so many bits, its ends among them."""
    most = 2 ** (bits - 1) - 1
    digital = np.random.default_rng(samples).integers(-most, most, (leads, samples), endpoint=True)
    digital[0, 0], digital[-1, -1] = most, -most
    return digital


@pytest.mark.parametrize("fmt", BITS)
@pytest.mark.parametrize(("leads", "samples"), SHAPES)
def test_formats_that_wfdb_writes(tmp_path: Path, fmt: str, leads: int, samples: int) -> None:
    if fmt.startswith("5") and samples < 16:
        pytest.skip("nobody writes FLAC of less than a block")
    digital = extremes(leads, samples, BITS[fmt])
    stem = write_wfdb(tmp_path, "r", digital, [f"x{i}" for i in range(leads)], 1000, fmt=fmt)
    np.testing.assert_array_equal(millivolts(stem), (digital / 1000).astype(np.float32))


def packed(fmt: str, values: np.ndarray) -> bytes:
    """Samples in one of the formats that wfdb only reads, by the words of signal(5)."""
    if fmt == "61":
        return values.astype(">i2").tobytes()
    if fmt == "160":
        return (values + 2**15).astype("<u2").tobytes()
    first, second, third = np.resize(values, -(-len(values) // 3) * 3).reshape(-1, 3).T & 0x3FF
    if fmt == "311":
        return (first | second << 10 | third << 20).astype("<u4").tobytes()
    words = [first << 1 | (third & 0x1F) << 11, second << 1 | (third >> 5) << 11]
    return np.stack(words, axis=1).astype("<u2").tobytes()


@pytest.mark.parametrize(("fmt", "bits"), [("61", 16), ("160", 16), ("310", 10), ("311", 10)])
@pytest.mark.parametrize(("leads", "samples"), SHAPES)
def test_formats_that_wfdb_reads(tmp_path: Path, fmt: str, bits: int, leads: int, samples: int) -> None:
    digital = extremes(leads, samples, bits)
    (tmp_path / "r.dat").write_bytes(packed(fmt, digital.T.reshape(-1)))
    stem = header(tmp_path, *[f"r.dat {fmt} 1000/mV"] * leads, record=f"r {leads} 500 {samples}")
    np.testing.assert_array_equal(millivolts(stem), (digital / 1000).astype(np.float32))
    if samples > 2:
        np.testing.assert_array_equal(wfdb.rdrecord(str(stem), physical=False).d_signal.T, digital)


def test_first_differences_alone(tmp_path: Path) -> None:
    digital = np.cumsum(np.random.default_rng(0).integers(-20, 21, (2, 200)), axis=1)
    differences = np.diff(digital, axis=1, prepend=[[3], [-4]])
    differences.T.astype(np.int8).tofile(tmp_path / "r.dat")
    sums = digital.sum(axis=1) % 2**16
    stem = header(tmp_path, f"r.dat 8 200/mV 8 0 3 {sums[0]} 0 I", f"r.dat 8 200/mV 8 0 -4 {sums[1]} 0 II")
    np.testing.assert_array_equal(millivolts(stem), (digital / 200).astype(np.float32))


def test_several_samples_a_frame(tmp_path: Path) -> None:
    digital = wave(1, 2, 5000)
    frames = [digital[0].reshape(10, 500), digital[1].reshape(10, 500), np.full((10, 1), 36)]
    np.concatenate(frames, axis=1).astype("<i2").tofile(tmp_path / "r.dat")
    lines = [
        "r.dat 16x500 1000/mV 16 0 0 0 0 I",
        "r.dat 16x500 1000/mV 16 0 0 0 0 II",
        "r.dat 16 1/degC 16 0 36 360 0 T",
    ]
    stem = header(tmp_path, *lines, record="r 3 1 10")
    lines[2] = "r.dat 16 1/degC 16 0 36 361 0 T"
    np.testing.assert_array_equal(read_signal(read_header(stem), "int16").signal, digital)
    assert "T has the checksum 360, not 361" in refused(header(tmp_path, *lines, record="r 3 1 10"))


def test_skewed_signals_are_put_in_their_places(tmp_path: Path) -> None:
    wave(2, 2).T.astype("<i2").tofile(tmp_path / "r.dat")
    stem = header(tmp_path, "r.dat 16 1000/mV 16 0 0 0 0 I", "r.dat 16:3 1000/mV 16 0 0 0 0 II")
    signal = read_signal(read_header(stem), "int16").signal
    np.testing.assert_array_equal(signal[1, :-3], wave(2, 2)[1, 3:])
    assert np.argwhere(signal.mask).tolist() == [[1, 197], [1, 198], [1, 199]]


def test_the_length_comes_from_the_file_where_the_header_has_none(tmp_path: Path) -> None:
    wave(3, 2).T.astype("<i2").tofile(tmp_path / "r.dat")
    lines = [f"r.dat 16 1000/mV 16 0 0 0 0 {lead}" for lead in ("I", "II")]
    np.testing.assert_array_equal(
        read_signal(read_header(header(tmp_path, *lines, record="r 2 500")), "int16").signal, wave(3, 2)
    )
    (tmp_path / "r.dat").write_bytes((tmp_path / "r.dat").read_bytes()[:-2])
    assert "holds 399 samples, no whole number for 2 channels" in refused(tmp_path / "r")


def test_checks_of_the_header(tmp_path: Path) -> None:
    stem = write_wfdb(tmp_path, "r", wave(4, 2), ("I", "II"))
    values = np.fromfile(stem.with_suffix(".dat"), "<i2")
    for place, said in ((0, "I begins with"), (101, "II has the checksum")):
        changed = values.copy()
        changed[place] += 1
        changed.tofile(stem.with_suffix(".dat"))
        assert said in refused(stem)
    values.byteswap().tofile(stem.with_suffix(".dat"))
    assert "are not those that its header describes: I begins with" in refused(stem)


def test_zeros_in_the_place_of_checks_say_nothing(tmp_path: Path) -> None:
    digital = wave(5, 2)
    digital[1] = 0
    digital.T.astype("<i2").tofile(tmp_path / "r.dat")
    total = int(digital[0].sum())
    for first, last in (("0 0", "0 0"), (f"{digital[0, 0]} {total}", "0 0"), (f"0 {total}", "0 0"), ("", "")):
        stem = header(tmp_path, f"r.dat 16 1000/mV 16 0 {first}", f"r.dat 16 1000/mV 16 0 {last}")
        np.testing.assert_array_equal(read_signal(read_header(stem), "int16").signal, digital)


def test_files_that_are_too_long(tmp_path: Path) -> None:
    stem = write_wfdb(tmp_path, "r", wave(6, 2), ("I", "II"))
    data = stem.with_suffix(".dat")
    data.write_bytes(data.read_bytes() + b"\x01" * 80)
    assert read_signal(read_header(stem), "int16").told == "r.dat has 880 bytes, 80 more than its header describes"
    text = stem.with_suffix(".hea").read_text()
    stem.with_suffix(".hea").write_text(re.sub(r" 16 0 -?\d+ \d+ 0 ", " 16 0 0 0 0 ", text))
    assert "80 more than its header describes, and there are no checksums" in refused(stem)
    data.write_bytes(data.read_bytes()[:800] + bytes(224))
    assert read_signal(read_header(stem), "int16").told == ""


def test_files_of_another_kind(tmp_path: Path) -> None:
    signal = wave(7, 2)
    stem = header(tmp_path, *[f"r.mat 16+24 1000/mV 16 0 0 0 0 {lead}" for lead in ("I", "II")])
    scipy.io.savemat(tmp_path / "r.mat", {"val": signal}, format="4")
    np.testing.assert_array_equal(read_signal(read_header(stem), "int16").signal, signal)
    for content in (
        {"age": np.int16(4), "val": signal},
        {"ecg": signal},
        {"val": signal.T},
        {"val": signal.astype(float)},
    ):
        scipy.io.savemat(tmp_path / "r.mat", content, format="4")
        assert "is no MATLAB 4 file of a matrix 'val' of 2 rows" in refused(stem)
    scipy.io.savemat(tmp_path / "r.mat", {"val": signal})
    assert "is a MATLAB 5 file" in refused(stem)
    scipy.io.savemat(tmp_path / "r.mat", {"val": wave(7, 2, 300)}, format="4")
    assert "is a matrix of 300 columns, and its header describes 200" in refused(stem)
    (tmp_path / "r.mat").write_text("<html>\n<body>404 Not Found</body>\n" + " " * 1000)
    assert "is a text, which begins with b'<html>" in refused(stem)
    (tmp_path / "r.mat").unlink()
    (tmp_path / "R.MAT").write_bytes(b"")
    assert refused(stem) == "r.mat: No such file (there is R.MAT)"


def test_a_header_cannot_ask_for_more_than_a_file_holds(tmp_path: Path) -> None:
    wave(8, 2).T.astype("<i2").tofile(tmp_path / "r.dat")
    for signal, record in (("r.dat 16", "r 1 500 1000000000000"), ("r.dat 16x1000000000000", "r 1 500")):
        assert re.search("cut short|no whole number", refused(header(tmp_path, f"{signal} 1000/mV", record=record)))
    soundfile.write(tmp_path / "r.flac", wave(8, 1)[0], 500, subtype="PCM_16", format="FLAC")
    assert "cut short: 200 of 1000000000000" in refused(
        header(tmp_path, "r.flac 516 1000/mV", record="r 1 500 1000000000000")
    )
    assert "2 of format 516" in refused(header(tmp_path, *["r.flac 516 1000/mV"] * 2))
    np.testing.assert_array_equal(
        read_signal(read_header(header(tmp_path, "r.flac 516 1000/mV", record="r 1 500")), "int16").signal, wave(8, 1)
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["~ 0 1000/mV"] * 2, "names no signal file"),
        (["r.dat 16 1000/mV", "r.dat 212 1000/mV"], "several formats"),
        (["r.dat 17 1000/mV"] * 2, "storage format 17"),
        (["folder 16 1000/mV"] * 2, "Not a file"),
        (["r.dat 16 1000/mV", "other.dat 16x2 1000/V"], "cut short"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, lines: list[str], said: str) -> None:
    wave(9, 2).T.astype("<i2").tofile(tmp_path / "r.dat")
    wave(9, 1).T.astype("<i2").tofile(tmp_path / "other.dat")
    (tmp_path / "folder").mkdir()
    assert said in refused(header(tmp_path, *lines))


def test_wfdb_agrees_on_files_side_by_side(tmp_path: Path) -> None:
    write_wfdb(tmp_path, "a", wave(10, 2), ("I", "II"), fmt="212")
    write_wfdb(tmp_path, "b", wave(11, 1), ("V1",), fmt="16")
    lines = [line for name in "ab" for line in (tmp_path / f"{name}.hea").read_text().splitlines()[1:]]
    stem = header(tmp_path, *lines, record="r 3 500 200")
    np.testing.assert_allclose(millivolts(stem), wfdb.rdrecord(str(stem)).p_signal.T, rtol=1e-6)
