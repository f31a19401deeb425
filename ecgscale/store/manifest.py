"""Numbered manifests: each names exactly the files that make the dataset whole.

Publishing is creating `_manifests/<n+1>.json` with put-if-absent, on top of the number n that was the newest *before*
the plan was frozen. Whoever loses has an older view than the winner and plans again, so a process that sleeps and
wakes cannot move anything back, and no lock is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

from ecgscale.io.numbered import Numbered
from ecgscale.io.objects import ObjectStore
from ecgscale.store.commit import Commit, FoundSource, Source
from ecgscale.store.provenance import RunFacts, utc_now

MANIFESTS = "_manifests"


class ShardEntry(Source):
    """One input shard and the file that holds its explanations.

    rows: of the input shard; superseded: those of them that are not in the file because a newer shard has the record;
    since: number of the first manifest that had this shard with this content; commit: name of its commit record, whose
    output is the whole shard
    """

    file: str
    file_size: int
    sha256: str
    quarantined: dict[str, int]
    commit: str
    since: int = 1
    superseded: int = 0

    @classmethod
    def of(cls, commit: Commit, since: int = 1) -> ShardEntry:
        """The entry that a commit gives, first published by manifest `since`."""
        source, output = commit.source, commit.output
        return cls(
            **source.model_dump(),
            file=output.file,
            file_size=output.size,
            sha256=output.sha256,
            quarantined=output.quarantined,
            commit=commit.name,
            since=since,
        )

    @property
    def published_rows(self) -> int:
        """Rows of the file."""
        return self.rows - self.superseded

    @model_serializer(mode="wrap")
    def _as_on_disk(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Manifests have `rows` behind the digest, and the bytes of what says the same should stay the same.
        facts: dict[str, Any] = serialise(self)
        order = ("key", "size", "stamp", "content_digest", *facts)
        return {name: facts[name] for name in dict.fromkeys(order) if name in facts}


class HeldShard(Source):
    """One input shard that is explained and committed, but held back from what is published, and why."""

    commit: str
    state: Literal["held", "rejected"]
    reason: str


class SetAside(FoundSource):
    """One input shard that could not be read, and why; its records are not in the dataset."""

    reason: str


class Totals(BaseModel):
    """Sums over the shards of a manifest; `quarantined` counts records by status."""

    model_config = ConfigDict(frozen=True)

    shards: int
    records: int
    quarantined: dict[str, int]


class ArchiveFacts(BaseModel):
    """The archive that was explained."""

    model_config = ConfigDict(frozen=True)

    archive_id: str
    path: str


class DatasetFacts(BaseModel):
    """What a dataset's identity rests on; everything here goes into `dataset_id`."""

    model_config = ConfigDict(frozen=True)

    archive_id: str
    encoder_id: str
    encoder_digest: str
    model_id: str
    model_digest: str
    settings: dict[str, Any]
    results_version: int

    @property
    def dataset_id(self) -> str:
        """16 hexadecimal digits."""
        return digest_of(self.model_dump())[:16]


class Content(BaseModel):
    """What a manifest says, less the facts of the run that wrote it."""

    model_config = ConfigDict(frozen=True)

    dataset_id: str
    archive: ArchiveFacts
    identity: DatasetFacts
    plan_digest: str
    totals: Totals
    shards: tuple[ShardEntry, ...]
    set_aside: tuple[SetAside, ...]
    held: tuple[HeldShard, ...] = ()


class Manifest(BaseModel):
    """One published state of a dataset. `shards` are in the order of their keys; so are the records."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    number: int
    created: str
    run: RunFacts
    content: Content

    @property
    def files(self) -> list[str]:
        """Keys of the data files, in order."""
        return [shard.file for shard in self.content.shards]


def compose(
    identity: DatasetFacts,
    archive: ArchiveFacts,
    frozen_plan: str,
    entries: Iterable[ShardEntry],
    set_aside: Iterable[SetAside],
    held: Iterable[HeldShard] = (),
) -> Content:
    """The content of the manifest that these shards make, in the order of their keys.

    `frozen_plan` is the `plan_digest` of all sources of the run; whoever has the manifest can compute it again.
    """
    shards = sorted(entries, key=lambda shard: shard.key)
    aside = sorted(set_aside, key=lambda shard: shard.key)
    quarantined: Counter[str] = Counter()
    for shard in shards:
        quarantined.update(shard.quarantined)
    return Content(
        dataset_id=identity.dataset_id,
        archive=archive,
        identity=identity,
        plan_digest=frozen_plan,
        totals=Totals(
            shards=len(shards),
            records=sum(shard.published_rows for shard in shards),
            quarantined=dict(sorted(quarantined.items())),
        ),
        shards=tuple(shards),
        set_aside=tuple(aside),
        held=tuple(sorted(held, key=lambda shard: shard.key)),
    )


def plan_digest(sources: Iterable[FoundSource]) -> str:
    """Digest of the sources that a run set out to explain: key, size, stamp, and, where readable, rows and content."""
    return digest_of(sorted([s.key, s.size, s.stamp, s.rows, s.content_digest] for s in sources))


def digest_of(facts: Any) -> str:
    """SHA-256 of facts as canonical JSON (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


_SERIES = Numbered(MANIFESTS, Manifest)
manifest_key, read_manifest = _SERIES.key, _SERIES.read
manifest_numbers, newest_number = _SERIES.numbers, _SERIES.newest
"""Of the manifests of a dataset: see `Numbered`."""


def publish(store: ObjectStore, content: Content, base: int, run: RunFacts) -> Manifest | None:
    """Make `content` the newest manifest, given that `base` was the newest before its plan was frozen.

    Returns the manifest that now says so: an existing one when it says the same, so that nothing new means no new
    manifest. None when another run published something else after `base`: plan again.
    """
    if newest_number(store) == base and not _says(read_manifest(store, base) if base else None, content):
        manifest = Manifest(number=base + 1, created=utc_now(), run=run, content=content)
        if _SERIES.create(store, manifest.number, manifest):
            return manifest
    standing = read_manifest(store, newest_number(store))
    return standing if _says(standing, content) else None


def _says(manifest: Manifest | None, content: Content) -> bool:
    return manifest is not None and manifest.content == content
