"""Forgetting a patient: gone everywhere, others as they were, not let in again, and finished after any stop."""

from __future__ import annotations

import json
import shutil
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ecgscale.archive.reader import Archive
from ecgscale.cli import main
from ecgscale.encoders.seen import hashed
from ecgscale.evaluate.written import read_evaluations, write_evaluation
from ecgscale.io.numbered import to_json
from ecgscale.io.objects import open_objects
from ecgscale.io.places import copies_folder
from ecgscale.io.settings import s3
from ecgscale.nightly.gates.gatekeeper import night_records
from ecgscale.store import find_dataset, newest_manifest
from ecgscale.store.commit import COMMITS, read_commit
from ecgscale.store.holds import holds
from ecgscale.store.lease import Lease
from ecgscale.store.manifest import newest_number, read_manifest
from tests.worlds.commands.forgetting import (
    archived,
    busiest,
    copy_of,
    forget,
    grown_world,
    hashes_of,
    patients,
    published,
    telling,
)
from tests.worlds.commands.nights import NightWorld, new_world


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def world(any_root: str, tmp_path: Path) -> NightWorld:
    return new_world(any_root if any_root.startswith("s3://") else str(tmp_path), tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> NightWorld:
    """A world on a disk, to be copied."""
    return grown_world(tmp_path_factory.mktemp("forget"))


@pytest.fixture
def local(made: NightWorld, tmp_path: Path) -> NightWorld:
    return copy_of(made, tmp_path / "own")


def test_gone_everywhere_and_others_as_they_were(world: NightWorld) -> None:
    patient, records = busiest(world)
    world.arrive(2, seed=2)
    world.night()
    before, archive_before = published(world), archived(world)
    assert telling(world.root, patient) != []
    assert hashes_of(world, records) != []
    rehearsed = forget(world, patient, "--dry-run")
    assert (rehearsed["records"], rehearsed["left"] > 0) == (len(records), True)
    assert published(world) == before
    done = forget(world, patient, "--reason", "asked for it")
    assert (done["patients"], done["records"], done["left"]) == (1, len(records), 0)
    assert done["files_removed"] == rehearsed["files_removed"]
    assert telling(world.root, patient, *records) == []
    assert telling(f"{world.where}/archive", patient, *records) == []
    assert hashes_of(world, records) == []
    assert published(world) == {name: row for name, row in before.items() if name not in records}
    assert archived(world) == {name: row for name, row in archive_before.items() if name not in records}
    info = Archive.open(f"{world.where}/archive").info
    assert info["records"] == len(archive_before) - len(records)
    verified = world.run("verify", world.root, "--sample", "1")
    assert verified["problems"] == 0
    assert verified["datasets"][0]["recomputed"] > 20
    # Nothing is to be computed again, and nobody comes back.
    night = world.night()
    assert (night["computed"], night["published"]) == (0, False)
    again = forget(world, patient)
    assert (again["patients"], again["records"], again["left"]) == (0, 0, 0)


def test_whoever_held_all_of_a_shard_takes_it_along(local: NightWorld) -> None:
    patient, _ = busiest(local)
    key = local.arrive(3, seed=1, change=lambda table: only(table, patient))
    local.night()
    assert key in local.published()
    done = forget(local, patient)
    assert (done["left"], done["shards_rewritten"]) == (0, 2)
    assert key not in local.published()
    assert not (Path(local.where) / "archive" / key).exists()
    assert local.run("verify", local.root)["ok"]


def only(table: pa.Table, patient: str) -> pa.Table:
    """The patient's rows, as other records."""
    kept = table.filter(pa.array([name == patient for name in table["patient_id"].to_pylist()]))
    names = pa.array([f"{name}-again" for name in kept["record_id"].to_pylist()])
    return kept.set_column(kept.schema.get_field_index("record_id"), "record_id", names)


def test_nobody_goes_back_to_a_manifest_that_held_them(local: NightWorld) -> None:
    patient, _ = busiest(local)
    done = forget(local, patient, "--reason", "consent withdrawn")
    assert done["manifests_removed"] == newest_manifest(local.root).number - 1
    refused = local.run("rollback", local.root, "1", "--reason", "x", code=2)["error"]
    assert "manifest 1 is gone: it held a patient who was forgotten on 20" in refused
    assert "(consent withdrawn)" in refused


def test_shards_that_are_held_or_were_superseded(local: NightWorld) -> None:
    patient, records = busiest(local)

    def older(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("age")
        return table.set_column(at, "age", pa.array([age + 1 for age in table["age"].to_pylist()], pa.float32()))

    local.arrive(3, seed=1, change=older)
    assert local.night()["superseded"] == 12
    local.run("rollback", local.root, "2", "--reason", f"odd ages of patient {patient}")
    store = find_dataset(local.root).store
    assert [hold.source.key for hold in holds(store).values()] == ["part-00003.parquet"]
    done = forget(local, patient)
    assert done["left"] == 0
    assert telling(local.root, patient, *records) == []
    [hold] = holds(store).values()
    assert hold.reasons == ("rolled back to manifest 2: odd ages of patient (forgotten)",)
    assert [held.key for held in newest_manifest(local.root).content.held] == ["part-00003.parquet"]
    assert local.run("verify", local.root)["ok"]
    local.run("release", local.root, "--all", "--reason", "ages are right")
    released = local.night()
    assert (released["computed"], released["superseded"]) == (0, 12 - len(records))
    assert local.run("verify", local.root)["ok"]


def test_lists_records_evaluations_and_leftovers(local: NightWorld) -> None:
    patient, records = busiest(local)
    root, dataset = Path(local.root), newest_manifest(local.root).content.dataset_id
    table = pa.table({"record_id": [records[0], "another"], "score": [0.1, 0.2]})
    write_evaluation(root, dataset, "surrogate-a", {"n": 2}, {"out_of_fold": table})
    write_evaluation(root, dataset, "top", {"top": [{"record_id": records[0]}]})
    write_evaluation(root, dataset, "sums", {"n": 24})
    record = {"run_id": "r", "error": f"shard part-00000.parquet, row 1, record {records[0]!r} is odd", "totals": {}}
    (root / "runs" / "r.json").write_text(json.dumps(record))
    (root / "_tmp-1-2").write_text(patient)
    staged = Path(local.where) / "archive" / "_ingest" / "staged" / "x-part-00009"
    staged.parent.mkdir(parents=True)
    shutil.copy(Path(local.where) / "archive" / "part-00000.parquet", staged)
    done = forget(local, patient)
    assert done["left"] == 0
    assert telling(local.where + "/results", patient, *records) == []
    assert telling(local.where + "/archive", patient, *records) == []
    assert sorted(read_evaluations(root, dataset)) == ["drift", "sums"]
    mended = json.loads((root / "runs" / "r.json").read_text())
    assert mended["error"] == "shard part-00000.parquet, row 1, record '(forgotten)' is odd"


def test_what_people_put_there_is_named_and_left_to_them(local: NightWorld) -> None:
    patient, _ = busiest(local)
    report = Path(local.root) / "report.html"
    report.write_text(f"<p>{patient}</p>")
    failed = forget(local, patient, code=1)
    assert (failed["left"], failed["left_in"]) == (1, [str(report)])
    [journal] = (Path(local.root) / "_forgetting").iterdir()
    assert patient in journal.read_text(), "whoever goes on has to know"
    assert (stat.S_IMODE(journal.stat().st_mode), stat.S_IMODE(journal.parent.stat().st_mode)) == (0o600, 0o700)
    report.unlink()
    assert forget(local, patient)["left"] == 0
    assert not (Path(local.root) / "_forgetting").exists()


def test_other_peoples_records_under_the_same_id_stay(local: NightWorld) -> None:
    patient, records = busiest(local)

    def another(table: pa.Table) -> pa.Table:
        at = table.schema.get_field_index("patient_id")
        return table.set_column(at, "patient_id", pa.array(["somebody else"] * table.num_rows))

    local.arrive(3, seed=1, change=another)
    assert local.night()["conflicts"] == 12
    done = forget(local, patient)
    assert (done["left"], done["records"]) == (0, 0)
    assert "another patient's as well" in done["notes"][0]
    rows = published(local)
    assert {rows[record]["status"] for record in records} == {"ok"}
    assert {rows[record]["patient_id"] for record in records} == {"somebody else"}


def test_a_single_record_of_an_archive_without_patients(local: NightWorld) -> None:
    _, records = busiest(local)
    done = forget(local, records[0], "--record")
    assert (done["patients"], done["records"], done["left"]) == (0, 1, 0)
    assert records[0] not in published(local)
    assert records[1] in published(local)
    assert "knows no such record" in forget(local, "nobody", "--record", code=2)["error"]


def test_an_id_that_no_shell_keeps(local: NightWorld) -> None:
    patient, _ = busiest(local)
    words = ["forget", local.root, "-", "--archive", f"{local.where}/archive"]
    result = CliRunner().invoke(main, words, input=f"{patient}\n")
    assert result.exit_code == 0, result.output
    assert "nothing is left" in result.output
    assert patient not in result.output


def test_mistakes_are_found_before_anything_is_changed(local: NightWorld, tmp_path: Path) -> None:
    patient, _ = busiest(local)
    assert "knows no such patient" in forget(local, "nobody", code=2)["error"]
    assert "without the id" in forget(local, patient, "--reason", f"{patient} asked", code=2)["error"]
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    assert "was made with no key" in forget(local, patient, "--key", str(key), code=2)["error"]
    with Lease(local.root, "other", "a test"):
        assert "in use by a test" in forget(local, patient, code=5)["error"]
    assert telling(local.root, patient) != []


def test_a_shard_that_brings_them_back_is_set_aside(local: NightWorld) -> None:
    patient, _ = busiest(local)
    forget(local, patient)
    key = local.arrive(3, seed=1)
    night = local.night(code=3)
    assert night["set_aside"][0]["key"] == key
    assert "brings back 3 records that were forgotten" in night["set_aside"][0]["reason"]
    assert forget(local, patient)["records"] == 3
    assert local.night()["set_aside"] == []


def test_the_reference_period_is_drawn_again(local: NightWorld) -> None:
    store = find_dataset(local.root).store
    table = pq.read_table(pa.BufferReader(store.read("_reference.parquet") or b""))
    everybody = patients(local)
    patient = next(name for name in everybody if name.startswith("sim1"))
    before = list(store.list_prefix("_traits"))
    forget(local, patient)
    drawn = pq.read_table(pa.BufferReader(store.read("_reference.parquet") or b""))
    assert drawn.num_rows == table.num_rows - 1
    assert drawn.column_names == table.column_names
    assert unknown(drawn) == unknown(table)
    # Those of the shard as it was are gone, those of what it is now are there.
    after = list(store.list_prefix("_traits"))
    assert (len(set(before) - set(after)), len(after)) == (1, len(before))


def unknown(table: pa.Table) -> list[str]:
    """Columns that hold nothing."""
    return [name for name in table.column_names if table[name].null_count == table.num_rows]


def test_a_night_that_was_killed_still_knows_what_it_judged(local: NightWorld) -> None:
    """Its record names commit records; those of the patient's shards have other names afterwards."""
    store = find_dataset(local.root).store
    [night] = [record for record in night_records(store) if record.shards]
    store.put(night.key, to_json(night.model_copy(update={"done": False})))
    table = Archive.open(f"{local.where}/archive").metadata(["patient_id"])
    patient = next(row["patient_id"] for row in table.to_pylist() if row["shard"] == night.shards[0])
    forget(local, patient)
    [moved] = [record for record in night_records(store) if record.shards]
    assert moved.commits != night.commits
    assert all(read_commit(store, name) is not None for name in moved.commits)
    local.night()
    assert [record.done for record in night_records(store)] == [True]


def test_commit_records_hold_no_hash_of_them(local: NightWorld) -> None:
    from ecgscale.store.commit import decode_hashes, hash_record_ids

    patient, records = busiest(local)
    forget(local, patient)
    store = find_dataset(local.root).store
    theirs = set(hash_record_ids(records).tolist())
    for name in store.list_prefix(COMMITS):
        commit = read_commit(store, name)
        assert commit is not None
        assert not theirs & set(decode_hashes(commit.output.record_ids).tolist())


def test_probes_of_others_no_longer_name_them(local: NightWorld) -> None:
    """Pairs of probed records name each other."""
    patient, records = busiest(local)
    words = ("probe", local.root, "--sample", "1", "--only", "gradcam", "--only", "waves", "--batch", "4")
    probed = local.run(*words, "--device", "cpu")
    assert telling(f"{local.root}/probes", patient, *records) != []
    before = probes(probed["path"])
    assert forget(local, patient)["left"] == 0
    assert telling(f"{local.root}/probes", patient, *records) == []
    expected = {
        name: {**row, "pairs": row["pairs"] and [pair for pair in row["pairs"] if pair["other"] not in records]}
        for name, row in before.items()
        if name not in records
    }
    assert repr(probes(probed["path"])) == repr(expected)
    assert expected != {name: row for name, row in before.items() if name not in records}
    assert local.run(*words, "--device", "cpu")["computed"] == 0


def probes(path: str) -> dict[str, dict[str, Any]]:
    store = open_objects(path)
    manifest = read_manifest(store, newest_number(store))
    assert manifest is not None
    tables = [pq.read_table(pa.BufferReader(store.read(file) or b"")) for file in manifest.files]
    return {row["record_id"]: row for table in tables for row in table.to_pylist()}


def test_a_bucket_that_keeps_versions_is_told(s3_root: str, tmp_path: Path) -> None:
    world = new_world(s3_root, tmp_path)
    bucket = s3_root.removeprefix("s3://").partition("/")[0]
    s3().call_s3("put_bucket_versioning", Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    done = forget(world, busiest(world)[0])
    assert done["notes"] == [
        f"bucket {bucket} keeps earlier versions of objects, the patient's among them: expire those too"
    ]


def test_copies_in_the_cache_go_along(local: NightWorld) -> None:
    folder = copies_folder()
    for name, file in (("a", "encoder/encoder.toml"), ("b", "src/p1.hea"), ("c", "model/seen.tsv")):
        (folder / name / file).parent.mkdir(parents=True)
        (folder / name / file).write_text("nothing")
    patient, records = busiest(local)
    (folder / "c/model/seen.tsv").write_text(f"fit\t{hashed('simulated', 'record', records[0])}\t-\n")
    forget(local, patient)
    assert [path.name for path in folder.iterdir()] == ["a"]
