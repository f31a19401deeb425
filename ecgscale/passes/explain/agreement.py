"""The columns of what is to be published: one schema for all files, and what changed in it, said.

The plan has refused what cannot stand beside the published columns. What it did not see, a shard that was committed or
held back before others were published, is found here, before the manifest is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from ecgscale.errors import ShardError
from ecgscale.io.objects import ObjectStore
from ecgscale.passes.explain.resolve import Choice
from ecgscale.store.columns import Columns, joined, schema_over, schemas_of
from ecgscale.store.manifest import Manifest, SetAside

NAMED = 5


@dataclass(frozen=True)
class Agreed:
    """What is published after all, in which columns, what is refused for its columns, and what there is to say."""

    choice: Choice
    columns: Columns | None
    refused: tuple[SetAside, ...] = ()
    said: tuple[str, ...] = ()


def agree(store: ObjectStore, choice: Choice, newest: Manifest | None) -> Agreed:
    """Let the new commits of `choice` join what it keeps, in the order of their keys.

    The schema is that of the files which are published, no others: where one of them goes, it is found out anew.
    """
    known = newest.content.columns if newest else None
    kept = {entry.commit for entry in choice.kept}
    gone = newest is not None and any(entry.commit not in kept for entry in newest.content.shards)
    if not choice.new and not gone:
        return Agreed(choice, known)
    if known is not None and not gone:
        schema = known.arrow_schema
    else:
        schema = schema_over({entry.key: store.location(entry.file) for entry in choice.kept})
    before, new, refused, lacking = schema, [], [], []
    commits = sorted(choice.new, key=lambda commit: commit.source.key)
    found = schemas_of([store.location(commit.output.file) for commit in commits])
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


def _changes(before: pa.Schema, after: pa.Schema) -> list[str]:
    """What became of the columns that were published before; nothing when there were none."""
    said = []
    for field in after if len(before) else ():
        if field.name not in before.names:
            said.append(f"column {field.name} ({field.type}) is new: null in shards that were explained before")
        elif before.field(field.name).type != field.type:
            said.append(f"column {field.name} is {field.type} from now on: {before.field(field.name).type} before")
    return said


def _absent(schema: pa.Schema, found: Sequence[tuple[str, pa.Schema]]) -> list[str]:
    """Which columns new shards have not."""
    said = []
    for name in schema.names:
        without = [key for key, own in found if name not in own.names]
        if without:
            shards = ", ".join(without[:NAMED]) + (
                f" and {len(without) - NAMED:,} more" if len(without) > NAMED else ""
            )
            said.append(f"column {name} is not in {shards}: null there")
    return said
