"""`ecgscale audit` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.evaluate.written import read_evaluations
from tests.worlds.published.page_root import PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), seen_folds=(1, 2, 3, 4))


def test_audit_ranks_every_label_and_tests_itself(published: PublishedRoot) -> None:
    arguments = ["audit", str(published.root), "--folds", "patients:4", "--trees", "40", "--flips", "1", "--json"]
    result = CliRunner().invoke(main, [*arguments, "--top", "5"])
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.strip().splitlines()[-1])
    assert facts["flipped"]["precision"]["mean"] > 4 * facts["flipped"]["chance"]
    assert len(facts["top"]) == 5
    assert facts["top"][0]["record_id"] in result.stdout
    evaluation = read_evaluations(published.root, published.dataset_id)["audit-superclasses"]
    assert evaluation.table("records").num_rows == facts["records"] == 319
    assert evaluation.settings["flips"] == 1


def test_audit_of_ages(tmp_path: Path) -> None:
    root = publish_by_hand(tmp_path, records=120, kind="regression").root
    result = CliRunner().invoke(main, ["audit", str(root), "--folds", "patients:3", "--trees", "20", "--flips", "0"])
    assert result.exit_code == 0, result.output
    assert "what the encoder had seen is not known" not in result.stdout


def test_audit_tells_what_is_wrong(published: PublishedRoot) -> None:
    for arguments, said in ((["--target", "superclass"], "Did you mean"), (["--folds", "x"], "patients:N")):
        result = CliRunner().invoke(main, ["audit", str(published.root), *arguments])
        assert result.exit_code == 2
        assert said in result.stderr
