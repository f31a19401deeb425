"""Every kind of damage is found, and nothing else is called damage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.errors import ArchiveError, UsageError
from ecgscale.explain.schema import RESULTS_VERSION
from ecgscale.io.numbered import to_json
from ecgscale.nightly.verify.rows import KINDS
from ecgscale.nightly.verify.verify import Verified
from ecgscale.passes.explain.explain import Policy
from ecgscale.progress import SILENT
from ecgscale.runtime.run_record import run_record
from ecgscale.store.commit import read_commit
from ecgscale.store.garbage import collect_garbage
from ecgscale.store.manifest import manifest_key
from tests.explain.golden import good_row, write_archive, write_rows
from tests.worlds.commands.explaining import Watching, rewrite
from tests.worlds.commands.small_world import SmallWorld, with_value


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    """10 records in shards of 4, 4 and 2; r5 is flat."""
    return SmallWorld.made(tmp_path_factory.mktemp("verify"), {"r5": {"signal": np.ones((3, 220), np.int16)}})


@pytest.fixture
def world(made: SmallWorld, tmp_path: Path) -> SmallWorld:
    """A copy that may be damaged."""
    return made.copied(tmp_path)


def summary(verified: Verified) -> str:
    [dataset] = verified.datasets
    return "\n".join(f"{problem.where}: {problem.message}" for problem in dataset.problems)


def test_a_sound_root(made: SmallWorld) -> None:
    verified = made.verify(sample=1.0)
    assert (verified.problems, verified.exit_code) == (0, 0)
    [dataset] = verified.datasets
    assert (dataset.manifest, dataset.files, dataset.records) == (1, 3, 10)
    assert (dataset.recomputed.records, dataset.recomputed.exactly, dataset.recomputed.skipped) == (10, 10, ())
    assert dataset.garbage.objects == 0
    facts = verified.to_dict()
    assert facts["ok"] is True
    assert facts["datasets"][0]["recomputed"] == 10
    assert facts["datasets"][0]["problems"] == []


def test_a_sample_is_at_least_one_batch_and_seeded(made: SmallWorld) -> None:
    drawn = [made.verify(sample=1e-6, seed=seed).datasets[0].recomputed.records for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert set(drawn) == {2, 4}
    assert made.verify(sample=0.0).datasets[0].recomputed.records == 0


def test_a_flipped_byte(world: SmallWorld) -> None:
    file = world.manifest.files[1]
    data = bytearray(world.store.read(file) or b"")
    data[100] ^= 1
    world.store.put(file, bytes(data))
    assert world.problems()["sha256"] == 1
    assert file in summary(world.verify())


def test_what_is_removed_is_computed_again(world: SmallWorld) -> None:
    undisturbed = world.manifest
    world.store.delete(world.manifest.files[1])
    third = world.manifest.content.shards[2]
    world.store.delete(third.commit)
    world.store.delete(third.file)
    result = world.explain()
    assert (result.computed, result.manifest) == (2, 1)
    assert world.manifest == undisturbed
    assert world.problems(sample=1.0) == {}


def test_every_kind_of_problem_is_documented() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    section = page.split("## Is it whole? verify")[1].split("\n## ")[0]
    assert not [kind for kind in KINDS if f"`{kind}`" not in section]


def test_a_file_cut_short(world: SmallWorld) -> None:
    file = world.manifest.files[1]
    world.store.put(file, (world.store.read(file) or b"")[:-100])
    assert world.problems() == {"size": 1, "unreadable": 1}


def test_a_file_that_is_missing(world: SmallWorld) -> None:
    world.store.delete(world.manifest.files[2])
    assert world.problems(sample=1.0) == {"missing_file": 1}


def test_a_row_removed(world: SmallWorld) -> None:
    world.forge(lambda table: table.slice(1))
    found = world.problems()
    assert found == {"rows": 1, "record_ids": 1}
    assert "3 rows; the plan has 4 records" in summary(world.verify())


def first_id(_: Any) -> str:
    return "r0"


def test_a_record_doubled_in_a_file(world: SmallWorld) -> None:
    world.forge(with_value("record_id", 1, first_id))
    assert world.problems() == {"doubled": 1, "record_ids": 1}
    assert "record 'r0': explained in rows [0, 1] of one file" in summary(world.verify())


def test_a_record_doubled_over_files(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.forge(with_value("record_id", 1, first_id), position=2)
    assert world.problems() == {"doubled": 1, "record_ids": 1}
    assert "row 0 and data/forged" in summary(world.verify())
    # The same when hashes are compared two at a time.
    monkeypatch.setattr("ecgscale.nightly.verify.rows.AT_ONCE", 2)
    assert world.problems() == {"doubled": 1, "record_ids": 1}


@pytest.mark.parametrize(
    ("kinds", "column", "change"),
    [
        ({"proportions": 2}, "proportions", lambda p: [p[0] + 0.01, *p[1:]]),
        ({"proportions": 1}, "proportions", lambda p: [p[1], p[0], *p[2:]]),
        ({"proportions": 2}, "proportions", lambda p: [1.5, -0.5, 0, 0]),
        ({"proportions": 1}, "soft_proportions", lambda p: [float("nan"), *p[1:]]),
        ({"entropy": 1}, "mean_entropy", lambda e: 1.01),
        ({"entropy": 1}, "mean_entropy", lambda e: float("nan")),
        ({"numbers": 1}, "distortion", lambda d: float("inf")),
        ({"numbers": 1}, "prediction", lambda p: [float("nan"), *p[1:]]),
        ({"segments": 1}, "segments", lambda s: s[1:]),
        ({"segments": 1}, "segments", lambda s: s[:-1]),
        ({"segments": 1}, "segments", lambda s: []),
        ({"segments": 1}, "segments", lambda s: [*s[:3], {**s[3], "start": s[3]["start"] + 1}, *s[4:]]),
        ({"segments": 1}, "segments", lambda s: [*s[:3], {**s[3], "stop": s[3]["start"]}, *s[4:]]),
        ({"clusters": 1}, "segments", lambda s: [{**s[0], "cluster": 4}, *s[1:]]),
        ({"entropy": 1}, "segments", lambda s: [*s[:-1], {**s[-1], "entropy": -0.1}]),
        ({"valid_span": 1, "segments": 1}, "valid_stop", lambda v: 300),
        ({"facts": 1}, "segments", lambda s: None),
        ({"facts": 1}, "prediction", lambda p: None),
        ({"source_shard": 1}, "source_shard", lambda s: "part-00007.parquet"),
        ({"status": 1, "quarantined": 1, "facts": 10}, "status", lambda s: "fine"),
        ({"status": 1, "record_ids": 1}, "record_id", lambda r: None),
    ],
)
def test_a_value_that_cannot_be(
    world: SmallWorld, kinds: dict[str, int], column: str, change: Callable[[Any], Any]
) -> None:
    world.forge(with_value(column, 2, change))
    assert world.problems() == kinds
    assert ", row 2, record" in summary(world.verify())


def test_facts_of_a_quarantined_record(world: SmallWorld) -> None:
    assert world.table(1)["status"].to_pylist()[1] == "flat_signal"
    world.forge(with_value("mean_entropy", 1, lambda _: 0.5), position=1)
    assert world.problems() == {"facts": 1}


def test_entropy_of_every_timestep(made: SmallWorld, tmp_path: Path) -> None:
    world = SmallWorld(str(tmp_path / "root"), made.archive, made.model)
    world.explain(entropy="timestep")
    assert world.problems(sample=1.0) == {}
    world.forge(with_value("entropy", 0, lambda e: e[:-1]))
    world.forge(with_value("entropy", 1, lambda e: [2.0, *e[1:]]))
    assert world.problems() == {"entropy": 2}


def test_a_file_of_something_else(world: SmallWorld) -> None:
    world.forge(metadata={"model_digest": "0" * 64, "source_content_digest": "another"})
    assert world.problems() == {"identity": 2}
    world.forge(lambda table: table.drop_columns(["distortion"]))
    assert world.problems()["schema"] == 1


def test_quarantine_that_the_manifest_does_not_know(world: SmallWorld) -> None:
    world.forge(position=1, quarantined={})
    assert world.problems() == {"quarantined": 1}


def test_totals_and_shards_that_come_twice(world: SmallWorld) -> None:
    entries = world.manifest.content.shards
    world.put_entry(2, entries[1])
    assert world.problems()["manifest"] == 3
    text = summary(world.verify())
    assert f"names the shard {entries[1].key} more than once" in text
    assert "its plan_digest is" in text


def test_an_entry_dropped_with_sums_made_to_fit(world: SmallWorld) -> None:
    content = world.manifest.content
    shards = content.shards[:2]
    totals = content.totals.model_copy(update={"shards": 2, "records": sum(one.rows for one in shards)})
    forged = content.model_copy(update={"shards": shards, "totals": totals})
    world.store.put(manifest_key(1), to_json(world.manifest.model_copy(update={"content": forged})))
    verified = world.verify()
    assert verified.exit_code == 1
    assert "what it names makes" in summary(verified)


def test_a_manifest_that_cannot_be_read(world: SmallWorld) -> None:
    world.store.put("_manifests/00000002.json", b"{}")
    verified = world.verify()
    assert [dataset.counts for dataset in verified.datasets] == [{"manifest": 1}]
    assert verified.exit_code == 1


def test_commit_records(world: SmallWorld) -> None:
    store, (one, other, third) = world.store, world.manifest.content.shards
    commit = read_commit(store, one.commit)
    assert commit is not None
    source = commit.source.model_copy(update={"content_digest": "another"})
    store.put(one.commit, to_json(commit.model_copy(update={"source": source})))
    store.delete(other.commit)
    store.put(third.commit, b"not json")
    assert world.problems() == {"commit": 3}
    text = summary(world.verify())
    assert "content_digest 'another'" in text
    assert f"the commit record of {other.key} is gone" in text
    assert "is not what ecgscale writes" in text


def test_a_file_that_its_commit_does_not_name(world: SmallWorld) -> None:
    world.forge(commit_too=False)
    assert world.problems() == {"commit": 1}


def test_the_model_is_gone_or_another(world: SmallWorld) -> None:
    [model] = (Path(world.root) / "models").iterdir()
    text = (model / "model.json").read_text()
    (model / "model.json").write_text(text.replace('"tau": 0.1', '"tau": 0.2'))
    assert world.problems(sample=1.0) == {"model": 1}
    shutil.rmtree(model)
    assert world.problems(sample=1.0) == {"model": 1}


def test_only_the_first_of_many_are_told(tmp_path: Path, made: SmallWorld) -> None:
    archive = write_archive(tmp_path / "archive", records=30, shard_records=30)
    world = SmallWorld(str(tmp_path / "root"), archive, made.model)
    world.explain()
    world.forge(lambda table: table.set_column(2, "source_shard", pa.array(["x"] * 30)))
    [dataset] = world.verify().datasets
    assert dataset.counts == {"source_shard": 30}
    assert len(dataset.problems) == 20


def test_a_record_that_computes_to_something_else(world: SmallWorld) -> None:
    world.forge(with_value("prediction", 2, lambda p: [p[0] + 0.5, *p[1:]]))
    world.forge(with_value("age", 0, lambda a: a + 1), position=2)
    assert world.problems() == {}
    verified = world.verify(sample=1.0)
    assert verified.datasets[0].counts == {"recomputed": 2}
    assert verified.datasets[0].recomputed.exactly == 8
    assert "row 2, record 'r2': prediction computed again from the archive differs" in summary(verified)
    assert "record 'r8': age computed" in summary(verified)


def test_the_last_bit_counts_on_the_same_machine_alone(made: SmallWorld, tmp_path: Path) -> None:
    world = SmallWorld(str(tmp_path / "root"), made.archive, made.model)
    with run_record(world.root, "explain", {}, SILENT) as record:
        world.explain(watch=record)
    world.forge(with_value("distortion", 0, lambda d: float(np.nextafter(np.float32(d), np.float32(2)))))
    assert world.problems(sample=1.0) == {"recomputed": 1}
    assert "to the last bit" in summary(world.verify(sample=1.0))
    # Without the record of the run, nobody knows what it was computed with.
    (Path(world.root) / record.key).unlink()
    verified = world.verify(sample=1.0)
    assert verified.problems == 0
    assert verified.datasets[0].recomputed.exactly == 9


@pytest.fixture
def own_archive(made: SmallWorld, tmp_path: Path) -> SmallWorld:
    """With an archive that may be changed."""
    world = SmallWorld(str(tmp_path / "root"), write_archive(tmp_path / "archive"), made.model)
    world.explain()
    return world


def test_shards_that_changed_since_are_left_out_and_told(own_archive: SmallWorld) -> None:
    world = own_archive
    rewrite(world.archive / "part-00000.parquet", lambda table: table.slice(0, 3))
    os.utime(world.archive / "part-00001.parquet", ns=(7, 7))
    (world.archive / "part-00002.parquet").unlink()
    [dataset] = world.verify(sample=1.0).datasets
    assert dataset.counts == {}
    assert (dataset.recomputed.records, dataset.recomputed.exactly) == (4, 4)
    assert dataset.recomputed.skipped == (
        "1 shard changed in the archive since",
        "1 shard not in the archive any more",
    )


def test_an_archive_that_moved(own_archive: SmallWorld, tmp_path: Path) -> None:
    world = own_archive
    world.archive.rename(tmp_path / "moved")
    [dataset] = world.verify(sample=1.0).datasets
    assert dataset.counts == {}
    assert dataset.recomputed.records == 0
    assert "--archive" in dataset.recomputed.skipped[0]
    [found] = world.verify(sample=1.0, archive=tmp_path / "moved").datasets
    assert found.recomputed.exactly == 10
    with pytest.raises(ArchiveError):
        world.verify(sample=1.0, archive=tmp_path / "nowhere")


def test_results_of_another_version_are_not_computed_again(world: SmallWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ecgscale.nightly.verify.sample.RESULTS_VERSION", 99)
    [dataset] = world.verify(sample=1.0).datasets
    assert f"results version {RESULTS_VERSION} was published" in dataset.recomputed.skipped[0]


def test_records_that_gave_way_to_newer_ones(own_archive: SmallWorld, tmp_path: Path) -> None:
    """r1 comes again with another signal, r2 as it was, and r3 under another patient."""
    world = own_archive
    policy = Policy(admission=lambda *_: {})
    again = [good_row(1) | {"signal": good_row(6)["signal"]}, good_row(2), good_row(3) | {"patient_id": "other"}]
    more = write_rows(tmp_path / "more", [*again, good_row(20)])
    shutil.copy(more / "part-00000.parquet", world.archive / "part-00003.parquet")
    world.explain(policy=policy)
    entries = world.manifest.content.shards
    assert [(entry.superseded, entry.quarantined) for entry in (entries[0], entries[3])] == [
        (1, {}),
        (1, {"patient_conflict": 1}),
    ]
    verified = world.verify(sample=1.0)
    assert verified.problems == 0, summary(verified)
    assert verified.datasets[0].recomputed.records == verified.datasets[0].recomputed.exactly == 3 + 4 + 2 + 2
    assert verified.datasets[0].garbage.objects == 0
    cleaned = collect_garbage(world.root, timedelta(0), keep_manifests=1)
    assert cleaned.by_kind["manifests"].count == 1
    assert cleaned.to_dict()["removed"] == 1
    assert world.problems(sample=1.0) == {}
    # The whole file behind one that lost rows is still wanted: by the next one who settles.
    commit = read_commit(world.store, entries[0].commit)
    assert commit is not None
    world.store.delete(commit.output.file)
    assert world.problems() == {"missing_file": 1}


def test_garbage_is_told_and_no_problem(world: SmallWorld) -> None:
    world.store.put("data/part-00000-0123456789abcdef.parquet", b"12345")
    dataset_folder = Path(world.store.where)
    (dataset_folder / "data" / "_tmp-1-dead").write_bytes(b"123")
    [dataset] = world.verify().datasets
    assert dataset.counts == {}
    assert (dataset.garbage.objects, dataset.garbage.bytes) == (2, 8)
    assert dataset.garbage.first == ("data/_tmp-1-dead", "data/part-00000-0123456789abcdef.parquet")


def test_what_older_manifests_and_other_commits_name_is_no_garbage(own_archive: SmallWorld) -> None:
    world = own_archive
    rewrite(world.archive / "part-00001.parquet", lambda table: table.slice(0, 3))
    world.explain()
    assert world.manifest.number == 2
    [dataset] = world.verify().datasets
    assert dataset.garbage.objects == 0


def test_progress_and_datasets(world: SmallWorld) -> None:
    watch = Watching()
    world.verify(progress=watch)
    assert (watch.total, watch.unit, watch.advanced) == (3, "files", 3)
    with pytest.raises(UsageError, match="Did you mean"):
        world.verify(dataset=world.manifest.content.dataset_id[:-1])
    with pytest.raises(UsageError, match="nothing lies there"):
        SmallWorld(world.root + "-typo", world.archive, world.model).verify()


def test_in_an_object_store(made: SmallWorld, s3_root: str) -> None:
    world = SmallWorld(s3_root, made.archive, made.model)
    world.explain()
    verified = world.verify(sample=1.0)
    assert verified.problems == 0, summary(verified)
    assert verified.root == s3_root
    assert verified.datasets[0].recomputed.exactly == 10
    world.store.delete(world.manifest.files[1])
    world.store.put("data/part-00000-0123456789abcdef.parquet", b"12345")
    [dataset] = world.verify(sample=1.0).datasets
    assert dataset.counts == {"missing_file": 1}
    assert dataset.garbage.objects == 1
