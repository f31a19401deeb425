"""Shards that were given up: remembered, and not tried again until their content or the code changes.

Only failures that took workers along are remembered: they cost minutes each, and would again tomorrow night.
"""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import ObjectStore
from ecgscale.store.commit import Source, stem_of_key
from ecgscale.store.provenance import RunFacts, utc_now, versions

FAILURES = "_failed"


class Failure(BaseModel):
    """A source that was given up with this code, and why."""

    model_config = ConfigDict(frozen=True)

    source: Source
    reason: str
    code: str
    failed_at: str
    run: RunFacts


@cache
def code_digest(network: str = "") -> str:
    """16 hex digits of what "the code" is: this package's sources, versions, and what stands for a `network`'s own."""
    digest = hashlib.sha256(repr(sorted(versions().items())).encode())
    package = Path(__file__).parent.parent
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(network.encode())
    return digest.hexdigest()[:16]


def remember(store: ObjectStore, source: Source, reason: str, run: RunFacts, code: str) -> None:
    """Write down that `source` was given up with this code."""
    failure = Failure(source=source, reason=reason, code=code, failed_at=utc_now(), run=run)
    store.put(_name(source), to_json(failure))


def remembered(store: ObjectStore, source: Source, code: str) -> Failure | None:
    """The failure of this very content with this very code, if there was one."""
    failure = read_json_object(store, _name(source), Failure)
    if failure is None:
        return None
    same = failure.source.content_digest == source.content_digest and failure.code == code
    return failure if same else None


def failures(store: ObjectStore) -> list[Failure]:
    """All failures that are remembered in a dataset, in the order of the shards' keys."""
    found = [read_json_object(store, name, Failure) for name in store.list_prefix(FAILURES)]
    return sorted((failure for failure in found if failure is not None), key=lambda failure: failure.source.key)


def forget(store: ObjectStore, failure: Failure) -> None:
    """Let the next run try this content of a shard again."""
    store.delete(_name(failure.source))


def _name(source: Source) -> str:
    return f"{FAILURES}/{stem_of_key(source.key)}-{source.content_digest[:16]}.json"
