"""Loaded once before nights are forked: libraries, and the kernels and the network as a first call leaves them.

One thread throughout: others would not be there after a fork.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import botocore.session
import moto.server  # noqa: F401
import s3fs  # noqa: F401
import torch
import upath  # noqa: F401

import ecgscale.nightly.night
import ecgscale.passes.explain_worker  # noqa: F401
import tests.e2e.faulty  # noqa: F401
from tests.nightly.nights import new_world

torch.set_num_threads(1)
botocore.session.get_session().create_client("s3", region_name="us-east-1")
with tempfile.TemporaryDirectory() as _folder:
    new_world(_folder, Path(_folder)).night()
