"""What lies in an archive's folder: nothing is passed over without a word, and nothing odd is opened."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from ecgscale.archive import Archive
from ecgscale.archive.inspect import inspect_archive
from ecgscale.archive.listing import list_archive
from ecgscale.errors import ArchiveError, ShardError
from ecgscale.io.objects import open_objects
from ecgscale.io.places import place, upload
from tests.worlds.formula.recordings import record, write_archive

ODD = {
    "part-circle.parquet": "is a folder",
    "part-folder.parquet": "is a folder",
    "part-gone.parquet": "is a link into nowhere",
    "part-pipe.parquet": "is a pipe",
    "part-latin\\udce9.parquet": "is called by a name that is not UTF-8|has a name that cannot be written down",
    "part-new\\nline.parquet": "has a name that cannot be written down",
    "part-9.PARQUET": "in small letters",
    "PART-9.parquet": "in small letters",
    "more/": r"holds 2 files \(deeper/part-00000.parquet, notes.txt\), which nobody reads",
}
OTHERS = ["._part-00000.parquet", "data.parquet", "empty/", "notes/a.txt", "part-00000.parquet.tmp"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An archive of two good shards and one of no bytes, and all that people and machines leave beside them."""
    folder = tmp_path / "Ärzte Ordner" / "archive"
    write_archive(folder, [record("1"), record("2")], shard_records=1)
    good = folder / "part-00000.parquet"
    for name in ("part-folder.parquet", "more/deeper", "empty", "notes", "_cache", "more/_own"):
        (folder / name).mkdir(parents=True)
    (folder / "part-gone.parquet").symlink_to("/nowhere/part-00001.parquet")
    (folder / "part-circle.parquet").symlink_to(".")
    (folder / "more" / "loop").symlink_to("..")
    os.mkfifo(folder / "part-pipe.parquet")
    names = ("part-9.PARQUET", "PART-9.parquet", "part-new\nline.parquet", "part-latin\udce9.parquet")
    for name in (*names, "more/deeper/part-00000.parquet", "data.parquet", "._part-00000.parquet", "_old.parquet"):
        shutil.copy(good, folder / name)
    for name in ("part-empty.parquet", "part-00000.parquet.tmp", "notes/a.txt", "more/notes.txt", "_cache/x.parquet"):
        (folder / name).write_bytes(b"")
    return folder


def test_what_looks_like_a_shard_is_one_and_cannot_be_read(folder: Path) -> None:
    archive = Archive.open(folder)
    good = ["part-00000.parquet", "part-00001.parquet"]
    assert [shard.key for shard in archive.shards] == sorted([*good, "part-empty.parquet", *ODD])
    for shard in archive.shards:
        if shard.key in ODD:
            with pytest.raises(ShardError, match=ODD[shard.key]):
                archive.footer(shard)
            with pytest.raises(ShardError, match="archive/"):
                list(archive.batches(shard))
    assert list(archive.others) == OTHERS
    facts = inspect_archive(archive)
    assert sorted(facts["unreadable"]) == sorted([*ODD, "part-empty.parquet"])
    assert (facts["records"], facts["others"]) == (2, OTHERS)
    str(facts).encode()


def test_in_an_object_store(folder: Path, s3_root: str) -> None:
    for name in ("part-latin\udce9.parquet", "part-new\nline.parquet", "part-circle.parquet", "more/loop"):
        (folder / name).unlink()
    upload(folder, f"{s3_root}/archive")
    open_objects(f"{s3_root}/archive").put("part-folder.parquet/0.parquet", b"1")
    found = list_archive(place(f"{s3_root}/archive"))
    odd = {shard.key: shard.odd for shard in found.shards if shard.odd}
    names = ["PART-9.parquet", "more/", "part-9.PARQUET", "part-folder.parquet"]
    assert sorted(odd) == sorted(names)
    assert list(found.others) == [name for name in OTHERS if name != "empty/"]


def test_an_archive_of_nothing_but_odd_shards_is_refused(tmp_path: Path) -> None:
    write_archive(tmp_path / "a", [record("1")])
    (tmp_path / "a" / "part-00000.parquet").unlink()
    with pytest.raises(ArchiveError, match="is a disk not mounted"):
        Archive.open(tmp_path / "a")
    os.mkfifo(tmp_path / "a" / "part-00000.parquet")
    with pytest.raises(ArchiveError, match=r"none of 1 shards can be read; first: .*is a pipe"):
        inspect_archive(Archive.open(tmp_path / "a"))
