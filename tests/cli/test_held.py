"""Shards that are held back, as people look at them: listed, plotted, and told where they are looked for in vain."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ecgscale.nightly.history import decide_on
from ecgscale.passes.explain.explain import Policy
from tests.cli.operated import facts, typed
from tests.worlds.commands.small_world import SmallWorld

BACK = ("part-00001.parquet", "part-00002.parquet")
WHY = "all records, 2026-11-20: cluster 3 takes 40.0% of the time, 9.0% in the reference, in 6 patients"
FLAT: dict[str, Any] = {"r5": {"signal": np.zeros((3, 220), np.int16)}}


def admission(commits: Any, newest: Any) -> dict[str, list[str]]:
    """Gates that find the same in two shards."""
    return {commit.source.key: [WHY] for commit in commits if commit.source.key in BACK}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SmallWorld:
    return SmallWorld.made(tmp_path_factory.mktemp("held"), FLAT, policy=Policy(admission=admission))


@pytest.fixture
def world(made: SmallWorld, tmp_path: Path) -> SmallWorld:
    return made.copied(tmp_path)


def test_held_shards_are_listed_with_what_to_type_next(world: SmallWorld) -> None:
    decide_on(world.root, [BACK[1]], "rejected", "arm leads reversed")
    result = typed("quarantine", world.root, "--held")
    found = facts(result)
    held, rejected = found["held"]
    assert [(line["shard"], line["state"], line["records"]) for line in (held, rejected)] == [
        (BACK[0], "held", 4),
        (BACK[1], "rejected", 2),
    ]
    assert (held["quarantined"], held["record_id"], held["reason"], held["decided_by"]) == (1, "r4", WHY, None)
    assert (rejected["reason"], rejected["decided_by"]) == ("arm leads reversed", getpass.getuser())
    assert held["held_at"] < rejected["decided_at"]
    # All of what was explained lies where it says.
    assert pq.read_table(held["file"])["record_id"].to_pylist() == ["r4", "r5", "r6", "r7"]
    assert "1 shard held, 1 shard rejected, of 6 records" in result.stdout
    assert f"held: {BACK[0]}: {WHY}" in result.stdout
    assert f"rejected: {BACK[1]}: arm leads reversed" in result.stdout
    assert f"look:   ecgscale plot {world.root} r4 --held -o odd.png" in result.stdout
    assert f"decide: ecgscale release {world.root} {BACK[0]} --reason TEXT" in result.stdout
    assert facts(typed("quarantine", world.root, "--held", "--limit", 1))["left_out"] == 1
    assert typed("quarantine", world.root, "--held", "--reason", "flat_signal").exit_code == 2


def test_equal_reasons_are_told_once(world: SmallWorld) -> None:
    grouped = f"2 shards, first {BACK[0]}: {WHY}"
    assert f"held: {grouped}" in typed("quarantine", world.root, "--held").stdout
    *message, _ = typed("status", world.root).stdout.splitlines()
    assert "\n".join(message).count("cluster 3 takes") == 1
    assert "2 shards are held back or rejected" in typed("quarantine", world.root).stdout


def test_without_holds(world: SmallWorld) -> None:
    decide_on(world.root, BACK, "released", "as it should be")
    world.explain()
    result = typed("quarantine", world.root, "--held")
    assert facts(result)["held"] == []
    assert "no shard is held back" in result.stdout


def test_a_decision_says_what_comes_of_it(world: SmallWorld) -> None:
    def said(what: str) -> str:
        result = typed(what, world.root, BACK[0], "--reason", "somebody looked")
        return result.stdout.splitlines()[0]

    assert said("reject") == f"{BACK[0]} rejected: it stays unpublished"
    assert said("release") == f"{BACK[0]} released: the next nightly run publishes it"
    world.explain()
    assert said("reject") == f"{BACK[0]} rejected: it is published now; the next night withdraws its 4 records"
    assert said("release") == f"{BACK[0]} released: it is published, and stays so"
    said("reject")
    before = facts(typed("status", world.root))["datasets"][0]["records"]
    world.explain(policy=Policy(admission=admission))
    assert facts(typed("status", world.root))["datasets"][0]["records"] == before - 4


def test_a_held_recording_is_plotted(world: SmallWorld, tmp_path: Path) -> None:
    picture = tmp_path / "odd.svg"
    result = typed("plot", world.root, "r4", "--held", "-o", picture, "--layout", "stacked")
    found = facts(result)
    assert (found["record_id"], found["held"]) == ("r4", "held")
    assert "r4 (held, not published): " in result.stdout
    assert picture.stat().st_size > 0
    assert facts(typed("plot", world.root, "r0", "-o", picture, "--layout", "stacked"))["held"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["r4"], f"in shard {BACK[0]}, which is held back since 20"),
        (["r4"], "`ecgscale plot --held` draws it"),
        (["r44"], "Near it: r"),
        (["r5", "--held"], "quarantined: flat_signal"),
        (["r0", "--held"], "no record 'r0' in 2 shards held back from dataset"),
        (["r0", "--held"], "Without --held"),
    ],
)
def test_what_is_not_there_is_told(world: SmallWorld, tmp_path: Path, arguments: list[str], said: str) -> None:
    result = typed("plot", world.root, *arguments, "-o", tmp_path / "a.png")
    assert result.exit_code == 2
    assert said in result.stderr


def test_held_where_nothing_is_held(world: SmallWorld, tmp_path: Path) -> None:
    decide_on(world.root, BACK, "released", "as it should be")
    world.explain()
    result = typed("plot", world.root, "r4", "--held", "-o", tmp_path / "a.png")
    assert result.exit_code == 2
    assert "leave --held out" in result.stderr


def test_in_an_object_store(made: SmallWorld, s3_root: str, tmp_path: Path) -> None:
    world = SmallWorld(s3_root, made.archive, made.model)
    world.explain(policy=Policy(admission=admission))
    [first, _] = facts(typed("quarantine", s3_root, "--held"))["held"]
    assert (first["record_id"], first["file"].startswith("s3://")) == ("r4", True)
    drawn = typed("plot", s3_root, "r4", "--held", "-o", tmp_path / "odd.png", "--layout", "stacked")
    assert facts(drawn)["segments"] > 0


LIGHT = """
import json, sys
from click.testing import CliRunner
from ecgscale.cli import COMMANDS, main

typed, runner, seen = json.loads(sys.argv[1]), CliRunner(), []
heavy = {"torch", "numba", "scipy", "ray", "matplotlib", "sklearn", "pandas"}
for words in [*([name, "--help"] for name in COMMANDS), *typed]:
    code = runner.invoke(main, words).exit_code
    seen.append([words[0], code, sorted(heavy & set(sys.modules))])
print(json.dumps(seen))
"""


def test_what_operators_type_loads_nothing_heavy(world: SmallWorld) -> None:
    decide_on(world.root, [BACK[0]], "released", "looked at")
    world.explain()
    root, why = world.root, ["--reason", "looked at"]
    typed = [
        ["status", root, "--history", "3"],
        ["release", root, BACK[1], *why],
        ["rollback", root, "1", *why],
        ["reject", root, BACK[1], *why],
        ["gc", root],
        ["retry-failed", root],
        # Whoever looks into columns has pandas loaded by pyarrow, for half a second.
        ["quarantine", root],
        ["quarantine", root, "--held"],
        ["inspect", str(world.archive)],
    ]
    done = subprocess.run([sys.executable, "-c", LIGHT, json.dumps(typed)], capture_output=True, text=True, check=True)
    for command, code, heavy in json.loads(done.stdout):
        allowed = ["pandas"] if command in ("quarantine", "inspect") else []
        assert (code, [name for name in heavy if name not in allowed]) == (0, []), command
