"""What every command shares: exit codes, errors without tracebacks, progress, and `--json`."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

import click

from ecgscale.errors import EcgscaleError, ExitCode
from ecgscale.progress import Progress
from ecgscale.runtime.progress import make_progress
from ecgscale.tables import Table
from ecgscale.words import one_line


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def _refusal(error: Exception) -> str | None:
    """What a disk or an object store refused, in words; None for an error of another kind."""
    from ecgscale.io.settings import is_of_the_store, reason_of

    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return reason_of(error) if isinstance(error, OSError) or is_of_the_store(error) else None


def _line(facts: Any) -> str:
    """One line of JSON as the standard has it: a number that is none (NaN, infinity) is null."""
    try:
        return json.dumps(facts, default=str, allow_nan=False)
    except ValueError:
        strict = json.loads(json.dumps(facts, default=str), parse_constant=lambda _: None)
        return json.dumps(strict)


def say(*parts: str | Table, err: bool = False) -> None:
    """Print lines and tables, for people: the one way of words to a terminal.

    Ids, labels, names of files and reasons come from whoever made the archive; what is in them can only be read here.
    Control characters are shown as escapes, and a text is one line, whatever is in it.
    """
    for part in parts:
        click.echo(one_line(part) if isinstance(part, str) else part.text(), err=err)


def _say_error(message: str) -> None:
    """An error of several lines is set in, so that no line of it passes for one of ours."""
    first, *more = message.split("\n")
    say(f"error: {first}", *(f"  {line}" for line in more), err=True)


json_option = click.option("--json", "as_json", is_flag=True, help="Make the last line a JSON object for scripts.")


def command(function: Callable[..., dict[str, Any] | None]) -> Callable[..., None]:
    """Wrap the body of a command.

    The body gets `progress` as its first argument and returns the facts that `--json` prints (or None). A key
    `exit_code` among them is taken out and becomes the exit code. Put this decorator nearest to the function,
    below click's options; it adds `--json` itself.
    """

    @json_option
    @functools.wraps(function)
    def wrapped(*args: Any, as_json: bool, **options: Any) -> None:
        # A job stop or spot notice ends work the way Ctrl-C does: nothing half-written, resumable, exit code 6.
        main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, _interrupt) if main_thread else None
        try:
            from ecgscale.runtime.run_record import MeteredProgress

            progress: Progress = MeteredProgress(make_progress())
            facts = dict(function(progress, *args, **options) or {})
            code = int(facts.pop("exit_code", ExitCode.DONE))
        except EcgscaleError as error:
            if os.environ.get("ECGSCALE_DEBUG"):
                raise
            _say_error(str(error))
            facts, code = {"error": str(error)}, int(error.exit_code)
        except BrokenPipeError:
            raise  # whoever read our output has gone; click ends quietly
        except Exception as error:
            message = _refusal(error)
            if message is None or os.environ.get("ECGSCALE_DEBUG"):
                raise
            _say_error(message)
            facts, code = {"error": message}, int(ExitCode.FAILED)
        except KeyboardInterrupt:
            say("stopped; type the same command again to go on from here", err=True)
            facts, code = {"error": "stopped"}, int(ExitCode.STOPPED)
        finally:
            if main_thread:
                signal.signal(signal.SIGTERM, before)
        if as_json:
            click.echo(_line({**facts, "exit_code": code} if code else facts))
        sys.stdout.flush()
        if code:
            sys.exit(code)

    return wrapped
