"""Are the manifests of a dataset the ones that were published? Each names the digest of the one before it."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ecgscale.io.objects import ObjectStore, StoreError
from ecgscale.store.manifest import Manifest, manifest_key, read_manifest, read_pruned, versions_of

READERS = 8


@dataclass(frozen=True)
class _Link:
    """One number: the digest of its manifest, the digest that it names as its parent's, and why it is damaged.

    chained: whether it has to name one; those of before version 2 do not
    """

    sha256: str
    parent: str | None
    chained: bool
    damaged: str = ""


Broken = tuple[str, str]
"""The manifest at which the chain is broken, and what is wrong with it."""


def broken_link(store: ObjectStore, newest: int) -> Broken | None:
    """The first link from the beginning that does not hold; None when all do.

    A manifest that `gc` or `forget` removed left a note with its digest. What was removed before manifests named their
    parents, nobody can tell from what is lost: those are not asked.
    """
    with ThreadPoolExecutor(READERS) as readers:
        numbers = range(1, newest + 1)
        links = dict(zip(numbers, readers.map(lambda number: _link(store, number), numbers), strict=True))
    first = min((number for number, link in links.items() if link is not None and link.chained), default=newest + 1)
    for number in range(max(first - 1, 1), newest + 1):
        link = links[number]
        if link is None:
            return manifest_key(number), "it is gone, and neither gc nor forget removed it. Restore it"
        if link.damaged:
            return manifest_key(number), link.damaged
        before = links.get(number - 1)
        if link.chained and link.parent != (before.sha256 if before is not None else None):
            return manifest_key(number), _says(number, link, before)
    return None


def _link(store: ObjectStore, number: int) -> _Link | None:
    data = store.read(manifest_key(number))
    if data is None:
        note = read_pruned(store, number)
        return _Link(note.sha256, note.parent, note.parent is not None) if note is not None else None
    digest = hashlib.sha256(data).hexdigest()
    try:
        facts = json.loads(data)
        version, parent, its_number = facts["version"], facts.get("parent"), facts["number"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return _Link(digest, None, False, f"it is no manifest ({error!r}). Restore it")
    damaged = f"it says that it is manifest {its_number}: two were swapped. Restore it" if its_number != number else ""
    return _Link(digest, parent, version != 1, damaged)


def _says(number: int, link: _Link, before: _Link | None) -> str:
    if before is None:
        return f"names {str(link.parent)[:16]}… as the digest of the manifest before it, and there is none"
    return (
        f"was published on top of a manifest {number - 1} with sha256 {str(link.parent)[:16]}…; the one that is there "
        f"has {before.sha256[:16]}…: it was changed afterwards. Restore it"
    )


def lost_versions(store: ObjectStore, manifest: Manifest) -> list[str]:
    """Keys of shards of which the manifest before knows a committed version and this one does not: somebody took an
    entry out of it. None where the one before is gone."""
    try:
        before = read_manifest(store, manifest.number - 1) if manifest.number > 1 else None
    except StoreError:
        return []
    if before is None or manifest.version == 1:
        return []
    known = {version.identity for version in versions_of(manifest.content)}
    there = {version.identity for version in versions_of(before.content) if version.commit is not None}
    return sorted({key for key, digest in there if (key, digest) not in known})
