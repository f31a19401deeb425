"""Fixtures: a SeaweedFS server that the tests of faults share, and a world in it in which a night has work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from ecgscale.io.settings import s3
from tests.e2e.faulty import held_content, nightly
from tests.servers import OWNER, Seaweed, seaweed
from tests.worlds.commands.nights import NightWorld
from tests.worlds.commands.ward_world import HELD, copied, shard_world, whole

BUCKET = "nights"


@pytest.fixture(scope="session")
def seaweed_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One for all of them; they kill it and start it again."""
    with seaweed(tmp_path_factory.mktemp("seaweed")) as running, pytest.MonkeyPatch.context() as patch:
        reach(running.endpoint, patch)
        s3().mkdir(BUCKET)
        yield running


@pytest.fixture(scope="module")
def server(seaweed_server: Seaweed) -> Iterator[Seaweed]:
    """The server, which this process, and nights that it starts, reach as its owner."""
    with pytest.MonkeyPatch.context() as patch:
        reach(seaweed_server.endpoint, patch)
        yield seaweed_server
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def before(server: Seaweed, tmp_path_factory: pytest.TempPathFactory) -> NightWorld:
    """A world that nobody changes."""
    folder = tmp_path_factory.mktemp("before")
    return shard_world(f"s3://{BUCKET}/{folder.name}", folder)


@pytest.fixture(scope="module")
def undisturbed(before: NightWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a night makes of it when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    world = copied(before, folder, f"s3://{BUCKET}/{folder.name}")
    nightly(world, "night").end(HELD)
    assert whole(world)
    return held_content(world)


@pytest.fixture
def world(before: NightWorld, tmp_path: Path) -> NightWorld:
    """A copy of it."""
    return copied(before, tmp_path, f"s3://{BUCKET}/{tmp_path.name}")


def reach(endpoint: str, patch: pytest.MonkeyPatch, who: tuple[str, str] = OWNER) -> None:
    """Let this process, and nights that it starts, use this server, as this user."""
    S3FileSystem.clear_instance_cache()
    variables = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": who[0],
        "AWS_SECRET_ACCESS_KEY": who[1],
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in variables.items():
        patch.setenv(name, value)
