"""The tiny model that tests of passes explain with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.explain.golden import write_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("root"))
