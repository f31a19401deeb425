"""The records a network is trained on, preprocessed once and kept at hand for every epoch."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive import Archive, check_batch
from ecgscale.encoders.preprocess import OK, prepare
from ecgscale.encoders.spec import InputSpec
from ecgscale.errors import UsageError
from ecgscale.progress import SILENT, Progress

MEMORY_BYTES = 2 * 2**30
NOT_ASKED = "not asked for"


@dataclass(frozen=True)
class Signals:
    """`x` (M, n_leads, D) float32, in memory or on disk; `rows` (M,) are their places in the archive's table."""

    x: NDArray[np.float32]
    rows: NDArray[np.intp]
    rejected: dict[str, int]  # status → how many of the wanted records


def load_signals(
    archive: Archive,
    table: pa.Table,
    wanted: NDArray[np.bool_],
    spec: InputSpec,
    hop: int,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = SILENT,
) -> Signals:
    """Preprocess the `wanted` records of the archive; `table` has their `shard` and `row`.

    Beyond `memory_bytes` they go to a temporary file (in TMPDIR) that is gone when the array is. Unusable records are
    left out and counted by status. Raises UsageError when there is no room.
    """
    n_wanted = int(wanted.sum())
    x = _room((n_wanted, len(spec.leads), spec.length), memory_bytes, progress)
    shards = np.array(table.column("shard").to_pylist(), dtype=object)
    filled, rows, rejected = 0, [], Counter[str]()
    with progress.stage("read", n_wanted, "records") as stage:
        for shard in archive.shards:
            places = np.flatnonzero(shards == shard.key)
            if not wanted[places].any():
                continue
            seen: set[str] = set()
            for raw in archive.batches(shard, columns=[]):
                here = places[raw.first_row : raw.first_row + len(raw)]
                status, flags = check_batch(raw, seen)
                asked = [state if wanted[place] else NOT_ASKED for state, place in zip(status, here, strict=True)]
                prepared = prepare(raw, asked, flags, spec, hop)
                good = np.array([state == OK for state in prepared.status], dtype=bool)
                n_good = int(good.sum())
                x[filled : filled + n_good] = prepared.x[good]
                rows.append(here[good])
                filled += n_good
                rejected.update(state for state in prepared.status if state not in (OK, NOT_ASKED))
                stage.advance(int(wanted[here].sum()))
    return Signals(x[:filled], np.concatenate(rows) if rows else np.array([], np.intp), dict(rejected))


def _room(shape: Sequence[int], memory_bytes: int, progress: Progress) -> NDArray[np.float32]:
    size = int(np.prod(shape)) * 4
    if size <= memory_bytes:
        return np.empty(shape, np.float32)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size * 1.05:
        raise UsageError(
            f"the preprocessed signals take {size / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} GiB free; set "
            "TMPDIR to a larger disk, or train on fewer folds"
        )
    progress.say(f"keeping {size / 2**30:.1f} GiB of preprocessed signals in {folder} while training")
    # The nameless file lives as long as the mapping does, whatever ends the process.
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))
