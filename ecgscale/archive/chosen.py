"""Chosen recordings out of a large archive, reading only the row groups that they are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from ecgscale.archive.batch import BATCH_COLUMNS, RawBatch, raw_batch
from ecgscale.archive.reader import Archive
from ecgscale.archive.shard import open_parquet
from ecgscale.errors import ShardError

AT_ONCE = 64


def chunks(wanted: Mapping[str, Sequence[str]], at_most: int = AT_ONCE) -> list[tuple[str, tuple[str, ...]]]:
    """Shard key → record ids as tasks of at most so many records of one shard; the same ones wherever they are done."""
    return [
        (key, tuple(names[first : first + at_most]))
        for key, names in wanted.items()
        for first in range(0, len(names), at_most)
    ]


def chosen_batches(archive: Archive, wanted: Mapping[str, Sequence[str]]) -> Iterator[tuple[RawBatch, list[int]]]:
    """Batches that hold chosen recordings (shard key → record ids), and the rows of those in the batch, in order.

    A name that the shard does not hold (any more) is left out; of a doubled one the first counts, as for the
    explanations. Raises `ShardError` for a shard that cannot be read and `ArchiveError` for one that is not there.
    """
    for key in sorted(wanted):
        shard, left = archive.shard(key), set(wanted[key])
        with open_parquet(shard) as file:
            columns = [name for name in file.schema_arrow.names if name in BATCH_COLUMNS]
            first_row = 0
            try:
                for group in range(file.num_row_groups):
                    rows = file.metadata.row_group(group).num_rows
                    names = file.read_row_group(group, columns=["record_id"], use_threads=False).column(0).to_pylist()
                    first = dict(zip(reversed(names), reversed(range(rows)), strict=True))
                    here = sorted(first[name] for name in left.intersection(names))
                    if here:
                        left.difference_update(names)
                        table = file.read_row_group(group, columns=columns, use_threads=False)
                        # An archive need not have patients, a batch has.
                        if "patient_id" not in columns:
                            table = table.append_column("patient_id", pa.nulls(rows, pa.string()))
                        yield raw_batch(key, first_row, table), here
                    first_row += rows
            except (pa.ArrowException, OSError) as error:
                raise ShardError(f"{shard.path} breaks off while it is read: {error}") from error
