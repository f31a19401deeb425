"""A small published ROOT, and commands typed at it."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner, Result

from ecgscale.cli import main


def typed(*arguments: object) -> Result:
    """A command with --json."""
    return CliRunner().invoke(main, [*map(str, arguments), "--json"])


def facts(result: Result, exit_code: int = 0) -> dict[str, Any]:
    """The JSON object of its last line."""
    assert result.exit_code == exit_code, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found
