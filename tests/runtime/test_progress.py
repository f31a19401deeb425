"""Progress: plain lines that stay readable in a night's log, a bar on a terminal, the same calls for both."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import threading
from contextlib import suppress

import pytest

from ecgscale.errors import UsageError
from ecgscale.progress import SILENT
from ecgscale.runtime import progress as shown
from ecgscale.runtime.progress import make_progress
from ecgscale.runtime.ray_pool import JOB_CONFIG


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that plain progress sees, in seconds; put a number in to move it."""
    now = [100.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    return now


def test_plain_lines_come_every_few_seconds_and_at_the_end(clock: list[float]) -> None:
    stream = io.StringIO()
    with make_progress(stream).stage("explain", 1000, "records") as stage:
        for _ in range(100):
            clock[0] += 0.2
            stage.advance(10)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "explain: 250/1000 records, 50.0/s, 15 s left"
    assert lines[-1] == "explain: 1000/1000 records, 50.0/s, 20.0 s"
    assert len(lines) == 5


def test_plain_lines_carry_the_last_note_and_do_without_a_total(clock: list[float]) -> None:
    stream = io.StringIO()
    with make_progress(stream).stage("headers", None, "records") as stage:
        stage.note("part-00000.parquet")
        stage.note("part-00001.parquet")
        clock[0] += 10
        stage.advance()
    message, ended = stream.getvalue().splitlines()
    assert message == "headers: 1 record, 0.1/s (part-00001.parquet)"
    assert ended == "headers: 1 record, 0.1/s, 10.0 s (part-00001.parquet)"


def test_one_batch_is_no_batche(clock: list[float]) -> None:
    stream = io.StringIO()
    with make_progress(stream).stage("recompute", 1, "batches") as stage:
        clock[0] += 1
        stage.advance()
    assert stream.getvalue() == "recompute: 1/1 batch, 1.0/s, 1.0 s\n"


def test_a_stage_that_found_nothing_to_do_is_not_told(clock: list[float]) -> None:
    for stream in (io.StringIO(), Terminal()):
        with make_progress(stream).stage("gc", None, "objects") as stage:
            stage.note("560d33f381a644a4")
        assert "0/s" not in stream.getvalue()
    plain = io.StringIO()
    with make_progress(plain).stage("gc", None, "objects"):
        pass
    assert plain.getvalue() == ""


def test_what_is_said_is_a_line_of_its_own(clock: list[float]) -> None:
    stream = io.StringIO()
    progress = make_progress(stream)
    progress.say("note: [bold]brackets[/bold] stay")
    with progress.stage("fit", 2, "steps") as stage:
        stage.advance(2)
        progress.say("in between")
    assert stream.getvalue().splitlines()[:2] == ["note: [bold]brackets[/bold] stay", "in between"]
    assert "\x1b" not in stream.getvalue()


def test_a_stage_that_fails_does_not_claim_to_have_ended(clock: list[float]) -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), make_progress(stream).stage("train", 10, "records"):
        raise KeyboardInterrupt
    assert stream.getvalue() == ""


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    progress = make_progress(stream)
    with progress.stage("explain", 40, "records") as stage:
        stage.note("part-00003.parquet [0]")
        progress.say("set aside: [red]part-00001[/red]")
        for _ in range(40):
            stage.advance()
    with progress.stage("headers", None, "records") as stage:
        stage.advance(3)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", stream.getvalue())
    assert "set aside: [red]part-00001[/red]" in text
    assert "40/40 records" in text
    assert "part-00003.parquet [0]" in text
    assert "/s" in text
    assert stream.getvalue().endswith("\x1b[?25h") or "\x1b[?25h" in stream.getvalue()


def test_a_real_terminal_gets_its_cursor_back_after_an_interruption() -> None:
    ours, theirs = pty.openpty()
    seen: list[bytes] = []

    def read() -> None:
        while True:
            try:
                seen.append(os.read(ours, 4096))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        progress = make_progress(stream)
        with suppress(KeyboardInterrupt), progress.stage("train", 9, "records") as stage:
            stage.advance(4)
            raise KeyboardInterrupt
        progress.say("stopped")
    reader.join(timeout=10)
    os.close(ours)
    text = b"".join(seen).decode()
    assert "4/9" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")
    assert text.rstrip().endswith("stopped")


def test_silence_takes_the_same_calls(capfd: pytest.CaptureFixture[str]) -> None:
    SILENT.say("nothing")
    with SILENT.stage("fit", None, "steps") as stage:
        stage.advance(3)
        stage.note("nothing")
    assert capfd.readouterr() == ("", "")


def test_a_log_for_programs_has_an_object_a_line(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGSCALE_LOG", "json")
    stream = io.StringIO()
    progress = make_progress(stream)
    with progress.stage("explain", 1000, "records") as stage:
        stage.note("part-00000.parquet")
        clock[0] += 10
        stage.advance(250)
        stage.advance(250)
        progress.say("set aside: part-00001.parquet")
    message, said, ended = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert message.pop("time").endswith("+00:00")
    assert message == {
        "stage": "explain",
        "done": 250,
        "total": 1000,
        "unit": "records",
        "rate": 25.0,
        "seconds": 10.0,
        "seconds_left": 30.0,
        "ended": False,
        "note": "part-00000.parquet",
    }
    assert said["said"] == "set aside: part-00001.parquet"
    assert (ended["done"], ended["ended"], ended["seconds_left"]) == (500, True, None)


def test_a_job_s_log_is_for_programs_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def said() -> str:
        stream = io.StringIO()
        make_progress(stream).say("hello")
        return stream.getvalue()

    monkeypatch.delenv("ECGSCALE_LOG", raising=False)
    assert said() == "hello\n"
    monkeypatch.setenv(JOB_CONFIG, "{}")
    assert json.loads(said())["said"] == "hello"
    monkeypatch.setenv("ECGSCALE_LOG", "text")
    assert said() == "hello\n"
    monkeypatch.setenv("ECGSCALE_LOG", "yaml")
    with pytest.raises(UsageError, match="it is json or text"):
        said()
