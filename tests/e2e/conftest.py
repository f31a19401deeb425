"""What several tests of this folder start from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from tests.e2e.documents import DEMO
from tests.e2e.seaweed_nights import before, seaweed_server, server, undisturbed, world  # noqa: F401


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `make demo` leaves behind, smaller."""
    folder = tmp_path_factory.mktemp("documentation") / DEMO
    result = CliRunner().invoke(main, ["demo", str(folder), "--records", "240", "--epochs", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert Path(json.loads(result.stdout.splitlines()[-1])["picture"]).stat().st_size > 0
    return folder
