"""Sweeps on a small network: every axis has its runs, what meets is the same, and what cannot be done is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ecgscale.clusters.kmeans import FitSettings
from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import ForestSettings
from ecgscale.evaluate.sweep.result import SweepResult, _plateau, sweep_archive, sweep_root
from ecgscale.evaluate.sweep.sweep import SweepRequest, rising_and_falling, subsets
from ecgscale.evaluate.written import read_evaluations
from ecgscale.report.sweeps import draw_sweep, sweep_series, sweep_tables
from tests.worlds.commands.small_root import SmallRoot, write_small_root

REQUEST = SweepRequest(
    clusters=(2, 4, 6),
    base=4,
    train_records=(40, 5000),
    layers=((0,), (0, 1, 2)),
    depths=((1.0, 1.0, 1.0), (1.0, 0.5, 0.25)),
    softmax=((1, 1.0), (2, 1.0)),
    seeds=(0, 1),
    records=120,
    forests=ForestSettings(trees=10, n_jobs=1),
    fit=FitSettings(max_epochs=2, n_init=1, sample=2000),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRoot:
    return write_small_root(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def swept(small: SmallRoot) -> SweepResult:
    return sweep_root(small.root, request=REQUEST, device="cpu")


def test_every_axis_has_its_settings(swept: SweepResult) -> None:
    runs = swept.runs.to_pandas()
    settings = {axis: list(dict.fromkeys(group["setting"])) for axis, group in runs.groupby("vary", sort=False)}
    n = swept.train_records
    assert settings == {
        "clusters": ["2", "4", "6"],
        "records": ["40", str(n)],
        "layers": ["resblock1d_0", "resblock1d_0+resblock1d_1+resblock1d_2"],
        "depth": ["1 1 1", "1 0.5 0.25"],
        "softmax": ["gamma 1, tau 1", "gamma 2, tau 1 margin"],
    }
    assert (runs.groupby("vary").size()[["clusters", "records", "layers", "depth"]] == [6, 4, 4, 4]).all()
    assert runs["agreement"].between(0, 1).all()
    fitted = runs[runs["vary"] != "softmax"]
    assert fitted["effective_clusters"].between(1, fitted["n_clusters"]).all()
    assert fitted["information"].between(0, 1).all(), "the simulator's waves are annotated"
    assert "seen" in swept.split


def test_sweeps_meet_where_nothing_is_varied(swept: SweepResult) -> None:
    runs = swept.runs.to_pandas().set_index(["vary", "setting", "seed"])
    whole = runs.loc[("clusters", "4", 1)]
    for vary, setting in (
        ("records", str(swept.train_records)),
        ("layers", "resblock1d_0+resblock1d_1+resblock1d_2"),
        ("depth", "1 1 1"),
    ):
        same = runs.loc[(vary, setting, 1)]
        assert same["explained_variance"] == whole["explained_variance"]
        assert same["agreement"] == whole["agreement"]
    other = runs.loc[("depth", "1 0.5 0.25", 1)]
    assert other["explained_variance"] != whole["explained_variance"]


def test_more_clusters_explain_more_and_stability_is_told(swept: SweepResult) -> None:
    rows = swept.summary["clusters"]
    explained = [row["explained_variance"] for row in rows]
    assert explained == sorted(explained)
    assert swept.elbow in (2, 4, 6, None)
    assert swept.plateau in (2, 4, None)
    for row in rows:
        assert -0.1 < row["ari_seeds"] <= 1
        assert -0.1 < row["ari_parts"] <= 1
        assert row["centroid_distance_seeds"] >= 0
    assert {row["across"] for row in swept.stability.to_pylist()} == {"seeds", "parts"}


def test_it_is_written_and_drawn(small: SmallRoot, swept: SweepResult, tmp_path: Path) -> None:
    found = read_evaluations(small.root, small.dataset_id)["sweep-superclasses"]
    assert found.table("runs").equals(swept.runs)
    assert found.facts["plateau"] == swept.plateau
    draw_sweep(found.facts).savefig(tmp_path / "sweep.svg")
    assert (tmp_path / "sweep.svg").stat().st_size > 1000


@pytest.mark.parametrize("axis", ["clusters", "softmax"])
def test_one_axis_alone(small: SmallRoot, tmp_path: Path, axis: str) -> None:
    request = replace(REQUEST, axes=(axis,), seeds=(0,))
    result = sweep_archive(small.archive, small.encoder, tmp_path, request=request, device="cpu")
    assert set(result.runs.column("vary").to_pylist()) == {axis}
    assert [name for name, rows in result.summary.items() if rows] == [axis]
    assert (result.elbow, result.plateau) == (None, None) or axis == "clusters"
    assert result.path is not None
    (found,) = read_evaluations(tmp_path, result.dataset_id).values()
    assert len(sweep_tables(found)) == 1
    assert len(sweep_series(found)) == (axis == "clusters")
    visible = [panel.get_title() for panel in draw_sweep(found.facts).axes if panel.get_visible()]
    assert visible == (["K-means", "Surrogate", "Stability and localisation"] if axis == "clusters" else [])


def test_differences_that_so_few_records_cannot_show_are_no_plateau() -> None:
    rows = [{"x": k, "agreement": score, "agreement_sd": 0.001} for k, score in ((5, 0.90), (10, 0.93), (20, 0.93))]
    assert _plateau(rows, "agreement", 50) is None
    assert _plateau(rows, "agreement", 1000) == 10
    assert _plateau([{**row, "r2": row["agreement"], "r2_sd": None} for row in rows], "r2", 50) == 10
    assert _plateau([], "agreement", 50) is None


def test_an_archive_that_was_not_explained(small: SmallRoot, tmp_path: Path) -> None:
    request = SweepRequest(
        **{**{k: getattr(REQUEST, k) for k in REQUEST.__dataclass_fields__}, "clusters": (4, 200), "seeds": (0,)}
    )
    result = sweep_archive(small.archive, small.encoder, tmp_path, request=request, device="cpu")
    assert result.path is not None
    assert result.path.is_relative_to(tmp_path / "evaluations")
    assert any("localisation needs a published ROOT" in remark for remark in result.remarks)


@pytest.mark.parametrize(
    ("change", "said"),
    [({"layers": ((3,),)}, "taps 0: resblock1d_0"), ({"depths": ((1.0, 1.0),)}, "one positive factor a tapped layer")],
)
def test_layers_that_are_not_tapped_are_told(small: SmallRoot, change: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        sweep_root(small.root, request=SweepRequest(**change), device="cpu")


def test_default_settings_of_an_encoder() -> None:
    assert subsets(2) == ((0,), (1,), (0, 1))
    assert subsets(5)[:5] == ((0,), (1,), (2,), (3,), (4,))
    assert subsets(5)[-1] == (0, 1, 2, 3, 4)
    assert len(subsets(5)) == 11
    factors = rising_and_falling(3)
    assert factors[0] == (1, 1, 1)
    assert (1.0, 0.5, 0.25) in factors
    assert (0.25, 0.5, 1.0) in factors
    assert np.max(factors) == 1
