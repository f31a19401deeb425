"""Nights on a disk and in a bucket: new, nothing new, changed, moved, removed, held, released, rolled back."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import wfdb
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.store import find_dataset, newest_manifest
from ecgscale.store.holds import holds
from ecgscale.store.lease import Lease
from tests.worlds.commands.nights import CONFIG, NightWorld, new_world
from tests.worlds.formula.small_networks import write_small_encoder


@pytest.fixture
def world(any_root: str, tmp_path: Path) -> NightWorld:
    return new_world(any_root if any_root.startswith("s3://") else str(tmp_path), tmp_path)


def test_what_is_new_and_nothing_else(world: NightWorld) -> None:
    quiet = world.night()
    assert (quiet["computed"], quiet["manifest"], quiet["published"]) == (0, 1, False)
    world.arrive(2, seed=2)
    first = world.night()
    assert (first["computed"], first["unchanged"], first["manifest"], first["records"]) == (1, 2, 2, 36)
    assert len(set(world.ids())) == 36
    # A file that was only copied is not computed again.
    world.arrive(2, seed=2)
    moved = world.night()
    assert (moved["computed"], moved["records"]) == (0, 36)
    world.remove(2)
    error = world.night(code=2)["error"]
    assert "1 of 3 published shards are gone from the archive" in error
    assert "12 records would be withdrawn, 33.3% of what is published (the limit is 10%)" in error
    gone = world.night("--allow-withdrawal")
    assert (gone["computed"], gone["retired"], gone["withdrawn"], gone["records"]) == (0, 1, 12, 24)


def test_what_would_compute_much_again_is_stopped(world: NightWorld) -> None:
    world.arrive(1, seed=3)
    refused = world.night(code=2)
    assert "1 of 2 published shards have changed: 12 records" in refused["error"]
    assert newest_manifest(world.root).number == 1
    assert world.night("--allow-recompute")["computed"] == 1


def test_another_setting_does_not_silently_fill_another_dataset(world: NightWorld) -> None:
    world.config.write_text(world.config.read_text() + '[explain]\nentropy = "timestep"\n')
    assert "would be computed again" in world.night(code=2)["error"]


def test_a_bad_night_is_held_released_and_rejected(world: NightWorld) -> None:
    def broken(table):  # type: ignore[no-untyped-def]
        import pyarrow as pa

        at = table.schema.get_field_index("sampling_rate")
        return table.set_column(at, table.schema.field(at), pa.array([0.0] * table.num_rows, pa.float32()))

    world.arrive(2, seed=2, records=40)
    world.arrive(3, seed=4, records=40, change=broken)
    night = world.night(code=4)
    assert [(shard["key"], shard["state"]) for shard in night["held"]] == [("part-00003.parquet", "held")]
    assert night["gates"]["findings"][0]["gate"] == "quarantine_rate"
    # What is kept is read on other days.
    [hold] = holds(find_dataset(world.root).store).values()
    today = datetime.now(UTC).date().isoformat()
    assert hold.reasons[0].startswith(f"all records, {today}: 40 of 80 records are quarantined")
    assert "tonight" not in json.dumps(night)
    assert night["gates"]["findings"][0]["message"] == f"{hold.reasons[0]}; held back: part-00003.parquet"
    assert world.published() == ["part-00000.parquet", "part-00001.parquet", "part-00002.parquet"]
    # Later nights go on without it, and do not judge it again.
    world.arrive(4, seed=5)
    later = world.night()
    assert (later["computed"], len(later["held"])) == (1, 1)
    assert [(h.source.key, h.state) for h in holds(find_dataset(world.root).store).values()] == [
        ("part-00003.parquet", "held")
    ]
    assert (
        "Held are: part-00003.parquet"
        in world.run("release", world.root, "part-3.parquet", "--reason", "x", code=2)["error"]
    )
    world.run("release", world.root, "part-00003.parquet", "--reason", "a test of the feed")
    assert world.night()["records"] == 24 + 40 + 40 + 12
    world.run("reject", world.root, "part-00003.parquet", "--reason", "no, it was not")
    rejected = world.night()
    assert (rejected["records"], rejected["held"][0]["state"]) == (24 + 40 + 12, "rejected")


def test_back_to_an_earlier_manifest(world: NightWorld) -> None:
    world.arrive(2, seed=2)
    world.night()
    back = world.run("rollback", world.root, "1", "--reason", "wrong units")
    assert (back["manifest"], back["records"], back["held"]) == (3, 24, ["part-00002.parquet"])
    world.arrive(3, seed=3)
    assert world.night()["records"] == 36
    assert "part-00002.parquet" not in world.published()
    world.run("release", world.root, "--all", "--reason", "units mended")
    assert world.night()["records"] == 48
    assert "there are 1 to" in world.run("rollback", world.root, "99", "--reason", "x", code=2)["error"]


def test_a_recording_sent_again_holds_once(world: NightWorld) -> None:
    import pyarrow as pa

    def older(table):  # type: ignore[no-untyped-def]
        at = table.schema.get_field_index("age")
        return table.set_column(at, "age", pa.array([age + 1 for age in table["age"].to_pylist()], pa.float32()))

    world.arrive(2, seed=2)
    world.night()
    world.arrive(3, seed=2, change=older)
    again = world.night()
    assert (again["superseded"], again["records"], len(world.ids())) == (12, 36, 36)


def test_one_night_at_a_time(world: NightWorld) -> None:
    with Lease(world.root, "other", "a test"):
        locked = world.night(code=5)
    assert "in use by a test" in locked["error"]


def test_few_shards_a_night_the_oldest_first(world: NightWorld) -> None:
    world.config.write_text(world.config.read_text() + "[nightly]\nmax_shards = 1\n")
    for number in (2, 3):
        world.arrive(number, seed=number)
    first = world.night()
    assert (first["computed"], first["left"], world.published()[-1]) == (1, 1, "part-00002.parquet")
    second = world.night()
    assert (second["computed"], second["left"], second["records"]) == (1, 0, 48)


def test_a_deadline_with_either_policy(world: NightWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    import ecgscale.nightly.night as night_module

    world.arrive(2, seed=2)
    monkeypatch.setattr(night_module, "_deadline", lambda clock, now: 0.0)
    base = world.config.read_text()
    for policy in ("complete", "committed"):
        world.config.write_text(base + f'[nightly]\ndeadline = "05:00"\npolicy = "{policy}"\n')
        cut = world.night(code=6)
        assert (cut["computed"], cut["left"], cut["manifest"]) == (0, 1, 1)
    monkeypatch.undo()


def test_what_the_night_tells_is_short_and_its_seconds_are_all_of_it(tmp_path: Path) -> None:
    more = '[surrogate]\ntarget = "superclasses"\n'
    world = new_world(str(tmp_path), tmp_path, more, records=120, outputs=("MI", "NORM"))
    world.arrive(2, seed=2)
    started = time.monotonic()
    night = world.night()
    assert night["explain_seconds"] < night["seconds"] <= time.monotonic() - started
    scores = night["surrogate"]
    assert {"target", "records", "names", "remarks", "path", "dataset_id"} <= set(scores)
    assert not any(isinstance(value, dict) for value in scores.values())
    written = json.loads(Path(scores["path"]).read_text())["facts"]
    assert {name: written[name] for name in scores if name != "path"} == {
        name: value for name, value in scores.items() if name != "path"
    }
    assert {"intervals", "per_label", "groups"} <= set(written)
    assert world.night("--model", Path(scores["path"]).name, code=2)["error"].count("There are: k4-") == 1
    [model] = Path(world.root, "models").iterdir()
    assert world.night("--model", model.name)["published"] is False


def test_a_held_night_says_what_to_type(tmp_path: Path) -> None:
    world = new_world(str(tmp_path), tmp_path)
    world.arrive(2, seed=2)
    world.night()
    world.run("rollback", world.root, "1", "--reason", "wrong units")
    printed = CliRunner().invoke(main, ["nightly", str(world.config)]).stdout
    assert "explained: 0 shards computed" in printed
    assert "1 shard held back: part-00002.parquet" in printed
    assert f"look:   ecgscale quarantine {world.root} --held" in printed
    assert f"decide: ecgscale release {world.root} part-00002.parquet --reason TEXT" in printed


def test_the_night_is_kept_with_what_the_gates_said(world: NightWorld) -> None:
    world.arrive(2, seed=2)
    world.night()
    store = find_dataset(world.root).store
    [record] = list(store.list_prefix("_nights"))
    assert record.startswith("_nights/20")


def test_files_that_arrive_are_explained_the_same_night(tmp_path: Path) -> None:
    source = tmp_path / "source"
    write_records(source, ("a", "b", "c"))
    write_small_encoder(tmp_path / "encoder")
    world = NightWorld(str(tmp_path), tmp_path)
    with_source = f'path = "{tmp_path}/archive"\nsource = "wfdb"\nsrc = "{source}"'
    config = CONFIG.format(where=tmp_path).replace(f'path = "{tmp_path}/archive"', with_source, 1)
    world.config.write_text(config + "[nightly]\nsettle_minutes = 0\n")
    world.run("run", str(world.config))
    write_records(source, ("d", "e"))
    night = world.night()
    assert (night["arrivals"]["records"], night["computed"], night["records"]) == (2, 1, 5)
    assert world.night()["arrivals"]["records"] == 0
    # A source that is away fails the night, and does not keep it from what the archive has.
    source.rename(tmp_path / "unmounted")
    world.arrive(7, seed=7, change=lambda table: as_in(tmp_path, table))
    away = world.night(code=1)
    assert "no such folder" in away["error"]
    assert (away["computed"], away["records"]) == (1, 17)


def write_records(folder: Path, names: tuple[str, ...]) -> None:
    """Short WFDB records at the small network's rate, of 12 leads."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        signal = np.random.default_rng(sum(name.encode())).normal(size=(220, 12)) * 0.3
        leads = list(CANONICAL_LEADS)
        wfdb.wrsamp(name, 100, ["mV"] * 12, leads, signal, fmt=["16"] * 12, write_dir=str(folder))


def as_in(folder: Path, table: pa.Table) -> pa.Table:
    """The rows in the columns and types of the archive below `folder`."""
    schema = pq.read_schema(folder / "archive" / "part-00000.parquet").remove_metadata()
    return table.select(schema.names).cast(schema)


def reversed_arms(table: pa.Table) -> pa.Table:
    """The same recordings with the electrodes of the two arms exchanged: I is negated, II and III, aVR and aVL swap."""
    at = table.schema.get_field_index("signal")
    samples = np.stack([np.asarray(signal, np.int16) for signal in table["signal"].to_pylist()])
    leads = samples.reshape(len(samples), 12, -1)[:, [0, 2, 1, 4, 3, *range(5, 12)]].copy()
    leads[:, 0] *= -1
    return table.set_column(
        at, table.schema.field(at), pa.array(leads.reshape(len(samples), -1).tolist(), pa.list_(pa.int16()))
    )


def test_reversed_arm_leads_are_found_the_same_night(tmp_path: Path) -> None:
    world = new_world(str(tmp_path), tmp_path, records=600)
    world.arrive(2, seed=2, records=420)  # with fewer than 300 patients in the window, drift is told and not held
    assert world.night()["gates"]["passed"]
    world.arrive(3, seed=3, records=60, change=reversed_arms)
    night = world.night(code=4)
    assert [shard["key"] for shard in night["held"]] == ["part-00003.parquet"]
    assert "part-00003.parquet" not in world.published()


def test_run_typed_again_keeps_what_is_served_and_what_is_held(tmp_path: Path) -> None:
    world = new_world(str(tmp_path), tmp_path)
    served = find_dataset(world.root).dataset_id
    world.arrive(2, seed=2)
    world.night()
    world.run("rollback", world.root, "1", "--reason", "wrong units")
    world.run("reject", world.root, "part-00002.parquet", "--reason", "wrong units indeed")
    world.arrive(3, seed=3)
    again = world.run("run", str(world.config))
    assert (again["dataset_id"], again["computed"], again["records"]) == (served, 1, 36)
    assert world.published() == ["part-00000.parquet", "part-00001.parquet", "part-00003.parquet"]
