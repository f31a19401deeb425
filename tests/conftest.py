"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from ecgscale.io.settings import VARIABLE
from tests.s3 import moto_server, new_bucket

# New examples at every run on a desk; the same ones in continuous integration, where a red run has to mean the change.
settings.register_profile("ci", derandomize=True, deadline=None)
if os.environ.get("CI"):
    settings.load_profile("ci")


# Worker processes are forked from one that keeps the environment of the first test that had any; credentials do not
# travel, so that has to have those of the servers of tests.
for _name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
    os.environ.setdefault(_name, "testing")

# Actors, which Ray makes nice, would wait for everybody else on a busy machine, and deadlines are short here.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real recordings; tests that need it are skipped without it."""
    folder = os.environ.get("ECGSCALE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("ECGSCALE_TEST_DATA does not name a folder of real recordings")
    return Path(folder).resolve()


@pytest.fixture(autouse=True)
def storage_of_its_own() -> Iterator[None]:
    """No test reaches object stores as the configuration of another one said."""
    os.environ.pop(VARIABLE, None)
    yield
    os.environ.pop(VARIABLE, None)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A moto server for the whole session."""
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3_root(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in a new bucket of that server, which this process reaches."""
    return new_bucket(s3_endpoint, monkeypatch)


@pytest.fixture(params=["disk", "s3"])
def any_root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new place on the disk, and one in an object store."""
    return str(tmp_path / "root") if request.param == "disk" else request.getfixturevalue("s3_root")
