"""The facts of fixed inputs. If this fails on purpose, raise `RESULTS_VERSION` and write the facts anew."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from ecgscale.explain.schema import RESULTS_VERSION
from ecgscale.store import open_explanations
from tests.explain.golden import golden_rows, write_model, write_rows
from tests.worlds.commands.explaining import explain

FACTS = Path(__file__).with_name("golden_facts.json")
EXACT = ("record_id", "status", "flags", "valid_start", "valid_stop", "start_s", "cropped")
NUMBERS = ("prediction", "proportions", "soft_proportions", "mean_entropy", "distortion")
# Other processors round convolutions otherwise; a change of the facts is larger.
TOLERANCE = 1e-5


def facts_of(row: dict[str, Any]) -> dict[str, Any]:
    segments = row["segments"] or []
    return {
        **{name: row[name] for name in EXACT},
        "segments": [[segment["start"], segment["stop"], segment["cluster"]] for segment in segments],
        "segment_entropy": [round(segment["entropy"], 7) for segment in segments],
        **{name: None if row[name] is None else np.round(row[name], 7).tolist() for name in NUMBERS},
    }


def computed_facts(tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "root").mkdir()
    explain(write_rows(tmp_path / "archive", golden_rows()), write_model(tmp_path / "root"), tmp_path / "out")
    rows = open_explanations(tmp_path / "out").to_table().to_pylist()
    return {"results_version": RESULTS_VERSION, "records": [facts_of(row) for row in rows]}


def test_facts_change_only_with_the_results_version(tmp_path: Path) -> None:
    found, expected = computed_facts(tmp_path), json.loads(FACTS.read_text())
    assert found["results_version"] == expected["results_version"]
    assert len(found["records"]) == len(expected["records"])
    for mine, golden in zip(found["records"], expected["records"], strict=True):
        assert {name: mine[name] for name in (*EXACT, "segments")} == {
            name: golden[name] for name in (*EXACT, "segments")
        }
        for name in ("segment_entropy", *NUMBERS):
            if golden[name] is None:
                assert mine[name] is None
            else:
                np.testing.assert_allclose(mine[name], golden[name], atol=TOLERANCE, rtol=0, err_msg=name)
