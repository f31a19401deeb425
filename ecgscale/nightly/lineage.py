"""A fit's clusters under the ids of an earlier model, and the record of that in model.json.

    "refit_of": {"model_id": …, "digest": …, "clusters": [0, 1, null, 3], "fit": …, "order": [2, 0, 3, 1], "request": …}

`clusters` says of each cluster which of the earlier model it is (null: a birth), `order` which it was in the fit.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from ecgscale.clusters.matching import PERSISTS, Matching
from ecgscale.clusters.model import ClusterModel

LINEAGE = "refit_of"
REFIT_VERSION = 1
"""Raised when the same fit and the same old model would give other ids; part of the new model's id."""


def under_old_ids(fit: ClusterModel, matching: Matching, old: ClusterModel, asked: str = "") -> ClusterModel:
    """The model `fit` with its clusters in the order of `matching`, not saved yet; nothing else changes.

    Its id is of the fit and of the model that it has its ids from; `asked`, a digest of the request, is kept with the
    lineage.
    """
    deciding = [REFIT_VERSION, PERSISTS, fit.model_id, fit.digest, old.model_id, old.digest]
    digest = hashlib.sha256(json.dumps(deciding).encode()).hexdigest()
    order = [int(k) for k in matching.order]
    by_fit = {k: new for new, k in enumerate(order)}
    info: dict[str, Any] = dict(fit.info)
    info["model_id"] = f"k{fit.n_clusters}-{digest[:12]}" + ("-torn" if fit.model_id.endswith("-torn") else "")
    shares = fit.info["reference"]["proportions"]
    info["reference"] = {**fit.info["reference"], "proportions": [shares[k] for k in order]}
    empty = fit.info["diagnostics"]["nearly_empty"]
    info["diagnostics"] = {**fit.info["diagnostics"], "nearly_empty": sorted(by_fit[k] for k in empty)}
    info[LINEAGE] = {
        "model_id": old.model_id,
        "digest": old.digest,
        "clusters": list(matching.origin),
        "fit": fit.model_id,
        "order": order,
        "request": asked,
    }
    return replace(
        fit, centroids=fit.centroids[matching.order], counts=fit.counts[matching.order], info=info, directory=None
    )


def is_refit_of(later: ClusterModel, earlier: ClusterModel) -> bool:
    """Whether `later` has its ids from `earlier`."""
    lineage = later.info.get(LINEAGE)
    return lineage is not None and (lineage["model_id"], lineage["digest"]) == (earlier.model_id, earlier.digest)
