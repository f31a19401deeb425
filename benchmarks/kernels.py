"""One exact K-means iteration over packed activations, beside dense torch, scikit-learn, faiss and dask-ml.

Ours is everything an epoch does with cached activations: centroids packed, projection, search, margins, distortion,
centroid sums rounded to integers. Theirs start from features that are in memory already, but for one of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.activations import CODE_LAYOUT, multiply_adds, whole_spans
from benchmarks.peers import PEERS, Peer, Problem, dense, dense_rows
from benchmarks.report import Result, main
from benchmarks.timing import REPETITIONS, median_seconds, milliseconds, paired, rounded, threads
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.packed import pack
from ecgscale.clusters.soft import soft_assign

AGREEMENT = 1e-4
"""Largest relative difference of new centroids: peers that add a cluster up in float32 one by one come to 3e-5."""

TIES = 1e-5
"""Largest share of timesteps in other clusters: equally near to two in float32."""


@dataclass(frozen=True)
class Size:
    """How much is measured: the headline at `records` and `n_clusters`, a sweep over clusters and threads."""

    layout: BlockLayout
    records: int
    n_clusters: int
    sweep_records: int
    sweep_clusters: tuple[int, ...]
    sweep_threads: tuple[int, ...]
    repetitions: int = REPETITIONS


FULL = Size(CODE_LAYOUT, 64, 20, 16, (5, 10, 20, 50, 100, 200), (1, 2))
QUICK = Size(CODE_LAYOUT, 32, 20, 8, (5, 20, 200), (1, 2))


def run(size: Size, say: Callable[[str], None]) -> Result:
    """Measure; every ratio is theirs over ours, so above 1 ours is faster."""
    n_threads = min(2, len(os.sched_getaffinity(0)))
    with threads(n_threads):
        problem = Problem.make(size.layout, size.records, size.n_clusters, n_threads)
        ratios, peers = {}, {}
        for make in PEERS:
            peer = make(problem)
            facts = compare(problem, peer, size.repetitions)
            say(f"{peer.name}: {facts['theirs_ms']} ms a record, ours {facts['ours_ms']}: {facts['ratio']}x")
            ratios[f"iteration_vs_{peer.name}"] = facts["ratio"]
            peers[peer.name] = facts
        around = _around(problem, size.repetitions)
    details = {
        "records": size.records,
        "n_clusters": size.n_clusters,
        "threads": n_threads,
        "timesteps": size.records * size.layout.n_steps,
        "peers": peers,
        "around": around,
        "multiply_adds": multiply_adds(size.layout, size.n_clusters),
        "sweep": list(_sweep(size, say)),
    }
    return Result("kernels", ratios, details)


def compare(problem: Problem, peer: Peer, repetitions: int) -> dict[str, float]:
    """Times of `problem.ours` and of `peer`, and by how much their answers differ; AssertionError when they do.

    `difference` is that of the new centroids, relative (Frobenius norm); `moved` counts timesteps in other clusters.
    """
    pairs = paired(problem.ours, peer.run, before_theirs=peer.prepare, repetitions=repetitions)
    ours = problem.ours()
    peer.prepare()
    answer = peer.run()
    some = ours.counts > 0
    expected = ours.feature_sums[some] / ours.counts[some, None]
    found = peer.centroids(answer)[some]
    facts = {"difference": rounded(float(np.linalg.norm(found - expected) / np.linalg.norm(expected)))}
    if peer.counts is not None:
        facts["moved"] = float(np.abs(peer.counts(answer) - ours.counts).sum() / 2)
    if not facts["difference"] <= AGREEMENT or facts.get("moved", 0) > 1 + TIES * ours.n_timesteps:
        raise AssertionError(f"{peer.name} finds another answer: {facts}, over {ours.n_timesteps} timesteps")
    return {**pairs.facts(problem.records), **facts}


def _around(problem: Problem, repetitions: int) -> dict[str, float]:
    """What else a record costs: laying its activations out once, and labels with entropy instead of sums."""
    spans = whole_spans(problem.layout, problem.records)
    packed = pack(problem.activations, problem.layout, *spans)
    return {
        "pack_ms": milliseconds(
            median_seconds(lambda: pack(problem.activations, problem.layout, *spans), repetitions) / problem.records
        ),
        "labels_and_entropy_ms": milliseconds(
            median_seconds(lambda: soft_assign(packed, problem.layout, problem.centroids, 2, 0.3), repetitions)
            / problem.records
        ),
    }


def _sweep(size: Size, say: Callable[[str], None]) -> Any:
    base = Problem.make(size.layout, size.sweep_records, size.sweep_clusters[0], 1, seed=1)
    usable = len(os.sched_getaffinity(0))
    for n_threads in (t for t in size.sweep_threads if t <= usable):
        with threads(n_threads):
            for n_clusters in size.sweep_clusters:
                problem = base.with_clusters(n_clusters, n_threads)
                found = {p.name: compare(problem, p, size.repetitions) for p in (dense(problem), dense_rows(problem))}
                row = {
                    "threads": n_threads,
                    "n_clusters": n_clusters,
                    "ours_ms": found["dense"]["ours_ms"],
                    "dense_ms": found["dense"]["theirs_ms"],
                    "dense_rows_ms": found["dense_rows"]["theirs_ms"],
                    "ratio": found["dense"]["ratio"],
                    "ratio_rows": found["dense_rows"]["ratio"],
                }
                say(f"K = {n_clusters}, {n_threads} thread(s): {row['ours_ms']} ms a record, {row['ratio']}x")
                yield row


if __name__ == "__main__":
    main(lambda quick, say: run(QUICK if quick else FULL, say), __doc__)
