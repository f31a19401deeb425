"""What a dataset of explanations is identified by, besides archive, encoder and cluster model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from ecgscale.errors import UsageError

RESULTS_VERSION = 1
"""Raised whenever the facts computed from the same input change; a golden test guards it."""

EntropyDetail = Literal["none", "timestep"]
BATCH_RECORDS = 32


@dataclass(frozen=True)
class ExplainSettings:
    """Choices that change the bytes of an output file.

    entropy: "timestep" writes the entropy of every valid timestep beside the means of the segments
    batch: records in a forward pass; part of the identity since convolutions choose their arithmetic by shape
    include_padding: explain zero padding too, as the published method does literally
    dtype: arithmetic of the forward pass, as the cluster model was fitted
    """

    entropy: EntropyDetail = "none"
    batch: int = BATCH_RECORDS
    include_padding: bool = False
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.entropy not in ("none", "timestep"):
            raise UsageError(f"entropy {self.entropy!r} is neither 'none' nor 'timestep'")
        if self.batch < 1:
            raise UsageError(f"batch is {self.batch}; at least one record has to go through at a time")

    def to_dict(self) -> dict[str, Any]:
        """Plain facts, for identities and metadata."""
        return asdict(self)
