"""Forests on proportions, held against a network and labels whose relation is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.encoders.spec import OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.surrogate import SCORES, SurrogateResult, holdout_surrogate

NAMES = ("CD", "MI", "NORM")
LABELS = OutputSpec(kind="multilabel", scale="logit", names=NAMES)
N, K = 240, 5


def explanations(informative: bool = True, quarantined: int = 0) -> pa.Table:
    """Labels; a network that errs in some; proportions that say what the network says, or nothing."""
    rng = np.random.default_rng(7)
    truth = rng.random((N, 3)) < (0.3, 0.4, 0.5)
    network = np.where(rng.random((N, 3)) < 0.1, ~truth, truth)
    basis = np.column_stack([network, np.ones((N, 2))]) if informative else np.ones((N, K))
    weights = basis * 2 + rng.random((N, K))
    ok = np.arange(N) >= quarantined
    proportions = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    logits = np.where(network, 2.0, -2.0) + rng.normal(0, 0.3, (N, 3))
    years = 50 + 20 * proportions[:, 0].astype(float) * 5
    return pa.table(
        {
            "record_id": [f"r{i}" for i in range(N)],
            "patient_id": [f"p{i // 2}" for i in range(N)],
            "fold": pa.array(1 + np.arange(N) // 2 % 10, pa.int16()),
            "status": ["ok" if there else "flat_signal" for there in ok],
            "proportions": pa.array(
                [row if there else None for row, there in zip(proportions.tolist(), ok, strict=True)],
                pa.list_(pa.float32(), K),
            ),
            "prediction": [row if there else None for row, there in zip(logits.tolist(), ok, strict=True)],
            "labels": [[name for name, has in zip(NAMES, row, strict=True) if has] or ["OTHER"] for row in truth],
            "years": years + rng.normal(0, 2, N),
            "value": [[year] if there else None for year, there in zip(years.tolist(), ok, strict=True)],
            "group": [NAMES[i] for i in network.argmax(axis=1)],
        }
    )


def check(table: pa.Table, target: str = "labels", output: OutputSpec = LABELS, **options: object) -> SurrogateResult:
    return holdout_surrogate(table, target, output, **{"test_folds": (9, 10), "n_bootstrap": 60, **options})  # type: ignore[arg-type]


def number(result: SurrogateResult, name: str) -> float:
    value = result.scores[name]
    assert value is not None
    return value


def test_proportions_that_tell_all_are_found_out() -> None:
    result = check(explanations())
    assert number(result, "agreement") > 0.97 > number(result, "majority_agreement")
    assert number(result, "exact_match") > 0.9 > number(result, "majority_exact_match")
    assert 0.82 < number(result, "network_accuracy") < 0.97
    assert number(result, "accuracy") == pytest.approx(number(result, "network_accuracy"), abs=0.06)
    assert 0.8 < number(result, "auroc") <= 1
    assert 0.8 < number(result, "network_auroc") <= 1
    assert result.scores["r2"] is None
    assert (result.records, result.train_records) == (48, 192)


def test_proportions_that_tell_nothing_score_like_the_majority() -> None:
    result = check(explanations(informative=False))
    assert number(result, "agreement") < number(result, "majority_agreement") + 0.1
    assert abs(number(result, "auroc") - 0.5) < 0.2


def test_intervals_hold_the_scores_and_shrink_from_resamples_of_patients() -> None:
    result = check(explanations(), n_bootstrap=300)
    for name, pair in result.intervals.items():
        assert pair is not None
        assert pair[0] <= number(result, name) <= pair[1]
        assert pair[1] - pair[0] < 0.4
    again = check(explanations(), n_bootstrap=300)
    assert again.to_dict() == result.to_dict()


def test_quarantined_rows_are_left_out_and_told() -> None:
    result = check(explanations(quarantined=12))
    assert result.quarantined == 12
    assert result.records + result.train_records == N - 12
    assert any("12 quarantined" in remark for remark in result.remarks)


def test_classes_that_exclude_each_other() -> None:
    output = OutputSpec(kind="multiclass", scale="logit", names=NAMES)
    result = check(explanations(), "group", output)
    assert number(result, "agreement") == number(result, "exact_match") > 0.6
    assert number(result, "majority_agreement") < 0.5
    assert number(result, "network_accuracy") > 0.7


def test_values() -> None:
    table = explanations().drop(["prediction"]).rename_columns({"value": "prediction"})
    result = check(table, "years", OutputSpec(kind="regression", scale="value", names=("years",)))
    assert number(result, "r2") > 0.95
    assert number(result, "mae_to_network") < 1.5
    assert number(result, "network_mae") < 2.5
    assert number(result, "mae") < number(result, "mean_mae")
    assert result.scores["agreement"] is None


def test_a_class_without_both_values_has_no_auroc_and_is_told() -> None:
    table = explanations()
    labels = [[name for name in row if name != "CD"] or ["OTHER"] for row in table.column("labels").to_pylist()]
    result = check(table.set_column(table.schema.get_field_index("labels"), "labels", pa.array(labels)))
    assert any("no AUROC for CD" in remark for remark in result.remarks)
    assert result.scores["auroc"] is not None


def test_records_without_labels_count_for_the_agreement_alone() -> None:
    table = explanations()
    labels = [row if i % 3 else None for i, row in enumerate(table.column("labels").to_pylist())]
    result = check(table.set_column(table.schema.get_field_index("labels"), "labels", pa.array(labels)))
    assert result.records == 48 > result.labelled_records
    assert any("have no label" in remark for remark in result.remarks)


def test_json_holds_every_score_or_null() -> None:
    facts = check(explanations()).to_dict()
    assert {"target", "records", "intervals", *SCORES} <= set(facts)
    assert facts["r2"] is None


def test_too_few_records_are_told() -> None:
    with pytest.raises(UsageError, match="too few"):
        check(explanations().slice(0, 24))
