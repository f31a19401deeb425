"""The script one writes for a paper: the same explanations from pandas, torch, scikit-learn and a few loops.

Batches of 32 recordings, forward hooks, `F.interpolate`, dense features, `KMeans.predict`, a softmax over distances,
run lengths, `to_parquet`. Written as well as such scripts are: everything is vectorised but the loop over recordings.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.cluster import KMeans

BATCH = 32
COLUMNS = ["record_id", "signal", "units_per_mv", "superclasses"]


def fitted_kmeans(centroids: NDArray[np.float32]) -> KMeans:
    """A scikit-learn KMeans with these centroids."""
    kmeans = KMeans(len(centroids), init=centroids, n_init=1, max_iter=1).fit(centroids)
    kmeans.cluster_centers_ = centroids
    return kmeans


def explain_with_the_usual_libraries(
    archive: Path, model: torch.nn.Module, layers: dict[str, float], kmeans: KMeans, tau: float, out: Path
) -> pd.DataFrame:
    """Explain all recordings of an archive of 12 × D int16 signals; `layers` maps names to depth scales."""
    caught: dict[str, torch.Tensor] = {}

    def catch(name: str) -> Any:
        def hook(_module: Any, _input: Any, output: Any) -> None:
            caught[name] = output[0]

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(catch(name)) for name in layers]
    rows: list[dict[str, Any]] = []
    for part in sorted(archive.glob("part-*.parquet")):
        table = pd.read_parquet(part, columns=COLUMNS)
        for first in range(0, len(table), BATCH):
            batch = table.iloc[first : first + BATCH]
            signals = np.stack(batch["signal"].to_list()).reshape(len(batch), 12, -1)
            x = signals / batch["units_per_mv"].to_numpy()[:, None, None]
            with torch.inference_mode():
                predictions = model(torch.from_numpy(x.astype(np.float32))).numpy()
                features = dense_features(caught, layers, x.shape[-1])
            for record, prediction, feature in zip(batch.itertuples(), predictions, features.numpy(), strict=True):
                found = explain_one(np.ascontiguousarray(feature.T), kmeans, tau)
                known = {"record_id": record.record_id, "superclasses": record.superclasses}
                rows.append({**known, "prediction": prediction, **found})
    for hook in hooks:
        hook.remove()
    result = pd.DataFrame(rows)
    result.to_parquet(out)
    return result


def dense_features(caught: dict[str, torch.Tensor], layers: dict[str, float], n_steps: int) -> torch.Tensor:
    """(N, C, D): interpolate, normalise over channels, scale, concatenate."""
    parts = []
    for name, scale in layers.items():
        z = F.interpolate(caught[name], size=n_steps, mode="linear", align_corners=False)
        parts.append(scale * F.normalize(z, dim=1))
    return torch.cat(parts, dim=1)


def explain_one(feature: NDArray[np.float32], kmeans: KMeans, tau: float) -> dict[str, Any]:
    """Proportions, entropies and segments of one recording's (D, C) features."""
    n_clusters = len(kmeans.cluster_centers_)
    labels = kmeans.predict(feature)
    energy = kmeans.transform(feature) ** 2 / tau
    p = np.exp(energy.min(axis=1, keepdims=True) - energy)
    p /= p.sum(axis=1, keepdims=True)
    entropy = -(p * np.log(np.maximum(p, 1e-30))).sum(axis=1) / np.log(n_clusters)
    edges = np.concatenate([[0], np.flatnonzero(np.diff(labels)) + 1, [len(labels)]])
    segments = [
        {"start": a, "stop": b, "cluster": int(labels[a]), "entropy": float(entropy[a:b].mean())}
        for a, b in pairwise(edges.tolist())
    ]
    return {
        "proportions": np.bincount(labels, minlength=n_clusters) / len(labels),
        "soft_proportions": p.mean(axis=0),
        "mean_entropy": float(entropy.mean()),
        "segments": segments,
    }
