"""The recordings behind a published dataset: its archive, and a seeded choice of its records.

Records apart by what had seen them before: only those that nothing has seen say what new recordings will bring.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.evaluate.seen import FEWEST_TEST, Seen
from ecgscale.store.manifest import Manifest

NEIGHBOURS = 32
"""Records that are drawn together: they lie in one row group, so that a choice does not read the whole archive."""


def open_source(manifest: Manifest, moved_to: str | Path | None) -> tuple[Archive | None, str]:
    """(the archive that was explained, "") or (None, why it cannot be opened).

    Raises `ArchiveError` or `UsageError` when `moved_to` is given and is no archive, or another one.
    """
    facts = manifest.content.archive
    try:
        archive = Archive.open(moved_to if moved_to is not None else facts.path)
    except ArchiveError as error:
        if moved_to is not None:
            raise
        return None, f"{error} (it was explained there). If it moved, say where it is now: --archive"
    if archive.archive_id == facts.archive_id:
        return archive, ""
    told = (
        f"{archive.path} is archive {archive.archive_id}; explained was {facts.archive_id}. "
        "Give the one that was explained (--archive), or explain this one."
    )
    if moved_to is not None:
        raise UsageError(told)
    return None, told


def draw_records(n_there: int, n: int | None, seed: int) -> NDArray[np.int64]:
    """Sorted numbers of `n` of `n_there` records (all for None), drawn as stretches of NEIGHBOURS."""
    if n is None or n >= n_there:
        return np.arange(n_there)
    starts = np.arange(0, n_there, NEIGHBOURS)
    drawn = np.random.default_rng([seed, 7]).permutation(starts)[:, None] + np.arange(NEIGHBOURS)
    return np.sort(drawn[drawn < n_there][:n])


def left_out(explanations: pyarrow.dataset.Dataset) -> list[str]:
    """A remark on the quarantined records of a dataset, which no evaluation can look at; none where there are none."""
    quarantined = explanations.count_rows(filter=pc.field("status") != "ok")
    return [f"{quarantined} quarantined records are left out"] if quarantined else []


def by_shard(explanations: pa.Table) -> dict[str, list[str]]:
    """Shard key → record ids of these explained records."""
    found: dict[str, list[str]] = defaultdict(list)
    shards, names = (explanations.column(name).to_pylist() for name in ("source_shard", "record_id"))
    for shard, name in zip(shards, names, strict=True):
        found[shard].append(name)
    return dict(found)


NEITHER, CLUSTERS, ENCODER, ALL = "neither", "clusters", "encoder", "all"

TOLD = {
    NEITHER: "seen by neither encoder nor K-means",
    CLUSTERS: "seen by K-means, not by the encoder",
    ENCODER: "seen by the encoder",
    ALL: "all records scored",
}


def groups_of(scored: NDArray[np.bool_], seen: Seen | None) -> dict[str, NDArray[np.bool_]]:
    """Name → which of N records; "encoder", "clusters" and "neither" share nothing, "all" is everything scored.

    Of those three, the ones that can be told: without lists of what was seen there is "all" alone. Empty ones are left
    out.
    """
    groups = {ALL: scored}
    if seen is not None and seen.encoder is not None:
        groups[ENCODER] = scored & seen.encoder
        if seen.clusters is not None:
            groups[CLUSTERS] = scored & seen.clusters & ~seen.encoder
            groups[NEITHER] = scored & ~seen.clusters & ~seen.encoder
    return {name: groups[name] for name in (NEITHER, CLUSTERS, ENCODER, ALL) if name in groups and groups[name].any()}


def headline_of(groups: dict[str, NDArray[np.bool_]]) -> tuple[str, str | None]:
    """The group whose scores come first, and what has to be said about that.

    Records seen by neither; where they are fewer than FEWEST_TEST, those seen by K-means alone (it learns no labels);
    else all.
    """
    for name in (NEITHER, CLUSTERS):
        if name in groups and groups[name].sum() >= FEWEST_TEST:
            told = None if name == NEITHER else (
                "too few of the records scored are new to K-means: the headline is of records that K-means has seen "
                "and the encoder has not"
            )  # fmt: skip
            return name, told
    if ENCODER in groups:
        return ALL, (
            "too few of the records scored are new to the encoder: the headline is of records that it has learnt, "
            "and says little about others"
        )
    return ALL, "what encoder and K-means had seen is not known: the headline is of all records scored"
