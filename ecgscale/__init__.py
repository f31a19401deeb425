"""ecgscale: what a neural network sees in a million ECGs.

    WFDB / HDF5 → archive → encoder → cluster model → explanations → surrogate, pictures, queries

    archive     recordings at rest: sharded Parquet, one row a record
    encoders    a trained 1D CNN with its input contract, and taps on its last blocks
    clusters    exact K-means over every timestep, without ever computing a feature vector
    explain     segments, entropy, proportions of each record under a frozen model
    store       committed exactly once, published as numbered manifests
    passes      fit and explain over a whole archive
    evaluate    do the proportions hold what the network decides on?
    report      recordings on ECG paper with their clusters

The names below are the public ones; they are imported when they are first used, so `import ecgscale` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgscale.archive.reader import Archive as Archive
    from ecgscale.clusters.model import ClusterModel as ClusterModel
    from ecgscale.encoders.contract import save_encoder as save_encoder
    from ecgscale.encoders.resnet1d import ResNet1d as ResNet1d
    from ecgscale.encoders.taps import Encoder as Encoder
    from ecgscale.explain.record import explain_record as explain_record
    from ecgscale.passes.explain.explain import explain_archive as explain_archive
    from ecgscale.passes.fit.fit import fit_archive as fit_archive
    from ecgscale.store.dataset import open_explanations as open_explanations

_PUBLIC = {
    "Archive": "ecgscale.archive.reader",
    "ClusterModel": "ecgscale.clusters.model",
    "Encoder": "ecgscale.encoders.taps",
    "ResNet1d": "ecgscale.encoders.resnet1d",
    "explain_archive": "ecgscale.passes.explain.explain",
    "explain_record": "ecgscale.explain.record",
    "fit_archive": "ecgscale.passes.fit.fit",
    "open_explanations": "ecgscale.store.dataset",
    "save_encoder": "ecgscale.encoders.contract",
}

__all__ = [  # noqa: RUF022 - in the order of the pipeline
    "Archive",
    "Encoder",
    "ResNet1d",
    "save_encoder",
    "fit_archive",
    "ClusterModel",
    "explain_archive",
    "explain_record",
    "open_explanations",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'ecgscale' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PUBLIC])
