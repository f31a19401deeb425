"""What a user asks of a fit: typed, checked once, handed to every worker."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ecgscale.clusters.kmeans import FitSettings
from ecgscale.clusters.model import MIN_TAU
from ecgscale.encoders.taps import Precision
from ecgscale.errors import UsageError


@dataclass(frozen=True)
class FitRequest:
    """What a user asks of `ecgscale fit`; `gamma` and `tau` as in docs/method.md (tau None: the rule for gamma)."""

    clusters: tuple[int, ...] = (20,)
    folds: tuple[int, ...] | None = None
    records: int | None = None
    settings: FitSettings = field(default_factory=FitSettings)
    gamma: Literal[1, 2] = 2
    tau: float | None = None
    batch: int = 32
    device: str = "auto"
    include_padding: bool = False
    precision: Precision = "float32"
    cache_dtype: Literal["float32", "float16"] = "float32"
    memory: int | None = None
    scratch: Path | None = None

    def __post_init__(self) -> None:
        if not self.clusters:
            raise UsageError("--clusters names no number of clusters")
        for k in self.clusters:
            if not 2 <= k <= 512:
                raise UsageError(f"--clusters {k}: between 2 and 512 clusters can be fitted")
        if len(set(self.clusters)) < len(self.clusters):
            raise UsageError(f"--clusters names a number twice: {', '.join(map(str, self.clusters))}")
        if self.tau is not None and not MIN_TAU <= self.tau < math.inf:
            raise UsageError(
                f"--tau {self.tau}: a temperature is a number from {MIN_TAU} on; below it, every soft assignment would"
                " be 0 or 1, and infinity would make all of them equal"
            )
