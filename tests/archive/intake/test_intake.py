"""The log of arrivals: stopped at any step and repeated, or run twice at once, it takes in each set once."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.intake.arrivals import Arrivals
from ecgscale.archive.intake.intake import IntakeLog, entry_key
from ecgscale.errors import ArchiveError
from ecgscale.io.objects import LocalObjects, StoreError
from tests.worlds.commands.arriving import HOUR, Ward

STEPS = ("put", "put_if_absent", "delete")


class Killed(BaseException):
    """The process ends here."""


class Stop:
    """Ends the process before or after the n-th change that it makes to an archive; counts them otherwise."""

    def __init__(self, step: int | None, before: bool) -> None:
        self.done = 0
        self._step = step
        self._before = before

    def wrap(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(store: LocalObjects, *args: Any) -> Any:
            if store.root.name != "archive":
                # What a night prepares elsewhere is nobody's business.
                return plain(store, *args)
            number, self.done = self.done, self.done + 1
            if number == self._step and self._before:
                raise Killed
            result = plain(store, *args)
            if number == self._step:
                raise Killed
            return result

        return wrapped


@contextmanager
def stopping(step: int | None = None, before: bool = True) -> Iterator[Stop]:
    stop = Stop(step, before)
    with pytest.MonkeyPatch.context() as patch:
        for name in STEPS:
            patch.setattr(LocalObjects, name, stop.wrap(getattr(LocalObjects, name)))
        yield stop


def begun(folder: Path) -> Ward:
    """An archive of one record with two more that have arrived since, and one that is to be sent again."""
    ward = Ward(folder / "src", str(folder / "archive"))
    ward.record("0")
    ward.record("1")
    ward.night()
    for name in ("2", "3"):
        ward.record(name)
    ward.record("1", seed=90)
    return ward


def fresh(folder: Path) -> Ward:
    """No archive yet, and three records."""
    ward = Ward(folder / "src", str(folder / "archive"))
    for name in ("1", "2", "3"):
        ward.record(name)
    return ward


@pytest.mark.parametrize(("make", "expected"), [(begun, ["0", "1", "1", "2", "3"]), (fresh, ["1", "2", "3"])])
def test_killed_at_every_step_and_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Ward], expected: list[str]
) -> None:
    monkeypatch.setattr("ecgscale.archive.intake.arrivals.PORTION_SETS", 2)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    start = make(tmp_path)
    whole = start.copy(tmp_path / "undisturbed")
    with stopping() as count:
        whole.night(shard_records=1)
    assert whole.ids() == expected
    steps = count.done
    assert steps > 10
    for step in range(steps):
        for before in (True, False):
            ward = start.copy(tmp_path / f"{step}-{before}")
            with stopping(step, before), pytest.raises(Killed):
                ward.night(shard_records=1)
            ward.night(shard_records=1)
            assert ward.ids() == expected, (step, before)
            ward.check()
            found, undisturbed = ward.signals(), whole.signals()
            assert all(np.array_equal(found[name], undisturbed[name]) for name in expected)
            left = ward.night(shard_records=1)
            assert (left.sets_new, left.sets_changed, left.touched, left.shards) == (0, 0, 0, ())


def test_killed_twice_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    start = begun(tmp_path)
    for second in range(6):
        ward = start.copy(tmp_path / str(second))
        # Just after the entry was made: three shards are to be put.
        with stopping(4, True), pytest.raises(Killed):
            ward.night(shard_records=1)
        with stopping(second, second % 2 == 0), pytest.raises(Killed):
            ward.night(shard_records=1)
        ward.night(shard_records=1)
        assert sorted(ward.ids()) == ["0", "1", "1", "2", "3"]
        ward.check()


def test_what_was_entered_is_finished_without_the_source(tmp_path: Path) -> None:
    ward = begun(tmp_path)
    with stopping(2, True), pytest.raises(Killed):
        ward.night()
    assert ward.ids() == ["0", "1"]
    # Meanwhile the source has lost one of the records, and another has changed once more.
    for file in ward.folder.glob("2.*"):
        file.unlink()
    newest = ward.record("3", seed=33)
    arrived = ward.night()
    assert (arrived.records, arrived.sets_changed, arrived.vanished) == (4, 1, 1)
    assert ward.ids() == ["0", "1", "1", "2", "3", "3"]
    np.testing.assert_array_equal(ward.signals()["3"], newest)


def test_two_at_once_take_in_each_set_once(tmp_path: Path) -> None:
    for trial, make in enumerate((fresh, begun, fresh, begun)):
        ward = make(tmp_path / str(trial))
        expected = sorted(["1", "2", "3"] if make is fresh else ["0", "1", "1", "2", "3"])
        with ThreadPoolExecutor(3) as pool:
            nights: list[Arrivals] = list(pool.map(lambda _: ward.night(shard_records=1), range(3)))  # noqa: B023
        assert sorted(ward.ids()) == expected
        assert ward.night().shards == ()
        ward.check()
        assert all(night.records <= 3 for night in nights)


def test_one_that_was_overtaken_starts_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ward = begun(tmp_path)
    plain = IntakeLog.enter
    calls: list[int] = []

    def late(self: IntakeLog, *args: Any, **facts: Any) -> Any:
        if not calls:
            calls.append(1)
            ward.night()
        return plain(self, *args, **facts)

    monkeypatch.setattr(IntakeLog, "enter", late)
    ward.record("4")
    assert ward.night().shards == ()
    assert ward.ids() == ["0", "1", "1", "2", "3", "4"]
    assert not list((Path(ward.archive) / "_ingest/staged").iterdir())
    ward.check()


def test_a_shard_that_went_away_after_it_was_put_stays_away(tmp_path: Path) -> None:
    ward = begun(tmp_path)
    ward.night()
    (Path(ward.archive) / "part-00001.parquet").unlink()
    assert ward.night().shards == ()
    assert ward.ids() == ["0", "1"]


def test_copies_that_wait_for_nobody_go_after_a_day(tmp_path: Path) -> None:
    ward = begun(tmp_path)
    staged = Path(ward.archive) / "_ingest/staged"
    for name, age in (("young", HOUR), ("old", 30 * HOUR)):
        (staged / name).write_bytes(b"x")
        os.utime(staged / name, (time.time() - age,) * 2)
    ward.night()
    assert [file.name for file in staged.iterdir()] == ["young"]


def test_what_is_in_the_way_is_told(tmp_path: Path) -> None:
    ward = begun(tmp_path)
    with stopping(2, True), pytest.raises(Killed):
        ward.night()
    foreign = Path(ward.archive) / "part-00001.parquet"
    foreign.write_bytes(b"somebody else's")
    with pytest.raises(StoreError, match=r"something else wrote it\. Give it a name with a higher number"):
        ward.night()
    foreign.unlink()
    [staged] = (Path(ward.archive) / "_ingest/staged").iterdir()
    kept = staged.read_bytes()
    staged.write_bytes(b"damaged")
    with pytest.raises(StoreError, match="is damaged; restore it"):
        ward.night()
    staged.unlink()
    with pytest.raises(StoreError, match="is gone, and so is its copy"):
        ward.night()
    staged.write_bytes(kept)
    assert ward.night().records == 3


def test_a_log_with_a_gap_or_without_an_archive(tmp_path: Path) -> None:
    ward = begun(tmp_path)
    ward.night()
    archive = Path(ward.archive)
    assert [entry.number for entry in IntakeLog(archive).entries] == [1, 2]
    assert json.loads((archive / "_archive.json").read_text())["ingested"] == 2
    first = (archive / entry_key(1)).read_bytes()
    (archive / entry_key(1)).unlink()
    with pytest.raises(StoreError, match=r"00000001\.json is missing, and later ones are there"):
        ward.night()
    (archive / entry_key(1)).write_bytes(first)
    (archive / "_archive.json").unlink()
    with pytest.raises(ArchiveError, match=r"has a log of what was ingested and no _archive\.json"):
        ward.night()


def test_the_archive_stays_the_same_one(tmp_path: Path) -> None:
    ward = begun(tmp_path)
    before = Archive.open(ward.archive).info
    ward.night()
    after = Archive.open(ward.archive).info
    assert {name: after[name] for name in ("archive_id", "created_at", "signal")} == {
        name: before[name] for name in ("archive_id", "created_at", "signal")
    }
    assert (after["records"], after["shards"], after["ingested"]) == (5, 2, 2)
