"""How much rests on the choices: K, training records, tapped layers, depth factors, γ and τ, each with everything else
as it was.

Activations were extracted once; every run here is a K-means on them and two forests. Records that score took no part in
any of it: K-means and forests are fitted on the others, and explained variance, stability and scores are theirs. Fits
are tasks of their own (`fits`), done by whatever `spread` has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.kmeans import FitSettings, KMeansFit
from ecgscale.clusters.model import MIN_TAU
from ecgscale.evaluate.forests import ForestSettings
from ecgscale.evaluate.sweep.fits import (
    Asked,
    Fits,
    FitTask,
    Material,
    SoftTask,
    Variant,
    fit_and_measure,
    soften,
    stability,
)
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress, Stage

CLUSTERS, RECORDS, LAYERS, DEPTH, SOFTMAX = "clusters", "records", "layers", "depth", "softmax"
AXES = (CLUSTERS, RECORDS, LAYERS, DEPTH, SOFTMAX)
_STABILITY_SAMPLE = 4000
_LEFT_OUT_PARTS = 3


@dataclass(frozen=True)
class SweepRequest:
    """What a user asks of `ecgscale sweep`. Empty `layers`, `depths`: all subsets, and factors that rise and fall.

    `axes`: which choices are varied. `base`: K of everything but the sweep of K. `softmax`: pairs of γ and τ, τ in
    units of the mean margin for γ = 2.
    """

    axes: tuple[str, ...] = AXES
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
class _Planned:
    """A fit under one setting of what is varied, and facts that every row of it has. `part`: patients were left out."""

    vary: str
    name: str
    task: FitTask
    facts: dict[str, Any] = field(default_factory=dict)
    part: bool = False


@dataclass
class Sweep:
    """Runs of one material; `runs` has a row a run, `stabilities` one a setting."""

    material: Material
    request: SweepRequest
    runs: list[dict[str, Any]] = field(default_factory=list)
    stabilities: list[dict[str, Any]] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def run(self, progress: Progress = SILENT, spread: Spread = HERE) -> Sweep:
        """All sweeps: first every fit that they need, once each, on the workers of `spread`; then their tables."""
        planned = self._plan()
        tasks: dict[Any, FitTask] = {}
        for one in planned:
            if not all(key in tasks for key in self._keys(one)):
                tasks |= dict.fromkeys(self._keys(one), one.task)
        fits = list({id(task): task for task in tasks.values()}.values())
        asked = Asked(self.material, self.request.fit, self.request.forests)
        softened = len(self.request.softmax) if SOFTMAX in self.request.axes else 0
        with progress.stage("sweep", len(fits) + softened, "fits") as stage:
            names = {id(one.task): f"{one.vary} {one.name}".strip() for one in planned}
            done = spread.map(fit_and_measure, asked, fits, stage, names=[names[id(task)] for task in fits])
            self.remarks += dict.fromkeys(remark for found in done for remark in found.remarks)
            by_task = {id(task): found for task, found in zip(fits, done, strict=True)}
            found_of = {key: by_task[id(task)] for key, task in tasks.items()}
            self._tabulate(planned, found_of)
            if softened:
                self._softmax(asked, found_of[self._keys(planned[-1])[0]], spread, stage)
        return self

    def _plan(self) -> list[_Planned]:
        """Every fit of every sweep that was asked for, in the order of the tables."""
        request, as_is, seeds, base = self.request, Variant(), self.request.seeds, (self.request.base,)
        train, n_blocks = np.flatnonzero(self.material.train), self.material.extracted.layout.n_blocks
        planned = [_Planned(CLUSTERS, "", FitTask(as_is, train, request.clusters, seed)) for seed in seeds]
        planned += [
            _Planned(CLUSTERS, "", FitTask(as_is, records, request.clusters, 0, measured=False), part=True)
            for records in self._left_out()
        ]
        for n in [*(size for size in sorted(request.train_records) if size < len(train)), len(train)]:
            drawn = [np.sort(np.random.default_rng([seed, 10]).permutation(train)[:n]) for seed in seeds]
            planned += [
                _Planned(RECORDS, str(n), FitTask(as_is, records, base, seed), {"x": n, "n_records": n})
                for seed, records in zip(seeds, drawn, strict=True)
            ]
        variants = [
            (LAYERS, "+".join(self.material.layer_names[b] for b in blocks), Variant(blocks=blocks))
            for blocks in request.layers or subsets(n_blocks)
        ]
        variants += [
            (DEPTH, " ".join(f"{s:g}" for s in scales), Variant(scales=scales))
            for scales in request.depths or rising_and_falling(n_blocks)
        ]
        planned += [
            _Planned(vary, name, FitTask(variant, train, base, seed))
            for vary, name, variant in variants
            for seed in seeds
        ]
        # γ and τ are varied for the first seed's centroids.
        planned.append(_Planned(SOFTMAX, "", FitTask(as_is, train, base, seeds[0])))
        return [one for one in planned if one.vary in request.axes]

    def _keys(self, planned: _Planned) -> list[Any]:
        """What decides each of the fits of a task: sweeps meet where nothing is varied, and what was fitted there is
        not fitted again. Of a number of training records there is one draw a seed."""
        task, extracted = planned.task, self.material.extracted
        blocks = extracted.blocks if task.variant.blocks is None else task.variant.blocks
        scales = task.variant.scales or tuple(extracted.layout.scales[b] for b in blocks)
        which = task.records.tobytes() if planned.part else len(task.records)
        return [(blocks, tuple(map(float, scales)), which, k, task.seed) for k in task.clusters]

    def _tabulate(self, planned: Sequence[_Planned], found: dict[Any, Fits]) -> None:
        fits: dict[tuple[str, str, str], list[KMeansFit]] = {}
        variants: dict[tuple[str, str], Variant] = {}
        for one in planned:
            for k, key in zip(one.task.clusters, self._keys(one), strict=True):
                fit = found[key].fits.get(k)
                if fit is None or one.vary == SOFTMAX:
                    continue
                name, x = (str(k), {"x": k}) if one.vary == CLUSTERS else (one.name, {})
                variants[one.vary, name] = one.task.variant
                fits.setdefault((one.vary, name, "parts" if one.part else "seeds"), []).append(fit)
                if not one.part:
                    row = self._row(one.vary, name, one.task.seed)
                    self.runs.append({**row, "n_clusters": k, **x, **one.facts, **found[key].facts[k]})
        test = np.flatnonzero(self.material.test)
        for (vary, name), variant in variants.items():
            sample = variant.of(self.material.extracted).of(test).sample(_STABILITY_SAMPLE, 0)
            for across in ("seeds", "parts"):
                measured = stability([fit.centroids for fit in fits.get((vary, name, across), [])], sample)
                if measured:
                    self.stabilities.append({"vary": vary, "setting": name, "across": across, **asdict(measured)})

    def _softmax(self, asked: Asked, found: Fits, spread: Spread, stage: Stage) -> None:
        """Soft proportions and the entropy's range under other γ and τ, centroids as they are."""
        request, fit = self.request, found.fits.get(self.request.base)
        if fit is None:
            return
        margin = max(fit.final.mean_margin, MIN_TAU)
        tasks = [SoftTask(fit, gamma, times * margin if gamma == 2 else times) for gamma, times in request.softmax]
        for (gamma, times), facts in zip(request.softmax, spread.map(soften, asked, tasks, stage), strict=True):
            setting = f"gamma {gamma}, tau {times:g}{' margin' if gamma == 2 else ''}"
            self.runs.append(self._row(SOFTMAX, setting, request.seeds[0]) | facts)

    def _left_out(self) -> list[NDArray[np.int64]]:
        """Training records less a part of their patients, part by part."""
        _, owner = np.unique(self.material.patients, return_inverse=True)
        part = np.random.default_rng(11).permutation(int(owner.max()) + 1)[owner] % _LEFT_OUT_PARTS
        return [np.flatnonzero(self.material.train & (part != i)) for i in range(_LEFT_OUT_PARTS)]

    def _row(self, vary: str, setting: str, seed: int) -> dict[str, Any]:
        return {
            "vary": vary,
            "setting": setting,
            "x": None,
            "seed": seed,
            "n_clusters": self.request.base,
            "n_records": int(self.material.train.sum()),
        }


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
