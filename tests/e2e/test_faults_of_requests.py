"""Credentials that end in mid-night, and a store that takes no notice of If-None-Match; no secret stands anywhere.

A proxy changes requests on their way to a store that checks no signatures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3fs import S3FileSystem

from ecgscale.io.settings import s3
from ecgscale.store import newest_manifest
from tests.e2e.faulty import held_content, nightly, said_or_kept
from tests.meddling import Refusal, Request, meddling
from tests.worlds.commands.nights import NightWorld
from tests.worlds.commands.seaweed_nights import BUCKET, reach
from tests.worlds.commands.ward_world import HELD, copied, shard_world, whole

SECRET = "canary-of-a-secret-that-nobody-may-see"
TOKEN = "canary-of-a-session-token"


@pytest.fixture(scope="module")
def unguarded(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NightWorld]:
    """A world in a store that knows no users, so that requests can be changed on their way."""
    with pytest.MonkeyPatch.context() as patch:
        reach(s3_endpoint, patch, ("testing", "testing"))
        s3().mkdir(BUCKET)
        yield shard_world(f"s3://{BUCKET}/before", tmp_path_factory.mktemp("unguarded"))
    S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def unguarded_end(unguarded: NightWorld, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a night makes of it when nothing happens."""
    world = copied(unguarded, tmp_path_factory.mktemp("end"), f"s3://{BUCKET}/end")
    nightly(world, "night").end(HELD)
    return held_content(world)


@pytest.fixture
def unguarded_world(unguarded: NightWorld, s3_endpoint: str, tmp_path: Path) -> Iterator[NightWorld]:
    """A copy of it, and this process reaches it."""
    with pytest.MonkeyPatch.context() as patch:
        reach(s3_endpoint, patch, ("testing", SECRET))
        patch.setenv("AWS_SESSION_TOKEN", TOKEN)
        yield copied(unguarded, tmp_path, f"s3://{BUCKET}/{tmp_path.name}")
    S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("put", "status", "code"), [("/_commits/", 400, "ExpiredToken"), ("/_manifests/", 403, "AccessDenied")]
)
def test_credentials_that_end_during_a_night(
    put: str, status: int, code: str, s3_endpoint: str, unguarded_world: NightWorld, unguarded_end: dict[str, Any]
) -> None:
    world, ended = unguarded_world, list[Request]()

    def meddle(request: Request) -> Refusal | None:
        if ended or (request.method == "PUT" and put in request.path):
            ended.append(request)
            return Refusal(status, code)
        return None

    with meddling(s3_endpoint, meddle) as proxy:
        night = nightly(world, "expired", endpoint=proxy.endpoint)
        facts = night.end(1)
    said = {"ExpiredToken": "the credentials have expired; renew them", "AccessDenied": "may not do this"}[code]
    assert said in facts["error"], facts
    assert "type the same command again" in facts["error"]
    again = nightly(world, "again")
    again.end(HELD)
    assert said_or_kept((SECRET, TOKEN), world, night, again) == []
    assert held_content(world) == unguarded_end
    assert whole(world)


def test_a_store_without_put_if_absent_is_found_out(
    s3_endpoint: str, unguarded_world: NightWorld, unguarded_end: dict[str, Any]
) -> None:
    world = unguarded_world

    def meddle(request: Request) -> None:
        request.without("If-None-Match")

    with meddling(s3_endpoint, meddle) as careless:
        facts = nightly(world, "refused", endpoint=careless.endpoint).end(2)
        assert "does not honour If-None-Match" in facts["error"]
        assert "[storage] conditional_put = false" in facts["error"]
        assert newest_manifest(world.root).number == 1
        world.config.write_text(world.config.read_text() + "[storage]\nconditional_put = false\n")
        nightly(world, "night", endpoint=careless.endpoint).end(HELD)
        assert held_content(world) == unguarded_end
        assert whole(world)
        assert nightly(world, "nothing new", endpoint=careless.endpoint).end(0)["computed"] == 0
