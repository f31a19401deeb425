"""Small networks of the forms that docs/networks.md tells of: names, strides, kernels and depths as published, random
weights, a few channels. They take the arguments that the page gives, and are this project's own code."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

NARROWER = 16
"""What the width of a transformer is divided by."""


class Same(nn.Module):
    """A convolution with as much padding as keeps steps · stride = samples, the odd one on the right."""

    def __init__(self, inner: int, outer: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        self.conv = nn.Conv1d(inner, outer, kernel, stride, groups=groups)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pad = max(0, (-(-x.shape[-1] // self.stride) - 1) * self.stride + self.kernel - x.shape[-1])
        return self.conv(functional.pad(x, (pad // 2, pad - pad // 2)))


class NetBlock(nn.Module):
    def __init__(self, inner: int, outer: int, kernel: int, stride: int, width: int) -> None:
        super().__init__()
        self.stride, self.more = stride, outer - inner
        self.conv1, self.conv3 = Same(inner, outer, 1), Same(outer, outer, 1)
        self.conv2 = Same(outer, outer, kernel, stride, groups=outer // width)
        self.se_fc1, self.se_fc2 = nn.Linear(outer, outer // 2), nn.Linear(outer // 2, outer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x
        for conv in (self.conv1, self.conv2, self.conv3):
            y = conv(functional.silu(y))
        gate = torch.sigmoid(self.se_fc2(functional.silu(self.se_fc1(y.mean(-1)))))
        if self.stride > 1:
            x = functional.max_pool1d(functional.pad(x, (0, self.stride - 1)), self.stride)
        return y * gate[..., None] + functional.pad(x, (0, 0, self.more // 2, self.more - self.more // 2))


class NetStage(nn.Module):
    def __init__(self, inner: int, outer: int, blocks: int, kernel: int, stride: int, width: int) -> None:
        super().__init__()
        self.block_list = nn.ModuleList(
            NetBlock(outer if i else inner, outer, kernel, 1 if i else stride, width) for i in range(blocks)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.block_list:
            x = block(x)
        return x


class Net1D(nn.Module):
    """Of ECGFounder."""

    def __init__(
        self,
        in_channels: int,
        base_filters: int,
        ratio: int,
        filter_list: list[int],
        m_blocks_list: list[int],
        kernel_size: int,
        stride: int,
        groups_width: int,
        n_classes: int,
        **_switches: bool,
    ) -> None:
        super().__init__()
        assert ratio == 1
        self.first_conv = Same(in_channels, base_filters, kernel_size, 2)
        widths = zip([base_filters, *filter_list], filter_list, m_blocks_list, strict=False)
        self.stage_list = nn.ModuleList(NetStage(*each, kernel_size, stride, groups_width) for each in widths)
        self.dense = nn.Linear(filter_list[-1], n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.silu(self.first_conv(x))
        for stage in self.stage_list:
            x = stage(x)
        return self.dense(x.mean(-1))


def conv_norm(inner: int, outer: int, kernel: int, stride: int = 1, act: bool = True) -> nn.Sequential:
    layers = [nn.Conv1d(inner, outer, kernel, stride, kernel // 2, bias=False), nn.BatchNorm1d(outer)]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


class Bottleneck(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int, kernel: int) -> None:
        super().__init__()
        middle = outer // 4
        self.convs = nn.Sequential(
            conv_norm(inner, middle, 1),
            conv_norm(middle, middle, kernel, stride),
            conv_norm(middle, outer, 1, act=False),
        )
        pool = [nn.AvgPool1d(2, ceil_mode=True)] if stride > 1 else []
        self.idpath = nn.Sequential(*pool, *([conv_norm(inner, outer, 1, act=False)] if inner != outer else []))
        self.act = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.convs(x) + self.idpath(x))


class Head(nn.Module):
    """The largest and the mean over time, and a layer between."""

    def __init__(self, width: int, hidden: list[int], n_classes: int) -> None:
        super().__init__()
        self.hidden, self.last = nn.Linear(2 * width, hidden[0]), nn.Linear(hidden[0], n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.relu(self.hidden(torch.cat([x.amax(-1), x.mean(-1)], 1))))


def xresnet1d101(
    num_classes: int, input_channels: int, kernel_size: int, ps_head: float, lin_ftrs_head: list[int]
) -> nn.Module:
    """Of the PTB-XL benchmark, an eighth as wide."""
    stem = [conv_norm(inner, 8, 5, 1 if i else 2) for i, inner in enumerate((input_channels, 8, 8))]
    stages, inner = [], 8
    for stage, blocks in enumerate((3, 4, 23, 3)):
        each = []
        for i in range(blocks):
            each.append(Bottleneck(inner, 32, 2 if stage and not i else 1, kernel_size))
            inner = 32
        stages.append(nn.Sequential(*each))
    return nn.Sequential(*stem, nn.MaxPool1d(3, 2, 1), *stages, Head(32, lin_ftrs_head, num_classes))


class InceptionBlock(nn.Module):
    def __init__(self, inner: int, kernels: list[int], filters: int) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(inner, filters, 1, bias=False)
        self.convs = nn.ModuleList(nn.Conv1d(filters, filters, k, padding=k // 2, bias=False) for k in kernels)
        self.conv_bottle = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(inner, filters, 1, bias=False))
        self.bn_relu = nn.Sequential(nn.BatchNorm1d(4 * filters), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        thin = self.bottleneck(x)
        return self.bn_relu(torch.cat([*(conv(thin) for conv in self.convs), self.conv_bottle(x)], 1))


class Shortcut(nn.Module):
    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv1d(inner, outer, 1, bias=False), nn.BatchNorm1d(outer)

    def forward(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        return torch.relu(after + self.bn(self.conv(before)))


class InceptionBackbone(nn.Module):
    def __init__(self, leads: int, kernels: list[int], filters: int = 4, depth: int = 6) -> None:
        super().__init__()
        self.im = nn.ModuleList(InceptionBlock(4 * filters if i else leads, kernels, filters) for i in range(depth))
        self.sk = nn.ModuleList(Shortcut(4 * filters if i else leads, 4 * filters) for i in range(depth // 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = x
        for i, block in enumerate(self.im):
            x = block(x)
            if i % 3 == 2:
                before = x = self.sk[i // 3](before, x)
        return x


class Inception1d(nn.Module):
    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(backbone, head)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def inception1d(
    num_classes: int, input_channels: int, kernel_size: int, ps_head: float, lin_ftrs_head: list[int]
) -> nn.Module:
    """Of the PTB-XL benchmark, an eighth as wide."""
    kernels = [k - (k % 2 == 0) for k in (kernel_size, kernel_size // 2, kernel_size // 4)]
    return Inception1d(InceptionBackbone(input_channels, kernels), Head(16, lin_ftrs_head, num_classes))


class Block(nn.Module):
    """Of a transformer, norms first; `mask` (tokens, tokens): which may attend to which."""

    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.proj(functional.scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class STMEM(nn.Module):
    """Leads one after the other, each between two separators."""

    def __init__(self, num_leads: int, num_classes: int, seq_len: int, patch_size: int, depth: int = 12) -> None:
        super().__init__()
        self.patch, self.depth, width = patch_size, depth, 768 // NARROWER
        self.to_patch_embedding = nn.Sequential(
            nn.LayerNorm(patch_size), nn.Linear(patch_size, width), nn.LayerNorm(width)
        )
        self.pos_embedding = nn.Parameter(torch.randn(1, 1, seq_len // patch_size + 2, width))
        self.sep_embedding = nn.Parameter(torch.randn(width))
        self.lead_embeddings = nn.ParameterList(nn.Parameter(torch.randn(width)) for _ in range(num_leads))
        for i in range(depth):
            self.add_module(f"block{i}", Block(width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.to_patch_embedding(x.unflatten(2, (-1, self.patch)))
        ends = self.sep_embedding.expand(*tokens.shape[:2], 1, -1)
        tokens = torch.cat([ends, tokens, ends], 2) + self.pos_embedding
        tokens = (tokens + torch.stack(list(self.lead_embeddings))[:, None]).flatten(1, 2)
        for i in range(self.depth):
            tokens = getattr(self, f"block{i}")(tokens)
        return self.head(self.norm(tokens.unflatten(1, (x.shape[1], -1))[:, :, 1:-1].mean((1, 2))))


st_mem_vit_base = STMEM


class Blocks(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))

    def forward(self, x: torch.Tensor, place: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x + place, mask)
        return x


class MaskTransformer(nn.Module):
    """Tokens attend to those of their lead and of their time. Its forward is for training alone."""

    def __init__(self, width: int, depth: int, leads: int) -> None:
        super().__init__()
        self.encoder_blocks, self.norm, self.W_P = Blocks(width, depth), nn.LayerNorm(width), nn.Linear(50, width)
        self.pos_embed = nn.Parameter(torch.randn(leads * 50, width) * 0.3)
        self.leads, self.width = leads, width

    def representation(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (self.leads, 2500)
        lead, time = torch.arange(self.leads * 50) // 50, torch.arange(self.leads * 50) % 50
        mask = (lead[:, None] == lead) | (time[:, None] == time)
        tokens = self.W_P(x.reshape(len(x), -1, 50))
        return self.norm(self.encoder_blocks(tokens, self.pos_embed, mask)).mean(1)


def ecg_jepa(encoder_embed_dim: int, encoder_depth: int, encoder_num_heads: int, c: int) -> Any:
    """What holds the encoder while it is trained."""
    return SimpleNamespace(encoder=MaskTransformer(encoder_embed_dim // NARROWER, encoder_depth, c))


class FinetuningClassifier(nn.Module):
    def __init__(self, encoder: MaskTransformer, encoder_dim: int, num_labels: int) -> None:
        super().__init__()
        self.encoder, self.fc = encoder, nn.Linear(encoder_dim // NARROWER, num_labels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.encoder.representation(x))


class HuBERTECGConfig(SimpleNamespace):
    pass


class ConvLayer(nn.Module):
    def __init__(self, inner: int, outer: int, kernel: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(inner, outer, kernel, stride, bias=False)
        self.layer_norm = nn.GroupNorm(outer, outer) if inner == 1 else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.gelu(self.layer_norm(self.conv(x)))


class FeatureExtractor(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        widths = [1, *(width // NARROWER for width in config.conv_dim)]
        each = zip(widths, widths[1:], config.conv_kernel, config.conv_stride, strict=False)
        self.conv_layers = nn.ModuleList(ConvLayer(*one) for one in each)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x[:, None]
        for layer in self.conv_layers:
            x = layer(x)
        return x


class EncoderLayer(Block):
    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
        return (super().forward(x, mask),)


class HubertEncoder(nn.Module):
    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.pos_conv_embed = nn.Conv1d(width, width, 128, padding=64, groups=4)
        self.layers = nn.ModuleList(EncoderLayer(width) for _ in range(depth))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + functional.gelu(self.pos_conv_embed(x.transpose(1, 2))[..., :-1]).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)[0]
        return x


class HuBERTECG(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config.hidden_size // NARROWER
        self.feature_extractor = FeatureExtractor(config)
        self.feature_projection = nn.Linear(config.conv_dim[-1] // NARROWER, width)
        self.encoder = HubertEncoder(width, config.num_hidden_layers)
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.encoder(self.feature_projection(self.feature_extractor(x).transpose(1, 2)))


class HuBERTForECGClassification(nn.Module):
    def __init__(self, hubert_ecg: HuBERTECG, num_labels: int) -> None:
        super().__init__()
        self.hubert_ecg, self.classifier = hubert_ecg, nn.Linear(hubert_ecg.width, num_labels)

    def forward(self, x: torch.Tensor, return_dict: bool) -> Any:
        assert not return_dict
        hidden = self.hubert_ecg(x)
        return self.classifier(hidden.mean(1)), (hidden,)


class S4(nn.Module):
    """A convolution with a decaying kernel to each side, as long as the input, and a gate."""

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.decay = nn.Parameter(torch.rand(2, width, state) * 0.3 + 0.05)
        self.turn, self.c = (
            nn.Parameter(torch.rand(2, width, state)),
            nn.Parameter(torch.randn(2, width, state) / state),
        )
        self.d, self.out = nn.Parameter(torch.randn(width, 1)), nn.Conv1d(width, 2 * width, 1)

    def forward(self, u: torch.Tensor) -> Any:
        n = u.shape[-1]
        at = torch.arange(n)
        wave = torch.exp(-self.decay[..., None] * at) * torch.cos(self.turn[..., None] * at)
        ahead, back = (self.c[..., None] * wave).sum(2)
        kernel = functional.pad(ahead, (0, n)) + functional.pad(back.flip(-1), (n, 0))
        y = torch.fft.irfft(torch.fft.rfft(u, 2 * n) * torch.fft.rfft(kernel, 2 * n), 2 * n)[..., :n] + self.d * u
        return functional.glu(self.out(functional.gelu(y)), 1), None


class S4Model(nn.Module):
    def __init__(
        self, d_input: int, d_output: int, d_state: int, d_model: int, n_layers: int, l_max: int, bidirectional: bool
    ) -> None:
        super().__init__()
        width = d_model // NARROWER
        self.encoder, self.decoder = nn.Conv1d(d_input, width, 1), nn.Linear(width, d_output)
        self.s4_layers = nn.ModuleList(S4(width, d_state) for _ in range(n_layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(n_layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.encoder(x)
        for layer, norm in zip(self.s4_layers, self.norms, strict=True):
            x = norm((layer(x)[0] + x).transpose(1, 2)).transpose(1, 2)
        return self.decoder(x.mean(-1))
