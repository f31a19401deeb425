"""Arrays and tables of any layout, described by a TOML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ecgscale.archive import Archive
from ecgscale.archive.intake.arrivals import ingest_arrivals
from ecgscale.archive.sources import open_source
from ecgscale.archive.sources.files import SourceFolder
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.archive.sources.table import ingest_table
from ecgscale.archive_config import ArchiveConfig, read_layout
from ecgscale.cli import main
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.passes.ingest.ingest import ingest_archive
from tests.worlds.formula.recordings import all_records

N, T = 5, 40
X = np.random.default_rng(0).normal(size=(N, 3, T)).astype(np.float32)
"""Records, leads, samples in mV."""
HEAD = 'axes = [{axes}]\nleads = ["I", "II", "V1"]\nunits_per_mv = 1000\n'
RATE = "sampling_rate = 250\n"
TABLE = "name,who,years,g,AF,free text\n" + "".join(
    f"r{i},{i // 2}.0,{40 + i},{'FM'[i % 2]},{i % 2},x\n" for i in range(N)
)
BY_ID = '[table]\nfile = "t.csv"\nby = "id"\nid = "name"\npatient = "who"\nage = "years"\nsex = "g"\nlabels = ["AF"]\n'


def written(folder: Path, kind: str, ids: Any = None) -> str:
    """Files of one kind in µV; the `[signal]` that describes them."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"r{i}" for i in range(N)] if ids is None else ids
    data = X * 1000
    if kind == "hdf5":
        with h5py.File(folder / "a.h5", "w") as file:
            file["x"], file["id"] = data.transpose(0, 2, 1), np.array(names, dtype=h5py.string_dtype())
        return 'file = "a.h5"\ndataset = "x"\nids = "id"\n' + HEAD.format(axes='"record", "sample", "lead"')
    if kind == "hdf5 samples first":
        with h5py.File(folder / "a.h5", "w") as file:
            file["x"], file["id"] = data.transpose(2, 0, 1), np.array(names, dtype=h5py.string_dtype())
        return 'file = "a.h5"\ndataset = "x"\nids = "id"\n' + HEAD.format(axes='"sample", "record", "lead"')
    if kind == "parquet":
        pq.write_table(pa.table({"x": data.reshape(N, -1).tolist(), "id": names}), folder / "a.parquet")
        return 'file = "*.parquet"\ndataset = "x"\nids = "id"\n' + HEAD.format(axes='"record", "lead", "sample"')
    if kind == "npy":
        for i in range(N):
            np.save(folder / f"r{i}.npy", data[i].astype(np.float64))
        return 'file = "*.npy"\n' + HEAD.format(axes='"lead", "sample"')
    if kind == "csv":
        for i in range(N):
            rows = "\n".join(",".join(f"{value!r}" for value in row) for row in data[i].T.astype(float).tolist())
            (folder / f"r{i}.csv").write_text(f"I,II,V1\n{rows}\n")
        return 'file = "r*.csv"\n' + HEAD.format(axes='"sample", "lead"')
    if kind == "parquet by lead":
        leads = {lead: data[:, i].tolist() for i, lead in enumerate(("I", "II", "V1"))}
        pq.write_table(pa.table({"id": names, **leads}), folder / "a.parquet")
        return 'file = "*.parquet"\nids = "id"\n' + HEAD.format(axes='"record", "lead", "sample"')
    if kind == "csv of many":
        lines = [
            f"{name},{','.join(map(repr, row))}" for name, x in zip(names, data, strict=True) for row in x.T.tolist()
        ]
        (folder / "all.csv").write_text("\n".join(["id,I,II,V1", *lines, ""]))
        return 'file = "all.csv"\nids = "id"\n' + HEAD.format(axes='"record", "sample", "lead"')
    np.save(folder / "all.npy", data)
    return 'file = "all.npy"\n' + HEAD.format(axes='"record", "lead", "sample"')


def layout(folder: Path, signal: str, table: str = "") -> str:
    path = folder / "layout.toml"
    path.write_text(f"[signal]\n{signal}{table}")
    return str(path)


KINDS = ("hdf5", "hdf5 samples first", "parquet", "parquet by lead", "npy", "csv", "csv of many")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_gives_the_same_records(tmp_path: Path, kind: str) -> None:
    where = layout(tmp_path, written(tmp_path / "src", kind) + RATE, BY_ID)
    (tmp_path / "src/t.csv").write_text(TABLE)
    result = ingest_table(tmp_path / "src", tmp_path / "a", read_layout(where))
    archive = Archive.open(tmp_path / "a")
    assert [name for name, _ in all_records(archive)] == [f"r{i}" for i in range(N)]
    np.testing.assert_allclose(np.stack([x for _, x in all_records(archive)]), X * 1000, rtol=1e-6)
    columns = ["patient_id", "age", "sex", "AF", "sampling_rate", "units_per_mv"]
    rows = [tuple(row[name] for name in columns) for row in archive.metadata(columns).to_pylist()]
    assert rows[3] == ("1", 43.0, "male", 1, 250.0, 1000.0)
    assert "free text" not in archive.schema().names
    assert (result.problems.count, result.notes) == (0, ())


def test_by_order_with_numbers_for_ids(tmp_path: Path) -> None:
    signal = written(tmp_path / "src", "one array")
    by_order = '[table]\nfile = "t.csv"\nby = "order"\nage = "years"\nsampling_rate = "hz"\n'
    where = layout(tmp_path, signal, by_order)
    (tmp_path / "src/t.csv").write_text("years,hz\n" + "".join(f"{50 + i},{100 * (i + 1)}\n" for i in range(N)))
    ingest_table(tmp_path / "src", tmp_path / "a", read_layout(where))
    rows = Archive.open(tmp_path / "a").metadata(["record_id", "age", "sampling_rate"]).to_pylist()
    assert [(row["record_id"], row["age"], row["sampling_rate"]) for row in rows][4] == ("4", 54.0, 500.0)
    (tmp_path / "src/t.csv").write_text("years,hz\n1,100\n")
    with pytest.raises(ArchiveError, match=r"wants a row a record: 5 records of all\.npy, 1 rows of t\.csv"):
        ingest_table(tmp_path / "src", tmp_path / "b", read_layout(where))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('file = "a.h5"\nunits_per_mvv = 1\n', r"unknown key signal\.units_per_mvv; .* Did you mean 'units_per_mv'"),
        (
            'file = "a.npy"\naxes = ["lead", "sample"]\nleads = ["I"]\nsampling_rate = 1\n',
            "signal.units_per_mv is missing",
        ),
        ('file = "a.npy"\n' + HEAD.format(axes='"lead", "sample"'), "no rate: write signal.sampling_rate"),
        ('file = "a.npy"\n' + HEAD.format(axes='"lead", "lead"') + RATE, "write each of record, lead, sample once"),
        ('file = "a.h5"\n' + HEAD.format(axes='"record", "lead", "sample"') + RATE, "write signal.dataset"),
        (
            'file = "*.npy"\n' + HEAD.format(axes='"lead", "sample"') + RATE + '[table]\nfile = "t"\nby = "order"\n',
            "wants one file of many",
        ),
        ('file = "a.xyz"\n' + HEAD.format(axes='"lead", "sample"') + RATE, "expected one of .hdf5"),
    ],
)
def test_what_a_layout_does_not_say_is_an_error(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_layout(layout(tmp_path, text))


def test_the_released_layouts_of_samitrop_and_the_test_set_of_code(tmp_path: Path) -> None:
    tracings = np.zeros((3, 4096, 12), np.float32)
    tracings[:, 581:3515] = np.random.default_rng(0).normal(size=(3, 2934, 12))
    for name, file, table, text in (
        (
            "samitrop",
            "exams.hdf5",
            "exams.csv",
            "exam_id,age,is_male,normal_ecg,death,timey,nn_predicted_age\n7,60,True,False,True,1.5,61\n",
        ),
        ("code-test", "ecg_tracings.hdf5", "attributes.csv", "age,sex\n60,M\n"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        with h5py.File(folder / file, "w") as stream:
            stream["tracings"] = tracings
        head, row = text.splitlines()
        rows = [row.replace("7,", f"{7 + i},", 1) for i in range(3)]
        (folder / table).write_text("\n".join([head, *rows]) + "\n")
        ingest_table(folder, tmp_path / f"{name}.a", read_layout(name))
        archive = Archive.open(tmp_path / f"{name}.a")
        rows = archive.metadata(["record_id", "age", "sex", "valid_start", "valid_stop"]).to_pylist()
        assert [row["record_id"] for row in rows] == (["7", "8", "9"] if name == "samitrop" else ["0", "1", "2"])
        assert (rows[2]["age"], rows[2]["sex"], rows[2]["valid_start"], rows[2]["valid_stop"]) == (
            60,
            "male",
            581,
            3515,
        )


def test_odd_files_records_and_rows_end_nothing(tmp_path: Path) -> None:
    signal = written(tmp_path / "src", "npy")
    (tmp_path / "src/r1.npy").write_bytes(b"nothing")
    np.save(tmp_path / "src/r2.npy", X[2][:2])
    (tmp_path / "src/t.csv").write_text(TABLE.replace("43,M", "x,?").replace("r4,", "else,"))
    result = ingest_table(tmp_path / "src", tmp_path / "a", read_layout(layout(tmp_path, signal + RATE, BY_ID)))
    assert [(name, x.shape[1]) for name, x in all_records(Archive.open(tmp_path / "a"))] == [
        ("r0", T),
        ("r1", 0),
        ("r2", 0),
        ("r3", T),
        ("r4", T),
    ]
    told = "\n".join([*result.problems.first, *result.notes])
    for words in (
        "record r1: ",
        "has 2 leads",
        "years is 'x', expected a number",
        "g is '?'",
        "1 records have no row",
        "1 rows of t.csv",
    ):
        assert words in told


def test_pieces_make_the_same_shards_and_nights_take_new_files(tmp_path: Path) -> None:
    source = tmp_path / "src"
    where = layout(tmp_path, written(source, "parquet") + RATE)
    config = ArchiveConfig(path=tmp_path / "a", source="table", src=source, layout=where, shard_records=2)
    ingest_archive(config)
    made = [
        shard.content_digest for shard in map(Archive.open(tmp_path / "a").footer, Archive.open(tmp_path / "a").shards)
    ]
    files = SourceFolder(source, source)
    pieces = open_source(config, files).pieces(IngestOptions(shard_records=2))
    for i, piece in enumerate(pieces):
        open_source(config, files).ingest(tmp_path / f"piece{i}", IngestOptions(portion=piece))
        one = Archive.open(tmp_path / f"piece{i}")
        assert one.footer(one.shards[0]).content_digest == made[i]
    config = config.model_copy(update={"path": tmp_path / "night"})
    assert ingest_arrivals(config, settle_minutes=0).records == N
    assert ingest_arrivals(config, settle_minutes=0).records == 0
    more = {"x": (X[:1] * 1000).reshape(1, -1).tolist(), "id": ["new"]}
    pq.write_table(pa.table(more), source / "b.parquet")
    (source / "c.parquet").write_bytes(b"torn")
    arrived = ingest_arrivals(config, settle_minutes=0)
    assert (arrived.records, arrived.refused) == (1, 1)
    assert [name for name, _ in all_records(Archive.open(tmp_path / "night"))] == [*(f"r{i}" for i in range(N)), "new"]


def arrays(path: Path, first: int) -> None:
    with h5py.File(path, "w") as file:
        file["x"] = X[first : first + 2] * 1000


def test_files_that_arrive_one_by_one_have_records_of_their_own_and_a_broken_one_costs_no_other(tmp_path: Path) -> None:
    source = tmp_path / "src"
    source.mkdir()
    signal = 'file = "*.h5"\ndataset = "x"\n' + HEAD.format(axes='"record", "lead", "sample"')
    where = layout(tmp_path, signal + RATE)
    config = ArchiveConfig(path=tmp_path / "a", source="table", src=source, layout=where, shard_records=3)
    arrays(source / "b.h5", 0)
    ingest_arrivals(config, settle_minutes=0)
    (source / "a.h5").write_bytes(b"torn")
    arrays(source / "c.h5", 2)
    arrived = ingest_arrivals(config, settle_minutes=0)
    assert (arrived.records, arrived.refused, "a.h5" in arrived.notes[0]) == (2, 1, True)
    whole = all_records(Archive.open(tmp_path / "a"))
    assert [name for name, _ in whole] == ["b/0", "b/1", "c/0", "c/1"]
    # Workers open the files of their piece alone.
    files = SourceFolder(source, source)
    pieces = open_source(config, files).pieces(IngestOptions(shard_records=3))
    assert [(tuple(piece.sets), piece.rows) for piece in pieces] == [(("b.h5", "c.h5"), (0, 3)), (("c.h5",), (1, 2))]
    for number, piece in enumerate(pieces):
        open_source(config, files).ingest(tmp_path / f"{number}", IngestOptions(portion=piece))
    made = [one for i in range(2) for one in all_records(Archive.open(tmp_path / f"{i}"))]
    assert [name for name, _ in made] == [name for name, _ in whole]
    assert all(np.array_equal(x, y) for (_, x), (_, y) in zip(made, whole, strict=True))


def test_files_of_one_name_in_two_folders_are_two_records_whenever_they_come(tmp_path: Path) -> None:
    source = tmp_path / "src"
    where = layout(tmp_path, written(source / "a", "npy") + RATE)
    config = ArchiveConfig(path=tmp_path / "n", source="table", src=source, layout=where)
    ingest_arrivals(config, settle_minutes=0)
    (source / "b").mkdir()
    np.save(source / "b/r0.npy", X[1])
    nights = [ingest_arrivals(config, settle_minutes=0) for _ in range(2)]
    assert [(night.sets_new, night.sets_changed) for night in nights] == [(1, 0), (0, 0)]
    assert [name for name, _ in all_records(Archive.open(tmp_path / "n"))] == [*(f"r{i}" for i in range(N)), "b/r0"]
    ingest_archive(config.model_copy(update={"path": tmp_path / "w"}))
    assert [name for name, _ in all_records(Archive.open(tmp_path / "w"))][N - 1 : N + 1] == ["a/r4", "b/r0"]


def test_a_dry_run_shows_what_was_understood_and_writes_nothing(tmp_path: Path) -> None:
    where = layout(tmp_path, written(tmp_path / "src", "hdf5") + RATE, BY_ID)
    (tmp_path / "src/t.csv").write_text(TABLE)
    arguments = ["ingest", "table", str(tmp_path / "src"), str(tmp_path / "a"), "--layout", where, "--dry-run"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    low, high = X[0, 2].min(), X[0, 2].max()
    for words in (
        "5 records in 1 file: a.h5",
        "first: r0, 40 samples at 250.0 Hz",
        f"{low:.3f} to",
        f"{high:.3f} mV",
        "AF: set in 5",
        "not used: free text",
        "nothing was written",
    ):
        assert words in result.output
    assert not (tmp_path / "a").exists()


def test_leads_of_unequal_length_are_told_of_that_record(tmp_path: Path) -> None:
    signal = written(tmp_path / "src", "parquet by lead")
    table = pq.read_table(tmp_path / "src/a.parquet").to_pydict()
    table["V1"][2] = table["V1"][2][:-1]
    pq.write_table(pa.table(table), tmp_path / "src/a.parquet")
    result = ingest_table(tmp_path / "src", tmp_path / "a", read_layout(layout(tmp_path, signal + RATE)))
    n = X.shape[2]
    assert result.problems.first == [
        f"record r2: its samples in a.parquet cannot be read (its leads differ in length: {{'I': {n}, 'II': {n}, 'V1': "
        f"{n - 1}}}); kept with an empty signal"
    ]
    assert [x.size > 0 for _, x in all_records(Archive.open(tmp_path / "a"))] == [True, True, False, True, True]


@pytest.mark.parametrize("ids", ["", 'ids = "whose"\n'])
def test_a_csv_of_many_records_says_whose_a_sample_is(tmp_path: Path, ids: str) -> None:
    signal = written(tmp_path / "src", "csv of many").replace('ids = "id"\n', ids)
    where = layout(tmp_path, signal + RATE)
    with pytest.raises((ArchiveError, UsageError), match=r"whose a sample is|lacks|whose"):
        ingest_table(tmp_path / "src", tmp_path / "a", read_layout(where))
