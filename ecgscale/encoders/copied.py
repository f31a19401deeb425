"""An encoder copied to where it was used: the contract, the weights and what it has seen, nothing else."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ecgscale.encoders.spec import SPEC_FILE
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import EncoderError


def copy_encoder(encoder: Encoder, root: Path) -> str:
    """Copy the encoder's contract, weights and list of seen records to `root`/encoders/<encoder_id>; its id."""
    if encoder.directory is None:
        raise EncoderError("this encoder was made in memory; write it to a directory first")
    final = root / "encoders" / encoder.encoder_id
    if final.exists() or encoder.directory.resolve() == final.resolve():
        return encoder.encoder_id
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="_tmp-", dir=final.parent))
    seen = encoder.spec.training.get("seen")
    try:
        for name in (SPEC_FILE, encoder.spec.weights, *([str(seen)] if seen else [])):
            (scratch / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(encoder.directory / name, scratch / name)
        scratch.chmod(0o755)
        os.rename(scratch, final)
    except OSError:
        if not final.exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return encoder.encoder_id
