"""Figures for a paper and pictures for a reader study."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from ecgscale.errors import UsageError
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.report.charts import Series
from ecgscale.report.ecg_paper import draw_recording
from ecgscale.report.figures import draw_surrogate, save, slug, write_figures
from ecgscale.report.reader_study import arrange, draw_cases, write_study
from ecgscale.report.subject import Subject, open_subject
from ecgscale.report.sweeps import SweepChart
from tests.report.test_surrogate import SURROGATE
from tests.worlds.published.page_root import publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return open_subject(publish_by_hand(tmp_path_factory.mktemp("published"), records=60, seen_folds=(1, 2)).root)


def test_figures_in_both_formats(published: Subject, tmp_path: Path) -> None:
    made, remarks = write_figures(published, tmp_path / "figures", 1)
    stems = {path.stem for path in made}
    assert stems == {"atlas", "correlations", next(stem for stem in stems if stem.startswith("recording-1-"))}
    assert all(path.stat().st_size > 5000 for path in made)
    assert {path.suffix for path in made} == {".png", ".svg"}
    assert any("ecgscale surrogate" in remark for remark in remarks)


def test_a_figure_has_the_same_bytes_again(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        save(draw_surrogate(SURROGATE), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_sweeps_have_a_line_a_score() -> None:
    series = [Series("agreement", [5, 10, 20], [0.8, 0.9, 0.91], [0.01, 0.01, float("nan")])]
    figure = SweepChart("Number of clusters", "K", "score", series, "").draw()
    assert figure.axes[0].get_xlabel() == "K"


def test_names_of_files() -> None:
    assert slug("typical: ../../<MI>") == "typical-mi"
    assert slug("…") == "unnamed"


def test_dollars_in_names_are_no_formulas(tmp_path: Path) -> None:
    figure = draw_recording(np.zeros((12, 500)), CANONICAL_LEADS, 100.0, title="$\\frac{", subtitle="$x", footer="$")
    figure.savefig(tmp_path / "a.svg")  # draws every text; a formula that is none would raise
    shown = " ".join(text.get_text() for axes in figure.axes for text in axes.texts).replace("\\$", "$")
    assert "$\\frac{" in shown
    assert "$x" in shown


def test_heat_tints_the_paper(tmp_path: Path) -> None:
    heat = (np.array([0.0, 5.0]), np.array([0.0, 1.0]))
    figure = draw_recording(np.zeros((12, 500)), CANONICAL_LEADS, 100.0, heat=heat)
    assert len(figure.axes[0].images) == 13
    figure.savefig(tmp_path / "a.png", dpi=50)


def test_a_study_shows_every_case_in_every_kind_and_tells_nothing(published: Subject, tmp_path: Path) -> None:
    study = write_study(published, tmp_path / "study", 6)
    assert study.kinds == ("clusters", "neither")
    assert study.key == tmp_path / "study.key.csv"
    with study.key.open() as stream:
        key = list(csv.DictReader(stream))
    kinds = defaultdict(set)
    for row in key:
        kinds[row["record_id"]].add(row["kind"])
        assert (study.folder / row["file"]).read_bytes().startswith(b"\x89PNG")
    assert len(kinds) == 6
    assert all(shown == {"clusters", "neither"} for shown in kinds.values())
    for session in ("1", "2"):
        own = [row for row in key if row["session"] == session]
        assert Counter(row["kind"] for row in own) == {"clusters": 3, "neither": 3}
    handed_on = "".join(path.read_text() for path in study.folder.rglob("*.*") if path.suffix in (".csv", ".txt"))
    assert not [name for name in kinds if name in handed_on]
    assert any("Grad-CAM" in remark for remark in study.remarks)
    with pytest.raises(UsageError, match="is there already"):
        write_study(published, tmp_path / "study", 6)


def test_cases_come_from_all_classes_and_were_not_seen(published: Subject) -> None:
    rows = draw_cases(published, 10, seed=1)
    assert len(set(rows)) == 10
    neither = published.seen.neither
    assert neither is not None
    assert neither[rows].all()
    assert published.labelled()[rows].any(axis=0).all(), "every class"
    with pytest.raises(UsageError, match="Ask for fewer"):
        draw_cases(published, 100, seed=1)


def test_kinds_go_round_over_sessions() -> None:
    pictures = arrange(list(range(9)), ("a", "b", "c"), seed=0)
    assert len(pictures) == 27
    for row in range(9):
        assert {picture.kind for picture in pictures if picture.row == row} == {"a", "b", "c"}
    orders = [[p.row for p in pictures if p.session == session] for session in (1, 2, 3)]
    assert len({tuple(order) for order in orders}) == 3
