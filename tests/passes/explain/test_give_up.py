"""A shard that kills its worker every time: set aside with the row that does it, the rest published, remembered."""

from __future__ import annotations

import dataclasses
import itertools
import os
from pathlib import Path
from typing import Any

import pytest

import ecgscale.passes.explain.committing as explain_pass
from ecgscale.archive.reader import Archive
from ecgscale.errors import ExitCode
from ecgscale.io.places import place
from ecgscale.passes.explain.committing import examine, poison_reason, poisoned_rows
from ecgscale.passes.explain.explain import ExplainResult
from ecgscale.passes.explain.plan import Pending
from ecgscale.passes.fit.fit import fit_archive
from ecgscale.passes.workers import Done, Failed
from ecgscale.runtime.processes import ProcessBackend
from ecgscale.runtime.scheduler import PoolLimits
from ecgscale.store.commit import Source
from tests.runtime.interrupted import pool_on
from tests.worlds.commands.explaining import Watching, explain
from tests.worlds.commands.simulated import request
from tests.worlds.formula.odd_networks import Poisoned, encoder_of, recordings

LIMITS = PoolLimits(attempts=2, pause_s=0.01, poll_s=0.05, deadline_s=60.0, replace_s=30.0)


@pytest.fixture(scope="module")
def poisonable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cluster model whose network dies of poison, fitted on wholesome recordings."""
    folder = tmp_path_factory.mktemp("poisonable")
    archive = Archive.open(recordings(folder / "archive", 8, 8))
    [fitted] = fit_archive(archive, encoder_of(Poisoned, folder / "encoder"), folder / "root", request(batch=4))
    return fitted.directory


def run(archive: Path, model: Path, out: Path, **options: Any) -> tuple[ExplainResult, Watching]:
    watch = Watching()
    pool = pool_on(lambda: ProcessBackend(2), limits=LIMITS, progress=watch)
    return explain(archive, model, out, watch, pool=pool, **options), watch


def no_pool(_: Any) -> Any:
    raise AssertionError("no worker is needed")


def test_the_row_is_found_the_rest_published_and_the_failure_remembered(
    poisonable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, out = recordings(tmp_path / "archive", 24, 8, poisoned=(13,)), tmp_path / "out"
    result, watch = run(archive, poisonable, out)
    assert result.exit_code == ExitCode.SHARDS_SET_ASIDE
    assert (result.records, result.shards, result.computed) == (16, 2, 2)
    [aside] = result.set_aside
    assert aside.key == "part-00001.parquet"
    assert "given up after 2 attempts; last: died (exit code 9)" in aside.reason
    assert "it is row 5 (record r13) that does it. Not tried again until the shard or the code changes" in aside.reason
    assert 2 + 3 <= sum("is replaced" in line for line in watch.said) <= 2 + 4

    again = explain(archive, poisonable, out, pool=no_pool)
    assert (again.exit_code, again.computed, again.set_aside[0].reason) == (3, 0, aside.reason)

    # A copy of the same content is the same shard; other code is another try.
    os.utime(archive / "part-00001.parquet", ns=(1, 1))
    assert explain(archive, poisonable, out, pool=no_pool).exit_code == 3
    with monkeypatch.context() as patch:
        patch.setattr(explain_pass, "code_explaining", lambda _: "another")
        assert "is replaced" in " ".join(run(archive, poisonable, out)[1].said)

    # Another content is another try, and this one is wholesome.
    recordings(tmp_path / "mended", 24, 8)
    (tmp_path / "mended" / "part-00001.parquet").replace(archive / "part-00001.parquet")
    mended, _ = run(archive, poisonable, out)
    assert (mended.exit_code, mended.computed, mended.records) == (ExitCode.DONE, 1, 24)


@dataclasses.dataclass
class Killing:
    """A pool in which a call on rows kills whenever `kills` says so of their range."""

    kills: Any
    probed: list[tuple[int, int]] = dataclasses.field(default_factory=list)

    def run(self, calls: Any) -> Any:
        for call in calls:
            if call.method == "commit":
                yield Done(call, "committed", 0) if self.kills is never else Failed(call, "died", fatal=1)
                continue
            _, first, last = call.arguments
            self.probed.append((first, last))
            yield Failed(call, "died", fatal=1) if self.kills(first, last) else Done(call, last - first, 0)

    def ready(self) -> list[int]:
        return [0]


def never(first: int, last: int) -> bool:
    return False


def pending(rows: int) -> Pending:
    source = Source(key="part-00000.parquet", size=1, stamp="", rows=rows, content_digest="")
    return Pending(None, source)  # type: ignore[arg-type]


@pytest.mark.parametrize(("rows", "row"), [(1, 0), (2, 1), (7, 0), (7, 6), (1000, 777), *((5, i) for i in range(5))])
def test_bisection_finds_the_row(rows: int, row: int) -> None:
    pool = Killing(lambda first, last: first <= row < last)
    assert poisoned_rows(pool, pending(rows)) == (row, row + 1)
    assert len(pool.probed) <= 2 * rows.bit_length()


def test_bisection_finds_one_of_several_and_a_pair_that_kills_together() -> None:
    for rows in itertools.combinations(range(9), 2):
        found = poisoned_rows(Killing(lambda first, last, rows=rows: any(first <= r < last for r in rows)), pending(9))
        assert found is not None
        assert found[0] in rows
        together = poisoned_rows(Killing(lambda a, b, rows=rows: all(a <= r < b for r in rows)), pending(9))
        assert together is None or (together[0] <= rows[0] and rows[1] < together[1] and together != (0, 9))


def test_the_record_is_named_in_an_object_store_too(s3_root: str) -> None:
    shard = Archive.open(recordings(place(f"{s3_root}/archive"), 4, 4)).shards[0]
    reason = poison_reason("died", dataclasses.replace(pending(4), shard=shard), (2, 3))
    assert reason.startswith("died; it is row 2 (record r2) that does it.")


def test_what_no_part_does_alone_gets_another_try() -> None:
    assert poisoned_rows(Killing(never), pending(9)) is None
    outcome = examine(Killing(never), pending(9), "died")
    assert isinstance(outcome, Done)
    again = examine(Killing(lambda a, b: b - a == 9), pending(9), "died")
    assert again == (
        "died; no part of the shard does it alone, but the whole did it again. Not tried again until the shard or the"
        " code changes"
    )


def test_the_search_ends_when_it_takes_too_long() -> None:
    pool = Killing(lambda first, last: first <= 3 < last)
    assert poisoned_rows(pool, pending(1000), patience_s=-1.0) is None
    assert not pool.probed
