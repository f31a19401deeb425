"""What is published: which shards, less those that are held back, and one row for every record.

A shard whose new version is held back stays published as it was before, if it was.

A record that is sent again comes in a newer shard. The same facts: the newer row is left out. Other facts (a new
signal, new metadata): the newer row holds, and the older one is left out. Another patient under the same id: nobody can
tell which is right, so what was there stays and the newer row is quarantined. Files are never changed: a shard that
loses rows is written again without them, under a name of its own, next to the whole one that its commit record names.
Windows of a recording are sent again together: those that it no longer has go with the others (`resent`).

"Newer" is what came later, by its sequence number: that of the version of the shard, or, of a row that stood in an
earlier version of the same shard just as it is, of that one. Numbers are given once (`store.manifest`), so a shard that
was away, torn, held back or re-sent does not become newer. Of what came at once, the shard whose key is later.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.archive.validate import OK
from ecgscale.errors import ShardError
from ecgscale.explain.schema import FACT_COLUMNS, metadata_of, to_parquet
from ecgscale.io.objects import ObjectStore, StoreError
from ecgscale.io.parquet import read_parquet
from ecgscale.passes.explain.resent import Row, rows_of, windows_gone
from ecgscale.store.columns import Columns, joined, schema_over, schemas_of
from ecgscale.store.commit import (
    DATA,
    Commit,
    Places,
    decode_hashes,
    read_commit,
    refuse_doubles,
    shared_hashes,
    stem_of_key,
)
from ecgscale.store.holds import Hold, hold, holds
from ecgscale.store.manifest import HeldShard, Manifest, SetAside, ShardEntry
from ecgscale.store.provenance import RunFacts
from ecgscale.words import named

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
            and _facts(self.held) == _facts(content.held)
            and _facts(set_aside) == _facts(content.set_aside)
        )


def _facts(ones: Iterable[HeldShard | SetAside]) -> list[dict[str, Any]]:
    """What they say, less the sequence numbers that publishing gives them."""
    return sorted((one.model_dump(exclude={"sequence"}) for one in ones), key=lambda facts: str(facts["key"]))


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
        if commit.source.key in before and before[commit.source.key].identity == commit.source.identity
    }
    if admission is not None:
        fresh = [c for c in commits if c.source.identity not in standing and c.source.key not in since]
        for key, reasons in (admission(fresh, newest) if fresh else {}).items():
            [commit] = [commit for commit in fresh if commit.source.key == key]
            standing[commit.source.identity] = hold(store, commit.source, commit.name, reasons, run)
    kept = [e for e in published if not _is_held(standing.get(e.identity))]
    new = [c for c in commits if not _is_held(standing.get(c.source.identity))]
    held = []
    everything = [*((e.identity, e.sequence) for e in published), *((c.source.identity, c.sequence) for c in commits)]
    for identity, sequence in everything:
        found = standing.get(identity)
        if found is None or found.state == "released":
            continue
        held.append(found.shard().model_copy(update={"sequence": sequence}))
        earlier = before.get(identity[0])
        if earlier is not None and not _is_held(standing.get(earlier.identity)) and earlier not in kept:
            kept.append(earlier)
    return Choice(tuple(kept), tuple(new), since, tuple(held))


def _is_held(hold: Hold | None) -> bool:
    return hold is not None and hold.state != "released"


PATIENT_CONFLICT = "patient_conflict"
"""The status of a row whose record id belongs to another patient already."""
READERS = 16


@dataclass(frozen=True)
class Resolved:
    """What is to be published; how many rows gave way to newer ones, came twice alike, or contradict in the patient."""

    entries: tuple[ShardEntry, ...]
    superseded: int = 0
    repeated: int = 0
    conflicts: int = 0


@dataclass
class _Changes:
    """What is to be done to one shard's rows."""

    drop: set[int] = field(default_factory=set)
    quarantine: set[int] = field(default_factory=set)


def commits_of(store: ObjectStore, entries: Sequence[ShardEntry]) -> list[Commit]:
    """The commit records behind these entries, in their order, read side by side; `StoreError` when one is gone."""
    with ThreadPoolExecutor(READERS) as readers:
        found = list(readers.map(lambda entry: read_commit(store, entry.commit), entries))
    commits = []
    for entry, commit in zip(entries, found, strict=True):
        if commit is None:
            raise StoreError(
                f"{store.location(entry.commit)} is gone, though the newest manifest refers to it. Restore it, or "
                f"remove {store.location(entry.file)} to have shard {entry.key} explained again."
            )
        commits.append(commit)
    return commits


def resolve_duplicates(
    store: ObjectStore, parts: Sequence[tuple[ShardEntry, Commit]], fresh: Set[str] = frozenset()
) -> Resolved:
    """The entries to publish, given those of whole shards: every record id once among rows that are not quarantined.

    Shards that are `fresh` (their keys), never published before, may not share an id where both came at once, since
    nothing says which is newer: `PublishError` names both places. Shared hashes are looked up in the files, so that a
    chance collision is nothing.
    """
    ordered = sorted(parts, key=lambda part: (part[0].sequence, part[0].key))
    shared = shared_hashes([decode_hashes(commit.output.record_ids) for _, commit in ordered])
    if not shared:
        return Resolved(tuple(entry for entry, _ in parts))
    suspects = sorted({position for _, positions in shared for position in positions})
    found = rows_of(store, ordered, suspects)
    doubled = {record_id: rows for record_id, rows in found.items() if len(rows) > 1}
    _refuse(ordered, doubled, fresh)
    changes, counts = _decide(store, ordered, doubled)
    for row in windows_gone(found):
        counts["superseded"] += row.row not in changes[row.position].drop
        changes[row.position].drop.add(row.row)
    rewritten = {
        ordered[position][0].key: _rewrite(store, *ordered[position], change) for position, change in changes.items()
    }
    return Resolved(
        tuple(rewritten.get(entry.key, entry) for entry, _ in parts),
        superseded=counts["superseded"],
        repeated=counts["repeated"],
        conflicts=counts["conflicts"],
    )


def _refuse(ordered: Sequence[tuple[ShardEntry, Commit]], doubled: dict[str, list[Row]], fresh: Set[str]) -> None:
    places: list[Places] = []
    for record_id, rows in doubled.items():
        new = [row for row in rows if ordered[row.position][0].key in fresh]
        at_once = Counter(row.came for row in new)
        if together := [row for row in new if at_once[row.came] > 1]:
            places.append((record_id, [(ordered[row.position][0].key, row.row) for row in together]))
    if places:
        refuse_doubles(places)


def _decide(
    store: ObjectStore, ordered: Sequence[tuple[ShardEntry, Commit]], doubled: dict[str, list[Row]]
) -> tuple[defaultdict[int, _Changes], Counter[str]]:
    digests = _row_digests(store, ordered, doubled.values())
    changes: defaultdict[int, _Changes] = defaultdict(_Changes)
    counts: Counter[str] = Counter()
    for rows in doubled.values():
        holds, *later = rows
        for row in later:
            if row.status != OK:
                continue  # what cannot be used replaces nothing; it stays, quarantined
            if holds.patient_id is not None and row.patient_id is not None and holds.patient_id != row.patient_id:
                changes[row.position].quarantine.add(row.row)
                counts["conflicts"] += 1
            elif holds.status == OK and digests[holds.position, holds.row] == digests[row.position, row.row]:
                changes[row.position].drop.add(row.row)
                counts["repeated"] += 1
            else:
                changes[holds.position].drop.add(holds.row)
                counts["superseded"] += 1
                holds = row
    return changes, counts


def _row_digests(
    store: ObjectStore, ordered: Sequence[tuple[ShardEntry, Commit]], doubled: Iterable[list[Row]]
) -> dict[tuple[int, int], bytes]:
    """Digests of these rows' contents, the name of their shard left out."""
    wanted: defaultdict[int, list[int]] = defaultdict(list)
    for rows in doubled:
        for row in rows:
            wanted[row.position].append(row.row)
    digests = {}
    for position, numbers in wanted.items():
        table = _read(store, ordered[position][1]).drop_columns(["source_shard"]).take(numbers)
        for number, content in zip(numbers, table.to_pylist(), strict=True):
            digests[position, number] = hashlib.sha256(repr(sorted(content.items())).encode()).digest()
    return digests


def _rewrite(store: ObjectStore, entry: ShardEntry, commit: Commit, change: _Changes) -> ShardEntry:
    """The entry of a shard without the rows that gave way, its file put alongside the whole one."""
    table = _read(store, commit)
    n = table.num_rows
    conflict = pa.array([row in change.quarantine for row in range(n)])
    for name in table.column_names:
        kind = table.schema.field(name).type
        if name == "status":
            column = pc.if_else(conflict, PATIENT_CONFLICT, table.column(name).combine_chunks())
        elif name in FACT_COLUMNS:
            # Null where the mask is set: taking row "null" gives null, whatever the type.
            rows = pa.array([None if row in change.quarantine else row for row in range(n)], pa.int64())
            column = table.column(name).take(rows)
        else:
            continue
        table = table.set_column(table.column_names.index(name), pa.field(name, kind), column)
    kept = table.filter(pa.array([row not in change.drop for row in range(n)]))
    schema = kept.schema.remove_metadata()
    batches = kept.replace_schema_metadata(None).combine_chunks().to_batches()
    data = to_parquet(batches, schema, {**metadata_of(table.schema), "superseded_rows": len(change.drop)})
    sha256 = hashlib.sha256(data).hexdigest()
    file = f"{DATA}/{stem_of_key(entry.key)}-{sha256[:16]}.parquet"
    store.put_if_absent(file, data)
    statuses = Counter(status for status in kept.column("status").to_pylist() if status != OK)
    return entry.model_copy(
        update={
            "file": file,
            "file_size": len(data),
            "sha256": sha256,
            "quarantined": dict(sorted(statuses.items())),
            "superseded": len(change.drop),
        }
    )


def _read(store: ObjectStore, commit: Commit, columns: list[str] | None = None) -> pa.Table:
    return read_parquet(store.location(commit.output.file), columns)


@dataclass(frozen=True)
class Agreed:
    """What is published after all, in which columns, what is refused for its columns, and what there is to say."""

    choice: Choice
    columns: Columns | None
    refused: tuple[SetAside, ...] = ()
    said: tuple[str, ...] = ()


def agree(store: ObjectStore, choice: Choice, newest: Manifest | None) -> Agreed:
    """Let the new commits of `choice` join what it keeps, in the order of their keys.

    The schema is that of the files which are published, no others: where one of them goes that had it alone, it is
    found out anew.
    """
    known = newest.content.columns if newest else None
    staying = {entry.identity for entry in choice.kept} | {commit.source.identity for commit in choice.new}
    gone = [entry.file for entry in newest.content.shards if entry.identity not in staying] if newest else []
    if not choice.new and not gone:
        return Agreed(choice, known)
    commits = sorted(choice.new, key=lambda commit: commit.source.key)
    found = _schemas(store, [commit.output.file for commit in commits])
    if known is not None and _stand_in(store, found, gone):
        before = known.arrow_schema
    else:
        before = schema_over({entry.key: store.location(entry.file) for entry in choice.kept})
    schema, new, refused, lacking = before, [], [], []
    for commit, own in zip(commits, found, strict=True):
        try:
            schema = joined(schema, own, commit.source.key)
        except ShardError as error:
            refused.append(SetAside(**commit.source.model_dump(), reason=str(error)))
            continue
        new.append(commit)
        lacking.append((commit.source.key, own))
    said = (*_changes(before, schema), *_absent(schema, lacking))
    return Agreed(replace(choice, new=tuple(new)), Columns.of(schema), tuple(refused), said)


def _stand_in(store: ObjectStore, found: Sequence[pa.Schema], gone: Sequence[str]) -> bool:
    """Whether each file that goes has the columns of one that comes, as a corrected shard's have."""
    try:
        return all(own in found for own in _schemas(store, gone))
    except StoreError:  # it is not there any more
        return False


def _schemas(store: ObjectStore, files: Sequence[str]) -> list[pa.Schema]:
    return schemas_of([store.location(file) for file in files])


def _changes(before: pa.Schema, after: pa.Schema) -> list[str]:
    """What became of the columns that were published before; nothing when there were none."""
    said = []
    for column in after if len(before) else ():
        if column.name not in before.names:
            said.append(f"column {column.name} ({column.type}) is new: null in shards that were explained before")
        elif before.field(column.name).type != column.type:
            said.append(f"column {column.name} is {column.type} from now on: {before.field(column.name).type} before")
    return said


def _absent(schema: pa.Schema, found: Sequence[tuple[str, pa.Schema]]) -> list[str]:
    """Which columns new shards have not."""
    said = []
    for name in schema.names:
        without = [key for key, own in found if name not in own.names]
        if without:
            said.append(f"column {name} is not in {named(without)}: null there")
    return said
