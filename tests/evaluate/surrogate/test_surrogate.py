"""Forests on proportions, held against a network and labels whose relation is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.encoders.spec import OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.seen import Seen
from ecgscale.evaluate.surrogate.out_of_fold import most_frequent, most_frequent_whole
from ecgscale.evaluate.surrogate.scores import CLASSIFICATION, REGRESSION, SCORES
from ecgscale.evaluate.surrogate.surrogate import SurrogateRequest, SurrogateResult, explained_records, score_surrogate
from tests.worlds.formula.explained import CLASSES, LABELS, SMALL, YEARS, N, explanations, replaced

HELD = SurrogateRequest(test_folds=(9, 10), n_bootstrap=60, forests=SMALL)


def check(
    table: pa.Table,
    target: str = "labels",
    output: OutputSpec = LABELS,
    request: SurrogateRequest = HELD,
    seen: Seen | None = None,
) -> SurrogateResult:
    return score_surrogate(explained_records(table, target, output, request, seen), request)


def number(result: SurrogateResult, name: str) -> float:
    value = result.scores[name]
    assert value is not None
    return value


def test_proportions_that_tell_all_are_found_out() -> None:
    result = check(explanations())
    assert number(result, "agreement") > 0.97 > number(result, "majority_agreement")
    assert number(result, "exact_match") > 0.9 > number(result, "majority_exact_match")
    assert number(result, "kappa") > 0.9
    assert 0.82 < number(result, "network_accuracy") < 0.97
    assert number(result, "accuracy") == pytest.approx(number(result, "network_accuracy"), abs=0.06)
    for score in ("auroc", "network_auroc", "auroc_thresholded", "average_precision"):
        assert 0.75 < number(result, score) <= 1
    assert all(result.scores[name] is None for name in REGRESSION)
    assert (result.records, result.train_records) == (48, 192)
    assert set(result.per_label) == {"CD", "MI", "NORM"}
    macro = np.mean([scores["auroc"] for scores in result.per_label.values()])
    assert number(result, "auroc") == pytest.approx(macro)


def test_what_the_whole_decision_is_held_against_is_the_most_frequent_set() -> None:
    # Label by label the most frequent answer is "none of them", which is never given; each set has one label.
    sets = np.array([[1, 0, 0]] * 5 + [[0, 1, 0]] * 4 + [[0, 0, 1]] * 4)
    assert most_frequent(sets, "multilabel").tolist() == [0, 0, 0]
    assert most_frequent_whole(sets, "multilabel").tolist() == [1, 0, 0]
    assert most_frequent_whole(sets, "multiclass").tolist() == [1, 0, 0]
    result = check(explanations())
    given = Counter(tuple(p > 0.5 for p in row) for row in result.out_of_fold.column("network").to_pylist())
    shares = {count / result.records for count in given.values()}
    assert number(result, "majority_exact_match") in shares
    assert number(result, "majority_exact_match") > given[(False, False, False)] / result.records


def test_proportions_that_tell_nothing_score_like_the_majority() -> None:
    result = check(explanations(informative=False))
    assert number(result, "agreement") < number(result, "majority_agreement") + 0.1
    assert abs(number(result, "auroc") - 0.5) < 0.2
    assert abs(number(result, "kappa")) < 0.25


def test_without_labels_the_agreement_is_scored_alone() -> None:
    """Forests on the network's decisions are the same ones; nothing that needs a label has a value."""
    labelled = check(explanations(), request=replace(HELD, thresholds="half"))
    table = explanations().drop_columns(["labels", "years", "group"])
    data = explained_records(table, None, LABELS, HELD, without="it came from elsewhere")
    result = score_surrogate(data, replace(HELD, baselines=True, importance=True))
    of_the_network = {"agreement", "majority_agreement", "exact_match", "majority_exact_match", "kappa"}
    assert {name for name, value in result.scores.items() if value is not None} == of_the_network
    assert all(result.scores[name] == labelled.scores[name] for name in of_the_network)
    assert result.intervals["agreement"] == labelled.intervals["agreement"]
    assert (result.target, result.labelled_records, set(result.thresholds.values())) == (None, 0, {0.5})
    assert {label["records_with"] for label in result.per_label.values()} == {None}
    assert result.out_of_fold.column("label").null_count == result.out_of_fold.column("learnt").null_count == 48
    assert result.out_of_fold.schema.types == labelled.out_of_fold.schema.types
    assert result.baselines["permuted"]["difference"]["agreement"] > 0.1
    assert len(result.importance) == 5
    assert result.remarks[0].startswith("no labels: the agreement with the network is scored alone; it says yes above")
    assert "it came from elsewhere" in result.remarks[0]
    assert not any("labelled" in remark or "have labels" in remark for remark in result.remarks)
    says = [[row[0], -1.0, 1.0] for row in table["prediction"].to_pylist()]
    same = explained_records(replaced(table, "prediction", says), None, LABELS, HELD)
    told = [remark for remark in score_surrogate(same, HELD).remarks if "says nothing" in remark]
    assert [remark.split(":")[0] for remark in told] == [
        "the network says MI of no record scored",
        "the network says NORM of every record scored",
    ]
    years = explained_records(replaced(table, "prediction", table["value"].to_pylist()), None, YEARS, HELD)
    values = score_surrogate(years, HELD)
    assert {name for name, value in values.scores.items() if value is not None} == {"r2", "mae_to_network"}
    assert number(values, "r2") > 0.5


@pytest.mark.parametrize("often", [0.5, 0.8])
def test_without_labels_proportions_that_know_nothing_agree_as_the_most_frequent_answer(often: float) -> None:
    """What guesses agrees in `often` of the records at the best; the interval says so, and no gain is found."""
    rng, found, covered, gains = np.random.default_rng(3), 0, 0, []
    one = OutputSpec(kind="multilabel", scale="logit", names=("AF",))
    empty = explanations(informative=False).drop_columns(["labels", "fold"])
    for seed in range(6):
        table = replaced(empty, "prediction", np.where(rng.random((N, 1)) < often, 1.0, -1.0).tolist())
        forests = replace(SMALL, trees=20, leaf_records=40, seed=seed)
        request = SurrogateRequest(folds="patients:2", n_bootstrap=100, forests=forests)
        result = score_surrogate(explained_records(table, None, one, request), request)
        interval, gain = result.intervals["agreement"], result.differences["agreement - majority_agreement"]
        assert interval is not None
        covered += interval[0] <= often <= interval[1]
        found += gain["interval"][0] > 0
        gains.append(gain["value"])
    assert covered >= 5
    assert found <= 1
    assert abs(np.mean(gains)) < 0.05


def test_cross_validation_scores_every_record_once_by_forests_without_its_patient() -> None:
    result = check(explanations(), request=replace(HELD, test_folds=(), folds="patients:4"))
    assert result.records == N
    assert number(result, "agreement") > 0.97
    summary = result.folds["summary"]["agreement"]
    assert summary["parts"] == 4
    assert summary["mean"] == pytest.approx(number(result, "agreement"), abs=0.02)
    rows = result.out_of_fold.to_pandas()
    assert len(rows) == N
    assert rows.groupby("patient_id")["part"].nunique().max() == 1


def test_records_seen_before_stand_apart() -> None:
    table = explanations()
    fold = np.array(table.column("fold").to_pylist())
    seen = Seen(fold <= 6, fold <= 8, None, None, fold == 6)
    result = check(table, request=replace(HELD, test_folds=()), seen=seen)
    assert {name: group["records"] for name, group in result.groups.items()} == {
        "neither": 48,
        "clusters": 48,
        "encoder": 144,
        "all": 240,
    }
    assert (result.headline, result.records, result.seen_by_encoder, result.seen_by_clusters) == ("neither", 48, 0, 0)
    assert result.scores["agreement"] == result.groups["neither"]["scores"]["agreement"]
    everything = Seen(fold <= 10, fold <= 10, None, None)
    message = check(table, request=HELD, seen=everything)
    assert message.headline == "all"
    assert any("too few of the records scored are new to the encoder" in remark for remark in message.remarks)


def test_intervals_hold_the_scores_and_differences_are_paired() -> None:
    result = check(explanations(), request=replace(HELD, n_bootstrap=300))
    for name in ("agreement", "accuracy", "auroc", "kappa", "network_average_precision"):
        pair = result.intervals[name]
        assert pair is not None
        assert pair[0] <= number(result, name) <= pair[1]
        assert pair[1] - pair[0] < 0.4
    gain = result.differences["agreement - majority_agreement"]
    assert gain["value"] == pytest.approx(number(result, "agreement") - number(result, "majority_agreement"))
    assert gain["interval"][0] > 0
    again = check(explanations(), request=replace(HELD, n_bootstrap=300))
    assert again.to_dict() == result.to_dict()


def test_baselines_stand_beside_the_proportions() -> None:
    result = check(explanations(), request=replace(HELD, baselines=True))
    facts = result.baselines["permuted"]
    assert facts["proportions"]["agreement"] == result.scores["agreement"]
    assert facts["scores"]["agreement"] < number(result, "agreement") - 0.2
    assert facts["difference_intervals"]["agreement"][0] > 0
    assert facts["scores"]["auroc"] == pytest.approx(0.5, abs=0.2)


def test_importance_falls_on_the_clusters_that_tell() -> None:
    result = check(explanations(), request=replace(HELD, importance=True))
    lost = [entry["lost"] for entry in result.importance]
    assert min(lost[:3]) > 0.05 > max(map(abs, lost[3:]))
    by_label = result.importance[1]["by_label"]
    assert by_label["MI"] > 0.15
    assert abs(by_label["CD"]) < 0.05


def test_quarantined_rows_are_left_out_and_told() -> None:
    result = check(explanations(quarantined=12))
    assert result.quarantined == 12
    assert result.records + result.train_records == N - 12
    assert any("12 quarantined" in remark for remark in result.remarks)
    with pytest.raises(UsageError, match="all 240 are quarantined"):
        check(explanations(quarantined=N))


def test_classes_that_exclude_each_other() -> None:
    result = check(explanations(), "group", CLASSES, replace(HELD, baselines=True, importance=True))
    assert number(result, "agreement") == number(result, "exact_match") > 0.6
    assert number(result, "majority_agreement") < 0.5
    assert number(result, "network_accuracy") > 0.7
    assert number(result, "kappa") > 0.5
    assert result.importance[0]["lost"] > 0
    assert result.thresholds == {}


def test_values() -> None:
    table = explanations().drop(["prediction"]).rename_columns({"value": "prediction"})
    result = check(table, "years", YEARS, replace(HELD, baselines=True, importance=True))
    assert number(result, "r2") > 0.95
    assert number(result, "mae_to_network") < 1.5
    assert number(result, "network_mae") < 2.5
    assert number(result, "mae") < number(result, "mean_mae")
    assert 0.5 < number(result, "label_r2") < number(result, "network_r2") + 0.1
    assert all(result.scores[name] is None for name in CLASSIFICATION)
    assert result.importance[0]["lost"] == max(entry["lost"] for entry in result.importance)
    assert result.baselines["permuted"]["difference"]["r2"] > 0.5


def test_ages_that_are_missing_count_for_the_network_alone() -> None:
    table = explanations().drop(["prediction"]).rename_columns({"value": "prediction"})
    ages = [None if i % 2 else age for i, age in enumerate(table.column("years").to_pylist())]
    result = check(replaced(table, "years", ages), "years", YEARS)
    assert (result.records, result.labelled_records) == (48, 24)
    assert any("24 records scored have no label" in remark for remark in result.remarks)
    none = check(replaced(table, "years", [float("nan")] * N), "years", YEARS)
    assert number(none, "r2") > 0.9
    assert none.scores["mae"] is none.scores["network_mae"] is None
    assert any("too few records have labels" in remark for remark in none.remarks)


@pytest.mark.parametrize(("how_many", "said"), [(0, "no AUROC for CD: 0 of"), (1, "one record alone")])
def test_a_class_with_one_example_or_none_is_told(how_many: int, said: str) -> None:
    table = explanations()
    rows = table.column("labels").to_pylist()
    labels = [[name for name in row if name != "CD"] or ["OTHER"] for row in rows]
    if how_many:
        last = max(i for i, fold in enumerate(table.column("fold").to_pylist()) if fold == 9)
        labels[last] = ["CD"]
    result = check(replaced(table, "labels", labels))
    assert any(said in remark for remark in result.remarks)
    assert (result.per_label["CD"]["auroc"] is None) == (how_many == 0)
    assert result.scores["auroc"] is not None


def test_records_without_labels_count_for_the_agreement_alone() -> None:
    table = explanations()
    labels = [row if i % 3 else None for i, row in enumerate(table.column("labels").to_pylist())]
    result = check(replaced(table, "labels", labels))
    assert result.records == 48 > result.labelled_records
    assert any("have no label" in remark for remark in result.remarks)


def test_fewer_records_than_clusters_are_told() -> None:
    table = explanations(n=40)
    wide = pa.array(np.full((40, 50), 0.02, np.float32).tolist(), pa.list_(pa.float32(), 50))
    table = table.set_column(table.schema.get_field_index("proportions"), "proportions", wide)
    result = check(table, request=replace(HELD, test_folds=(), folds="patients:4", baselines=True))
    assert any("fewer than the 50 clusters" in remark for remark in result.remarks)


def test_json_holds_every_score_or_null() -> None:
    facts = check(explanations()).to_dict()
    assert {"target", "records", "intervals", "groups", "baselines", *SCORES} <= set(facts)
    assert facts["r2"] is None


def test_too_few_records_are_told() -> None:
    with pytest.raises(UsageError, match="too few"):
        check(explanations(n=24))


def test_folds_within_which_to_stay() -> None:
    request = replace(HELD, test_folds=(), folds="patients:4", within=(9, 10))
    assert check(explanations(), request=request).records == 48
    with pytest.raises(UsageError, match="no record is in fold 12; there are: 1, 2"):
        check(explanations(), request=replace(request, within=(12,)))
