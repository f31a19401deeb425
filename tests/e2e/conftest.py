"""What several tests of this folder start from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from tests.e2e.documents import DEMO
from tests.worlds.commands.seaweed_nights import before, seaweed_server, server, undisturbed, world  # noqa: F401
from tests.worlds.once import built_once


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves behind, smaller."""
    return built_once(tmp_path_factory, "documentation", _demo) / DEMO


def _demo(folder: Path) -> None:
    result = CliRunner().invoke(main, ["demo", str(folder / DEMO), "--records", "240", "--epochs", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert Path(json.loads(result.stdout.splitlines()[-1])["picture"]).stat().st_size > 0
