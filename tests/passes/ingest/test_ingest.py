"""An ingest on workers: the archive of one process, whatever happens to them, and nothing where it cannot be."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ecgscale.archive.reader import Archive
from ecgscale.archive.sources.code15 import Code15Source
from ecgscale.archive.sources.pseudonyms import pseudonyms_of
from ecgscale.archive.sources.source import IngestResult, Portion
from ecgscale.archive.sources.tombstones import Tombstones, write_tombstones
from ecgscale.cli import main
from ecgscale.config import ArchiveConfig, load_config
from ecgscale.errors import ArchiveError, EcgscaleError, UsageError
from ecgscale.io.objects import open_objects
from ecgscale.io.places import place, upload
from ecgscale.passes.ingest.ingest import ingest_archive
from ecgscale.passes.ingest.worker import IngestWorker
from ecgscale.passes.run.pipeline import make_archive
from ecgscale.passes.workers import OpenPool, in_process, is_divided
from ecgscale.runtime.processes import ProcessBackend
from ecgscale.runtime.ray_pool import RayBackend
from ecgscale.runtime.scheduler import Backend, PoolLimits
from jobs.ingest import ingest as ingest_job
from tests.passes.run.test_pipeline import CONFIG, TRAIN
from tests.runtime.interrupted import Accident, pool_on
from tests.runtime.ray_clusters import nodes
from tests.worlds.commands.explaining import Watching
from tests.worlds.formula.large_sources import write_large_code15, write_large_ptbxl, write_large_wfdb
from tests.worlds.formula.recordings import all_records, wave, write_ptbxl, write_wfdb

OPTIONS: dict[str, dict[str, Any]] = {
    "ptbxl": {"carry": ("height", "report"), "shard_records": 150},
    "wfdb": {"carry": ("Rhythm",), "shard_records": 70},
    "code15": {"carry": ("trace",), "shard_records": 140},
}
WRITE: dict[str, Callable[..., Path]] = {
    "ptbxl": write_large_ptbxl,
    "wfdb": write_large_wfdb,
    "code15": write_large_code15,
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind."""
    folder = tmp_path_factory.mktemp("sources")
    for kind, write in WRITE.items():
        write(folder / kind)
    return folder


@pytest.fixture(scope="module")
def made(sources: Path) -> dict[str, tuple[Path, IngestResult]]:
    """What one process makes of each."""
    return {kind: (sources / f"{kind}.archive", ingested(sources, kind, f"{kind}.archive")) for kind in WRITE}


def config(sources: Path, kind: str, target: str | Path, **more: Any) -> ArchiveConfig:
    return ArchiveConfig(source=kind, src=sources / kind, path=sources / target, **{**OPTIONS[kind], **more})  # type: ignore[arg-type]


def ingested(
    sources: Path, kind: str, target: str | Path, pool: OpenPool = in_process, progress: Any = None, **more: Any
) -> IngestResult:
    return ingest_archive(config(sources, kind, target, **more), progress or Watching(), pool)


def processes(workers: int) -> Callable[[], Backend]:
    return lambda: ProcessBackend(workers)


def files(archive: Path) -> dict[str, str]:
    """Digest of every shard's bytes, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(place(archive).glob("part-*"))}


def contents(archive: Path) -> dict[str, str]:
    opened = Archive.open(archive)
    return {shard.key: opened.footer(shard).content_digest for shard in opened.shards}


def info(archive: Path) -> list[tuple[str, Any]]:
    """`_archive.json` in its own order, less what is new every time."""
    message = dict(Archive.open(archive).info)
    message["source"] = [(key, value) for key, value in message["source"].items() if key != "listed_at"]
    return [(key, value) for key, value in message.items() if key not in ("archive_id", "created_at")]


def less_identity(result: IngestResult) -> dict[str, Any]:
    facts = dataclasses.asdict(result)
    return {key: value for key, value in facts.items() if key not in ("archive", "archive_id")}


def names(archive: Path | str) -> list[str]:
    return sorted(path.name for path in place(archive).iterdir())


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("kind", ["ptbxl", "wfdb"])
def test_the_archive_of_one_process(
    sources: Path, made: dict[str, tuple[Path, IngestResult]], tmp_path: Path, kind: str, workers: int
) -> None:
    one, result = made[kind]
    progress = Watching()
    found = ingested(sources, kind, tmp_path / "a", pool_on(processes(workers)), progress)
    assert files(tmp_path / "a") == files(one)
    assert contents(tmp_path / "a") == contents(one)
    assert info(tmp_path / "a") == info(one)
    assert less_identity(found) == less_identity(result)
    assert names(tmp_path / "a") == names(one)
    assert found.shards == 3
    assert found.problems.count >= 2


def test_what_a_source_has_to_tell_is_there(made: dict[str, tuple[Path, IngestResult]]) -> None:
    """The sources of these tests hold what they are to hold."""
    ptbxl, wfdb, code15 = (made[kind][1] for kind in ("ptbxl", "wfdb", "code15"))
    assert [problem.split(":")[0] for problem in ptbxl.problems.first] == ["record 1", "record 130", "record 200"]
    assert (ptbxl.records, ptbxl.signal, wfdb.signal, code15.signal) == (340, "int16", "float32", "float32")
    ids = Archive.open(made["ptbxl"][0]).metadata(["record_id"]).column("record_id").to_pylist()
    assert [i for i, name in enumerate(ids) if name == "7"] == [6, 336]
    assert Archive.open(made["ptbxl"][0]).schema().field("height").type == "double"
    archive = Archive.open(made["wfdb"][0])
    assert archive.info["source"]["record_ids"] == "path"
    rows = archive.metadata(["record_id", "snomed", "fiducials", "Rhythm"]).to_pylist()
    assert sum(row["snomed"] is not None for row in rows) == 1
    assert sum(row["fiducials"] is not None for row in rows) == 1
    assert (code15.dropped, code15.problems.count) == (4, 1)


def test_parts_of_code15_end_their_shards(
    sources: Path, made: dict[str, tuple[Path, IngestResult]], tmp_path: Path
) -> None:
    one, result = made["code15"]
    found = ingested(sources, "code15", tmp_path / "a", pool_on(processes(2)))
    archive = Archive.open(tmp_path / "a")
    # 150 exams in shards of 140, then 5, then 131; the last part has none.
    assert [archive.footer(shard).rows for shard in archive.shards] == [140, 10, 5, 131]
    assert less_identity(found) == {**less_identity(result), "shards": 4}
    assert dict(info(tmp_path / "a")) == {**dict(info(one)), "shards": 4}
    for (name, signal), (expected, there) in zip(all_records(archive), all_records(Archive.open(one)), strict=True):
        assert (name, signal.tobytes()) == (expected, there.tobytes())
    columns = archive.label_columns()
    assert archive.metadata(columns).to_pydict()["trace"] == Archive.open(one).metadata(columns).to_pydict()["trace"]
    # Without a number of records a shard is a part.
    ingested(sources, "code15", tmp_path / "b", pool_on(processes(2)), shard_records=None)
    archive = Archive.open(tmp_path / "b")
    assert [archive.footer(shard).rows for shard in archive.shards] == [150, 5, 131]


@pytest.mark.parametrize("kind", ["ptbxl", "wfdb"])
def test_pseudonyms_and_the_forgotten_as_in_one_process(sources: Path, tmp_path: Path, kind: str) -> None:
    key = tmp_path / "ecg.key"
    key.write_bytes(secrets.token_bytes(32))
    key.chmod(0o600)
    hidden: dict[str, Any] = {"pseudonymise": key, "shift_dates": True, "carry": ()}
    plain = pseudonyms_of(config(sources, kind, tmp_path / "x", **hidden))
    assert plain is not None
    tombstones = Tombstones(salt=secrets.token_hex(32), key_id=plain.key_id).with_these(
        patients=[plain.patient(str(1000 + i)) for i in (3, 40, 41, 170)],
        records=[plain.record(name) for name in ("p0/0", "p1/2", "p0/63", "p2/98")],
    )
    for target in ("one", "two"):
        (tmp_path / target).mkdir()
        write_tombstones(tmp_path / target, tombstones)
    one = ingested(sources, kind, tmp_path / "one", **hidden)
    two = ingested(sources, kind, tmp_path / "two", pool_on(processes(2)), **hidden)
    # Nobody who was forgotten takes a place in a shard.
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert info(tmp_path / "two") == info(tmp_path / "one")
    assert less_identity(two) == less_identity(one)
    assert len(two.refused) == (7 if kind == "ptbxl" else 4)
    assert Archive.open(tmp_path / "two").info["source"]["pseudonymised"] == plain.facts()
    assert two.notes[-1].startswith(f"{len(two.refused)} records of patients who were forgotten")


def test_a_worker_without_the_drivers_key_is_refused(sources: Path, tmp_path: Path) -> None:
    key = tmp_path / "ecg.key"
    facts = config(sources, "ptbxl", tmp_path / "a", pseudonymise=key, carry=()).model_dump(mode="json")
    with pytest.raises(UsageError, match=r"on \S+, the key .*ecg\.key cannot be read.*at the same path"):
        IngestWorker(facts, {}, None, "0" * 16)
    key.write_bytes(secrets.token_bytes(32))
    key.chmod(0o600)
    with pytest.raises(UsageError, match=r"is key \w{16}, and the driver's is 0000000000000000"):
        IngestWorker(facts, {}, None, "0" * 16)


def test_errors_of_workers_tell_no_words_of_the_source(tmp_path: Path) -> None:
    source = write_large_ptbxl(tmp_path / "ptbxl", 20)
    database = source / "ptbxl_database.csv"
    database.write_text(database.read_text().replace("strat_fold", "Jane Roe", 1))
    with pytest.raises(ArchiveError, match="Jane Roe"):
        ingested(tmp_path, "ptbxl", "a", pool_on(processes(2)), shard_records=8)
    key = tmp_path / "ecg.key"
    key.write_bytes(secrets.token_bytes(32))
    key.chmod(0o600)
    progress = Watching()
    with pytest.raises(ArchiveError, match=r"lacks strat_fold\. What it says") as caught:
        ingested(tmp_path, "ptbxl", "a", pool_on(processes(2)), progress, shard_records=8, pseudonymise=key, carry=())
    assert "Jane" not in str(caught.value) + str(progress.said)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["ptbxl", "wfdb", "code15"])
def test_a_worker_that_is_killed_is_replaced(
    sources: Path, made: dict[str, tuple[Path, IngestResult]], tmp_path: Path, kind: str
) -> None:
    accident = Accident("make")
    progress = Watching()
    more: dict[str, Any] = {"shard_records": 70} if kind == "ptbxl" else {}
    ingested(sources, kind, tmp_path / "a", pool_on(processes(2), accident, progress=progress), **more)
    assert accident.deaths == 1
    if kind == "wfdb":
        assert files(tmp_path / "a") == files(made[kind][0])
    elif kind == "ptbxl":
        ingested(sources, kind, tmp_path / "one", **more)
        assert files(tmp_path / "a") == files(tmp_path / "one")
    assert not [name for name in names(tmp_path / "a") if name.startswith("_writing")]
    assert any("it is replaced" in line for line in progress.said)


def test_a_part_that_is_broken_is_set_aside_whoever_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_large_code15(tmp_path / "code15")
    part = source / "exams_part10.hdf5"
    part.write_bytes(part.read_bytes()[:3000])
    found = ingested(tmp_path, "code15", "a", pool_on(processes(2)))
    # Of remote parts, a worker is the first to open them.
    with monkeypatch.context() as patch:
        patch.setattr(Code15Source, "_parts", {name: 3 for name in names(source) if name.endswith(".hdf5")})
        by_a_worker = ingested(tmp_path, "code15", "b", pool_on(processes(1)))
    for result in (found, by_a_worker):
        assert result.records == 155
        assert list(result.set_aside) == ["exams_part10.hdf5"]
        assert "not a whole HDF5 file" in result.set_aside["exams_part10.hdf5"]
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_worker_that_dies_every_time_leaves_nothing(tmp_path: Path) -> None:
    write_large_code15(tmp_path / "code15")
    limits = PoolLimits(attempts=1, pause_s=0.05, poll_s=0.1)
    accident = Accident("make")
    with pytest.raises(EcgscaleError, match=r"given up after 1 attempts.*an archive cannot do without it"):
        ingested(tmp_path, "code15", "a", pool_on(processes(2), accident, limits))
    assert accident.deaths == 1
    assert names(tmp_path / "a") == []


def test_an_ingest_that_is_stopped_leaves_nothing(sources: Path, tmp_path: Path) -> None:
    def stop(pool: Any, but: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingested(sources, "wfdb", tmp_path / "a", pool_on(processes(2), Accident("make", how=stop)))
    assert names(tmp_path / "a") == []


def test_tables_that_change_while_they_are_read_are_found_out(sources: Path, tmp_path: Path) -> None:
    facts = config(sources, "ptbxl", tmp_path / "a").model_dump(mode="json")
    (tmp_path / "a/staging").mkdir(parents=True)
    worker = IngestWorker(facts, {"ptbxl_database.csv": "another"}, None, None)
    with pytest.raises(ArchiveError, match=r"ptbxl_database\.csv was changed while it was ingested"):
        worker.make(0, Portion(rows=(0, 2)), pa.schema([]), "staging")
    assert names(tmp_path / "a/staging") == []


def test_several_workers_need_shards_of_a_known_size(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --shard-records, such as 2000"):
        ingested(sources, "wfdb", tmp_path / "a", pool_on(processes(2)), shard_records=None)
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kind", ["ptbxl", "wfdb", "code15"])
def test_from_a_bucket_into_a_bucket(sources: Path, tmp_path: Path, s3_root: str, kind: str) -> None:
    # Fewer of them: the server of these tests takes 10 ms a request.
    if kind != "code15":
        WRITE[kind](tmp_path / kind, 40)
    options = OPTIONS[kind] if kind == "code15" else {**OPTIONS[kind], "shard_records": 15}
    src = (sources if kind == "code15" else tmp_path) / kind
    upload(src, f"{s3_root}/{kind}")
    target = f"{s3_root}/archive"
    there = ArchiveConfig(source=kind, src=f"{s3_root}/{kind}", path=target, **options)  # type: ignore[arg-type]
    found = ingest_archive(there, Watching(), pool_on(processes(2)))
    if kind == "code15":
        assert (found.records, found.shards) == (286, 4)
    else:
        result = ingested(tmp_path, kind, "one", shard_records=15)
        assert files(place(target)) == files(tmp_path / "one")
        assert info(place(target)) == info(tmp_path / "one")
        assert less_identity(found) == less_identity(result)
    assert sorted(open_objects(place(target)).list_prefix("")) == [
        "_archive.json",
        *(f"part-0000{i}.parquet" for i in range(found.shards)),
    ]


def test_a_part_in_a_bucket_that_is_broken_is_set_aside(sources: Path, s3_root: str, tmp_path: Path) -> None:
    upload(sources / "code15", f"{s3_root}/src")
    (place(f"{s3_root}/src") / "exams_part10.hdf5").write_bytes(b"no HDF5 at all" * 100)
    there = ArchiveConfig(source="code15", src=f"{s3_root}/src", path=f"{s3_root}/archive")  # type: ignore[arg-type]
    result = ingest_archive(there, Watching(), pool_on(processes(1)))
    assert result.records == 155
    assert f"{s3_root}/src/exams_part10.hdf5 is not a whole HDF5 file" in result.set_aside["exams_part10.hdf5"]
    nowhere = {"src": place(f"{s3_root}/nothing"), "path": place(f"{s3_root}/other")}
    with pytest.raises(ArchiveError, match=rf"{s3_root}/nothing holds no exams_part"):
        ingest_archive(there.model_copy(update=nowhere), Watching(), pool_on(processes(1)))


def test_on_actors_of_which_one_is_killed(
    sources: Path, made: dict[str, tuple[Path, IngestResult]], tmp_path: Path
) -> None:
    accident = Accident("make")
    with nodes({"num_cpus": 2}, connect=True):
        ingested(sources, "wfdb", tmp_path / "a", pool_on(lambda: RayBackend(2), accident))
    assert accident.deaths == 1
    assert files(tmp_path / "a") == files(made["wfdb"][0])
    assert info(tmp_path / "a") == info(made["wfdb"][0])


def test_as_it_is_typed(sources: Path, made: dict[str, tuple[Path, IngestResult]], tmp_path: Path) -> None:
    words = ["ingest", "ptbxl", sources / "ptbxl", tmp_path / "a", "--workers", "2", "--json"]
    refused = CliRunner().invoke(main, [*map(str, words)])
    assert (refused.exit_code, "--shard-records" in refused.stderr) == (2, True)
    words += ["--shard-records", "150", "--carry", "height", "--carry", "report"]
    result = CliRunner().invoke(main, [*map(str, words)])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert (facts["records"], facts["shards"], facts["problems"]) == (340, 3, 3)
    assert files(tmp_path / "a") == files(made["ptbxl"][0])


def test_the_job_and_the_pipeline_take_the_workers_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_ptbxl(tmp_path / "src")
    pools: list[OpenPool] = []

    def watched(config: ArchiveConfig, progress: Any, pool: OpenPool, **options: Any) -> IngestResult:
        pools.append(pool)
        return ingest_archive(config, progress, pool, **options)

    monkeypatch.setattr("ecgscale.passes.run.pipeline.ingest_archive", watched)
    text = 'source = "ptbxl"\nsrc = "src"\nshard_records = 2'
    path = tmp_path / "job.toml"
    path.write_text(CONFIG.format(archive=text, train=TRAIN) + "[runtime]\nworkers = 2\n")
    result = CliRunner().invoke(ingest_job, ["--config", str(path), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert (facts["records"], facts["shards"], facts["made"]) == (3, 2, True)
    # Where nobody said how many records a shard has, one process has to do it.
    path.write_text(path.read_text().replace("shard_records = 2", "").replace('"archive"', '"another"'))
    make_archive(load_config(path), Watching(), pool_on(processes(2)))
    assert [is_divided(pool) for pool in pools] == [True, False]


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("kind", "folder", "more"),
    [("ptbxl", "ptbxl", {"rate": 100}), ("wfdb", "cinc", {}), ("wfdb", "ludb", {"units_per_mv": 1000.0})],
)
def test_real_recordings(tmp_path: Path, test_data: Path, kind: str, folder: str, more: dict[str, Any]) -> None:
    def run(name: str, pool: OpenPool) -> IngestResult:
        real = ArchiveConfig(source=kind, src=test_data / folder, path=tmp_path / name, shard_records=60, **more)  # type: ignore[arg-type]
        return ingest_archive(real, Watching(), pool)

    one, two = run("one", in_process), run("two", pool_on(processes(2)))
    assert less_identity(two) == less_identity(one)
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert info(tmp_path / "two") == info(tmp_path / "one")


def test_windows_are_the_same_on_workers(tmp_path: Path) -> None:
    for name, samples in (("a", 600), ("b", 1500)):
        write_wfdb(tmp_path / "wfdb", name, np.tile(wave(1, 2), 10)[:, :samples], ("I", "II"))
    archives = []
    for name, pool in (("here", in_process), ("there", pool_on(processes(2)))):
        config = ArchiveConfig(
            path=tmp_path / name, source="wfdb", src=tmp_path / "wfdb", windows="1s", shard_records=1
        )
        ingest_archive(config, pool=pool)
        archive = Archive.open(tmp_path / name)
        archives.append([next(archive.batches(shard)).values.tobytes() for shard in archive.shards])
        assert archive.metadata(["recording_id"])["recording_id"].to_pylist() == ["a", "b", "b", "b"]
    assert archives[0] == archives[1]
