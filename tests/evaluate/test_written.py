"""Evaluations on disk: written whole, read as written."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.evaluate.written import evaluation_name, read_evaluations, write_evaluation


@dataclass
class Pair:
    low: float
    high: float


FACTS = {
    "score": np.float32(0.5),
    "none": float("nan"),
    "interval": (0.25, np.inf),
    "by_class": {1: np.arange(3), "x": Pair(0.0, float("nan"))},
    "names": {"b", "a"},
    "path": Path("x"),
}


def test_facts_come_back_as_json_has_them(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path, "abc", "surrogate-age", FACTS, settings={"seed": 0})
    assert path == tmp_path / "evaluations" / "abc" / "surrogate-age.json"
    read = read_evaluations(tmp_path, "abc")
    assert list(read) == ["surrogate-age"]
    assert read["surrogate-age"].facts == {
        "score": 0.5,
        "none": None,
        "interval": [0.25, None],
        "by_class": {"1": [0, 1, 2], "x": {"low": 0.0, "high": None}},
        "names": ["a", "b"],
        "path": "x",
    }
    assert read["surrogate-age"].settings == {"seed": 0}
    assert "numpy" in read["surrogate-age"].versions
    assert json.loads(path.read_text())["created_at"] == read["surrogate-age"].created_at


def test_tables_belong_to_their_facts(tmp_path: Path) -> None:
    table = pa.table({"x": [1, 2]})
    write_evaluation(tmp_path, "abc", "audit-y", {}, {"records": table})
    [evaluation] = read_evaluations(tmp_path, "abc").values()
    assert evaluation.table("records").equals(table)
    with pytest.raises(EcgscaleError, match="no table 'other'; it has: records"):
        evaluation.table("other")
    write_evaluation(tmp_path, "abc", "audit-y", {}, {"records": table})
    with pytest.raises(EcgscaleError, match="another run"):
        evaluation.table("records")
    assert sorted(p.name for p in (tmp_path / "evaluations" / "abc").iterdir()) == [
        "audit-y.json",
        "audit-y.records.parquet",
    ]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot name"):
        write_evaluation(tmp_path, "abc", "a/b", {})
    with pytest.raises(TypeError, match="object"):
        write_evaluation(tmp_path, "abc", "ok", {"x": object()})
    assert read_evaluations(tmp_path, "abc") == {}
    assert evaluation_name("audit", "MI,CD / x") == "audit-MI_CD___x"


def test_a_broken_file_is_told(tmp_path: Path) -> None:
    write_evaluation(tmp_path, "abc", "ok", {}).write_text("{}")
    with pytest.raises(EcgscaleError, match="run it again"):
        read_evaluations(tmp_path, "abc")
