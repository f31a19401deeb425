"""Networks that bring their process down, or take their time; as factories of encoder directories."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ecgscale.encoders.resnet1d import ResNet1d
from tests.worlds.formula.small_networks import noise, write_archive, write_small_encoder

POISON_MV = 1000.0
"""No recording of a person has such a sample."""


class Poisoned(ResNet1d):
    """Ends the process at a recording with a sample of POISON_MV, as a bug in a native library would."""

    def forward(self, x: torch.Tensor) -> Any:
        if float(x.abs().amax()) >= POISON_MV:
            os._exit(9)
        return super().forward(x)


class Slow(ResNet1d):
    """A batch takes a while."""

    def forward(self, x: torch.Tensor) -> Any:
        time.sleep(0.25)
        return super().forward(x)


def encoder_of(network: type[ResNet1d], directory: Path) -> Path:
    """An encoder directory with this network."""
    return write_small_encoder(directory, seed=4, factory=f"{network.__module__}:{network.__name__}")


def recordings(path: Path, records: int, shard_records: int, poisoned: tuple[int, ...] = ()) -> Path:
    """An archive of noise, some of it poisoned; record i is "r<i>"."""
    signals = [noise(220, seed=i) for i in range(records)]
    for i in poisoned:
        signals[i] = signals[i].copy()
        signals[i][3, 100] = np.float32(POISON_MV)
    write_archive(path, [{"signal": signal} for signal in signals], shard_records=shard_records, archive_id="noise")
    return path
