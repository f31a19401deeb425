"""The files of a source: linked folders are followed, and what is no file is counted, never opened."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ecgscale.archive import Archive
from ecgscale.archive.sources.files import SourceFolder
from ecgscale.config import ArchiveConfig
from ecgscale.passes.ingest.ingest import ingest_archive
from tests.worlds.formula.recordings import wave, write_wfdb

LEADS = ["I", "II", "V1"]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "Ärzte Ordner"
    write_wfdb(source / "a", "1", wave(3, 3), LEADS)
    write_wfdb(tmp_path / "elsewhere", "2", wave(4, 3), LEADS)
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "a" / "back").symlink_to("..")
    (source / "gone.hea").symlink_to(tmp_path / "not mounted")
    os.mkfifo(source / "pipe.hea")
    shutil.copy(source / "a" / "1.hea", os.fsencode(source) + b"/caf\xe9.hea")
    return source


NOTES = [
    "1 entry of the source left out: a link into nowhere",
    "1 entry of the source left out: a pipe",
    "1 entry of the source left out: called by a name that is not UTF-8",
]


def test_every_file_is_listed_once_and_the_rest_counted(source: Path, tmp_path: Path) -> None:
    files = SourceFolder(source, tmp_path)
    assert sorted(files.names()) == sorted(files.listed) == ["a/1.dat", "a/1.hea", "linked/2.dat", "linked/2.hea"]
    assert files.notes == NOTES


def test_an_ingest_takes_them_and_says_so(source: Path, tmp_path: Path) -> None:
    config = ArchiveConfig(source="wfdb", src=source, path=tmp_path / "archive")
    result = ingest_archive(config)
    assert result.records == 2
    assert set(NOTES) <= set(result.notes)
    assert set(NOTES) <= set(Archive.open(tmp_path / "archive").info["source"]["notes"])
