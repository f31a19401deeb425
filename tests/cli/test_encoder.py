"""`ecgscale encoder check` as a user types it."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from ecgscale.cli import main
from tests.worlds.formula.small_networks import write_small_encoder


def test_check_tells_layers_and_lags(tmp_path: Path) -> None:
    write_small_encoder(tmp_path)
    result = CliRunner().invoke(main, ["encoder", "check", str(tmp_path), "--json"])
    assert result.exit_code == 0, result.output
    assert "  resblock1d_1: 12 channels, 64 steps" in result.stdout
    assert "nothing odd was found" in result.stdout
    assert len(result.stdout.splitlines()) <= 11
    facts = json.loads(result.stdout.splitlines()[-1])
    assert [tap["layer"] for tap in facts["taps"]] == ["resblock1d_0", "resblock1d_1", "resblock1d_2"]
    assert facts["warnings"] == []
    assert facts["contract"]["input"]["length"] == 256
    everything = CliRunner().invoke(main, ["encoder", "check", str(tmp_path), "--all"])
    assert "* resblock1d_1 " in everything.stdout
    assert "(4, 12, 64)" in everything.stdout
    assert "- lin " in everything.stdout


def test_a_wrong_layer_lists_those_there_are(tmp_path: Path) -> None:
    write_small_encoder(tmp_path, layers=["resblock_1"])
    result = CliRunner().invoke(main, ["encoder", "check", str(tmp_path), "--json"])
    assert result.exit_code == 2
    assert "Did you mean 'resblock1d_1'" in result.stderr
    assert "Did you mean" in json.loads(result.stdout.splitlines()[-1])["error"]


def test_help_shows_a_contract() -> None:
    result = CliRunner().invoke(main, ["encoder", "--help"])
    assert "depth_scales" in result.stdout
    assert "ecgscale encoder check encoder" in CliRunner().invoke(main, ["encoder", "check", "--help"]).stdout
