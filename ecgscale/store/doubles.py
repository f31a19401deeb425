"""No record twice: found from the hashes in the commit records, told with both places.

Within a shard the second of two equal ids is quarantined; across shards nobody sees both until publishing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow.parquet

from ecgscale.errors import PublishError
from ecgscale.store.commit import Commit, Output
from ecgscale.store.objects import ObjectStore
from ecgscale.store.record_ids import decode_hashes, shared_hashes

NAMED_DOUBLES = 5


def require_distinct_records(store: ObjectStore, commits: Iterable[Commit]) -> None:
    """Raise `PublishError` naming both places of every record id that stands in two shards (the first five of them).

    Shared hashes are looked up in the data files, so that a chance collision is no error.
    """
    ordered = sorted(commits, key=lambda commit: commit.source.key)
    shared = shared_hashes([decode_hashes(commit.output.record_ids) for commit in ordered])
    suspects = sorted({position for _, positions in shared for position in positions})
    rows: dict[str, list[tuple[str, int]]] = {}
    for position in suspects:
        for record_id, row in _first_rows(store, ordered[position].output):
            rows.setdefault(record_id, []).append((ordered[position].source.key, row))
    doubled = sorted((record_id, places) for record_id, places in rows.items() if len(places) > 1)
    if doubled:
        raise PublishError(_told_doubles(doubled))


def _told_doubles(doubled: Sequence[tuple[str, list[tuple[str, int]]]]) -> str:
    lines = [
        f"  record_id {record_id!r}: " + " and ".join(f"shard {key} row {row}" for key, row in places)
        for record_id, places in doubled[:NAMED_DOUBLES]
    ]
    if len(doubled) > NAMED_DOUBLES:
        lines.append(f"  … and {len(doubled) - NAMED_DOUBLES:,} more")
    many = "1 record id stands" if len(doubled) == 1 else f"{len(doubled):,} record ids stand"
    return (
        f"{many} in more than one shard of the archive, so nothing was published:\n"
        + "\n".join(lines)
        + "\nEverything is committed. Make the ids unique in the archive (ingest it again, or remove the shard that "
        "came twice) and type the same command again: only what changed is computed."
    )


def _first_rows(store: ObjectStore, output: Output) -> list[tuple[str, int]]:
    """The distinct record ids of an output file, each with its first row."""
    column = pyarrow.parquet.read_table(store.location(output.file), columns=["record_id"])["record_id"].to_pylist()
    first: dict[str, int] = {}
    for row, record_id in enumerate(column):
        if record_id and record_id.strip():
            first.setdefault(record_id, row)
    return list(first.items())
