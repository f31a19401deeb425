"""`ecgscale report` and `ecgscale figures` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from tests.worlds.published.page_root import PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), records=40)


def test_report_writes_a_page(published: PublishedRoot, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["report", str(published.root), "-o", str(tmp_path / "out"), "--records", "6", "--json"]
    )
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert (facts["recordings"], facts["records"]) == (6, 39)
    assert facts["page"] == str(tmp_path / "out" / "index.html")
    assert Path(facts["page"]).read_text().startswith("<!doctype html>")


def test_figures_and_a_reader_study(published: PublishedRoot, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["figures", str(published.root), "-o", str(tmp_path / "figures"), "--records", "0", "--json"]
    )
    assert result.exit_code == 0, result.output
    files = json.loads(result.stdout.splitlines()[-1])["files"]
    assert {Path(file).name for file in files} == {"atlas.png", "atlas.svg", "correlations.png", "correlations.svg"}
    result = CliRunner().invoke(
        main, ["figures", str(published.root), "-o", str(tmp_path / "study"), "--reader-study", "2", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout.splitlines()[-1])["key"] == str(tmp_path / "study.key.csv")


@pytest.mark.parametrize("command", ["report", "figures"])
def test_what_is_wrong_is_told(command: str, published: PublishedRoot, tmp_path: Path) -> None:
    for arguments, said in [
        ([str(tmp_path)], "nothing was published"),
        ([str(published.root), "--dataset", "nope"], "no dataset 'nope'"),
        ([str(published.root), "--archive", str(tmp_path)], "no _archive.json"),
    ]:
        result = CliRunner().invoke(main, [command, *arguments, "-o", str(tmp_path / "out")])
        assert result.exit_code == 2
        assert said in result.stderr
    assert not (tmp_path / "out").exists()
