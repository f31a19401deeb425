"""`ecgscale plot` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from tests.worlds.published.page_root import PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), records=24)


def test_plot_draws_a_record(published: PublishedRoot, tmp_path: Path) -> None:
    out = tmp_path / "ecg.png"
    result = CliRunner().invoke(main, ["plot", str(published.root), "sim0-0000003", "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.strip().splitlines()[-1])
    assert (facts["record_id"], facts["segments"], facts["clusters"]) == ("sim0-0000003", 8, 6)
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plot_takes_layout_window_and_dataset(published: PublishedRoot, tmp_path: Path) -> None:
    arguments = ["plot", str(published.root), "sim0-0000003", "--layout", "stacked", "--from", "1", "--to", "3"]
    result = CliRunner().invoke(main, [*arguments, "-o", str(tmp_path / "e.svg"), "--dataset", published.dataset_id])
    assert result.exit_code == 0, result.output
    assert b"<svg" in (tmp_path / "e.svg").read_bytes()


def test_plot_tells_which_root_was_meant(published: PublishedRoot, tmp_path: Path) -> None:
    holding = tmp_path / "heart"
    (holding / "results" / "explanations").mkdir(parents=True)
    for root, said in (
        (published.root.with_name(published.root.name + "s"), f"no such folder. Did you mean {published.root}?"),
        (holding, f"{holding} is no ROOT. Did you mean {holding / 'results'}?"),
        (tmp_path / "hearts", f"hearts: no such folder. Did you mean {holding / 'results'}?"),
        (tmp_path / "nowhere" / "at all", "at all: no such folder. ROOT is"),
    ):
        result = CliRunner().invoke(main, ["plot", str(root), "a", "-o", str(tmp_path / "a.png")])
        assert result.exit_code == 2
        assert said in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sim0-0000033", "-o", "a.png"], "no record 'sim0-0000033'"),
        (["sim0-0000001", "-o", "a.png"], "quarantined: flat_signal"),
        (["sim0-0000003", "-o", "a.gif"], ".png, .svg, .pdf"),
        (["sim0-0000003", "-o", "no-such-folder/a.png"], "no such folder"),
        (["sim0-0000003", "-o", "a.png", "--dataset", "nope"], "no dataset 'nope'"),
    ],
)
def test_plot_tells_what_is_wrong(published: PublishedRoot, arguments: list[str], said: str) -> None:
    runner = CliRunner()
    with runner.isolated_filesystem():
        result = runner.invoke(main, ["plot", str(published.root), *arguments])
        assert result.exit_code == 2
        assert said in result.stderr
        assert not Path("a.png").exists()
