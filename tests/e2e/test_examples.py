"""The examples run as they are, on what `make demo` leaves behind."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from ecgscale import open_explanations
from tests.e2e.documents import DEMO, REPOSITORY

EXAMPLES = REPOSITORY / "examples"


def run(name: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, object], str]:
    """The namespace that an example leaves, and what it prints."""
    scope: dict[str, object] = {"__name__": "__main__"}
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    exec(compile(text, name, "exec"), scope)
    return scope, capsys.readouterr().out


@pytest.fixture
def after_the_demo(demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of somebody who has run `make demo`."""
    shutil.copytree(demo_folder, tmp_path / DEMO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return tmp_path


def test_own_network(after_the_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope, printed = run("own_network.py", capsys)
    losses = scope["losses"]
    assert isinstance(losses, list)
    assert losses[-1] < losses[0]
    rows = open_explanations(after_the_demo / "own-results").to_table()
    assert f"{rows.num_rows} recordings in " in printed
    assert set(rows["status"].to_pylist()) == {"ok"}
    assert all(len(shares) == 8 for shares in rows["proportions"].to_pylist())
    sys.modules.pop("mynet", None)


def test_own_analysis(after_the_demo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scope, printed = run("own_analysis.py", capsys)
    assert printed.count("shuffled") == len(scope["diagnoses"])  # type: ignore[arg-type]
    assert scope["shares"].sum() == pytest.approx(len(scope["table"]))  # type: ignore[attr-defined, arg-type]
