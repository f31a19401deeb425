"""Labels that are least believed: flipped ones are found, and whose word stands alone is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.encoders.spec import OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.audit import AuditRequest, AuditResult, audit_labels, label_quality
from ecgscale.evaluate.seen import Seen
from ecgscale.evaluate.surrogate.surrogate import SurrogateRequest, explained_records
from tests.worlds.formula.explained import CLASSES, LABELS, NAMES, SMALL, YEARS, N, explanations, replaced

REQUEST = AuditRequest(folds="patients:4", forests=SMALL, flips=0)


def audited(
    table: pa.Table,
    target: str = "labels",
    output: OutputSpec = LABELS,
    request: AuditRequest = REQUEST,
    seen: Seen | None = None,
) -> AuditResult:
    return audit_labels(explained_records(table, target, output, SurrogateRequest(), seen), request)


def clean() -> pa.Table:
    """Labels that are what the network says throughout."""
    table = explanations()
    logits = np.array(table.column("prediction").to_pylist())
    labels = [[name for name, says in zip(NAMES, row, strict=True) if says > 0] or ["OTHER"] for row in logits]
    return replaced(table, "labels", labels)


def test_wrong_labels_come_first() -> None:
    table = clean()
    labels = table.column("labels").to_pylist()
    wrong = [3, 50, 101, 160, 222]
    for i in wrong:
        labels[i] = [name for name in labels[i] if name != "MI"] + (["MI"] if "MI" not in labels[i] else [])
    result = audited(replaced(table, "labels", labels))
    first = result.table.slice(0, 5).to_pylist()
    assert {row["record_id"] for row in first} == {f"r{i}" for i in wrong}
    assert all(row["stands_alone"] == "label" and row["doubted"] == ["MI"] for row in first)
    assert result.stands_alone["label"] >= 5
    quality = result.table.column("quality").to_numpy()
    assert (np.diff(quality) >= 0).all()
    assert result.records == N


@pytest.mark.parametrize(
    ("target", "output"), [("labels", LABELS), ("group", CLASSES), ("years", YEARS)], ids=lambda value: str(value)[:9]
)
def test_flipped_labels_are_found(target: str, output: OutputSpec) -> None:
    table = clean()
    if output is YEARS:
        table = table.drop(["prediction"]).rename_columns({"value": "prediction"})
    result = audited(table, target, output, replace(REQUEST, flips=2))
    assert result.flipped is not None
    assert result.flipped["records"] == 12
    assert result.flipped["chance"] == pytest.approx(0.05)
    assert result.flipped["precision"]["mean"] > (0.3 if output is YEARS else 0.7)
    assert result.to_dict(3)["top"] == result.table.slice(0, 3).to_pylist()


def test_a_network_does_not_judge_what_it_has_seen() -> None:
    table = clean()
    fold = np.array(table.column("fold").to_pylist())
    result = audited(table, seen=Seen(fold <= 5, fold <= 5, None, None))
    assert result.judged_by_network == (fold > 5).sum()
    assert any("were seen by the encoder" in remark for remark in result.remarks)
    assert any("not known" in remark for remark in audited(table).remarks)


def test_few_labels_are_told() -> None:
    table = clean()
    few = replaced(
        table, "labels", [row if i < 12 else None for i, row in enumerate(table.column("labels").to_pylist())]
    )
    with pytest.raises(UsageError, match="12 explained records have a label"):
        audited(few)


def test_quality_is_low_where_the_label_is_not_believed() -> None:
    says = np.array([[0.9, 0.1], [0.9, 0.1]])
    for kind in ("multilabel", "multiclass"):
        right, wrong = label_quality(np.array([[1, 0], [0, 1]]), says, kind)  # type: ignore[arg-type]
        assert wrong < 0.2 < 0.8 < right
    near, far = label_quality(np.array([50.0, 50.0]), np.array([51.0, 80.0]), "regression")
    assert far < near
    assert len(label_quality(np.empty((0, 2)), np.empty((0, 2)), "multilabel")) == 0
