"""What explanations refer to stands beside them: ROOT holds the encoder, the cluster model and the explanations."""

from __future__ import annotations

import shutil

from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.copied import copy_encoder
from ecgscale.encoders.taps import Encoder
from ecgscale.places import Place, local_copy
from ecgscale.store.directories import place_whole


def keep_beside(model: ClusterModel, encoder: Encoder, root: Place) -> None:
    """Copy `model` and its `encoder` to `root`/models and `root`/encoders, whole, unless they are there."""
    copy_encoder(encoder, root)
    source = model.directory
    if source is not None:
        place_whole(
            root / "models" / model.model_id,
            lambda scratch: shutil.copytree(local_copy(source), scratch, dirs_exist_ok=True),
            last="model.json",
        )
