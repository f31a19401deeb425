"""The 1D residual network of the CODE studies: the reference encoder.

Same modules, names, shapes and arithmetic as the network published with Lima et al. 2021 ("Deep neural network
estimated electrocardiographic age as a mortality predictor", after Ribeiro et al. 2020), so that its `state_dict`
loads as it is. Each residual block keeps two streams (He et al. 2016, "Identity mappings"): the sum y = conv2 + skip
before, and x = relu(bn2(y)) after activation; it returns both.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval


def _stride(n_in: int, n_out: int, where: str) -> int:
    if not 0 < n_out <= n_in or n_in % n_out:
        raise ValueError(
            f"{where}: {n_in} samples cannot become {n_out}; the number of samples may only shrink by integer factors"
        )
    return n_in // n_out


def _same_padding(kernel_size: int, stride: int) -> int:
    """Zeros on both sides so that n samples become n / stride (the published rule, floor((k - stride + 1) / 2))."""
    return max(0, (kernel_size - stride + 1) // 2)


class ResBlock1d(nn.Module):
    """Two convolutions beside a max-pooled skip; the second one carries the stride.

    `forward(x, y)` takes and returns the activated stream x and the raw sum y, (B, C_in, L_in) → (B, C_out, L_out).
    """

    def __init__(self, n_in: int, n_out: int, stride: int, kernel_size: int, dropout_rate: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(n_in, n_out, kernel_size, padding=_same_padding(kernel_size, 1), bias=False)
        self.bn1: nn.Module = nn.BatchNorm1d(n_out)
        self.dropout1 = nn.Dropout(dropout_rate)
        padding = _same_padding(kernel_size, stride)
        self.conv2 = nn.Conv1d(n_out, n_out, kernel_size, stride=stride, padding=padding, bias=False)
        self.bn2 = nn.BatchNorm1d(n_out)
        self.dropout2 = nn.Dropout(dropout_rate)
        skip: list[nn.Module] = []
        if stride > 1:
            skip.append(nn.MaxPool1d(stride))
        if n_in != n_out:
            skip.append(nn.Conv1d(n_in, n_out, 1, bias=False))
        self.skip_connection: nn.Module | None = nn.Sequential(*skip) if skip else None

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skipped = y if self.skip_connection is None else self.skip_connection(y)
        # In place where no gradient needs what was there: a pass over memory less.
        in_place = not torch.is_grad_enabled()
        hidden = self.dropout1(functional.relu(self.bn1(self.conv1(x)), inplace=in_place))
        y = self.conv2(hidden) + skipped
        return self.dropout2(functional.relu(self.bn2(y), inplace=in_place)), y


class ResNet1d(nn.Module):
    """Residual network over (B, n_leads, n_samples), giving (B, n_classes) logits or values.

    `input_dim` is (leads, samples); `blocks_dim` gives (channels, samples) after each residual block, the first pair
    also sizing the stem. Samples shrink by integer factors. Tap `resblock1d_i` (its element 0 is the activated
    stream). Raises ValueError for shapes that do not fit.
    """

    def __init__(
        self,
        input_dim: Sequence[int],
        blocks_dim: Sequence[Sequence[int]],
        n_classes: int,
        kernel_size: int = 17,
        dropout_rate: float = 0.8,
    ) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size is {kernel_size}; it has to be odd, or the time axis would shift")
        if not blocks_dim:
            raise ValueError("blocks_dim is empty; at least one (channels, samples) pair is needed")
        n_in, length = input_dim
        n_out, length_out = blocks_dim[0]
        stride = _stride(length, length_out, "stem")
        padding = _same_padding(kernel_size, stride)
        self.conv1 = nn.Conv1d(n_in, n_out, kernel_size, stride=stride, padding=padding, bias=False)
        self.bn1: nn.Module = nn.BatchNorm1d(n_out)
        self._blocks: list[ResBlock1d] = []
        channels, length = n_out, length_out
        for index, (n_out, length_out) in enumerate(blocks_dim):
            stride = _stride(length, length_out, f"blocks_dim[{index}]")
            block = ResBlock1d(channels, n_out, stride, kernel_size, dropout_rate)
            self.add_module(f"resblock1d_{index}", block)
            self._blocks.append(block)
            channels, length = n_out, length_out
        self.lin = nn.Linear(channels * length, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_leads, n_samples) → (B, n_classes)."""
        x = self.bn1(self.conv1(x))
        y = x
        for block in self._blocks:
            x, y = block(x, y)
        prediction: torch.Tensor = self.lin(x.flatten(1))
        return prediction

    def folded(self) -> ResNet1d:
        """A copy for inference whose first convolutions do the work of the batch norms behind them.

        Equal but for rounding, and a tenth faster. `conv1` and `bn1` no longer give what they did; blocks do.
        """
        network = copy.deepcopy(self).eval()
        parts: tuple[ResNet1d | ResBlock1d, ...] = (network, *network._blocks)
        for part in parts:
            if isinstance(part.bn1, nn.BatchNorm1d):
                part.conv1 = fuse_conv_bn_eval(part.conv1, part.bn1)
                part.bn1 = nn.Identity()
        return network
