"""`ecgscale surrogate` from the outside, and what it says about records seen before."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.evaluate.written import read_evaluations
from tests.worlds.published.page_root import PublishedRoot, publish_by_hand

QUICK = ("--bootstrap", "50", "--trees", "40", "--no-baselines")
KEYS = {
    "target",
    "agreement",
    "majority_agreement",
    "accuracy",
    "network_accuracy",
    "auroc",
    "network_auroc",
    "r2",
    "mae",
    "network_mae",
    "records",
}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), seen_folds=(1, 2, 3, 4, 5, 6, 7, 8))


def surrogate(root: Path, *arguments: str) -> dict[str, Any]:
    result = CliRunner().invoke(main, ["surrogate", str(root), *QUICK, "--json", *arguments])
    assert result.exit_code == 0, result.output
    facts: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return facts


def test_surrogate_scores_first_what_nothing_has_seen(published: PublishedRoot) -> None:
    facts = surrogate(published.root)
    assert set(facts) >= KEYS
    assert facts["target"] == "superclasses"
    assert facts["agreement"] > facts["majority_agreement"]
    assert "cross-validated by the archive's folds 1, 2" in facts["split"]
    assert (facts["encoder_folds"], facts["clusters_folds"]) == ([*range(1, 9)], [*range(1, 9)])
    assert (facts["headline"], facts["seen_by_encoder"], facts["seen_by_clusters"]) == ("neither", 0, 0)
    assert facts["groups"]["all"]["records"] == facts["groups"]["encoder"]["records"] + facts["records"]
    assert facts["quarantined"] == 1
    assert facts["records"] == surrogate(published.root, "--test-folds", "9,10")["records"]


def test_surrogate_is_written_beside_the_explanations(published: PublishedRoot) -> None:
    facts = surrogate(published.root, "--test-folds", "9,10", "--seed", "3")
    [evaluation] = read_evaluations(published.root, published.dataset_id).values()
    assert evaluation.name == "surrogate-superclasses"
    assert evaluation.facts["agreement"] == facts["agreement"]
    assert (evaluation.settings["test_folds"], evaluation.settings["forests"]["seed"]) == ([9, 10], 3)
    assert evaluation.table("records").num_rows == facts["records"]


def test_surrogate_out_of_core_and_with_baselines(published: PublishedRoot) -> None:
    held = ("--test-folds", "9", "--fit-records", "60")
    facts = surrogate(published.root, *held, "--baselines")
    assert set(facts["baselines"]) == {"permuted", "signal", "rate_and_amplitudes"}
    assert len(facts["importance"]) == 6
    outside = surrogate(published.root, *held, "--out-of-core")
    assert {key: outside[key] for key in KEYS} == {key: facts[key] for key in KEYS}
    assert outside["baselines"] == {}


def test_surrogate_tells_when_records_were_seen(published: PublishedRoot) -> None:
    arguments = ["surrogate", str(published.root), "--train-folds", "2-9", "--test-folds", "1", *QUICK]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "fitted on folds 2, 3, 4, 5, 6, 7, 8, 9, scored on fold 1" in result.stdout
    assert "too few of the records scored are new to the encoder" in result.stdout
    records = surrogate(published.root, "--test-folds", "1")["records"]
    assert f"{records} of the {records} records scored" in result.stdout


@pytest.mark.parametrize("named", ["nothing", "elsewhere", "site"])
def test_surrogate_without_labels(published: PublishedRoot, tmp_path: Path, named: str) -> None:
    """An encoder that names no target, one whose column another archive has, or one that holds something else here."""
    root = tmp_path / "root"
    shutil.copytree(published.root, root)
    [spec] = root.glob("encoders/*/encoder.toml")
    target = "" if named == "nothing" else f'target = "{named}"'
    spec.write_text(spec.read_text().replace('target = "superclasses"', target))
    labelled = surrogate(published.root, "--folds", "patients:4", "--thresholds", "half")
    facts = surrogate(root, "--folds", "patients:4")
    assert set(facts) == set(labelled)
    assert facts["target"] is None
    assert (facts["agreement"], facts["split"]) == (labelled["agreement"], "cross-validated in 4 parts by patient")
    assert facts["accuracy"] is facts["auroc"] is facts["network_accuracy"] is None
    assert "no labels" in facts["remarks"][0]
    assert ("does not say which column" if named == "nothing" else f"trained on {named}") in facts["remarks"][0]
    written = read_evaluations(root, published.dataset_id)["surrogate"]
    assert (written.facts["agreement"], written.settings["thresholds"]) == (facts["agreement"], "half")
    assert written.table("records").column("label").null_count == written.table("records").num_rows
    asked = CliRunner().invoke(main, ["surrogate", str(root), "--target", "elsewhere"])
    assert (asked.exit_code, "no label column 'elsewhere'" in asked.stderr) == (2, True)


@pytest.mark.parametrize(("kind", "score"), [("regression", "r2"), ("multiclass", "agreement")])
def test_surrogate_of_other_kinds(tmp_path: Path, kind: str, score: str) -> None:
    facts = surrogate(publish_by_hand(tmp_path, records=120, kind=kind).root, "--folds", "patients:3", "--baselines")
    assert facts[score] is not None
    assert facts["split"] == "cross-validated in 3 parts by patient"
    assert facts["kind"] == kind
    assert facts["baselines"]["permuted"]["scores"][score] is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--target", "superclass"], "Did you mean 'superclasses'"),
        (["--target", "age"], "multilabel network of CD, HYP, MI, NORM, STTC"),
        (["--target", "age"], "It was trained on superclasses"),
        (["--test-folds", "12"], "no explained record is in fold 12"),
        (["--within", "12"], "no record is in fold 12"),
        (["--folds", "patient"], "patients:N"),
        (["--test-folds", "x"], "not a list of numbers"),
        (["--dataset", "nope"], "no dataset 'nope'"),
    ],
)
def test_surrogate_tells_what_is_wrong(published: PublishedRoot, arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(main, ["surrogate", str(published.root), *arguments])
    assert result.exit_code == 2
    assert said in result.stderr
