"""`ecgscale simulate` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from ecgscale.archive import Archive
from ecgscale.cli import main


def test_simulate_writes_an_archive_and_says_so(tmp_path: Path) -> None:
    arguments = ["simulate", str(tmp_path / "a"), "--records", "12", "--seed", "3", "--shard-records", "5", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "12 recordings" in result.stdout
    facts = json.loads(result.stdout.strip().splitlines()[-1])
    assert (facts["records"], facts["shards"]) == (12, 3)
    assert Archive.open(tmp_path / "a").archive_id == facts["archive_id"]


def test_simulate_refuses_to_overwrite_unasked(tmp_path: Path) -> None:
    arguments = ["simulate", str(tmp_path / "a"), "--records", "2"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    again = CliRunner().invoke(main, arguments)
    assert again.exit_code == 2
    assert "already holds an archive" in again.stderr
    assert CliRunner().invoke(main, [*arguments, "--overwrite"]).exit_code == 0


def test_simulate_teaches() -> None:
    message = CliRunner().invoke(main, ["simulate", "--help"]).output
    assert "ecgscale simulate demo.archive --records 400" in message
