"""`ecgscale surrogate` from the outside, and what it says about records seen before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from tests.report.published_root import PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), seen_folds=(1, 2, 3, 4, 5, 6, 7, 8))


def surrogate(root: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["surrogate", str(root), "--bootstrap", "50", "--json", *arguments])
    assert result.exit_code == 0, result.output
    facts: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return facts


def test_surrogate_scores_what_nothing_has_seen(published: PublishedRoot) -> None:
    facts = surrogate(published.root)
    assert facts["target"] == "superclasses"
    assert facts["agreement"] > facts["majority_agreement"]
    assert (facts["encoder_folds"], facts["clusters_folds"]) == ([*range(1, 9)], [*range(1, 9)])
    assert (facts["seen_by_encoder"], facts["seen_by_clusters"]) == (0, 0)
    assert facts["quarantined"] == 1
    assert facts["records"] == surrogate(published.root, "--test-folds", "9,10")["records"]


def test_surrogate_tells_when_records_were_seen(published: PublishedRoot) -> None:
    arguments = ["surrogate", str(published.root), "--train-folds", "2-9", "--test-folds", "1", "--bootstrap", "20"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "fitted on folds 2, 3, 4, 5, 6, 7, 8, 9, scored on fold 1" in result.stdout
    records = surrogate(published.root, "--test-folds", "1")["records"]
    assert f"{records} of the {records} records scored" in result.stdout


@pytest.mark.parametrize(("kind", "score"), [("regression", "r2"), ("multiclass", "agreement")])
def test_surrogate_of_other_kinds(tmp_path: Path, kind: str, score: str) -> None:
    facts = surrogate(publish_by_hand(tmp_path, records=120, kind=kind).root)
    assert facts[score] is not None
    assert "30%" in facts["split"] or "70%" in facts["split"] or "neither" in facts["split"]
    assert facts["kind"] == kind


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "superclass"], "Did you mean 'superclasses'"),
        (["--target", "age"], "multilabel network of CD, HYP, MI, NORM, STTC"),
        (["--test-folds", "12"], "no explained record is in fold 12"),
        (["--test-folds", "x"], "not a list of numbers"),
        (["--dataset", "nope"], "no dataset 'nope'"),
    ],
)
def test_surrogate_tells_what_is_wrong(published: PublishedRoot, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["surrogate", str(published.root), *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
