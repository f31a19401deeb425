"""Baselines of a published dataset that need its archive again: from its signals, and from its network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive
from ecgscale.errors import ArchiveError
from ecgscale.evaluate.baselines import Baseline
from ecgscale.evaluate.published import PublishedRecords
from ecgscale.evaluate.signal_features import signal_baselines
from ecgscale.passes.network_features import network_features
from ecgscale.progress import SILENT, Progress

TOLD = {
    "pooled": "mean activations of the tapped blocks: the ceiling",
    "random_timesteps": "proportions under timesteps drawn at random",
    "random_centroids": "proportions under Gaussian centroids",
    "random_weights": "proportions of the network with random weights",
}

FEWEST_FITTED = 20


def archive_baselines(
    published: PublishedRecords,
    archive: Path | None = None,
    *,
    with_network: bool = False,
    records: int = 2000,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = SILENT,
) -> dict[str, Baseline]:
    """Baselines of a seeded sample of at most so many records; none, and a word about it, where the archive is gone."""
    path = archive or published.archive_path
    try:
        opened = Archive.open(path)
    except ArchiveError as error:
        progress.say(f"no baselines from signals: {error}; if it moved, give --archive")
        return {}
    ids = [str(record) for record in published.data.table.column("record_id").to_pylist()]
    chosen = _drawn(len(ids), records, seed)
    found = signal_baselines(opened, published.spec.input, ids, chosen, seed, progress)
    if with_network:
        found |= _from_network(published, opened, ids, chosen, seed, device, progress)
    return found


def _from_network(
    published: PublishedRecords,
    archive: Archive,
    ids: list[str],
    chosen: NDArray[np.bool_],
    seed: int,
    device: str,
    progress: Progress,
) -> dict[str, Baseline]:
    """Those of `passes.network_features`; centroids come from records that K-means had seen, if there are enough."""
    seen = published.data.seen
    fitting = chosen & seen.clusters if seen is not None and seen.clusters is not None else chosen
    if fitting.sum() < FEWEST_FITTED:
        fitting = chosen
    progress.say(f"{chosen.sum()} records go through the network again, and through one with random weights")
    made = network_features(
        archive,
        published.encoder_dir,
        [ids[i] for i in np.flatnonzero(chosen)],
        [ids[i] for i in np.flatnonzero(fitting)],
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
            found[name] = Baseline(TOLD[name], x, has)
    return found


def _drawn(n: int, most: int, seed: int) -> NDArray[np.bool_]:
    chosen = np.ones(n, dtype=bool)
    if n > most:
        chosen[np.random.default_rng([seed, 9]).permutation(n)[most:]] = False
    return chosen
