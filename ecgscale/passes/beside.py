"""What explanations refer to stands beside them: ROOT holds the encoder, the cluster model and the explanations."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.copied import copy_encoder
from ecgscale.encoders.taps import Encoder


def keep_beside(model: ClusterModel, encoder: Encoder, root: Path) -> None:
    """Copy `model` and its `encoder` to `root`/models and `root`/encoders, whole, unless they are there."""
    copy_encoder(encoder, root)
    final = root / "models" / model.model_id
    if model.directory is None or final.exists():
        return
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="_tmp-", dir=final.parent))
    try:
        shutil.copytree(model.directory, scratch / model.model_id)
        os.rename(scratch / model.model_id, final)
    except OSError:
        # Another process may have been faster.
        if not final.exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
