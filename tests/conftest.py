"""Fixtures that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# New examples at every run on a desk; the same ones in continuous integration, where a red run has to mean the change.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real recordings; tests that need it are skipped without it."""
    folder = os.environ.get("ECGSCALE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ECGSCALE_TEST_DATA does not name a folder of real recordings")
    return Path(folder).resolve()
