"""Baselines of a published dataset that need its archive again: from its signals, and from its network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from ecgscale.archive.reader import Archive
from ecgscale.evaluate.published import Published, by_shard, draw_records
from ecgscale.evaluate.surrogate.baselines import Baseline
from ecgscale.evaluate.surrogate.signal_features import signal_baselines
from ecgscale.evaluate.surrogate.surrogate import ExplainedRecords
from ecgscale.passes.features import network_features
from ecgscale.progress import SILENT, Progress

WORDS = {
    "pooled": "mean activations of the tapped blocks: the ceiling",
    "random_timesteps": "proportions under timesteps drawn at random",
    "random_centroids": "proportions under Gaussian centroids",
    "random_weights": "proportions of the network with random weights",
}

FEWEST_FITTED = 20


def archive_baselines(
    published: Published,
    data: ExplainedRecords,
    archive: Path | None = None,
    *,
    with_network: bool = False,
    records: int = 2000,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = SILENT,
) -> dict[str, Baseline]:
    """Baselines of a seeded sample of at most so many records; none, and a word about it, where the archive is gone."""
    opened, note = published.archive(archive)
    if opened is None:
        progress.say(f"no baselines from signals: {note}")
        return {}
    table = data.table
    rows = draw_records(table.num_rows, records, seed)
    wanted = by_shard(table.take(pa.array(rows)))
    ids = [str(record) for record in table.column("record_id").to_pylist()]
    found = signal_baselines(opened, published.spec.input, ids, wanted, seed, progress)
    if with_network:
        progress.say(f"{len(rows)} records go through the network again, and through one with random weights")
        found |= _from_network(published, data, opened, ids, wanted, seed, device, progress)
    return found


def _from_network(
    published: Published,
    data: ExplainedRecords,
    archive: Archive,
    ids: list[str],
    wanted: dict[str, list[str]],
    seed: int,
    device: str,
    progress: Progress,
) -> dict[str, Baseline]:
    """Those of `passes.network_features`; centroids come from records that K-means had seen, if there are enough."""
    chosen = [record for records in wanted.values() for record in records]
    seen = data.seen.clusters if data.seen else None
    known = {ids[i] for i in np.flatnonzero(seen)} if seen is not None else set()
    fitting = [record for record in chosen if record in known]
    made = network_features(
        archive,
        published.encoder_dir,
        wanted,
        fitting if len(fitting) >= FEWEST_FITTED else chosen,
        published.model.n_clusters,
        seed=seed,
        device=device,
        include_padding=bool(published.model.info.get("include_padding", False)),
        progress=progress,
    )
    number = {record: i for i, record in enumerate(ids)}
    found = {}
    for features in made:
        at = np.array([number[record] for record in features.record_ids])
        has = np.zeros(len(ids), dtype=bool)
        has[at] = True
        for name, values in features.by_name.items():
            x = np.zeros((len(ids), values.shape[1]), np.float32)
            x[at] = values
            found[name] = Baseline(WORDS[name], x, has)
    return found
