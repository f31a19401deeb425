"""One bit of a shard is another: whoever reads it says so, or reads what was there before."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.archive import Archive, shard
from ecgscale.archive.inspect import inspect_archive
from ecgscale.archive.intake.intake import IntakeLog
from ecgscale.archive.listing import archive_info
from ecgscale.archive.reader import chosen_batches
from ecgscale.archive.shard import check_content
from ecgscale.archive.sources.tombstones import Tombstones, read_tombstones, write_tombstones
from ecgscale.errors import ArchiveError, ShardError
from ecgscale.io.objects import StoreError
from tests.worlds.commands.explaining import change_a_sample
from tests.worlds.formula.recordings import record, wave, write_archive

EXTRA = [pa.field("superclasses", pa.list_(pa.string())), pa.field("AF", pa.bool_()), pa.field("score", pa.float32())]


def written(path: Path) -> Archive:
    rows = [
        record(
            str(i),
            signal=wave(i, 3, 60),
            leads=["I", "II", "V1"],
            superclasses=["NORM", "MI"][: i % 3],
            AF=i % 2 == 0,
            score=i / 3,
            age=40.0 + i,
            site="north",
            fold=i,
        )
        for i in range(12)
    ]
    return write_archive(path, rows, extra=EXTRA)


def everything(archive: Archive) -> list[Any]:
    """As `explain` reads a shard."""
    [one] = archive.shards
    return [(raw.table.to_pydict(), raw.values.tolist()) for raw in archive.batches(one)]


def a_part(archive: Archive) -> list[Any]:
    """As `fit` reads it: chosen recordings, and columns without signals."""
    [one] = archive.shards
    batches = chosen_batches(archive, {one.key: ["3", "5", "9"]})
    chosen = [
        (rows, [raw.signal(i).tolist() for i in rows], raw.leads, raw.units_per_mv.tolist(), raw.sampling_rate.tolist())
        for raw, rows in batches
    ]
    return [*chosen, archive.metadata(["record_id"]).to_pydict(), archive.metadata(["fold", "AF", "score"]).to_pydict()]


def flipped(good: bytes, seed: int, n: int) -> list[tuple[int, bytes]]:
    """`n` files, each with another bit of `good`, and the byte that it is in."""
    drawn = random.Random(seed)
    found = []
    for _ in range(n):
        at, bit = drawn.randrange(len(good)), drawn.randrange(8)
        found.append((at, good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]))
    return found


def test_a_flipped_bit_is_told_or_changes_nothing(tmp_path: Path) -> None:
    """Pages, their headers, dictionaries, statistics, the names of columns, metadata, the footer's length."""
    archive = written(tmp_path / "a")
    file = Path(archive.shards[0].path)
    good, told = file.read_bytes(), []
    all_of_it, some_of_it = everything(archive), a_part(archive)
    for at, bad in flipped(good, 12, 250):
        file.write_bytes(bad)
        for read, expected in ((everything, all_of_it), (a_part, some_of_it)):
            try:
                assert read(Archive.open(tmp_path / "a")) == expected, f"byte {at}"
            except ShardError as error:
                told.append(str(error))
    assert len(told) > 400, "only bits that nobody reads may pass"
    assert not [said for said in told if "part-00000.parquet" not in said]


def test_samples_that_decode_to_others_are_told_by_their_checksum(tmp_path: Path) -> None:
    archive = written(tmp_path / "a")
    file = Path(archive.shards[0].path)
    good = bytearray(file.read_bytes())
    column = next(
        c for i in range(99) if (c := pq.read_metadata(file).row_group(0).column(i)).path_in_schema.startswith("signal")
    )
    good[column.data_page_offset + column.total_compressed_size - 9] ^= 16
    file.write_bytes(bytes(good))
    with pytest.raises(ShardError, match=r"part-00000\.parquet breaks off after row 0 of 12: .*checksum"):
        everything(Archive.open(tmp_path / "a"))
    with pytest.raises(ShardError, match="checksum"):
        a_part(Archive.open(tmp_path / "a"))


def test_a_shard_of_before_there_were_checksums_has_its_content_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shard, "parquet_writer", pq.ParquetWriter)
    monkeypatch.setattr(shard, "UNSIGNED", {})
    monkeypatch.setattr(shard, "sign_footer", lambda file: None)
    archive = written(tmp_path / "a")
    file = Path(archive.shards[0].path)
    good, expected = file.read_bytes(), everything(archive)
    assert check_content(archive.shards[0])
    ends = shard.data_end(len(good), pq.read_metadata(file))
    silent = 0
    for at, bad in flipped(good[:ends], 3, 120):
        file.write_bytes(bad + good[ends:])
        try:
            assert everything(Archive.open(tmp_path / "a")) == expected, f"byte {at}"
        except ShardError as error:
            silent += "content digest" in str(error)
    assert silent > 20, "decoded, to something else"


def test_inspect_reads_everything_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = written(tmp_path / "a")
    assert inspect_archive(archive, full=True)["content"] == {"held": 1, "without_digest": 0}
    change_a_sample(Path(archive.shards[0].path))
    facts = inspect_archive(Archive.open(tmp_path / "a"))
    assert "checksum" in facts["unreadable"]["part-00000.parquet"]
    # As of a shard without checksums.
    monkeypatch.setattr(shard, "open_parquet_file", pq.ParquetFile)
    assert inspect_archive(Archive.open(tmp_path / "a"))["unreadable"] == {}
    facts = inspect_archive(Archive.open(tmp_path / "a"), full=True)
    assert "content digest" in facts["unreadable"]["part-00000.parquet"]
    assert facts["content"] == {"held": 0, "without_digest": 0}


def test_a_footer_copied_along_by_another_tool_is_none_of_ours(tmp_path: Path) -> None:
    archive = written(tmp_path / "a")
    file, expected = Path(archive.shards[0].path), everything(archive)
    table = pq.read_table(file)
    footer = {**(table.schema.metadata or {}), **pq.read_metadata(file).metadata}
    pq.write_table(table.replace_schema_metadata(footer), file)
    again = Archive.open(tmp_path / "a")
    assert everything(again) == expected
    assert not check_content(again.shards[0])


def test_words_that_are_none_are_told(tmp_path: Path) -> None:
    """Another program may write what it calls strings as it likes."""
    archive = written(tmp_path / "a")
    file = Path(archive.shards[0].path)
    table = pq.read_table(file)
    names = pa.array([b"M\xfcller", *[str(i).encode() for i in range(11)]])
    table = table.set_column(0, "record_id", names.view(pa.string()))
    pq.write_table(table, file)
    with pytest.raises(ShardError, match=r"part-00000\.parquet breaks off after row 0 of 12: .*UTF8"):
        everything(Archive.open(tmp_path / "a"))


def test_the_digest_is_of_rows_however_they_are_cut(tmp_path: Path) -> None:
    rows = [record(str(i), signal=wave(i, 2, 8), leads=["I", "II"]) for i in range(300)]
    archive = write_archive(tmp_path / "a", rows, shard_records=290)
    for one in archive.shards:
        assert check_content(one)
        for size in (7, 128, 200):
            assert sum(len(raw) for raw in archive.batches(one, batch_records=size)) == archive.footer(one).rows
    signals = np.concatenate([raw.values for raw in archive.batches(archive.shards[0])])
    assert len(signals) == 290 * 16


def test_a_bit_of_what_stands_beside_the_shards_is_told_or_changes_nothing(tmp_path: Path) -> None:
    archive = written(tmp_path / "a")
    gone = Tombstones(salt="ab" * 32).with_these(patients=["p1"], records=["7", "8"])
    write_tombstones(archive.path, gone)
    info, forgotten = Path(archive.path, "_archive.json"), Path(archive.path, "_forgotten.json")
    rng = random.Random(3)
    for file, read, kind in (
        (info, lambda data: archive_info(data, info), ArchiveError),
        (forgotten, lambda data: read_tombstones(archive.path), StoreError),
    ):
        whole = file.read_bytes()
        before = read(whole)
        told = 0
        for bit in rng.sample(range(8 * len(whole)), 600):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            file.write_bytes(data)
            try:
                after = read(bytes(data))
            except kind:
                told += 1
                continue
            # Spaces, and the letters of the word "digest", which is then unknown.
            if isinstance(after, dict):
                assert {key: after[key] for key in before} == before
            else:
                assert after is not None
                assert (after.salt, after.patients, after.records) == (before.salt, before.patients, before.records)
        assert told > 400
        file.write_bytes(whole)


def test_an_edited_archive_json_is_told_by_whoever_opens_it(tmp_path: Path) -> None:
    archive = written(tmp_path / "a")
    file = Path(archive.path, "_archive.json")
    text = file.read_text()
    file.write_text(text.replace(archive.archive_id, "another"))
    for opening in (Archive.open, IntakeLog):
        with pytest.raises(ArchiveError, match=r'_archive\.json is not what its digest is of.*line "digest"'):
            opening(archive.path)
    # Who means it says so; archives of before have none.
    file.write_text("\n".join(line for line in file.read_text().splitlines() if '"digest"' not in line))
    assert Archive.open(archive.path).archive_id == "another"
    file.write_text(json.dumps({"schema_version": 1, "archive_id": "old", "signal": "int16"}))
    assert Archive.open(archive.path).archive_id == "old"
