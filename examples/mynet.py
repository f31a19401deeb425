"""A network as somebody else would have it: an ordinary `torch.nn.Module` that knows nothing of ecgscale."""

from __future__ import annotations

import torch
from torch import nn


def block(channels_in: int, channels_out: int) -> nn.Sequential:
    """A convolution that keeps the length, then a quarter of it."""
    convolution = nn.Conv1d(channels_in, channels_out, 9, padding=4)
    return nn.Sequential(convolution, nn.BatchNorm1d(channels_out), nn.ReLU(), nn.AvgPool1d(4))


class MyNet(nn.Module):
    """(records, leads, samples) to (records, classes): three blocks, the mean over time, a linear layer."""

    def __init__(self, n_leads: int, n_classes: int) -> None:
        super().__init__()
        self.early, self.middle, self.late = block(n_leads, 16), block(16, 32), block(32, 64)
        self.head = nn.Linear(64, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.late(self.middle(self.early(x)))
        return self.head(x.mean(-1))
