"""The contracts of docs/networks.md for published networks, on small networks of the same form: taps are what a hook
hears, steps sit where the network answers, and the prediction is the plain network's."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ecgscale.encoders.network import build_module
from ecgscale.encoders.spec import EncoderSpec, write_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.timing import measure_taps
from tests.e2e.documents import REPOSITORY, blocks_of

Tensor = torch.Tensor

PUBLISHED = {
    "net1d": ["Net1D"],
    "models.xresnet1d": ["xresnet1d101"],
    "models.inception1d": ["inception1d"],
    "models.encoder.st_mem_vit": ["st_mem_vit_base"],
    "ecg_jepa": ["ecg_jepa"],
    "linear_probe_utils": ["FinetuningClassifier"],
    "hubert_ecg": ["HuBERTECG", "HuBERTECGConfig"],
    "hubert_ecg_classification": ["HuBERTForECGClassification"],
    "clinical_ts.s4_model": ["S4Model"],
}
"""Modules that a reader has from the authors' repositories, and what the page takes of them."""

NARROW: dict[str, dict[str, Any]] = {
    "code-age": {"blocks_dim": [[8, 4096], [12, 1024], [12, 256], [16, 64], [16, 16]]},
    "ecgfounder": {"filter_list": [8, 12, 12, 16, 16, 24, 24], "base_filters": 8, "groups_width": 4},
}
"""In place of widths that the page gives."""

BLOCKS = list(blocks_of(REPOSITORY / "docs" / "networks.md"))
CONTRACTS = {
    content["name"]: content
    for content in (tomllib.loads(block.text) for block in BLOCKS if block.language == "toml")
    if "name" in content
}


def side_by_side(*parts: Tensor) -> Tensor:
    """Of windows that overlap by half: all of the first and the last to the outside, and the middle halves."""
    steps = parts[0].shape[2]
    first, stop = steps // 4, steps // 4 + steps // 2
    return torch.cat(
        [parts[0][..., :stop], *(part[..., first:stop] for part in parts[1:-1]), parts[-1][..., first:]], 2
    )


def across_leads(tokens: Tensor) -> Tensor:
    """93 tokens over 12 leads one after the other: seven places a lead, read off between the tokens, lead by lead."""
    centres = (np.arange(93) + 0.5) * 6000 / 93
    places = np.concatenate([(lead + (np.arange(7) + 0.5) / 7) * 500 for lead in range(12)])
    read = np.apply_along_axis(lambda values: np.interp(places, centres, values), 1, tokens.numpy())
    return torch.from_numpy(read).float().unflatten(1, (12, 7)).mean(1).transpose(1, 2)


READ: dict[str, Callable[..., Tensor]] = {
    "code-age": lambda one: one[0],
    "ecgfounder": lambda one: one,
    "xresnet1d101": side_by_side,
    "inception1d": side_by_side,
    "st-mem": lambda one: one.unflatten(1, (12, 32))[:, :, 1:-1].mean(1).transpose(1, 2),
    "ecg-jepa": lambda one: one.unflatten(1, (8, 50)).mean(1).transpose(1, 2),
    "hubert-ecg": lambda one: across_leads(one[0]),
    "s4": lambda *parts: torch.cat(parts, 1).transpose(1, 2),
}
"""What a tap is, from what its layer returned for each window, written by hand."""

HOP_MS = {
    "code-age": [10, 40, 160],
    "ecgfounder": [16, 32, 64],
    "xresnet1d101": [78, 78, 156],
    "inception1d": [10, 10, 10],
    "st-mem": [300] * 3,
    "ecg-jepa": [200] * 3,
    "hubert-ecg": [714] * 3,
    "s4": [10] * 3,
}


def laid_out(folder: Path, name: str, **changes: Any) -> EncoderSpec:
    """The encoder that the page describes, in `folder`: the authors' modules, the page's own, weights, contract."""
    for module, names in PUBLISHED.items():
        file = folder.joinpath(*module.split(".")).with_suffix(".py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"from tests.encoders.published import {', '.join(names)}\n", encoding="utf-8")
    for block in BLOCKS:
        if block.language == "python" and (beside := re.match(r"# (\w+\.py)\n", block.text)):
            (folder / beside[1]).write_text(block.text, encoding="utf-8")
    content = {**CONTRACTS[name], **changes}
    content = {**content, "arguments": {**content["arguments"], **NARROW.get(name, {})}}
    spec = EncoderSpec.model_validate(content)
    torch.manual_seed(0)
    state = build_module(spec, folder).state_dict()
    torch.save({spec.weights_key or "state_dict": state}, folder / spec.weights)
    write_spec(folder, spec)
    return spec


def test_there_is_a_contract_of_each_kind() -> None:
    assert CONTRACTS.keys() == READ.keys() == HOP_MS.keys()


@pytest.mark.parametrize("name", READ)
def test_a_published_network_is_tapped_timed_and_predicts_as_the_page_says(name: str, tmp_path: Path) -> None:
    spec = laid_out(tmp_path, name)
    encoder = Encoder.load(tmp_path, batch=8)
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(8, len(spec.input.leads), spec.input.length))).float()
    activations = encoder.forward(x)

    plain = build_module(spec, tmp_path).eval()
    plain.load_state_dict(next(iter(torch.load(tmp_path / spec.weights).values())))
    heard: dict[str, list[Any]] = {layer: [] for layer in spec.layers}
    for layer in spec.layers:
        plain.get_submodule(layer).register_forward_hook(lambda _m, _x, out, to=heard[layer]: to.append(out))
    size = spec.input.seen_at_once
    with torch.inference_mode():
        outputs = torch.stack([plain(x[..., start : start + size]) for start in spec.input.starts])
    pooled = outputs.amax(0) if spec.input.windows and spec.input.windows.pool == "max" else outputs.mean(0)
    torch.testing.assert_close(activations.prediction, pooled, rtol=1e-5, atol=1e-5)
    for layer, block in zip(spec.layers, activations.blocks, strict=True):
        torch.testing.assert_close(block, READ[name](*heard[layer]), rtol=1e-5, atol=1e-5)

    facts = measure_taps(encoder, impulses=24)
    assert [fact.wrong for fact in facts] == [None] * 3
    assert [round(fact.hop_ms) for fact in facts] == HOP_MS[name]
    for fact in facts:
        for lag in (fact.lag_from_ms, fact.lag_ms, fact.lag_to_ms):
            assert lag is not None, fact
            assert abs(lag) <= 0.5 * fact.hop_ms, fact


def test_late_steps_of_a_length_that_is_no_multiple_of_them_need_their_places_stated(tmp_path: Path) -> None:
    spec = laid_out(tmp_path, "ecgfounder")
    write_spec(tmp_path, spec.model_copy(update={"taps": {}}))
    late = measure_taps(Encoder.load(tmp_path, batch=8), impulses=24)[2]
    stated = spec.taps[late.layer]
    assert late.start is not None
    assert late.wrong is not None
    assert late.step == stated.step
    assert late.start == pytest.approx(stated.start, abs=4)


def test_windows_that_fit_the_tokens_and_not_their_width_are_measured(tmp_path: Path) -> None:
    page = CONTRACTS["st-mem"]
    overlapping = {**page["input"], "length": 2475, "windows": {"length": 2250, "stride": 75}}
    laid_out(tmp_path, "st-mem", input=overlapping, layers=["block0"], arguments={**page["arguments"], "depth": 1})
    [fact] = measure_taps(Encoder.load(tmp_path, batch=8), impulses=8)
    assert (fact.wrong, fact.steps, fact.hop_ms) == (None, 33, 300.0)
