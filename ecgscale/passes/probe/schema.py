"""What a probe run is asked to do, and the rows it writes: facts as the network gave them, nothing concluded yet."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from ecgscale.errors import UsageError, did_you_mean

PROBES_VERSION = 2
"""Raised whenever the facts of a probe run change for the same input."""

GRADCAM, DROPOUT, MASKING, RANDOMISATION, WAVES = "gradcam", "dropout", "masking", "randomisation", "waves"
OCCLUSION = "occlusion"
PROBES = (GRADCAM, DROPOUT, MASKING, OCCLUSION, RANDOMISATION, WAVES)
SILENCES = ("mean", "zeros")


@dataclass(frozen=True)
class ProbeSettings:
    """Choices that change the bytes of a probe file.

    sample: share of the records, chosen by a hash of seed and record id; batch: records in a forward pass
    dropout_passes: forward passes with dropout on; mask_shifts: moved masks beside each cluster's own
    wave_shifts: moved courses for the null of the latent space
    silence: what stands in a lead that is silenced: its own mean over what is valid, or zeros
    """

    probes: tuple[str, ...] = PROBES
    sample: float = 0.01
    seed: int = 0
    batch: int = 16
    dropout_passes: int = 20
    mask_shifts: int = 2
    wave_shifts: int = 200
    silence: str = "mean"

    def __post_init__(self) -> None:
        for name in self.probes:
            if name not in PROBES:
                raise UsageError(f"no probe {name!r}.{did_you_mean(name, PROBES)} There are: {', '.join(PROBES)}")
        if self.silence not in SILENCES:
            raise UsageError(f"silence {self.silence!r}: one of {', '.join(SILENCES)}")
        if not 0 < self.sample <= 1:
            raise UsageError(f"--sample {self.sample:g}: a share of the records, above 0 and at most 1")
        if min(self.batch, self.dropout_passes, self.mask_shifts, self.wave_shifts) < 1:
            raise UsageError("batch, dropout passes, mask shifts and wave shifts: at least 1 of each")

    def to_dict(self) -> dict[str, Any]:
        """Plain facts, for identities and metadata."""
        return {**asdict(self), "probes": list(self.probes)}


_SERIES, _MAPS = pa.list_(pa.float32()), pa.list_(pa.list_(pa.float32()))
_MASKED = {
    "cluster": pa.int16(),
    "share": pa.float32(),
    "entropy": pa.float32(),
    "gradcam": _SERIES,
    "prediction": _SERIES,
    "moved": _MAPS,
}
_OCCLUDED = {"lead": pa.string(), "prediction": _SERIES, "changed": pa.float32(), "lost": _SERIES}
_RANDOMISED = {"stage": pa.string(), "prediction": _SERIES, "entropy": _SERIES, "gradcam": _MAPS}
_PAIR = {"other": pa.string(), "wave": pa.string(), "dtw_mv": pa.float32(), "latent": pa.float32(), "shifted": _SERIES}

SCHEMA = pa.schema(
    {
        **dict.fromkeys(("record_id", "patient_id", "source_shard", "status"), pa.string()),
        **dict.fromkeys(("valid_start", "valid_stop"), pa.int32()),
        "prediction": _SERIES,
        "target": pa.int16(),
        "mean_entropy": pa.float32(),
        "entropy": _SERIES,
        "gradcam": _MAPS,
        "dropout": _MAPS,
        "votes": _SERIES,
        "masked": pa.list_(pa.struct(_MASKED)),
        "occluded": pa.list_(pa.struct(_OCCLUDED)),
        "randomised": pa.list_(pa.struct(_RANDOMISED)),
        "pairs": pa.list_(pa.struct(_PAIR)),
    }
)
"""One row a sampled record. Series over time have one value a step of the finest tapped layer, NaN outside the valid
span; `gradcam` has one list a tapped layer, of that layer's own length. `target` is the output that Grad-CAM and
masking are about: the largest one. What was not asked for, or could not be done, is null."""
EMPTY: dict[str, Any] = {field.name: None for field in SCHEMA}
