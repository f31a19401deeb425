"""Latent vectors of waves, against the definition of f(t); distances of shapes, against warping by hand."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscale.archive.waves import QRS, P
from ecgscale.clusters.features import BlockLayout, dense_features
from ecgscale.passes.probe.batch import ProbedRecord, WaveProbe, has_dtaidistance, pairs_of, probe_waves

LAYOUT = BlockLayout((3, 4), (16, 8), 64, (1.0, 1.0))
RNG = np.random.default_rng(0)
BLOCKS = [RNG.normal(size=(3, 16)).astype(np.float32), RNG.normal(size=(4, 8)).astype(np.float32)]
SIGNAL = RNG.normal(size=(2, 64)).astype(np.float32)
SPAN = (4, 60)


def probes(first: list[int], past: list[int], kinds: list[int], shifts: list[int]) -> tuple[WaveProbe, ...]:
    steps = np.array(first), np.array(past)
    return probe_waves(SIGNAL, BLOCKS, LAYOUT, steps, np.array(kinds), SPAN, np.array(shifts), 2.0)


def test_the_mean_of_the_features_in_the_wave_and_round_the_end() -> None:
    features = dense_features([block[None] for block in BLOCKS], LAYOUT)[0]
    (wave,) = probes([10], [20], [QRS], [3, 12])
    np.testing.assert_allclose(wave.latent[0], features[10:20].mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(wave.latent[1], features[7:17].mean(axis=0), atol=1e-6)
    # 12 earlier than timestep 10 is 6 before the span begins: it goes on at the span's end.
    around = np.concatenate([features[54:60], features[4:8]]).mean(axis=0)
    np.testing.assert_allclose(wave.latent[2], around, atol=1e-6)
    np.testing.assert_allclose(wave.shape, (SIGNAL[:, 10:20] - SIGNAL[:, 10:11]).T / 2, atol=1e-6)


def test_the_middle_wave_of_each_kind_that_was_explained() -> None:
    found = probes([0, 10, 30, 50, 40, 20], [8, 14, 34, 54, 48, 21], [P, P, P, P, QRS, QRS], [1])
    assert [wave.kind for wave in found] == [P, QRS]
    np.testing.assert_allclose(found[0].shape[-1], (SIGNAL[:, 33] - SIGNAL[:, 30]) / 2, atol=1e-6)
    assert probes([0], [3], [P], [1]) == ()


@pytest.mark.skipif(not has_dtaidistance(), reason="dtaidistance is not installed")
def test_waves_of_one_kind_are_compared() -> None:
    bump = np.exp(-((np.arange(20) - 8) ** 2) / 8)[:, None] * [1.0, -0.5]
    later = np.exp(-((np.arange(20) - 10) ** 2) / 8)[:, None] * [1.0, -0.5]
    latents = RNG.normal(size=(3, 1 + 4, 7)).astype(np.float32)
    own, same, other = (
        ProbedRecord(name, (WaveProbe(QRS, np.ascontiguousarray(shape), latent),))
        for name, shape, latent in zip("abc", (bump, later, 3 * bump), latents, strict=True)
    )
    mixed = ProbedRecord("d", (WaveProbe(P, bump, latents[0]),))
    found = {pair["other"]: pair for pair in pairs_of(own, [same, other, mixed], 100.0)}
    assert set(found) == {"b", "c"}
    # Time may be warped by 40 ms, four samples: a bump two samples later has the same shape.
    assert found["b"]["dtw_mv"] < 0.02
    assert found["c"]["dtw_mv"] > 0.2
    np.testing.assert_allclose(found["b"]["latent"], np.linalg.norm(latents[0, 0] - latents[1, 0]), rtol=1e-5)
    np.testing.assert_allclose(
        found["b"]["shifted"], np.linalg.norm(latents[0, 1:] - latents[1, 1:], axis=1), rtol=1e-5
    )
