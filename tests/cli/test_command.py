"""What every command shares: exit codes, errors without tracebacks, the JSON line, and being stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from ecgscale.cli import main
from ecgscale.cli.command import command
from ecgscale.errors import (
    ArchiveError,
    EcgscaleError,
    EncoderError,
    ExitCode,
    ModelError,
    PublishError,
    ShardError,
    UsageError,
)
from ecgscale.progress import Progress
from tests.worlds.commands.explaining import rows, state
from tests.worlds.commands.simulated import COMMAND, request, simulated
from tests.worlds.formula.small_networks import write_small_encoder


def run(body: Callable[[Progress], dict[str, Any] | None], *arguments: str) -> Result:
    """A command of one's own, typed."""
    return CliRunner().invoke(click.command()(command(body)), list(arguments))


def raising(error: BaseException) -> Callable[[Progress], None]:
    def body(progress: Progress) -> None:
        progress.say("working")
        click.echo("so far, so good")
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EcgscaleError("it broke"), 1),
        (PublishError("it broke"), 1),
        (ShardError("it broke"), 1),
        (UsageError("it broke"), 2),
        (ArchiveError("it broke"), 2),
        (EncoderError("it broke"), 2),
        (ModelError("it broke"), 2),
    ],
)
def test_errors_are_told_without_a_traceback(error: EcgscaleError, code: int) -> None:
    result = run(raising(error), "--json")
    assert (result.exit_code, int(error.exit_code)) == (code, code)
    assert result.stderr == "working\nerror: it broke\n"
    assert result.stdout.splitlines()[0] == "so far, so good"
    assert json.loads(result.stdout.splitlines()[-1]) == {"error": "it broke", "exit_code": code}
    assert "error" not in run(raising(error)).stdout


def test_errors_of_the_system_are_told_too() -> None:
    full = OSError(28, "No space left on device", "/scratch/values")
    result = run(raising(full), "--json")
    assert result.exit_code == 1
    assert "error: /scratch/values: No space left on device" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1])["exit_code"] == 1


def test_a_root_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    archive, encoder = simulated(tmp_path / "archive", 4, None), write_small_encoder(tmp_path / "encoder")
    arguments = ["fit", str(archive), "--encoder", str(encoder), "--out", str(tmp_path / "root"), "--clusters", "2"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.exception.__class__) == (1, SystemExit)
    assert f"{tmp_path / 'root'}" in result.stderr


def test_debugging_shows_where_it_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ECGSCALE_DEBUG", "1")
    assert isinstance(run(raising(UsageError("it broke"))).exception, UsageError)
    assert isinstance(run(raising(OSError(28, "full"))).exception, OSError)


def test_a_mistake_in_the_code_is_not_hidden() -> None:
    assert isinstance(run(raising(ZeroDivisionError())).exception, ZeroDivisionError)


def test_ctrl_c_is_exit_code_6() -> None:
    result = run(raising(KeyboardInterrupt()), "--json")
    assert result.exit_code == ExitCode.STOPPED == 6
    assert "type the same command again" in result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {"error": "stopped", "exit_code": 6}


def test_a_stop_signal_ends_work_like_ctrl_c_and_is_given_back() -> None:
    def body(progress: Progress) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)

    before = signal.getsignal(signal.SIGTERM)
    result = run(body)
    assert result.exit_code == 6
    assert signal.getsignal(signal.SIGTERM) is before


def test_json_is_the_last_line_and_there_only_when_asked_for() -> None:
    def body(progress: Progress) -> dict[str, Any]:
        click.echo("a summary")
        return {"path": Path("some/where"), "records": 3, "exit_code": ExitCode.SHARDS_SET_ASIDE}

    asked = run(body, "--json")
    assert asked.exit_code == 3
    assert asked.stdout.splitlines()[:-1] == ["a summary"]
    assert json.loads(asked.stdout.splitlines()[-1]) == {"path": "some/where", "records": 3, "exit_code": 3}
    assert run(body).stdout == "a summary\n"
    assert json.loads(run(lambda progress: None, "--json").stdout) == {}


def test_json_holds_no_number_that_is_none() -> None:
    result = run(lambda progress: {"scores": {"auroc": float("nan"), "worst": [-float("inf"), 1.5]}}, "--json")
    assert result.stdout == '{"scores": {"auroc": null, "worst": [null, 1.5]}}\n'


def test_in_a_thread_signals_are_left_alone() -> None:
    import threading

    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(run(lambda progress: {"done": True}).exit_code))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_reader_that_goes_away_is_no_traceback(tmp_path: Path) -> None:
    archive = simulated(tmp_path / "archive", 20, None)
    with subprocess.Popen(
        [*COMMAND, "inspect", str(archive), "--quick"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        message = process.stderr.read().decode()
        process.wait()
    assert "Traceback" not in message


def test_explain_stopped_by_a_signal_goes_on_where_it_was(tmp_path: Path) -> None:
    from ecgscale.archive.reader import Archive
    from ecgscale.passes.fit.fit import fit_archive

    archive, encoder = simulated(tmp_path / "archive", 1200, 20), write_small_encoder(tmp_path / "encoder")
    [fitted] = fit_archive(Archive.open(archive), encoder, tmp_path / "root", request(records=40))
    words = ["explain", str(archive), "--model", str(fitted.directory), "--device", "cpu", "--json", "--out"]
    root = tmp_path / "root"
    with subprocess.Popen(
        [*COMMAND, *words, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(root.glob("explanations/*/_commits/[!_]*")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 6, err
    assert json.loads(out.splitlines()[-1]) == {"error": "stopped", "exit_code": 6}
    assert "Traceback" not in err
    assert not list(root.rglob("_manifests/*"))
    again = CliRunner().invoke(main, [*words, str(root)])
    facts = json.loads(again.stdout.splitlines()[-1])
    assert (again.exit_code, facts["records"], facts["shards"]) == (0, 1200, 60)
    assert facts["computed"] + facts["unchanged"] == 60
    assert facts["unchanged"] >= 1
    fresh = CliRunner().invoke(main, [*words, str(tmp_path / "fresh")])
    assert state(facts["path"]) == state(json.loads(fresh.stdout.splitlines()[-1])["path"])
    assert len({row["record_id"] for row in rows(root)}) == 1200
