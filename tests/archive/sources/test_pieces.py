"""Where pieces of a source begin and end."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest

from ecgscale.archive.sources import open_source
from ecgscale.archive.sources.files import SourceFolder
from ecgscale.archive.sources.ptbxl import PtbxlSource
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.archive.sources.tombstones import Tombstones, stretches
from ecgscale.archive.sources.wfdb import WfdbSource
from ecgscale.config import ArchiveConfig
from ecgscale.errors import ArchiveError
from ecgscale.io.places import place, upload
from tests.worlds.formula.large_sources import write_large_code15, write_large_ptbxl, write_large_wfdb, write_quickly
from tests.worlds.formula.recordings import wave


@pytest.mark.parametrize(
    ("is_in", "size", "expected"),
    [
        ("1111", 2, [(0, 2), (2, 4)]),
        ("11111", 2, [(0, 2), (2, 4), (4, 5)]),
        ("11", 5, [(0, 2)]),
        ("0101101", 2, [(0, 4), (4, 7)]),
        # Those behind the last who is in make no piece without a shard.
        ("1100", 2, [(0, 4)]),
        ("110100", 2, [(0, 2), (2, 6)]),
        ("000", 2, [(0, 3)]),
        ("1", 1, [(0, 1)]),
    ],
)
def test_a_piece_fills_a_shard(is_in: str, size: int, expected: list[tuple[int, int]]) -> None:
    assert stretches([one == "1" for one in is_in], size) == expected


def test_without_a_size_there_is_one_piece() -> None:
    assert stretches([True] * 5, None) == [(0, 5)]


def test_rows_of_ptbxl_go_by_number_and_the_forgotten_do_not_count(tmp_path: Path) -> None:
    source = PtbxlSource(SourceFolder(write_large_ptbxl(tmp_path / "src", 20), tmp_path))
    assert (source.total, source.tables) == (20, ("ptbxl_database.csv", "scp_statements.csv"))
    pieces = source.pieces(IngestOptions(shard_records=8))
    assert [(piece.rows, piece.what, len(piece.files)) for piece in pieces] == [
        ((0, 8), "records 1 to 8", 16),
        ((8, 16), "records 9 to 16", 16),
        ((16, 20), "records 17 to 20", 8),
    ]
    # Patient 1001 has the second and the third row.
    gone = Tombstones(salt=secrets.token_hex(32)).with_these(patients=["1001"])
    pieces = source.pieces(IngestOptions(shard_records=8, tombstones=gone))
    assert [piece.rows for piece in pieces] == [(0, 10), (10, 18), (18, 20)]


def test_records_are_in_natural_order_under_names_or_paths(tmp_path: Path) -> None:
    for name in ("r10", "r9", "sub/r11"):
        write_quickly((tmp_path / "src" / name).parent, name.split("/")[-1], wave(1, samples=4))
    source = WfdbSource(SourceFolder(tmp_path / "src", tmp_path))
    assert source.facts == {"record_ids": "name"}
    [piece] = source.pieces(IngestOptions())
    assert dict(piece.sets) == {"r9": "r9", "r10": "r10", "sub/r11": "r11"}
    write_quickly(tmp_path / "src/sub", "r9", wave(1, samples=4))
    source = WfdbSource(SourceFolder(tmp_path / "src", tmp_path))
    assert source.facts == {"record_ids": "path"}
    [_, piece] = source.pieces(IngestOptions(shard_records=2))
    assert dict(piece.sets) == {"sub/r9": "sub/r9", "sub/r11": "sub/r11"}


def test_parts_of_code15(tmp_path: Path) -> None:
    files = SourceFolder(write_large_code15(tmp_path / "src"), tmp_path)
    source = open_source(ArchiveConfig(path=tmp_path / "a", source="code15", src=tmp_path / "src"), files)
    assert [(piece.what, piece.records) for piece in source.pieces(IngestOptions())] == [
        ("exams_part0.hdf5", 151),
        ("exams_part2.hdf5", 6),
        ("exams_part10.hdf5", 132),
        ("exams_part11.hdf5", 1),
    ]
    assert source.total == 290


@pytest.mark.parametrize("kind", ["ptbxl", "code15", "wfdb"])
def test_a_folder_that_holds_nothing(tmp_path: Path, kind: Any) -> None:
    (tmp_path / "src").mkdir()
    config = ArchiveConfig(path=tmp_path / "a", source=kind, src=tmp_path / "src")
    with pytest.raises(ArchiveError, match=r"ptbxl_database\.csv is missing|holds no (exams_part|\.hea)"):
        open_source(config, SourceFolder(tmp_path / "src", tmp_path)).pieces(IngestOptions())


def test_what_a_header_names_is_fetched_and_nothing_else(tmp_path: Path, s3_root: str) -> None:
    upload(write_large_wfdb(tmp_path / "src", 40), f"{s3_root}/src")
    files = SourceFolder(place(f"{s3_root}/src"), tmp_path / "copies")
    source = WfdbSource(files)
    assert not files.folder.exists()
    pieces = source.pieces(IngestOptions(shard_records=10))
    [piece] = [piece for piece in pieces if "p2/4" in piece.sets]
    source.fetch(piece)
    there = {path.relative_to(files.folder).as_posix() for path in files.folder.rglob("*") if path.is_file()}
    assert {"p2/4.hea", "p2/raw_of_four.bin"} < there
    assert {name.rpartition(".")[0] for name in there} == {*piece.sets, "p2/raw_of_four"}
