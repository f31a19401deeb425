"""Credentials that are wrong, absent or may not write, a bucket that is not there: the message says which, and no
secret stands anywhere. Answers that get lost or break off, a store that goes away at any request: whole afterwards."""

from __future__ import annotations

import itertools
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ecgscale.store import newest_manifest
from tests.e2e.faulty import held_content, nightly, said_or_kept
from tests.meddling import CutAnswer, LostAnswer, Meddle, Refusal, Request, meddling
from tests.servers import OWNER, READER, Seaweed
from tests.worlds.commands.nights import NightWorld
from tests.worlds.commands.seaweed_nights import BUCKET
from tests.worlds.commands.ward_world import HELD, copied, whole

WRONG_SECRET = "canary-of-a-secret-that-nobody-may-see"
SECRETS = (OWNER[1], READER[1], WRONG_SECRET)


@pytest.mark.parametrize(
    ("who", "message"),
    [
        (("nobody", WRONG_SECRET), "the store does not know these credentials"),
        ((OWNER[0], WRONG_SECRET), "does not accept these credentials' secret"),
        (READER, "these credentials may not do this"),
    ],
    ids=["wrong key", "wrong secret", "read only"],
)
def test_credentials_that_will_not_do(
    who: tuple[str, str], message: str, server: Seaweed, world: NightWorld, undisturbed: dict[str, Any]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", who[0])
        patch.setenv("AWS_SECRET_ACCESS_KEY", who[1])
        refused = nightly(world, "refused")
    facts = refused.end(1)
    assert message in facts["error"], facts
    assert newest_manifest(world.root).number == 1
    assert said_or_kept(SECRETS, world, refused) == []
    again = nightly(world, "again")
    again.end(HELD)
    assert held_content(world) == undisturbed
    assert said_or_kept(SECRETS, world, again) == []


def test_a_bucket_that_is_not_there(server: Seaweed, world: NightWorld) -> None:
    world.config.write_text(world.config.read_text().replace(f"s3://{BUCKET}/", "s3://no-such-bucket/"))
    facts = nightly(world, "night").end(1)
    assert "there is no such bucket" in facts["error"]


def test_no_credentials_at_all(server: Seaweed, world: NightWorld, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name)
        for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
            patch.setenv(name, str(tmp_path / "none"))
        facts = nightly(world, "night").end(1)
    assert "credentials" in facts["error"]


def test_answers_that_are_lost_change_nothing(server: Seaweed, world: NightWorld, undisturbed: dict[str, Any]) -> None:
    """The request was heard and done, its answer never came: it is sent again, and finds its own object."""
    lost: set[str] = set()

    def meddle(request: Request) -> LostAnswer | None:
        if request.method != "PUT" or request.path in lost:
            return None
        lost.add(request.path)
        return LostAnswer()

    with meddling(server.endpoint, meddle) as proxy:
        facts = nightly(world, "night", endpoint=proxy.endpoint).end(HELD)
    assert (facts["computed"], facts["published"]) == (2, True)
    assert len(lost) > 10
    assert held_content(world) == undisturbed
    assert whole(world)


def test_answers_that_break_off_are_asked_for_again(
    server: Seaweed, world: NightWorld, undisturbed: dict[str, Any]
) -> None:
    cut: set[str] = set()

    def meddle(request: Request) -> CutAnswer | None:
        if request.method != "GET" or request.path in cut or len(cut) == 12:
            return None
        cut.add(request.path)
        return CutAnswer()

    with meddling(server.endpoint, meddle) as proxy:
        nightly(world, "night", endpoint=proxy.endpoint).end(HELD)
    assert len(cut) == 12
    assert held_content(world) == undisturbed


def test_a_store_that_goes_away_at_any_request(
    server: Seaweed, before: NightWorld, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever is asked for when it happens: it is told in a sentence, nothing is set aside for it, nothing is torn."""
    world = copied(before, tmp_path / "counted", f"s3://{BUCKET}/counted")
    with meddling(server.endpoint, lambda request: None) as proxy:
        nightly(world, "night", endpoint=proxy.endpoint).end(HELD)
        requests = len(proxy.seen)
    assert requests > 40

    def one(number: int) -> None:
        world = copied(before, tmp_path / str(number), f"s3://{BUCKET}/away-{number}")
        world.config.write_text(world.config.read_text() + "[storage]\nattempts = 1\n")
        with meddling(server.endpoint, gone_from(number)) as proxy:
            night = nightly(world, "away", endpoint=proxy.endpoint)
            # Of tidying up alone it is not worth failing.
            assert night.wait() in (1, HELD), (number, night.said)
        assert "Traceback" not in night.said, (number, night.said)
        assert "set aside" not in night.said
        world.config.write_text(world.config.read_text().partition("[storage]")[0])
        nightly(world, "again").wait()
        assert held_content(world) == undisturbed, (number, night.said)
        assert whole(world)

    chosen = sorted(random.Random(7).sample(range(1, requests + 1), 6))
    with ThreadPoolExecutor(2) as workers:
        list(workers.map(one, chosen))


def gone_from(number: int) -> Meddle:
    """A store that answers 503 from its so many-th request on."""
    count = itertools.count(1)
    return lambda _request: Refusal(503, "ServiceUnavailable") if next(count) >= number else None
