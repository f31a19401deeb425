"""Odd tables and damaged HDF5, thousands of each: no traceback, every record accounted for, memory within bounds."""

from __future__ import annotations

import math
import random
import re
import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.sources import hdf5
from ecgscale.archive.sources.code15 import ingest_code15, part_exams
from ecgscale.archive.sources.hdf5 import BrokenPart, reading, signals_in
from ecgscale.archive.sources.ptbxl import scp_codes
from ecgscale.archive.sources.tables import Odd, column_values, id_text, ids_of, read_csv
from ecgscale.errors import EcgscaleError

KINDS = (pa.bool_(), pa.int16(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.timestamp("us"))
WORDS = (
    "1",
    "0.0",
    "TRUE",
    "yes",
    "1e400",
    "nan",
    "-inf",
    "1,5",
    "b'7'",
    "{'NORM': 1}",
    "2020-13-01",
    "0x1",
    "{" * 500,
)


def odd_cells(chance: random.Random) -> Any:
    """One cell as tables have them, or as they should not."""
    return chance.choice(
        (
            lambda: None,
            lambda: chance.random() < 0.5,
            lambda: chance.randrange(-(2**70), 2**70) >> chance.randrange(70),
            lambda: chance.choice((1.0, 0.5, -1e300, 1e39, math.inf, math.nan, 2.0**53 + 2)) * chance.choice((1, 7)),
            lambda: "".join(map(chr, (chance.choice((65, 48, 46, 39, 10, 0, 0x661, 0xFC, 0x20)) for _ in range(5)))),
            lambda: bytes(chance.randrange(256) for _ in range(4)),
            lambda: str(chance.randrange(10**6)) + chance.choice(("", ".0", ".00", ".5", " ", "e3")),
            lambda: chance.choice(WORDS),
        )
    )()


def test_odd_cells() -> None:
    """42,000 cells, each as it is and as text: what does not fit its column is null and told, and an id is one text."""
    chance = random.Random(7)
    for kind in KINDS:
        cells = [odd_cells(chance) for _ in range(6000)]
        for cell in cells:
            name = id_text(cell)
            assert name is None or (name == name.strip() and name and not re.fullmatch(r"b'.*'", name))
            scp_codes(cell if isinstance(cell, str) else None)
        texts = [None if cell is None else str(cell) for cell in cells]
        odd = Odd()
        values = column_values(pa.table({"x": texts}), "x", kind, odd)
        pa.array(values, kind)
        for row, (text, value) in enumerate(zip(texts, values, strict=True)):
            nothing = text is None or text.strip().casefold() in ("nan", "+nan", "-nan")
            assert (value is None) == (row in odd) or (value is None and nothing), (kind, text, value)


ROWS = [b"exam_id,age,is_male,patient_id,AF", *(b"%d,4%d,True,%d,1" % (i, i % 10, i // 2) for i in range(1, 9))]
MORE = (b"\0", b'"', b";", b",,", b"\xff", b"\r", b"\n\n", b"exam_id,", b"'", b"1e9999", b"\xef\xbb\xbf", b"\t", b"nan")


def mutated(good: bytes, chance: random.Random, within: int | None = None) -> bytes:
    """A copy with some bytes changed, put in, taken out, or cut off."""
    torn = bytearray(good)
    for _ in range(chance.choice((1, 1, 2, 4, 12))):
        at = chance.randrange(max(1, min(len(torn), within or len(torn))))
        what = chance.randrange(4 if within is None else 2)
        if what < 2 and torn:
            torn[at] = chance.choice((0, 255, chance.randrange(256), torn[at] ^ (1 << chance.randrange(8))))
        elif what == 2:
            torn[at:at] = chance.choice(MORE)
        else:
            del torn[at : at + chance.randrange(1, 9)]
    return bytes(torn[: chance.randrange(len(torn) + 1)] if chance.random() < 0.1 else torn)


def test_mutated_tables(tmp_path: Path) -> None:
    """6,000 files: read with the lines that are left out told, or one error that names the file."""
    chance, path, refused = random.Random(12), tmp_path / "exams.csv", 0
    for _ in range(6000):
        path.write_bytes(mutated(b"\n".join(ROWS) + b"\n", chance))
        notes: dict[str, None] = {}
        try:
            table = read_csv(path, ("exam_id", "age"), ids=("exam_id",), notes=notes)
        except EcgscaleError as error:
            refused += "exams.csv" in str(error) or pytest.fail(str(error))
            continue
        odd = Odd()
        ages = column_values(table, "age", pa.float32(), odd)
        assert len(ages) == len(ids_of(table, "exam_id")) == table.num_rows
        assert all(age is None or np.isfinite(age) for age in ages)
    assert 0 < refused < 3000


def part(path: Path, kind: str) -> bytes:
    """A small part, as different tools write it."""
    tracings = np.zeros((4, 32, 12), np.float32)
    tracings[:3] = np.random.default_rng(0).normal(size=(3, 32, 12))
    ids: Any = [11, 12, 13, 0]
    how: dict[str, Any] = {}
    if kind == "packed":
        how = {"chunks": (1, 32, 12), "compression": "gzip", "shuffle": True, "fletcher32": True}
    if kind == "texts":
        ids = np.array(["11", "12", "13", "0"], dtype=h5py.string_dtype())
    with h5py.File(path, "w", libver="latest" if kind == "latest" else None) as file:
        file.create_dataset("tracings", data=tracings, **how)
        file["exam_id"] = ids
    return path.read_bytes()


@pytest.mark.parametrize("kind", ["plain", "packed", "texts", "latest"])
def test_mutated_parts(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,550 files: ids and samples of each are read, or one error names the file; memory stays near its size."""
    # Texts of any length are read by a process of their own, since HDF5 does not come back from some of these.
    monkeypatch.setattr(hdf5, "TEXTS_S", 10.0)
    files = 50 if kind == "texts" else 500
    chance, path = random.Random(kind), tmp_path / "exams_part0.hdf5"
    good, refused = part(path, kind), 0
    tracemalloc.start()
    for _ in range(files):
        path.write_bytes(mutated(good, chance, within=chance.choice((800, 4000, len(good)))))
        try:
            exams = part_exams(path)
            with signals_in(path, "tracings", ("record", "sample", "lead"), list("abcdefghijkl"), "exam_id") as signals:
                read = list(signals.between(0, signals.count))
            assert len(read) == len(exams)
            assert all((array is None) == bool(reason) for array, reason in read)
        except BrokenPart as error:
            refused += "exams_part0.hdf5" in str(error) or pytest.fail(str(error))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**25 + 1200 * len(good)
    assert 0 < refused < files


def test_mutated_parts_beside_a_good_one(tmp_path: Path) -> None:
    """Whole ingests: every row of every part that can be opened is in the archive, or dropped and counted."""
    chance, source = random.Random(3), tmp_path / "src"
    source.mkdir()
    part(source / "exams_part1.hdf5", "plain")
    good = part(source / "exams_part0.hdf5", "packed")
    (source / "exams.csv").write_bytes(b"exam_id,age,is_male\n11,40,1\n12,41,0\n")
    for i in range(60):
        (source / "exams_part0.hdf5").write_bytes(mutated(good, chance, within=chance.choice((4000, len(good)))))
        try:
            rows = len(part_exams(source / "exams_part0.hdf5"))
        except BrokenPart:
            rows = 0
        result = ingest_code15(source, tmp_path / f"a{i}")
        assert result.records + result.dropped == 4 + rows
        assert bool(result.set_aside) == (rows == 0)
        assert Archive.open(tmp_path / f"a{i}").metadata(["record_id"]).num_rows == result.records


def test_what_is_raised_while_a_file_is_read_is_one_error(tmp_path: Path) -> None:
    part(tmp_path / "x.hdf5", "plain")
    for error in (KeyError("x"), RuntimeError("x"), SystemError("x"), UnicodeDecodeError("utf-8", b"x", 0, 1, "x")):
        with pytest.raises(BrokenPart, match=r"x\.hdf5 is not a whole HDF5 file"), reading(tmp_path / "x.hdf5"):
            raise error


def test_a_heap_from_which_hdf5_does_not_come_back_is_told_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "exams_part0.hdf5"
    part(path, "texts")
    monkeypatch.setattr(hdf5, "_TEXTS", "import time; time.sleep(60)")
    monkeypatch.setattr(hdf5, "TEXTS_S", 0.2)
    with pytest.raises(BrokenPart, match=r"exams_part0\.hdf5: the texts of exam_id were not read within 0\.2 s"):
        part_exams(path)
    monkeypatch.setattr(hdf5, "_TEXTS", "import os; os.abort()")
    monkeypatch.setattr(hdf5, "TEXTS_S", 10.0)
    with pytest.raises(BrokenPart, match="cannot be read \\(HDF5 crashed\\)"):
        part_exams(path)
