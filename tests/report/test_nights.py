"""Nights on the page: newest first, alarms in words, nothing of the data as markup."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from ecgscale.evaluate.written import write_evaluation
from ecgscale.report.html import render
from ecgscale.report.subject import open_subject
from tests.report.test_html import parsed
from tests.worlds.published.page_root import PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), records=60, seen_folds=(1, 2, 3, 4, 5, 6))


def night(day: int, *messages: str) -> dict[str, Any]:
    findings = [{"alarm": True, "message": message} for message in messages]
    facts = {"records": 40 + day, "quarantined": day, "passed": not messages, "held": ["part-1"] if messages else []}
    return {"started": f"2026-11-{day:02d}T02:00:00+00:00", "findings": findings, **facts}


def test_nights_are_told(published: PublishedRoot, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(published.root, root)
    nights = [night(1), night(2, "cluster 7 moved in <b>part-00012.parquet</b>"), night(3)]
    write_evaluation(root, published.dataset_id, "drift", {"nights": nights})
    text, _, _ = render(open_subject(root), 5)
    page = " ".join(parsed(text).text)
    assert page.index("2026-11-03 02:00") < page.index("2026-11-02 02:00") < page.index("2026-11-01 02:00")
    assert "1 alarm" in page
    assert "2026-11-02: cluster 7 moved in <b>part-00012.parquet</b>" in page


def test_no_nights_no_section(published: PublishedRoot, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(published.root, root)
    write_evaluation(root, published.dataset_id, "drift", {"nights": []})
    text, _, _ = render(open_subject(root), 5)
    assert "night (UTC)" not in " ".join(parsed(text).text)
