"""What an archive's words do to the terminal on which they are printed: nothing."""

from __future__ import annotations

import csv
import json
import unicodedata
from pathlib import Path

import click
import pyarrow as pa
import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.cli.command import command, say
from ecgscale.errors import EcgscaleError
from ecgscale.progress import Progress
from ecgscale.report.reader_study import _write_csv
from ecgscale.runtime.progress import make_progress
from ecgscale.tables import Table, aligned
from tests.worlds.formula.recordings import record, wave, write_archive

EVIL = "\x1b]0;owned\x07\x9b2J\r\u202e\nall is right"
SHOWN = r"\x1b]0;owned\x07\x9b2J\r\u202e\nall is right"


def obeyed(text: str) -> list[str]:
    """Characters that a terminal does not just show."""
    return [c for c in text if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_inspect_of_an_archive_that_somebody_else_made(tmp_path: Path) -> None:
    rows = [record(f"r{EVIL}", signal=0 * wave(1), **{EVIL: f"sinus{EVIL}"}), record("2", **{EVIL: "sinus"})]
    archive = write_archive(tmp_path / "a", rows, extra=[pa.field(EVIL, pa.string())])
    Path(archive.path, "part-x\x1b[31m.parquet").write_bytes(b"PAR1 no more")
    told = CliRunner().invoke(main, ["inspect", str(archive.path), "--json"])
    assert told.exit_code == 3, told.output
    assert obeyed(told.stdout + told.stderr) == []
    for shown in (f"record 'r{SHOWN}'", f"sinus{SHOWN} 1", r"unreadable shard part-x\x1b[31m.parquet"):
        assert shown in told.stdout.replace("\\\\", "\\")
    assert "all is right" not in told.stdout.splitlines()
    facts = json.loads(told.stdout.splitlines()[-1])
    assert facts["columns"][EVIL]["present"] == 2, "programs get the words as they are"


def test_every_way_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    say(f"a{EVIL}", Table.of(["record", EVIL], [[EVIL, "1"]], EVIL), *aligned([EVIL, "b"], [["c", EVIL]]))
    progress = make_progress()
    progress.say(EVIL)
    with progress.stage(EVIL, 1, "records") as stage:
        stage.note(EVIL)
        stage.advance()

    @click.command()
    @command
    def fails(progress: Progress) -> None:
        raise EcgscaleError(f"shard {EVIL}: what to do")

    told = CliRunner().invoke(fails, ["--json"])
    captured = capsys.readouterr()
    everything = captured.out + captured.err + told.output
    assert obeyed(everything) == []
    assert "all is right" not in everything.splitlines()
    assert told.exit_code == 1
    assert f"a{SHOWN}" in captured.out


def test_a_sheet_of_a_reader_study_computes_nothing(tmp_path: Path) -> None:
    rows = [{"record_id": "=HYPERLINK(1)", "kind": "-2+3", "picture": -3}, {"record_id": "r1", "picture": 2}]
    _write_csv(tmp_path / "a.csv", ("record_id", "kind", "picture"), rows)
    with (tmp_path / "a.csv").open(newline="") as stream:
        assert list(csv.reader(stream))[1:] == [["'=HYPERLINK(1)", "'-2+3", "-3"], ["r1", "", "2"]]
