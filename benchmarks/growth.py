"""How time grows: with records, clusters, timesteps and blocks; and what several K at once cost.

The first four are one exact K-means iteration on made-up activations; the last is `fit` as a user runs it, reading
and the network included.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.activations import CODE_LAYOUT, filled_cache, made_activations, settled_centroids
from benchmarks.inputs import CODE, Network, write_archive, write_encoder
from benchmarks.report import Result, main
from benchmarks.timing import REPETITIONS, Pairs, median_seconds, milliseconds, rounded, seconds, threads
from ecgscale.archive.reader import Archive
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.kmeans import FitSettings
from ecgscale.passes.fit.fit import FitRequest, fit_archive

CODE_BLOCKS = ((320, 16), (256, 64), (196, 256), (128, 1024), (64, 4096))
"""All five blocks of the CODE ResNet, deepest first; the last is not downsampled at all."""


@dataclass(frozen=True)
class Size:
    """Points of each curve, and the fit of several K: records, K, and epochs at most."""

    records: tuple[int, ...]
    clusters: tuple[int, ...]
    stretch: tuple[float, ...]
    blocks: tuple[int, ...]
    base: int
    network: Network
    fit_records: int
    fit_clusters: tuple[int, ...] = (5, 10, 20, 50)
    repetitions: int = REPETITIONS


FULL = Size(
    (8, 16, 32, 64, 128, 256), (2, 5, 10, 20, 50, 100, 200, 500), (0.25, 0.5, 1, 2, 4), (1, 2, 3, 4, 5), 16, CODE, 512
)
QUICK = Size((8, 32, 128), (5, 20, 200), (0.5, 1, 2), (1, 3, 5), 8, CODE, 256)


def run(size: Size, say: Callable[[str], None]) -> Result:
    """Measure the four curves, then the fits."""
    n_threads = min(2, len(os.sched_getaffinity(0)))
    with threads(n_threads):
        curves = {
            "records": _curve((n, CODE_LAYOUT, n, 20) for n in size.records),
            "n_clusters": _curve((k, CODE_LAYOUT, size.base, k) for k in size.clusters),
            "timesteps": _curve((_stretched(f).n_steps, _stretched(f), size.base, 20) for f in size.stretch),
            "blocks": _curve((b, _blocks(b), size.base, 20) for b in size.blocks),
        }
        for name, curve in curves.items():
            say(f"{name}: " + ", ".join(f"{point['at']:g} → {point['ms_per_record']} ms a record" for point in curve))
        fits = _several_k(size, say)
    details = {
        "threads": n_threads,
        "curves": curves,
        # Of the whole iteration: 1 is proportional, below 1 is better.
        "exponents": {
            "records": _exponent(curves["records"], times_records=True),
            "n_clusters": _exponent(curves["n_clusters"]),
            "timesteps": _exponent(curves["timesteps"]),
        },
        "fit_records": size.fit_records,
        "fit_clusters": list(size.fit_clusters),
        "fits": fits["details"],
    }
    return Result("growth", {"four_k_vs_largest": fits["ratio"]}, details)


def _stretched(factor: float) -> BlockLayout:
    """A recording `factor` times as long under the same network."""
    lengths = tuple(round(length * factor) for length in CODE_LAYOUT.lengths)
    return replace(CODE_LAYOUT, lengths=lengths, n_steps=round(CODE_LAYOUT.n_steps * factor))


def _blocks(count: int) -> BlockLayout:
    """The deepest `count` blocks."""
    channels, lengths = zip(*CODE_BLOCKS[:count], strict=True)
    return BlockLayout(channels, lengths, CODE_LAYOUT.n_steps, (1.0,) * count)


def _curve(points: Iterable[tuple[float, BlockLayout, int, int]]) -> list[dict[str, float]]:
    curve = []
    for at, layout, records, n_clusters in points:
        cache = filled_cache(layout, made_activations(layout, records))
        centroids = settled_centroids(cache, n_clusters)
        spent = median_seconds(lambda cache=cache, centroids=centroids: cache.assign_to([centroids]))  # type: ignore[misc]
        curve.append({"at": at, "records": records, "ms_per_record": milliseconds(spent / records)})
    return curve


def _exponent(curve: list[dict[str, float]], times_records: bool = False) -> float:
    """The slope of log time over log size."""
    at = np.array([point["at"] for point in curve])
    spent = np.array([point["ms_per_record"] * (point["records"] if times_records else 1) for point in curve])
    return rounded(float(np.polyfit(np.log(at), np.log(spent), 1)[0]))


def _several_k(size: Size, say: Callable[[str], None]) -> dict[str, Any]:
    """`fit` of all K at once over `fit` of the largest alone."""
    with tempfile.TemporaryDirectory(prefix="ecgscale-benchmark-") as scratch:
        folder = Path(scratch)
        archive = write_archive(folder / "archive", size.fit_records, size.network)
        encoder = write_encoder(folder / "encoder", size.network, archive)
        inside: list[dict[str, float]] = []

        def fit(clusters: tuple[int, ...]) -> None:
            shutil.rmtree(folder / "root", ignore_errors=True)
            request = FitRequest(clusters=clusters, settings=FitSettings(seed=0), device="cpu")
            fitted = fit_archive(Archive.open(archive), encoder, folder / "root", request)
            inside.append({"n_iter": max(f.model.info["n_iter"] for f in fitted), **fitted[0].model.info["seconds"]})

        largest = (max(size.fit_clusters),)
        fit(largest)
        alone, together = [], []
        for _ in range(size.repetitions):
            alone.append(seconds(lambda: fit(largest)))
            together.append(seconds(lambda: fit(size.fit_clusters)))
            say(f"K = {largest[0]} alone {alone[-1]:.2f} s, all of {size.fit_clusters} {together[-1]:.2f} s")
        pairs = Pairs(tuple(alone), tuple(together))
        details = {
            "alone_s": rounded(float(np.median(alone))),
            "together_s": rounded(float(np.median(together))),
            "ratio_range": [rounded(min(pairs.ratios)), rounded(max(pairs.ratios))],
            "alone": inside[-2],
            "together": inside[-1],
        }
        return {"ratio": rounded(pairs.ratio), "details": details}


if __name__ == "__main__":
    main(lambda quick, say: run(QUICK if quick else FULL, say), __doc__)
