"""What workers of one run have to share of their devices, since results differ in the last bits between models."""

from __future__ import annotations

import torch


def device_kind(device: torch.device) -> str:
    """ "cpu", or a GPU's model: "cuda (NVIDIA L4)"."""
    return f"cuda ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else device.type
