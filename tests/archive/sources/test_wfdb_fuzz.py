"""Sixty thousand headers, signal files and annotations that nobody wrote: told, never a traceback, never more memory
than a file has bytes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import wfdb
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ecgscale.archive.sources.wfdb_comments import keyed_comments, person_of
from ecgscale.archive.sources.wfdb_header import Header, UnreadableRecord, parse_header, read_header
from ecgscale.archive.sources.wfdb_signal import read_fiducials, read_signal
from tests.worlds.formula.recordings import wave, write_wfdb

SAMPLES = 60
FUZZ = settings(deadline=None, database=None, max_examples=3_000, suppress_health_check=list(HealthCheck))

GOOD = [
    "r 2 500 60 10:00:00 01/02/2003",
    "r.dat 16 1000(0)/mV 16 0 0 0 0 I",
    "r.dat 16 1000(0)/mV 16 0 0 0 0 II",
    "#Age: 62 Sex: F",
    "# <age>: 62 <sex>: M <diagnoses> none",
]
WORDS = (
    "0",
    "-1",
    "1e999",
    "nan",
    "inf",
    "9" * 21,
    "1/2(3)",
    "16x0",
    "16x1000000000",
    "212",
    "8",
    "310",
    "24",
    "516",
    "80+7",
)
WORDS += (
    "16:9999999999",
    "~",
    "..",
    "/",
    "r/3",
    "1e-320/mV",
    "200(1.5)/mV",
    "(/)",
    "\u0663",
    "#",
    "",
    "\x00",
    "\ud800",
)


def spoilt(rng: random.Random) -> str:
    """A header with some fields, characters and lines replaced, doubled or lost."""
    lines = [line.split(" ") for line in GOOD]
    for _ in range(rng.randint(1, 4)):
        line = rng.choice(lines)
        what, at = rng.randint(0, 5), rng.randrange(len(line))
        if what == 0:
            line[at] = rng.choice(WORDS)
        elif what == 1:
            line.insert(at, rng.choice(WORDS))
        elif what == 2 and len(line) > 1:
            del line[at]
        elif what == 3:
            place = rng.randint(0, len(line[at]))
            line[at] = (
                line[at][:place] + chr(rng.choice([rng.randint(0, 255), rng.randint(0, 0x10FFFF)])) + line[at][place:]
            )
        elif what == 4:
            lines.insert(rng.randint(0, len(lines)), list(rng.choice(lines)))
        elif len(lines) > 1:
            lines.remove(line)
    return "\n".join(" ".join(line) for line in lines)


def told(call: Callable[[], object]) -> object:
    """What a call gives; None where it tells that the record is unreadable. Anything else it raises is a fault."""
    try:
        return call()
    except UnreadableRecord as error:
        message = str(error)
    assert 0 < len(message) < 1000
    return None


def sound(header: Header) -> None:
    """A header that was read says only what an archive can hold."""
    assert 0 < header.sampling_rate < np.finfo(np.float32).max
    assert header.frames >= 0
    assert all(channel.per_mv is None or np.isfinite(np.float32(channel.per_mv)) for channel in header.channels)
    assert len(header.channels) < 100
    "".join([*header.leads, *header.comments]).encode(errors="surrogatepass")
    person = person_of(header.keyed, header.comments)
    assert person.age is None or 0 <= person.age <= 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `r.dat`, of two leads of 16 bits."""
    place = tmp_path_factory.mktemp("fuzz")
    write_wfdb(place, "r", wave(1, 2, SAMPLES), ("I", "II"))
    write_wfdb(place, "a", wave(1, 2, SAMPLES), ("I", "II"))
    wfdb.wrann("a", "ii", np.arange(3, 60, 3), ["(", "N", ")", "p", "t"] * 3 + ["N"] * 4, write_dir=str(place))
    return place


def test_headers_that_are_nearly_right(folder: Path) -> None:
    rng = random.Random(1)
    read = 0
    for _ in range(43_000):
        text = spoilt(rng)
        header = told(lambda text=text: parse_header(folder / "r", text))  # type: ignore[misc]
        if isinstance(header, Header):
            sound(header)
            signal = told(lambda header=header: read_signal(header, "float32"))  # type: ignore[misc]
            read += signal is not None
            assert signal is None or signal.signal.size <= 10 * SAMPLES  # type: ignore[attr-defined]
    assert read > 2000


@FUZZ
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_headers_of_any_bytes(folder: Path, data: bytes) -> None:
    (folder / "any.hea").write_bytes(data)
    header = told(lambda: read_header(folder / "any"))
    if isinstance(header, Header):
        sound(header)


@FUZZ
@given(st.lists(st.text(max_size=60), max_size=4))
def test_comments_of_any_text(comments: list[str]) -> None:
    person = person_of(keyed_comments(comments), comments)
    assert person.age is None or 0 <= person.age <= 120
    assert person.sex in (None, "male", "female")


def test_signal_files_of_any_bytes(folder: Path) -> None:
    rng = random.Random(2)
    whole = (folder / "a.dat").read_bytes()
    formats = ("8", "16", "24", "32", "61", "80", "160", "212", "310", "311", "508", "516", "524", "17")
    for number in range(8_000):
        kind = formats[number % len(formats)]
        data = bytearray(whole[: rng.choice([len(whole), rng.randint(0, len(whole))])])
        for _ in range(rng.randint(0, 3)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        (folder / "b.dat").write_bytes(data + rng.choice([b"", bytes(40), b"x" * 700]))
        offset, per_frame, skew = rng.choice(["", "+24", "+9999999"]), rng.choice(["", "x3"]), rng.choice(["", ":2"])
        line = f"b.dat {kind}{per_frame}{skew}{offset} 200/mV"
        header = parse_header(folder / "b", f"b 2 500 {rng.choice([0, 1, SAMPLES, 10**12])}\n{line}\n{line}\n")
        signal = told(lambda header=header: read_signal(header, "float32"))  # type: ignore[misc]
        assert signal is None or signal.signal.size <= 8 * (len(data) + 700)  # type: ignore[attr-defined]


def test_annotations_of_any_bytes(folder: Path) -> None:
    rng = random.Random(3)
    header, whole = read_header(folder / "a"), (folder / "a.ii").read_bytes()
    read = 0
    for _ in range(4_000):
        data = bytearray(rng.choice([whole, rng.randbytes(rng.randint(0, 80))]))
        for _ in range(rng.randint(0, 4)):
            if data:
                data[rng.randrange(len(data))] = rng.randrange(256)
        (folder / "a.v1").write_bytes(data[: rng.choice([len(data), rng.randint(0, len(data))])])
        waves = told(lambda: read_fiducials(header, ["v1"], SAMPLES))
        read += bool(waves)
        for one in waves or []:  # type: ignore[attr-defined]
            assert all(place is None or 0 <= place < SAMPLES for place in (one["onset"], one["peak"], one["offset"]))
    assert read > 100
