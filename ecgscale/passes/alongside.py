"""What explanations refer to stands alongside them: ROOT holds the encoder (its contract, weights and what it has seen,
nothing else), the cluster model and the explanations.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from ecgscale.clusters.model import MODEL_FILE, ClusterModel
from ecgscale.encoders.spec import SPEC_FILE, encoder_files, encoder_parts
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError, ModelError
from ecgscale.explain.facts import require_encoder
from ecgscale.io.places import Place, absolute, local_copy, place_whole


def copy_encoder(encoder: Encoder, root: Place) -> str:
    """Copy the encoder's files to `root`/encoders/<encoder_id>, unless they are there; its id."""
    directory = encoder.directory
    if directory is None:
        raise EncoderError("this encoder was made in memory; write it to a directory first")

    def fill(scratch: Path) -> None:
        for source in encoder_files(directory):
            target = scratch / source.relative_to(directory)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(source, target)
            except OSError as error:
                raise EncoderError(f"{source}, which encoder.toml names, cannot be copied: {error.strerror}") from error

    there = place_whole(root / "encoders" / encoder.encoder_id, fill, last=SPEC_FILE)
    parts = encoder.parts
    if parts is not None and there != directory and encoder_parts(there).files != parts.files:
        raise EncoderError(
            f"{there} was changed: it is not the encoder that it is named after. Remove that folder, and the same "
            f"command copies {directory} there again"
        )
    return encoder.encoder_id


def keep_alongside(model: ClusterModel, encoder: Encoder, root: Place) -> None:
    """Copy `model` and its `encoder` to `root`/models and `root`/encoders, whole, unless they are there."""
    copy_encoder(encoder, root)
    source = model.directory
    if source is not None:
        place_whole(
            root / "models" / model.model_id,
            lambda scratch: shutil.copytree(local_copy(source), scratch, dirs_exist_ok=True),
            last=MODEL_FILE,
        )
        require_alongside(model, root)


def require_alongside(model: ClusterModel, root: Place) -> None:
    """Raise `ModelError` when the copies below ROOT that explanations refer to, if there are some and `model` is not
    itself the one, are not `model` and its encoder."""
    there = root / "models" / model.model_id
    itself = model.directory is not None and absolute(there) == absolute(model.directory)
    if not itself and (there / MODEL_FILE).exists():
        copy = ClusterModel.load(there)
        if copy.digest != model.digest:
            raise ModelError(
                f"{there} is another model than {model.directory}, under the same id. Move one of them away: nothing "
                "was done"
            )
        require_encoder(copy)
