"""Facts of any shape as tables, and the names that people give to clusters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ecgscale.errors import UsageError
from ecgscale.report.facts import facts_of
from ecgscale.report.subject import NAMES_FILE, read_names
from ecgscale.report.surrogate import figure_rows, importance_of, surrogate_tables


def test_facts_become_pairs_tables_and_remarks() -> None:
    found = facts_of(
        {
            "target": "age",
            "rho": 0.5,
            "intervals": {"rho": [0.4, 0.6]},
            "strata": [{"name": "low", "scores": {"rho": 0.1}, "intervals": {"rho": [0.0, 0.2]}}],
            "scores": {"a": {"value": 0.3, "interval": [0.1, 0.5], "p": 0.01}},
            "summary": {"clusters": [{"setting": "K = 5", "auroc": 0.8, "auroc_sd": 0.01}]},
            "single": {"value": 0.7, "interval": None, "n": 4},
            "remarks": ["said"],
            "left_out": 1,
        },
        skip=("left_out",),
    )
    assert found.pairs == [("target", "age")]
    assert found.remarks == ["said"]
    by_caption = {
        table.caption: [[(cell.text, cell.note) for cell in row.cells] for row in table.rows] for table in found.tables
    }
    assert by_caption["Scores, with 95 % intervals"] == [[("0.500", "[0.400, 0.600]")], [("0.700", "")]]
    assert by_caption["strata"] == [[("0.100", "[0.000, 0.200]")]]
    assert by_caption["scores"] == [[("0.300", "[0.100, 0.500]"), ("0.010", "")]]
    assert by_caption["summary, clusters"] == [[("0.800", "± 0.010")]]


SURROGATE: dict[str, Any] = {
    "target": "superclasses",
    "kind": "multilabel",
    "agreement": 0.94,
    "majority_agreement": 0.8,
    "accuracy": 0.88,
    "network_accuracy": 0.884,
    "auroc": None,
    "network_auroc": 0.81,
    "intervals": {"agreement": [0.92, 0.96], "auroc": None},
    "records": 81,
    "split": "folds rotate",
    "headline": "neither",
    "groups": {"neither": {"records": 81, "scores": {"agreement": 0.94}}, "all": {"records": 400}},
    "per_label": {"MI": {"records_with": 9, "agreement": 0.9}},
    "baselines": {
        "permuted": {"told": "proportions of another record", "scores": {"agreement": 0.7}, "intervals": {}},
        "pooled": {"told": "pooled activations", "remark": "too few records"},
    },
    "importance": [{"cluster": 3, "lost": 0.02}, {"cluster": 4, "lost": None}],
}


def test_surrogates_stand_alongside_the_network_and_the_baselines() -> None:
    main, *others = surrogate_tables(SURROGATE, 20)
    rows = {row.name: [cell.text for cell in row.cells] for row in main.rows}
    assert rows["forest on 20 proportions"][:2] == ["0.940", "–"]
    assert rows["the network itself"][3:5] == ["0.884", "0.810"]
    assert rows["forest on pooled activations"][0] == "too few records"
    assert main.rows[0].cells[0].note == "[0.920, 0.960]"
    assert "seen by neither" in main.caption
    assert [table.caption for table in others] == ["By what had seen the records before", "Class by class"]
    assert importance_of(SURROGATE) == {3: 0.02}
    panels = figure_rows(SURROGATE)
    assert [name for name, _, _ in panels[0][1]] == ["proportions", "usual answer", "permuted"]
    assert [name for name, _, _ in panels[1][1]] == ["the network"], "an AUROC that is not there is not drawn"


def test_the_least_a_surrogate_says_is_enough() -> None:
    assert surrogate_tables({"target": "age", "kind": "regression", "r2": 0.5, "records": 9}, 6)[0].rows
    assert figure_rows({"kind": "regression", "r2": 0.5})[0][1][0][1] == 0.5


def test_names_of_clusters(tmp_path: Path) -> None:
    folder = tmp_path / "k6-abc"
    folder.mkdir()
    assert read_names(folder, 6) == {}
    file = folder / NAMES_FILE
    file.write_text(json.dumps({"model_id": "k6-abc", "names": {"3": "  QRS   onset ", "0": " "}}))
    assert read_names(folder, 6) == {3: "QRS onset"}
    for content, said in [
        ('{"model_id": "k6-abc", "names": {"9": "x"}}', "clusters 0 to 5"),
        ('{"model_id": "other", "names": {}}', "model other"),
        ('{"model_id": "k6-abc", "names": {"a": "x"}}', "not of the form"),
        ("{", "not of the form"),
        ("[]", "the whole file: Input should be"),
        ("null", "the whole file: Input should be"),
        ("[" * 10**6, "nested too deeply"),
        ('{"names": ' * 10**5, "nested too deeply"),
        ('{"model_id": "k6-abc", "names": {"0": NaN}}', "NaN"),
        (" " * 2**21, "2,097,152 bytes, and at most 1,048,576 are read"),
    ]:
        file.write_text(content)
        with pytest.raises(UsageError, match=said) as caught:
            read_names(folder, 6)
        assert "\n" not in str(caught.value)


def test_without_labels_the_columns_of_the_network_stand_alone() -> None:
    facts = {"target": None, "kind": "multilabel", "agreement": 0.9, "kappa": 0.8, "records": 9, "split": "by patient"}
    [table] = surrogate_tables(facts, 6)
    assert table.columns == ("agrees with the network", "… in every label", "Cohen's κ")
    assert table.caption.startswith("Without labels: 9 recordings; by patient")
