"""`ecgscale demo`: what a stranger types first."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from ecgscale.cli import main
from ecgscale.config import load_config
from ecgscale.store import open_explanations

SMALL = ["--records", "200", "--epochs", "1"]


def demo(directory: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["demo", str(directory), *SMALL, "--json", *options])


def facts(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    directory = tmp_path_factory.mktemp("demo") / "here"
    return directory, demo(directory)


def test_everything_is_written_and_told(shown: tuple[Path, Result]) -> None:
    directory, result = shown
    found = facts(result)
    assert (found["records"], found["quarantined"]) == (200, 0)
    picture = Path(found["picture"])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 50_000
    table = open_explanations(directory / "results").to_table()
    assert table.num_rows == 200
    assert table["entropy"].null_count == 0
    assert 0 < found["explained_variance"] < 1
    assert found["surrogate"]["records"] > 10
    for word in ("What was written", "What to type next", str(picture), found["model_id"], found["path"]):
        assert word in result.stdout
    assert "agrees with the network" in result.stdout
    assert "of those it was not trained on" in result.stdout
    assert "simulate: 200/200 records" in result.stderr


def test_the_queries_and_commands_that_it_suggests_work(
    shown: tuple[Path, Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, result = shown
    suggested = [line.strip() for line in result.stdout.split("What to type next")[1].splitlines() if line.strip()]
    plot = next(line for line in suggested if line.startswith("ecgscale plot"))
    words = [word if word != "another.png" else str(tmp_path / word) for word in plot.split()[1:]]
    plotted = CliRunner().invoke(main, words)
    assert plotted.exit_code == 0, plotted.output
    assert (tmp_path / "another.png").exists()
    at = next(number for number, line in enumerate(suggested) if line.startswith("python -c"))
    exec(" ".join(suggested[at : at + 2]).split('"')[1].replace("\\", ""), {})
    assert "mean_entropy" in capsys.readouterr().out
    again = CliRunner().invoke(main, ["run", str(directory / "demo.toml")])
    assert again.exit_code == 0, again.output
    assert load_config(directory / "demo.toml").archive.records == 200


def test_a_second_run_finds_everything_done(shown: tuple[Path, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    directory, result = shown
    monkeypatch.chdir(directory.parent)
    again = facts(demo(Path("here")))
    first = facts(result)
    assert (again["computed"], again["unchanged"], again["published"]) == (0, first["shards"], False)
    assert again["surrogate"] == first["surrogate"]
    assert again["dataset_id"] == first["dataset_id"]


def test_other_settings_want_another_folder(shown: tuple[Path, Result]) -> None:
    result = demo(shown[0], "--seed", "1")
    assert result.exit_code == 2
    assert "is there with other settings" in result.stderr


def test_too_few_records_are_bad_usage(tmp_path: Path) -> None:
    result = demo(tmp_path / "demo", "--records", "50")
    assert result.exit_code == 2
    assert "x>=200" in result.stderr


def test_on_a_terminal_there_are_bars(shown: tuple[Path, Result]) -> None:
    import pty

    from tests.worlds.commands.simulated import COMMAND

    directory, _ = shown
    ours, theirs = pty.openpty()
    words = ["fit", directory / "archive", "--encoder", directory / "encoder", "--out", directory / "again"]
    options = ["--records", "40", "--clusters", "3", "--max-epochs", "2", "--compare-random"]
    with subprocess.Popen(
        [*COMMAND, *map(str, words), *options],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"},
    ) as process:
        os.close(theirs)
        text = b""
        while True:
            try:
                text += os.read(ours, 65536)
            except OSError:
                break
        process.communicate()
    os.close(ours)
    assert process.returncode == 0, text.decode()
    assert b"memory: at most" in text
    assert b"40/40" in text
    assert "━".encode() in text
