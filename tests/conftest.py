"""Fixtures that all tests share, and how tests are shared out between workers.

Tests of one file go to one worker (pytest-xdist), and so do those of one group: `ray` and `seaweed` start clusters and
servers, `browser` Chromium, of which two at a time would only wait for each other; `clock` looks at the time. What is
`slow` comes first, so that no worker begins a minute's work when the others are through.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from ecgscale.io.objects import LocalObjects, S3Objects
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

# Two workers with as many threads as there are cores each get in each other's way.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Actors, which Ray makes nice, would wait for everybody else on a busy machine, and deadlines are short here.
os.environ.setdefault("RAY_worker_niceness", "0")


HERE = Path(__file__).parent

GROUPS = {
    "ray": (
        "e2e/test_analytics.py",
        "e2e/test_evaluations_anywhere.py",
        "e2e/test_same_bits_everywhere.py",
        "jobs",
        "passes/ingest/test_ingest.py",
        "runtime/test_private_ray.py",
        "runtime/test_processes.py",
        "runtime/test_ray_pool.py",
    ),
    "seaweed": ("e2e/test_faults_of_access.py", "e2e/test_faults_of_requests.py", "e2e/test_faults_of_servers.py"),
    "browser": ("report/test_page.py",),
    "clock": ("store/test_lease.py", "store/test_presence.py"),
}
"""Files and folders whose tests go to one worker together."""

SLOW = (
    *(path for paths in GROUPS.values() for path in paths),
    "archive/sources/formats/test_damaged.py",
    "archive/sources/test_tables_fuzz.py",
    "archive/sources/test_wfdb_fuzz.py",
    "benchmarks/test_benchmarks.py",
    "cli/test_command.py",
    "cli/test_demo.py",
    "cli/test_every_place.py",
    "cli/test_run.py",
    "e2e",
    "encoders/test_training.py",
    "nightly/forget",
    "nightly/models/test_refit.py",
    "nightly/test_night.py",
)
"""Files and folders of the slow tier: servers, clusters, whole jobs. The rest runs in a few minutes."""


def places_of(path: Path) -> set[str]:
    """A file of tests and the folders above it, as they are named above."""
    inside = path.relative_to(HERE)
    return {inside.as_posix(), *(folder.as_posix() for folder in inside.parents)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slow tier is marked, and comes first."""
    for item in items:
        if places_of(item.path) & set(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


class OneWorkerAGroup(LoadScopeScheduling):
    """Tests of a group, else of a file, go to one worker."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        places = places_of(HERE.parent / path)
        return next((name for name, members in GROUPS.items() if places & set(members)), path)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneWorkerAGroup:
    """For `pytest -n`."""
    return OneWorkerAGroup(config, log)


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


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clocks of all stores so many seconds ahead, as if the test had slept."""

    def set_ahead(seconds: float) -> None:
        for store in (LocalObjects, S3Objects):
            by_itself = store.clock
            monkeypatch.setattr(
                store, "clock", lambda self, by_itself=by_itself: by_itself(self) + timedelta(seconds=seconds)
            )

    return set_ahead
