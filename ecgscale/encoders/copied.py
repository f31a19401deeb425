"""An encoder copied to where it was used: the contract, the weights and what it has seen, nothing else."""

from __future__ import annotations

import shutil
from pathlib import Path

from ecgscale.encoders.spec import SPEC_FILE, encoder_files
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError
from ecgscale.places import Place
from ecgscale.store.directories import place_whole


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
