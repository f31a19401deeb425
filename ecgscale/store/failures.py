"""Shards that were given up: remembered, and not tried again until their content or the code changes.

Only failures that took workers along are remembered: they cost minutes each, and would again tomorrow night.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ecgscale.store.commit import Source, read_json_object, stem_of_key, to_json
from ecgscale.store.objects import ObjectStore
from ecgscale.store.provenance import RunFacts, utc_now

FAILURES = "_failed"


class Failure(BaseModel):
    """A source that was given up with this code, and why."""

    model_config = ConfigDict(frozen=True)

    source: Source
    reason: str
    code: str
    failed_at: str
    run: RunFacts


@lru_cache(maxsize=1)
def code_digest() -> str:
    """16 hex digits of this package's source files: what "the code changed" means."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def remember(store: ObjectStore, source: Source, reason: str, run: RunFacts) -> None:
    """Write down that `source` was given up."""
    failure = Failure(source=source, reason=reason, code=code_digest(), failed_at=utc_now(), run=run)
    store.put(_name(source), to_json(failure))


def remembered(store: ObjectStore, source: Source) -> Failure | None:
    """The failure of this very content with this very code, if there was one."""
    failure = read_json_object(store, _name(source), Failure)
    if failure is None:
        return None
    same = failure.source.content_digest == source.content_digest and failure.code == code_digest()
    return failure if same else None


def _name(source: Source) -> str:
    return f"{FAILURES}/{stem_of_key(source.key)}-{source.content_digest[:16]}.json"
