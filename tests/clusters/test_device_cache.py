"""The tensor backend of the fit, on the CPU: the same answers as the kernels, the same bits as itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ecgscale.clusters.cache import ActivationCache, DeviceCache, device_bytes_per_record
from ecgscale.clusters.kmeans import FitSettings, fit_kmeans
from ecgscale.errors import EcgscaleError
from tests.worlds.formula.activations import CODE_LIKE, make

CPU = torch.device("cpu")


def filled(cache: ActivationCache | DeviceCache, n: int = 40) -> None:
    made = make(CODE_LIKE, n, 2, 6)
    rows = np.arange(n)
    cache.put(rows, [torch.from_numpy(b) for b in made.blocks], made.start, made.stop)


def test_fits_as_the_kernels_do() -> None:
    settings = FitSettings(algorithm="lloyd", sample=600, max_iterations=6)
    fits = []
    for cache in (ActivationCache(CODE_LIKE, 40), DeviceCache(CODE_LIKE, 40, CPU)):
        with cache:
            filled(cache)
            fits.append(fit_kmeans(cache, [4, 7], settings))
    for ours, theirs in zip(*fits, strict=True):
        np.testing.assert_allclose(ours.centroids, theirs.centroids, atol=1e-4)
        assert ours.inertia == pytest.approx(theirs.inertia, rel=1e-5)


def test_sums_add_up_to_the_bit_however_records_are_asked_for() -> None:
    with DeviceCache(CODE_LIKE, 40, CPU) as cache:
        filled(cache)
        centroids = make(CODE_LIKE, 3, 5, 1).centroids
        [whole] = cache.assign_to([centroids])
        parts = [cache.assign_to([centroids], np.array(p))[0] for p in (range(7), range(7, 8), range(39, 7, -1))]
    total = sum(parts[1:], parts[0])
    assert (total.counts == whole.counts).all()
    assert (total.sums == whole.sums).all()
    assert total.margin == whole.margin


def test_the_sample_is_that_of_any_backend() -> None:
    with DeviceCache(CODE_LIKE, 40, CPU) as device, ActivationCache(CODE_LIKE, 40) as memory:
        filled(device)
        filled(memory)
        assert np.array_equal(device.sample(100, 3), memory.sample(100, 3))


def test_half_precision_is_half_the_memory_and_refuses_overflow() -> None:
    assert device_bytes_per_record(CODE_LIKE, "float16") * 2 == device_bytes_per_record(CODE_LIKE)
    huge = [torch.full((1, c, n), 1e6) for c, n in zip(CODE_LIKE.channels, CODE_LIKE.lengths, strict=True)]
    with DeviceCache(CODE_LIKE, 1, CPU, "float16") as cache, pytest.raises(EcgscaleError, match="float32"):
        cache.put(np.array([0]), huge, np.zeros(1, np.int32), np.ones(1, np.int32))
