"""`ecgscale compare` from the outside."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.evaluate.written import read_evaluations
from tests.worlds.published.page_root import PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), records=40)


def test_a_root_and_its_copy_are_the_same(published: PublishedRoot, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(published.root, other)
    result = CliRunner().invoke(main, ["compare", str(published.root), str(other), "--bootstrap", "20", "--json"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    assert (facts["records"], facts["only_a"], facts["only_b"]) == (39, 0, 0)
    assert facts["agreement"]["value"] == facts["predictions"]["agreement"]["value"] == 1.0
    assert facts["ami"]["value"] == pytest.approx(1.0)
    assert {row["a"]: row["b"] for row in facts["matched"]} == {k: k for k in range(6)}
    assert (facts["a"]["dataset_id"], facts["b"]["root"]) == (published.dataset_id, str(other))
    assert "39 records in both" in result.stdout
    assert "predictions agree in 1.000" in result.stdout
    written = read_evaluations(published.root, published.dataset_id)[f"compare-{published.dataset_id}"]
    assert facts["evaluation"] == str(written.folder / f"{written.name}.json")
    assert written.table("records").num_rows == 39
    assert written.table("clusters").num_rows == 6
    assert "patient_id" not in facts["most_different"][0]
    assert not (other / "evaluations").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["nowhere"], "nowhere"), ([".", "--other-dataset", "nope"], "'nope'"), ([".", "--dataset", "nope"], "'nope'")],
)
def test_compare_tells_what_is_wrong(published: PublishedRoot, arguments: list[str], said: str) -> None:
    other, *rest = arguments
    result = CliRunner().invoke(main, ["compare", str(published.root), str(published.root / other), *rest])
    assert result.exit_code == 2
    assert said in result.stderr
