"""Which shards are published: those that were, those that are new, less those that are held back.

A shard whose new version is held back stays published as it was before, if it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ecgscale.io.objects import ObjectStore
from ecgscale.store.commit import Commit
from ecgscale.store.holds import Hold, hold, holds
from ecgscale.store.manifest import HeldShard, Manifest, SetAside, ShardEntry
from ecgscale.store.provenance import RunFacts

Admission = Callable[[Sequence[Commit], Manifest | None], Mapping[str, Sequence[str]]]
"""Which of these new commits are to be held back: keys of their shards, each with the reasons."""


@dataclass(frozen=True)
class Choice:
    """What is to be published.

    kept: entries of the newest manifest; new: commits to add, or in the place of earlier ones; since: for shards of
    `new` whose content is published already under another stamp, the manifest that had it first; held: what is left out
    """

    kept: tuple[ShardEntry, ...]
    new: tuple[Commit, ...]
    since: Mapping[str, int]
    held: tuple[HeldShard, ...]

    def changes_nothing(self, newest: Manifest, set_aside: Iterable[SetAside]) -> bool:
        """Whether the newest manifest says all this already."""
        content = newest.content
        return (
            not self.new
            and {entry.commit for entry in self.kept} == {entry.commit for entry in content.shards}
            and sorted(self.held, key=lambda held: held.key) == list(content.held)
            and sorted(set_aside, key=lambda aside: aside.key) == list(content.set_aside)
        )


def choose(
    store: ObjectStore,
    published: Sequence[ShardEntry],
    commits: Sequence[Commit],
    newest: Manifest | None,
    admission: Admission | None,
    run: RunFacts,
) -> Choice:
    """Sort shards into published and held back. `admission` judges commits that are new and were not judged before."""
    standing = holds(store)
    before = {entry.key: entry for entry in newest.content.shards} if newest else {}
    since = {
        commit.source.key: before[commit.source.key].since
        for commit in commits
        if commit.source.key in before and before[commit.source.key].content_digest == commit.source.content_digest
    }
    if admission is not None:
        fresh = [c for c in commits if _identity(c) not in standing and c.source.key not in since]
        for key, reasons in (admission(fresh, newest) if fresh else {}).items():
            [commit] = [commit for commit in fresh if commit.source.key == key]
            standing[_identity(commit)] = hold(store, commit.source, commit.name, reasons, run)
    kept = [e for e in published if not _is_held(standing.get((e.key, e.content_digest)))]
    new = [c for c in commits if not _is_held(standing.get(_identity(c)))]
    held = []
    everything = [*((e.key, e.content_digest) for e in published), *map(_identity, commits)]
    for key, content in everything:
        found = standing.get((key, content))
        if found is None or found.state == "released":
            continue
        held.append(found.shard())
        earlier = before.get(key)
        if earlier is not None and not _is_held(standing.get((key, earlier.content_digest))) and earlier not in kept:
            kept.append(earlier)
    return Choice(tuple(kept), tuple(new), since, tuple(held))


def _identity(commit: Commit) -> tuple[str, str]:
    return commit.source.key, commit.source.content_digest


def _is_held(hold: Hold | None) -> bool:
    return hold is not None and hold.state != "released"
