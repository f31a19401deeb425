"""How much rests on the choices: K, training records, tapped layers, depth factors, γ and τ, each with everything else
as it was.

Activations were extracted once (`passes.extracted`); every run here is a K-means on them and two forests. Records that
score took no part in any of it: K-means and forests are fitted on the others, and explained variance, stability and
scores are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.kmeans import FitSettings, KMeansFit, fit_kmeans
from ecgscale.clusters.model import MIN_TAU
from ecgscale.errors import UsageError
from ecgscale.evaluate.breakdown import value_of
from ecgscale.evaluate.forests import ForestSettings
from ecgscale.evaluate.heartbeat import Heartbeat
from ecgscale.evaluate.holdout import Holdout
from ecgscale.evaluate.out_of_fold import InMemory, answer
from ecgscale.evaluate.questions import Questions
from ecgscale.evaluate.rotation import Rotation
from ecgscale.evaluate.scores import scorers
from ecgscale.evaluate.stability import effective_number, stability
from ecgscale.passes.extracted import Extracted, Shares
from ecgscale.progress import SILENT, Progress, Stage

CLUSTERS, RECORDS, LAYERS, DEPTH, SOFTMAX = "clusters", "records", "layers", "depth", "softmax"
KEPT = (
    "agreement",
    "majority_agreement",
    "kappa",
    "accuracy",
    "network_accuracy",
    "auroc",
    "network_auroc",
    "r2",
    "mae_to_network",
    "mae",
    "network_mae",
)
_STABILITY_SAMPLE = 4000
_LEFT_OUT_PARTS = 3


@dataclass(frozen=True)
class SweepRequest:
    """What a user asks of `ecgscale sweep`. Empty `layers`, `depths`: all subsets, and factors that rise and fall.

    `base`: K of everything but the sweep of K. `softmax`: pairs of γ and τ, τ in units of the mean margin for γ = 2.
    """

    clusters: tuple[int, ...] = (5, 10, 20, 30, 50)
    base: int = 20
    train_records: tuple[int, ...] = (50, 100, 200, 500, 1000, 2198)
    layers: tuple[tuple[int, ...], ...] = ()
    depths: tuple[tuple[float, ...], ...] = ()
    softmax: tuple[tuple[int, float], ...] = ((1, 1.0), (2, 0.25), (2, 0.5), (2, 1.0), (2, 2.0), (2, 4.0))
    seeds: tuple[int, ...] = (0, 1, 2)
    records: int = 400
    forests: ForestSettings = field(default_factory=lambda: ForestSettings(trees=100))
    fit: FitSettings = field(default_factory=FitSettings)


@dataclass(frozen=True)
class Material:
    """What is swept: activations of N records, the questions about them, and which of them fit and which score.

    `heartbeat` is what clusters are held against for localisation, None with the reason in `remarks`.
    """

    extracted: Extracted
    questions: Questions
    patients: NDArray[np.str_]
    train: NDArray[np.bool_]
    test: NDArray[np.bool_]
    layer_names: tuple[str, ...]
    heartbeat: Heartbeat | None = None
    told: str = ""
    remarks: tuple[str, ...] = ()


@dataclass
class Sweep:
    """Runs of one material; `runs` has a row a run, `stabilities` one a setting."""

    material: Material
    request: SweepRequest
    runs: list[dict[str, Any]] = field(default_factory=list)
    stabilities: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    _done: dict[Any, tuple[KMeansFit, dict[str, Any]]] = field(default_factory=dict)

    def run(self, progress: Progress = SILENT) -> Sweep:
        """All sweeps, in turn."""
        n_blocks = self.material.extracted.layout.n_blocks
        layers = self.request.layers or subsets(n_blocks)
        depths = self.request.depths or rising_and_falling(n_blocks)
        sizes = self._sizes()
        seeds = len(self.request.seeds)
        total = seeds + _LEFT_OUT_PARTS + seeds * (len(sizes) + len(layers) + len(depths)) + 1
        with progress.stage("sweep", total, "fits") as stage:
            self._clusters(stage)
            self._sizes_of_training(sizes, stage)
            for blocks in layers:
                self._layers(blocks, stage)
            for scales in depths:
                self._variant(
                    DEPTH, " ".join(f"{s:g}" for s in scales), self.material.extracted.with_scales(scales), stage
                )
            self._softmax(stage)
        return self

    def _clusters(self, stage: Stage) -> None:
        """K × seeds, and K with a part of the training patients left out each time."""
        fits: dict[int, list[KMeansFit]] = {}
        for seed in self.request.seeds:
            for k, fit in self._fits(self.material.extracted, self._train(), self.request.clusters, seed).items():
                fits.setdefault(k, []).append(fit)
                self._score(CLUSTERS, str(k), self.material.extracted, fit, seed, x=k)
            stage.advance()
        parts = self._left_out()
        less: dict[int, list[KMeansFit]] = {}
        for records in parts:
            for k, fit in self._fits(self.material.extracted, records, self.request.clusters, 0).items():
                less.setdefault(k, []).append(fit)
            stage.advance()
        for k in fits:
            self._stability(CLUSTERS, str(k), "seeds", self.material.extracted, fits[k])
            self._stability(CLUSTERS, str(k), "parts", self.material.extracted, less.get(k, []))

    def _sizes_of_training(self, sizes: Sequence[int], stage: Stage) -> None:
        for n in sizes:
            fits = []
            for seed in self.request.seeds:
                records = np.sort(np.random.default_rng([seed, 10]).permutation(self._train())[:n])
                for fit in self._fits(self.material.extracted, records, (self.request.base,), seed).values():
                    fits.append(fit)
                    self._score(RECORDS, str(n), self.material.extracted, fit, seed, x=n, n_records=n)
                stage.advance()
            self._stability(RECORDS, str(n), "seeds", self.material.extracted, fits)

    def _layers(self, blocks: tuple[int, ...], stage: Stage) -> None:
        names = "+".join(self.material.layer_names[b] for b in blocks)
        self._variant(LAYERS, names, self.material.extracted.with_blocks(blocks), stage)

    def _variant(self, vary: str, setting: str, extracted: Extracted, stage: Stage) -> None:
        fits = []
        for seed in self.request.seeds:
            for fit in self._fits(extracted, self._train(), (self.request.base,), seed).values():
                fits.append(fit)
                self._score(vary, setting, extracted, fit, seed)
            stage.advance()
        self._stability(vary, setting, "seeds", extracted, fits)

    def _softmax(self, stage: Stage) -> None:
        """Soft proportions and the entropy's range under other γ and τ, centroids as they are."""
        extracted, seed = self.material.extracted, self.request.seeds[0]
        for fit in self._fits(extracted, self._train(), (self.request.base,), seed).values():
            margin = max(fit.final.mean_margin, MIN_TAU)
            for gamma, times in self.request.softmax:
                tau = times * margin if gamma == 2 else times
                shares = extracted.soft(fit.centroids, gamma, tau)
                facts = {
                    "gamma": gamma,
                    "tau": tau,
                    "mean_entropy": float(shares.mean_entropy.mean()),
                    "entropy_1_percent": float(shares.entropy_range[0]),
                    "entropy_99_percent": float(shares.entropy_range[1]),
                }
                unit = " margin" if gamma == 2 else ""
                setting = f"gamma {gamma}, tau {times:g}{unit}"
                self.runs.append(self._row(SOFTMAX, setting, seed) | facts | self._surrogate(shares.soft))
        stage.advance()

    def _fits(
        self, extracted: Extracted, records: NDArray[np.int64], clusters: Sequence[int], seed: int
    ) -> dict[int, KMeansFit]:
        """K → its fit on these records; a K that they are too few for is told and left out.

        Sweeps meet where nothing is varied: what was fitted there is not fitted again.
        """
        known = [self._done.get(self._key(extracted, len(records), k, seed)) for k in clusters]
        if all(known):
            return {k: done[0] for k, done in zip(clusters, known, strict=True) if done}
        source, settings = extracted.of(records), replace(self.request.fit, seed=seed)
        try:
            return dict(zip(clusters, fit_kmeans(source, clusters, settings), strict=True))
        except UsageError as error:
            if len(clusters) == 1:
                self._remark(f"no clusters from {len(records)} records: {error}")
                return {}
        return {k: fit for one in clusters for k, fit in self._fits(extracted, records, (one,), seed).items()}

    def _score(self, vary: str, setting: str, extracted: Extracted, fit: KMeansFit, seed: int, **facts: Any) -> None:
        n_records = int(facts.get("n_records", self.material.train.sum()))
        key = self._key(extracted, n_records, len(fit.centroids), seed)
        if key not in self._done:
            self._done[key] = fit, self._facts(extracted, fit)
        row = {**self._row(vary, setting, seed), "n_clusters": len(fit.centroids), **facts}
        self.runs.append({**row, **self._done[key][1]})

    def _facts(self, extracted: Extracted, fit: KMeansFit) -> dict[str, Any]:
        """Everything that is measured of one fit."""
        shares = extracted.soft(fit.centroids, 2, max(fit.final.mean_margin, MIN_TAU), labels=self._localises())
        return {
            "explained_variance": self._explained(extracted, fit),
            "explained_variance_fit": fit.explained_variance,
            "effective_clusters": effective_number(fit.final.counts),
            "largest_share": float((fit.final.counts / max(fit.final.n_timesteps, 1)).max()),
            "converged": fit.converged,
            **self._surrogate(shares.proportions),
            **self._localisation(shares, len(fit.centroids)),
        }

    def _key(self, extracted: Extracted, n_records: int, k: int, seed: int) -> tuple[Any, ...]:
        """What decides a fit; of a number of training records there is one draw a seed."""
        return extracted.blocks, extracted.layout.scales, n_records, k, seed

    def _surrogate(self, proportions: NDArray[np.float32]) -> dict[str, float | None]:
        part = Holdout(self.material.train, self.material.test, "")
        rotation = Rotation((part,), ("held out",), "")
        answers = answer(self.material.questions, InMemory(proportions), rotation, self.request.forests)
        found = scorers(self.material.questions, answers, self.material.test)
        return {name: value_of(found[name], self.material.test) for name in KEPT if name in found}

    def _localisation(self, shares: Shares, n_clusters: int) -> dict[str, float | None]:
        heartbeat = self.material.heartbeat
        return heartbeat.compare(shares.labels, n_clusters) if heartbeat else {}

    def _explained(self, extracted: Extracted, fit: KMeansFit) -> float | None:
        """1 − inertia / total variance, of the records that score."""
        source = extracted.of(np.flatnonzero(self.material.test))
        around, whole = source.assign_to([fit.centroids, np.zeros_like(fit.centroids[:1])])
        mean = whole.feature_sums[0] / max(whole.n_timesteps, 1)
        variance = whole.inertia - whole.n_timesteps * float(mean @ mean)
        return 1.0 - around.inertia / variance if variance > 0 else None

    def _stability(self, vary: str, setting: str, across: str, extracted: Extracted, fits: Sequence[KMeansFit]) -> None:
        sample = extracted.of(np.flatnonzero(self.material.test)).sample(_STABILITY_SAMPLE, 0)
        found = stability([fit.centroids for fit in fits], sample)
        if found:
            self.stabilities.append({"vary": vary, "setting": setting, "across": across, **asdict(found)})

    def _sizes(self) -> list[int]:
        """Numbers of training records that there are, and all of them."""
        n = int(self.material.train.sum())
        return [*(size for size in sorted(self.request.train_records) if size < n), n]

    def _train(self) -> NDArray[np.int64]:
        return np.flatnonzero(self.material.train)

    def _left_out(self) -> list[NDArray[np.int64]]:
        """Training records less a part of their patients, part by part."""
        _, owner = np.unique(self.material.patients, return_inverse=True)
        part = np.random.default_rng(11).permutation(int(owner.max()) + 1)[owner] % _LEFT_OUT_PARTS
        return [np.flatnonzero(self.material.train & (part != i)) for i in range(_LEFT_OUT_PARTS)]

    def _localises(self) -> bool:
        return self.material.heartbeat is not None

    def _row(self, vary: str, setting: str, seed: int) -> dict[str, Any]:
        return {
            "vary": vary,
            "setting": setting,
            "x": None,
            "seed": seed,
            "n_clusters": self.request.base,
            "n_records": int(self.material.train.sum()),
        }

    def _remark(self, text: str) -> None:
        if text not in self.remarks:
            self.remarks.append(text)


def subsets(n_blocks: int) -> tuple[tuple[int, ...], ...]:
    """Subsets of the tapped blocks: all of them up to three blocks, else each alone, all but each, and all."""
    blocks = range(n_blocks)
    sizes = range(1, n_blocks + 1) if n_blocks <= 3 else sorted({1, n_blocks - 1, n_blocks})
    return tuple(subset for size in sizes for subset in combinations(blocks, size))


def rising_and_falling(n_blocks: int) -> tuple[tuple[float, ...], ...]:
    """Depth factors from the shallowest block on: equal, and changing by √2 or 2 a block, the largest of them 1."""
    if n_blocks == 1:
        return ((1.0,),)
    steps = np.arange(n_blocks)
    found = [
        np.ones(n_blocks),
        *(base ** -(steps if down else steps[::-1]) for base in (2**0.5, 2.0) for down in (1, 0)),
    ]
    return tuple(tuple(round(float(value), 4) for value in scales) for scales in found)
