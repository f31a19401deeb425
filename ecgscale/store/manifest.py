"""Numbered manifests: each names exactly the files that make the dataset whole.

Publishing is creating `_manifests/<n+1>.json` with put-if-absent, on top of the number n that was the newest *before*
the plan was frozen. Whoever loses has an older view than the winner and plans again, so a process that sleeps and
wakes cannot move anything back, and no lock is needed.

A manifest holds the digest of the one before it, so that they are a chain; what is removed on purpose (`gc`, `forget`)
leaves a note with its digest below `_pruned/` first. It also remembers every version of a shard that was ever seen, a
key and a content, with its sequence number: the order in which versions came outlasts absence, restoring and holding.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from ecgscale.io.numbered import Numbered, canonical_digest
from ecgscale.io.objects import ObjectStore
from ecgscale.store.columns import Columns
from ecgscale.store.commit import Commit, FoundSource, Identity, Source
from ecgscale.store.provenance import RunFacts, utc_now

MANIFESTS = "_manifests"
PRUNED = "_pruned"


class ShardEntry(Source):
    """One input shard and the file that holds its explanations.

    rows: of the input shard; superseded: those of them that are not in the file because a newer shard has the record;
    since: number of the first manifest that had this shard with this content; sequence: of this version, among all that
    were ever seen (0: a manifest of before, which did not say); commit: name of its commit record, whose output is the
    whole shard
    """

    file: str
    file_size: int
    sha256: str
    quarantined: dict[str, int]
    commit: str
    since: int = 1
    superseded: int = 0
    sequence: int = 0

    @classmethod
    def of(cls, commit: Commit, since: int = 1, sequence: int | None = None) -> ShardEntry:
        """The entry that a commit gives, first published by manifest `since`; `sequence`: if not as the commit says."""
        source, output = commit.source, commit.output
        return cls(
            **source.model_dump(),
            file=output.file,
            file_size=output.size,
            sha256=output.sha256,
            quarantined=output.quarantined,
            commit=commit.name,
            since=since,
            sequence=commit.sequence if sequence is None else sequence,
        )

    @property
    def published_rows(self) -> int:
        """Rows of the file."""
        return self.rows - self.superseded


class HeldShard(Source):
    """One input shard that is explained and committed, but held back from what is published, and why."""

    commit: str
    state: Literal["held", "rejected"]
    reason: str
    sequence: int = 0


class SetAside(FoundSource):
    """One input shard that could not be read, and why; its records are not in the dataset."""

    reason: str
    sequence: int = 0


class Version(BaseModel):
    """A version of a shard that was seen once and is not in the dataset now; `commit`: name of its commit record."""

    model_config = ConfigDict(frozen=True)

    key: str
    content_digest: str | None
    sequence: int
    commit: str | None = None

    @property
    def identity(self) -> Identity:
        """What a version is known by."""
        return self.key, self.content_digest


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
        return canonical_digest(self.model_dump())[:16]


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
    past: tuple[Version, ...] = ()
    columns: Columns | None = None


class Manifest(BaseModel):
    """One published state of a dataset. `shards` are in the order of their keys; so are the records.

    parent: SHA-256 of the manifest before it, as it lies in the store; None of the first one, and before version 2
    pointer: number of the newest pointer to what is served (`store.dataset`) when this was published; None: not asked
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1, 2] = 2
    number: int
    created: str
    run: RunFacts
    content: Content
    parent: str | None = None
    pointer: int | None = None

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
    past: Iterable[Version] = (),
    columns: Columns | None = None,
) -> Content:
    """The content of the manifest that these shards make, in the order of their keys.

    `frozen_plan` is the `plan_digest` of all sources of the run; whoever has the manifest can compute it again. `past`:
    versions that the manifest before does not know. `columns`: what all of its files go into; None: whoever opens them
    finds that out from the files.
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
        past=tuple(past),
        columns=columns,
    )


def plan_digest(sources: Iterable[FoundSource]) -> str:
    """Digest of the sources that a run set out to explain: key, size, stamp, and, where readable, rows and content."""
    return canonical_digest(sorted([s.key, s.size, s.stamp, s.rows, s.content_digest] for s in sources))


_SERIES = Numbered(MANIFESTS, Manifest)
manifest_key, read_manifest = _SERIES.key, _SERIES.read
manifest_numbers, newest_number = _SERIES.numbers, _SERIES.newest
"""Of the manifests of a dataset: see `Numbered`."""


def publish(
    store: ObjectStore,
    content: Content,
    base: int,
    run: RunFacts,
    pointer: int | None = None,
    forgotten: Collection[Identity] = (),
) -> Manifest | None:
    """Make `content` the newest manifest, given that `base` was the newest before its plan was frozen.

    What `base` remembers of versions goes on, but for those `forgotten`, beside what `content` tells of the past; every
    version gets its sequence number.
    Returns the manifest that now says so: an existing one when it says the same, so that nothing new means no new
    manifest. None when another run published something else after `base`: plan again.
    """
    before = read_manifest(store, base) if base else None
    told = {version.identity: version for version in content.past}
    content = _sequenced(content, told | versions_known(store, before), forgotten)
    if newest_number(store) == base and not _says(before, content):
        parent = manifest_digest(store, base) if base else None
        manifest = Manifest(
            number=base + 1, created=utc_now(), run=run, content=content, parent=parent, pointer=pointer
        )
        if _SERIES.create(store, manifest.number, manifest):
            return manifest
    standing = read_manifest(store, newest_number(store))
    return standing if _says(standing, content) else None


def _says(manifest: Manifest | None, content: Content) -> bool:
    return manifest is not None and manifest.content == content


def manifest_digest(store: ObjectStore, number: int) -> str | None:
    """SHA-256 of manifest `number` as it lies in the store; None when it is not there."""
    data = store.read(manifest_key(number))
    return None if data is None else hashlib.sha256(data).hexdigest()


class Pruned(BaseModel):
    """That a manifest was removed on purpose, and by which command: its digest, and that of its parent, keep the chain
    whole. Never changed; nothing in it tells of a record."""

    model_config = ConfigDict(frozen=True)

    number: int
    sha256: str
    parent: str | None
    by: str
    at: str


_NOTES = Numbered(PRUNED, Pruned)
read_pruned = _NOTES.read
"""The note that a manifest was removed on purpose, or None."""


def prune(store: ObjectStore, numbers: Iterable[int], by: str) -> None:
    """Note that these manifests go; to be called before they do, by the command `by`."""
    for number in numbers:
        data = store.read(manifest_key(number))
        if data is not None:
            manifest = read_manifest(store, number)
            parent = manifest.parent if manifest is not None else None
            digest = hashlib.sha256(data).hexdigest()
            note = Pruned(number=number, sha256=digest, parent=parent, by=by, at=utc_now())
            _NOTES.create(store, number, note)


def versions_known(store: ObjectStore, newest: Manifest | None) -> dict[Identity, Version]:
    """Every version of a shard that the newest manifest remembers, published, held, set aside or past.

    Manifests of before version 2 remember nothing of the past: then the older ones, as far as they are there, are read.
    """
    if newest is None:
        return {}
    if newest.version > 1:
        return {one.identity: one for one in versions_of(newest.content)}
    known: dict[Identity, Version] = {}
    for number in (number for number in manifest_numbers(store) if number <= newest.number):
        manifest = newest if number == newest.number else read_manifest(store, number)
        for one in versions_of(manifest.content) if manifest is not None else ():
            first = min(number, one.sequence or number)
            standing = known.setdefault(one.identity, one.model_copy(update={"sequence": first}))
            if one.commit != standing.commit:
                known[one.identity] = standing.model_copy(update={"commit": one.commit or standing.commit})
    return known


def versions_of(content: Content) -> Iterator[Version]:
    """Every version of a shard that a manifest tells of."""
    for entry in content.shards:
        sequence = entry.sequence or entry.since
        yield Version(key=entry.key, content_digest=entry.content_digest, sequence=sequence, commit=entry.commit)
    for held in content.held:
        yield Version(key=held.key, content_digest=held.content_digest, sequence=held.sequence, commit=held.commit)
    for aside in content.set_aside:
        yield Version(key=aside.key, content_digest=aside.content_digest, sequence=aside.sequence)
    yield from content.past


class Sequences:
    """Sequence numbers of versions: what was given once stands; everything that is new gets the next number.

    A shard that could never be read until now came when it was first set aside.
    """

    def __init__(self, known: Mapping[Identity, Version]) -> None:
        self._known = known
        self._read = {key for key, digest in known if digest is not None}
        self.next = max((version.sequence for version in known.values()), default=0) + 1

    def of(self, identity: Identity, said: int = 0) -> int:
        """That of a version; `said`: what its commit record, or an entry made of one, says (0: nothing)."""
        version = self._known.get(identity)
        if version is None and identity[0] not in self._read:
            version = self._known.get((identity[0], None))
        given = [number for number in (said, version.sequence if version else 0) if number]
        return min(given, default=self.next)


_Named = TypeVar("_Named", ShardEntry, HeldShard, SetAside)


def _sequenced(content: Content, known: Mapping[Identity, Version], forgotten: Collection[Identity]) -> Content:
    """The content with a sequence number for every version, and all those that were known before."""
    sequences = Sequences(known)

    def numbered(ones: Iterable[_Named]) -> tuple[_Named, ...]:
        return tuple(one.model_copy(update={"sequence": sequences.of(one.identity, one.sequence)}) for one in ones)

    shards, held, aside = numbered(content.shards), numbered(content.held), numbered(content.set_aside)
    now = content.model_copy(update={"shards": shards, "held": held, "set_aside": aside, "past": ()})
    there = {one.identity for one in versions_of(now)}
    read = {key for key, digest in (*known, *there) if digest is not None}
    kept = [
        one
        for identity, one in known.items()
        if identity not in there
        and identity not in forgotten
        and (one.content_digest is not None or one.key not in read)
    ]
    kept.sort(key=lambda one: (one.key, one.sequence, one.content_digest or ""))
    return now.model_copy(update={"past": tuple(kept)})
