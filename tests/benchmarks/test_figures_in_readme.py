"""The figures that the README quotes are those of the last run of the benchmarks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def ratio(benchmark: str, name: str) -> float:
    result = json.loads((REPOSITORY / "benchmarks" / "results" / f"{benchmark}.json").read_text())
    assert not result["quick"]
    return float(result["ratios"][name])


@pytest.mark.parametrize(
    ("said", "measured"),
    [
        ("{:.0f} × as fast as dense torch", ("kernels", "iteration_vs_dense")),
        ("{:.0f} × faiss", ("kernels", "iteration_vs_faiss")),
        ("{:.0f} × scikit-learn", ("kernels", "iteration_vs_sklearn")),
        ("of the bare network ({:.3f})", ("end_to_end", "explain_vs_bare_forward")),
        ("{:.1f} × those of a script", ("end_to_end", "explain_vs_script")),
        ("| {:.2f} MB, where its features", ("memory", "fit_mb_per_record")),
        ("| {:.2f} ×;", ("scaling", "two_workers_vs_one")),
        ("; {:.3f} × |", ("scaling", "ray_vs_local_2")),
    ],
)
def test_a_figure_is_the_measured_one(said: str, measured: tuple[str, str]) -> None:
    section = (REPOSITORY / "README.md").read_text().split("## What it costs")[1].split("\n## ")[0]
    assert said.format(ratio(*measured)) in section


def test_what_became_of_the_killed_nights() -> None:
    result = json.loads((REPOSITORY / "benchmarks" / "results" / "killed_nights.json").read_text())
    facts = result["details"]
    section = (REPOSITORY / "README.md").read_text().split("## What it costs")[1]
    assert f"{facts['nights']} nights with {facts['killed']} kills" in section
    assert (facts["ledger"]["lost"], facts["ledger"]["doubled"]) == (0, 0)
    assert facts["shards_computed"] == facts["shards_new_or_changed"]
