"""`ecgscale localise` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from tests.worlds.published.heart_root import HeartRoot, publish_heart


@pytest.fixture(scope="module")
def heart(tmp_path_factory: pytest.TempPathFactory) -> HeartRoot:
    return publish_heart(tmp_path_factory.mktemp("heart"), records=8, quarantined=1)


def test_scores_for_people_and_for_scripts(heart: HeartRoot) -> None:
    result = CliRunner().invoke(main, ["localise", str(heart.root), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert facts["information"] > 0.5
    assert facts["scores"]["information"]["shifted_p99"] < 0.5
    assert facts["records"] == 7
    assert Path(facts["evaluation"]).is_file()
    assert "7 records with waves (fiducials), 0 without" in result.stdout
    assert "clusters 1: chosen on" in result.stdout


def test_nothing_to_localise(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["localise", str(tmp_path)])
    assert result.exit_code == 2
    assert "nothing was published" in result.output
