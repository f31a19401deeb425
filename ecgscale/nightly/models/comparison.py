"""An old cluster model and a new one on the same timesteps: what stayed, what came, what went, and how alike they are.

Distances are between centroids. Shares, explained variances and the adjusted Rand index (Hubert and Arabie 1985) are of
one sample of timesteps that both models assign, so that they differ by the models alone and not by what either was
fitted on.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from sklearn.metrics import adjusted_rand_score

from ecgscale.archive.reader import Archive
from ecgscale.clusters.matching import Matching, square_distances
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import ModelError, ShardError, UsageError
from ecgscale.io.numbered import read_document
from ecgscale.io.places import Place
from ecgscale.passes.features import extract
from ecgscale.passes.stream import StreamSettings
from ecgscale.progress import SILENT, Progress

COMPARISON_FILE = "comparison.json"
SAMPLE_RECORDS = 500
SAMPLE_TIMESTEPS = 20_000
SAMPLE_SHARDS = 64
"""At most so many shards are opened for the sample."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Persisting(_Frozen):
    """One cluster in both models.

    distance: between its centroids; relative: that, as a share of the way to the old centroid's nearest neighbour
    share_old, share_new: of the sample's timesteps under either model
    kept: share of the timesteps that the old model puts here that the new one does too; None without any
    """

    old: int
    new: int
    distance: float
    relative: float | None
    share_old: float
    share_new: float
    kept: float | None


class Alone(_Frozen):
    """A cluster of one model (`id` in it) without a counterpart, and the nearest cluster of the other; `relative` as in
    `Persisting`, in units of the old model's spacing."""

    id: int
    share: float
    nearest: int
    distance: float
    relative: float | None


class Side(_Frozen):
    """One of the two models. `explained_variance` is on the sample, `explained_variance_of_fit` on what it was fitted
    on, of which `records` took part."""

    model_id: str
    digest: str
    n_clusters: int
    records: int
    explained_variance: float
    explained_variance_of_fit: float


class Sample(_Frozen):
    """What both models assigned: so many timesteps of so many recordings, drawn with `seed`."""

    records: int
    timesteps: int
    seed: int


class Comparison(_Frozen):
    """What is written alongside the new model. Lists are in the order of ids; `ari` is 1 for equal partitions, 0 for
    chance.

    `largest_relative` is the share of the spacing under which a cluster persists.
    """

    version: Literal[1] = 1
    old: Side
    new: Side
    largest_relative: float
    persisting: tuple[Persisting, ...]
    births: tuple[Alone, ...]
    deaths: tuple[Alone, ...]
    ari: float
    sample: Sample


def common_sample(
    archive: Archive, encoder: Encoder, model: ClusterModel, seed: int, progress: Progress = SILENT
) -> tuple[NDArray[np.float32], Sample]:
    """Feature vectors (n, C) of a seeded sample of recordings, run through the network once; padding as `model` has it.

    Raises `UsageError` when none of the recordings can be used. Shards that cannot be read are named and left out.
    """
    wanted = _drawn(archive, seed, progress)
    extracted = extract(archive, encoder, wanted, StreamSettings.of(model.info), progress)
    features = extracted.of(np.arange(extracted.n_records)).sample(SAMPLE_TIMESTEPS, seed)
    if not len(features):
        raise UsageError(f"{archive.path}: none of the {extracted.n_records} sampled records has a valid timestep")
    return features, Sample(records=extracted.n_records, timesteps=len(features), seed=seed)


def compare(
    old: ClusterModel,
    new: ClusterModel,
    matching: Matching,
    features: NDArray[np.float32],
    sample: Sample,
    largest_relative: float,
) -> Comparison:
    """Compare two models on feature vectors (n, C); `new` has its clusters under the ids of `matching` already."""
    labels_old, inertia_old = _assigned(features, old.centroids)
    labels_new, inertia_new = _assigned(features, new.centroids)
    total = float(((features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)) ** 2).sum())
    together = np.zeros((old.n_clusters, new.n_clusters), np.int64)
    np.add.at(together, (labels_old, labels_new), 1)
    share_old, share_new = together.sum(axis=1) / len(features), together.sum(axis=0) / len(features)

    def persists(i: int, j: int) -> Persisting:
        there = int(together[i].sum())
        return Persisting(
            old=i,
            new=j,
            distance=float(matching.distance[i, j]),
            relative=matching.relative(i, j),
            share_old=float(share_old[i]),
            share_new=float(share_new[j]),
            kept=float(together[i, j] / there) if there else None,
        )

    def alone(old_id: int, new_id: int, born: bool) -> Alone:
        """A birth or a death, and the nearest cluster of the other side."""
        own, nearest, share = (new_id, old_id, share_new) if born else (old_id, new_id, share_old)
        distance, relative = float(matching.distance[old_id, new_id]), matching.relative(old_id, new_id)
        return Alone(id=own, share=float(share[own]), nearest=nearest, distance=distance, relative=relative)

    nearest_old, nearest_new = matching.distance.argmin(axis=0), matching.distance.argmin(axis=1)
    return Comparison(
        old=_side(old, inertia_old, total),
        new=_side(new, inertia_new, total),
        largest_relative=largest_relative,
        persisting=tuple(persists(i, j) for i, j in matching.persisting.items()),
        births=tuple(alone(int(nearest_old[j]), j, born=True) for j in matching.births),
        deaths=tuple(alone(i, int(nearest_new[i]), born=False) for i in matching.deaths),
        ari=float(adjusted_rand_score(labels_old, labels_new)),
        sample=sample,
    )


def read_comparison(model_dir: Place) -> Comparison:
    """What was written alongside a new model; `ModelError` when it is not there or not what ecgscale writes."""
    path = model_dir / COMPARISON_FILE
    try:
        return Comparison.model_validate(read_document(model_dir, COMPARISON_FILE))
    except (FileNotFoundError, ValueError) as error:
        raise ModelError(
            f"{path} cannot be read ({error}). Remove {model_dir} and type `ecgscale refit` again: the same model and "
            "comparison are made from the finished fit"
        ) from error


def _drawn(archive: Archive, seed: int, progress: Progress) -> dict[str, list[str]]:
    """Record ids by shard: SAMPLE_RECORDS of at most SAMPLE_SHARDS shards."""
    rng = np.random.default_rng([seed, 5])
    chosen = rng.permutation(len(archive.shards))[:SAMPLE_SHARDS]
    names: list[tuple[str, str]] = []
    for shard in (archive.shards[i] for i in np.sort(chosen)):
        try:
            ids = archive.shard_metadata(shard, ["record_id"]).column("record_id").to_pylist()
        except ShardError as error:
            progress.say(f"left out of the comparison: {error}")
            continue
        names += [(shard.key, record) for record in dict.fromkeys(ids) if record]
    wanted: dict[str, list[str]] = {}
    for at in np.sort(rng.permutation(len(names))[:SAMPLE_RECORDS]):
        key, record = names[at]
        wanted.setdefault(key, []).append(record)
    return wanted


def _assigned(features: NDArray[np.float32], centroids: NDArray[np.float32]) -> tuple[NDArray[np.int64], float]:
    """Labels (n,), the lowest id on ties, and the summed squared distance to the nearest centroid."""
    squared = square_distances(features, centroids)
    return squared.argmin(axis=1), float(squared.min(axis=1).sum())


def _side(model: ClusterModel, inertia: float, total: float) -> Side:
    return Side(
        model_id=model.model_id,
        digest=model.digest,
        n_clusters=model.n_clusters,
        records=int(model.info["records_used"]),
        explained_variance=1.0 - inertia / total if total > 0 else 0.0,
        explained_variance_of_fit=float(model.info["explained_variance"]),
    )
