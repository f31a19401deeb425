"""Does the archive still hold what was explained? Its shards read whole, and held against their content digests."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ecgscale.archive.reader import Archive, Shard
from ecgscale.archive.shard import check_content
from ecgscale.errors import ShardError
from ecgscale.nightly.verify.rows import Problems
from ecgscale.progress import Progress
from ecgscale.store.manifest import ShardEntry

READERS = 4


def check_archive(archive: Archive, entries: Sequence[ShardEntry], problems: Problems, progress: Progress) -> int:
    """Tell of every published shard that says it holds what was explained, and does not; how many do hold it.

    A shard with another content is a newer one, and no problem: the next run explains it.
    """
    there = {shard.key: shard for shard in archive.shards}
    pairs = [(entry, there[entry.key]) for entry in entries if entry.key in there]

    def look(pair: tuple[ShardEntry, Shard]) -> str | bool:
        entry, shard = pair
        try:
            if archive.footer(shard).content_digest != entry.content_digest:
                if (shard.size, shard.stamp) != (entry.size, entry.stamp):
                    return False
                return f"{shard.path} has the size and the time that it was explained with, and another content"
            check_content(shard)
        except ShardError as error:
            return str(error)
        finally:
            stage.advance(entry.rows)
        return True

    held = 0
    records = sum(entry.rows for entry, _ in pairs)
    with progress.stage("archive", records, "records") as stage, ThreadPoolExecutor(READERS) as readers:
        for (entry, _), found in zip(pairs, readers.map(look, pairs), strict=True):
            if isinstance(found, str):
                problems.add("archive", entry.key, found)
            else:
                held += found
    return held
