"""What goes over from a dataset and its cluster model to their successors: decisions on shards, the nights that the
gates remember, and names of clusters.

All of it is about what is the same in both: the content of a shard, the night when it came, a cluster that persists.

A fit's clusters under the ids of an earlier model, and the record of that in model.json.

    "refit_of": {"model_id": …, "digest": …, "clusters": [0, 1, null, 3], "fit": …, "order": [2, 0, 3, 1], "request": …}

`clusters` says of each cluster which of the earlier model it is (null: a birth), `order` which it was in the fit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ecgscale.clusters.matching import PERSISTS, Matching
from ecgscale.clusters.model import ClusterModel
from ecgscale.io.numbered import to_json
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.nightly.gates.gatekeeper import NIGHTS
from ecgscale.report.subject import NAMES_FILE, read_names
from ecgscale.store.holds import hold_name, holds

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


def carry_holds(earlier: ObjectStore, later: ObjectStore) -> int:
    """Hold back in `later` what is held back or was decided on in `earlier`; how many records were written.

    What was decided in `later` itself stands. Commit records are named by their source, so they have one name in both.
    """
    standing = holds(later)
    written = 0
    for identity, hold in holds(earlier).items():
        there = standing.get(identity)
        if there is None:
            written += later.put_if_absent(hold_name(hold.source), to_json(hold))
        elif hold.decisions and not there.decisions:
            later.put(hold_name(hold.source), to_json(hold))
            written += 1
    return written


def published_though_held(later: ObjectStore, published: Mapping[str, str]) -> list[str]:
    """Keys of published shards (key → content digest) that are held back or rejected by now."""
    held = [identity for identity, hold in holds(later).items() if hold.state != "released"]
    return sorted(key for key, content in held if published.get(key) == content)


def carry_nights(earlier: ObjectStore, later: ObjectStore) -> int:
    """Let the gates of `later` know the nights of `earlier`: what came, and when; how many were written.

    Without them they would have to learn anew what is usual, and judge nothing meanwhile.
    """
    written = 0
    for name in earlier.list_prefix(NIGHTS):
        night = earlier.read(name)
        written += night is not None and later.put_if_absent(name, night)
    return written


def carry_names(earlier: ClusterModel, later: ClusterModel) -> dict[int, str]:
    """Give persisting clusters of `later`, a refit of `earlier`, the names that they have there; all names of `later`.

    A cluster that was named in `later` keeps that name, and one that died takes its own with it.
    """
    assert later.directory is not None
    standing = read_names(later.directory, later.n_clusters)
    names = names_of_persisting(earlier, later) | standing
    if names != standing:
        open_objects(later.directory).put(NAMES_FILE, names_json(later.model_id, names).encode())
    return names


def names_of_persisting(earlier: ClusterModel, later: ClusterModel) -> dict[int, str]:
    """Names in `earlier` of clusters that `later`, a refit of it, has too, by their ids in `later`."""
    assert earlier.directory is not None
    names = read_names(earlier.directory, earlier.n_clusters)
    origin: list[int | None] = later.info[LINEAGE]["clusters"]
    return {new: names[old] for new, old in enumerate(origin) if old is not None and old in names}


def names_json(model_id: str, names: Mapping[int, str]) -> str:
    """The text of a names.json."""
    by_id = {str(cluster): name for cluster, name in sorted(names.items())}
    return json.dumps({"model_id": model_id, "names": by_id}, indent=2, ensure_ascii=False) + "\n"
