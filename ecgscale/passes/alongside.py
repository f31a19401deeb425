"""What explanations refer to stands alongside them: ROOT holds the encoder (its contract, weights and what it has seen,
nothing else), the cluster model and the explanations.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import SPEC_FILE, encoder_files
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from ecgscale.io.places import Place, local_copy, place_whole


def copy_encoder(encoder: Encoder, root: Place) -> str:
    """Copy the encoder's files to `root`/encoders/<encoder_id>, unless they are there; its id."""
    directory = encoder.directory
    if directory is None:
        raise EncoderError("this encoder was made in memory; write it to a directory first")

    def fill(scratch: Path) -> None:
        for source in encoder_files(directory):
            target = scratch / source.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)

    place_whole(root / "encoders" / encoder.encoder_id, fill, last=SPEC_FILE)
    return encoder.encoder_id


def keep_alongside(model: ClusterModel, encoder: Encoder, root: Place) -> None:
    """Copy `model` and its `encoder` to `root`/models and `root`/encoders, whole, unless they are there."""
    copy_encoder(encoder, root)
    source = model.directory
    if source is not None:
        place_whole(
            root / "models" / model.model_id,
            lambda scratch: shutil.copytree(local_copy(source), scratch, dirs_exist_ok=True),
            last="model.json",
        )
