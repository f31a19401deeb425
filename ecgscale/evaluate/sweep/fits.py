"""What a sweep works on, and its fits as independent tasks.

The material is of a published ROOT, or of an archive with an encoder: which records fit and which score, their
activations, extracted once, and the questions about them. A task is a K-means under one setting, and everything that is
measured of it: the surrogate, localisation, explained variance, and how alike clusterings of the same timesteps are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from ecgscale.archive.reader import Archive
from ecgscale.clusters.kmeans import FitSettings, KMeansFit, fit_kmeans
from ecgscale.clusters.model import MIN_TAU
from ecgscale.encoders.seen import seen_by
from ecgscale.encoders.spec import EncoderSpec, load_spec
from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import ForestSettings, InMemory
from ecgscale.evaluate.localise.heartbeat import Heartbeat, find_beats
from ecgscale.evaluate.published import by_shard, draw_records, target_of
from ecgscale.evaluate.questions import Questions, pose, read_truth, suitable_columns
from ecgscale.evaluate.seen import kept_apart_by, patients_of
from ecgscale.evaluate.surrogate.check import open_records
from ecgscale.evaluate.surrogate.out_of_fold import answer
from ecgscale.evaluate.surrogate.rotation import Holdout, Rotation
from ecgscale.evaluate.surrogate.scores import scorers, values_of
from ecgscale.explain.facts import require_encoder
from ecgscale.passes.features import Extracted, extract_on
from ecgscale.passes.spread import HERE, Spread
from ecgscale.passes.stream import PLAIN, StreamSettings
from ecgscale.progress import SILENT, Progress

SCORED_SHARE = 0.25
FEWEST_SCORED, FEWEST_FITTED = 20, 40

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
    split: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class Origin:
    """Where a sweep's records come from: everything but their activations.

    `table` has record_id, patient_id, shard and the target's columns; `questions` are those about its N records where
    the network's outputs are known already; `seen` (N,) what the encoder has seen, None where that is not known.
    """

    archive: Archive
    encoder_dir: Path
    spec: EncoderSpec
    table: pa.Table
    target: str
    dataset_id: str
    seen: NDArray[np.bool_] | None
    questions: Questions | None = None
    settings: StreamSettings = PLAIN
    beats: Heartbeat | str = "localisation needs a published ROOT"


def from_root(
    root: Path,
    target: str | None,
    dataset: str | None = None,
    moved_to: Path | None = None,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Origin:
    """What was published below `root`; `UsageError` as `open_records`, and when its archive is gone."""
    published, data = open_records(root, target, dataset=dataset)
    archive, note = published.archive(moved_to)
    if archive is None:
        raise UsageError(f"a sweep needs the recordings: {note}")
    require_encoder(published.model)
    assert data.target is not None
    return Origin(
        archive=archive,
        encoder_dir=published.encoder_dir,
        spec=published.spec,
        table=data.table.rename_columns({"source_shard": "shard"}),
        target=data.target,
        dataset_id=published.dataset_id,
        seen=data.seen.encoder if data.seen else None,
        questions=data.questions,
        settings=published.stream,
        beats=find_beats(root, dataset, moved_to, seed, progress, spread),
    )


def from_archive(path: Path, encoder_dir: Path, target: str | None, progress: Progress = SILENT) -> Origin:
    """An archive that was not explained yet, with an encoder; `UsageError` for a target that it does not have."""
    archive, spec = Archive.open(path).readable(progress.say), load_spec(encoder_dir)
    schema = archive.schema()
    asked = target_of(spec, schema, target)
    labels = suitable_columns(schema, asked, spec)
    names = ["record_id", *(["patient_id"] if "patient_id" in schema.names else []), *labels]
    table = archive.metadata(names).drop(["row"])
    if "patient_id" not in names:
        table = table.append_column("patient_id", pa.nulls(table.num_rows, pa.string()))
    records = [str(record) for record in table.column("record_id").to_pylist()]
    source = str(archive.info.get("source", {}).get("kind", ""))
    seen = seen_by(encoder_dir, source, records, table.column("patient_id").to_pylist())
    return Origin(archive, encoder_dir, spec, table, asked, f"unexplained-{archive.archive_id[:16]}", seen)


def gather(
    origin: Origin,
    records: int,
    seed: int = 0,
    device: str = "auto",
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Material:
    """Draw records, run the network over them once, on the workers of `spread`, and say which fit and which score.

    A quarter score: records that the encoder has not seen, where there are enough of them; no patient stands on both
    sides. Raises `UsageError` when too few are left.
    """
    patients = patients_of(origin.table)
    fit, score, split = _sides(patients, origin.seen, records, seed)
    beats, table = origin.beats, origin.table
    pairs = table.filter(pa.array(fit | score)).select(["shard", "record_id"])
    wanted = by_shard(pairs.rename_columns(["source_shard", "record_id"]))
    if not isinstance(beats, str):
        for shard, record in zip(beats.shards, beats.record_ids, strict=True):
            wanted.setdefault(shard, []).append(record)
    wanted = {shard: list(dict.fromkeys(map(str, names))) for shard, names in wanted.items()}
    extracted = extract_on(spread, origin.archive, origin.encoder_dir, wanted, origin.settings, device, progress)
    number = {str(record): i for i, record in enumerate(table.column("record_id").to_pylist())}
    rows = np.array([number[record] for record in extracted.record_ids], np.int64)
    if origin.questions is not None:
        questions = origin.questions.of(rows)
    else:
        truth = read_truth(table.take(pa.array(rows)), origin.target, origin.spec.output)
        questions = pose(extracted.predictions, truth, origin.spec.output)
    train, test = fit[rows], score[rows]
    if train.sum() < FEWEST_FITTED or test.sum() < FEWEST_SCORED // 2:
        raise UsageError(f"{train.sum()} records to fit and {test.sum()} to score are too few for a sweep")
    remarks = [f"no localisation: {beats}"] if isinstance(beats, str) else []
    return Material(
        extracted=extracted,
        questions=questions,
        patients=patients[rows],
        train=train,
        test=test,
        layer_names=origin.spec.layers,
        heartbeat=None if isinstance(beats, str) else beats.among(extracted.record_ids),
        split=split,
        remarks=tuple(remarks),
    )


def _sides(
    patients: NDArray[np.str_], seen: NDArray[np.bool_] | None, records: int, seed: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], str]:
    """(N,) which records fit, which score, and how that was chosen."""
    n_score = max(round(SCORED_SHARE * min(records, len(patients))), FEWEST_SCORED)
    if seen is not None and (~seen).sum() >= FEWEST_SCORED and seen.sum() >= FEWEST_FITTED:
        candidates = np.flatnonzero(~seen)
        split = f"scored on records that the encoder has not seen, apart by {kept_apart_by(patients)}"
    else:
        known = np.unique(patients)
        drawn = np.random.default_rng([seed, 12]).permutation(known)[: max(round(SCORED_SHARE * len(known)), 1)]
        candidates = np.flatnonzero(np.isin(patients, drawn))
        quarter = f"scored on a quarter, drawn by {kept_apart_by(patients)}"
        split = f"{quarter}; the encoder may have seen them"
    score = np.zeros(len(patients), dtype=bool)
    score[candidates[draw_records(len(candidates), n_score, seed)]] = True
    free = np.flatnonzero(~np.isin(patients, patients[score]))
    fit = np.zeros(len(patients), dtype=bool)
    fit[free[draw_records(len(free), max(records - int(score.sum()), FEWEST_FITTED), seed)]] = True
    return fit, score, split


@dataclass(frozen=True)
class Variant:
    """The activations that a fit sees: of some of the blocks, under some depth factors; None: as they were taken."""

    blocks: tuple[int, ...] | None = None
    scales: tuple[float, ...] | None = None

    def of(self, extracted: Extracted) -> Extracted:
        """These activations."""
        if self.blocks is not None:
            extracted = extracted.with_blocks(self.blocks)
        return extracted if self.scales is None else extracted.with_scales(self.scales)


@dataclass(frozen=True)
class FitTask:
    """K-means for every K of `clusters` on these records; `measured`: with what is measured of each."""

    variant: Variant
    records: NDArray[np.int64]
    clusters: tuple[int, ...]
    seed: int
    measured: bool = True


@dataclass(frozen=True)
class SoftTask:
    """Soft assignment under γ and τ by the centroids of one fit."""

    fit: KMeansFit
    gamma: int
    tau: float


@dataclass(frozen=True)
class Asked:
    """What all tasks of a sweep share."""

    material: Material
    fit: FitSettings
    forests: ForestSettings


@dataclass(frozen=True)
class Fits:
    """K → its fit, and what was measured of it; a K that the records were too few for is named in `remarks`."""

    fits: dict[int, KMeansFit] = field(default_factory=dict)
    facts: dict[int, dict[str, Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def fit_and_measure(asked: Asked, task: FitTask) -> Fits:
    """Do one task."""
    extracted = task.variant.of(asked.material.extracted)
    fits, remarks = _fits(asked, extracted, task.records, task.clusters, task.seed)
    facts = {k: _facts(asked, extracted, fit) for k, fit in fits.items()} if task.measured else {}
    return Fits(fits, facts, remarks)


def soften(asked: Asked, task: SoftTask) -> dict[str, Any]:
    """The range of the entropy, and what soft proportions tell, under one γ and τ."""
    shares = asked.material.extracted.soft(task.fit.centroids, task.gamma, task.tau)
    return {
        "gamma": task.gamma,
        "tau": task.tau,
        "mean_entropy": float(shares.mean_entropy.mean()),
        "entropy_1_percent": float(shares.entropy_range[0]),
        "entropy_99_percent": float(shares.entropy_range[1]),
        **_surrogate(asked, shares.soft),
    }


def _fits(
    asked: Asked, extracted: Extracted, records: NDArray[np.int64], clusters: Sequence[int], seed: int
) -> tuple[dict[int, KMeansFit], tuple[str, ...]]:
    source, settings = extracted.of(records), replace(asked.fit, seed=seed)
    try:
        return dict(zip(clusters, fit_kmeans(source, clusters, settings), strict=True)), ()
    except UsageError as error:
        if len(clusters) == 1:
            return {}, (f"no clusters from {len(records)} records: {error}",)
    fits: dict[int, KMeansFit] = {}
    remarks: tuple[str, ...] = ()
    for one in clusters:
        found, notes = _fits(asked, extracted, records, (one,), seed)
        fits, remarks = fits | found, remarks + notes
    return fits, remarks


def _facts(asked: Asked, extracted: Extracted, fit: KMeansFit) -> dict[str, Any]:
    """Everything that is measured of one fit."""
    heartbeat = asked.material.heartbeat
    shares = extracted.soft(fit.centroids, 2, max(fit.final.mean_margin, MIN_TAU), labels=heartbeat is not None)
    return {
        "explained_variance": _explained(asked.material, extracted, fit),
        "explained_variance_fit": fit.explained_variance,
        "effective_clusters": effective_number(fit.final.counts),
        "largest_share": float((fit.final.counts / max(fit.final.n_timesteps, 1)).max()),
        "converged": fit.converged,
        **_surrogate(asked, shares.proportions),
        **(heartbeat.compare(shares.labels, len(fit.centroids)) if heartbeat else {}),
    }


def _surrogate(asked: Asked, proportions: NDArray[np.float32]) -> dict[str, float | None]:
    material = asked.material
    rotation = Rotation((Holdout(material.train, material.test, ""),), ("held out",), "")
    [answers] = answer([material.questions], InMemory(proportions), rotation, asked.forests)
    found = scorers(material.questions, answers, material.test)
    return values_of({name: found[name] for name in KEPT if name in found}, int(material.test.sum()))


def _explained(material: Material, extracted: Extracted, fit: KMeansFit) -> float | None:
    """1 − inertia / total variance, of the records that score."""
    source = extracted.of(np.flatnonzero(material.test))
    around, whole = source.assign_to([fit.centroids, np.zeros_like(fit.centroids[:1])])
    mean = whole.feature_sums[0] / max(whole.n_timesteps, 1)
    variance = whole.inertia - whole.n_timesteps * float(mean @ mean)
    return 1.0 - around.inertia / variance if variance > 0 else None


@dataclass(frozen=True)
class Stability:
    """Over all pairs of several clusterings: mean and smallest adjusted Rand index (1 the same, 0 chance), and the mean
    distance of matched centroids in units of the features' spread."""

    pairs: int
    ari: float
    ari_min: float
    centroid_distance: float


def stability(centroid_sets: Sequence[NDArray[np.floating]], sample: NDArray[np.floating]) -> Stability | None:
    """Compare sets of centroids (K, C) on a sample of features (n, C) that none was fitted on; None for fewer than two
    sets, or an empty sample."""
    if len(centroid_sets) < 2 or not len(sample):
        return None
    labels = [nearest(sample, centroids) for centroids in centroid_sets]
    spread = float(np.sqrt(((sample - sample.mean(axis=0)) ** 2).sum(axis=1).mean())) or 1.0
    pairs = list(combinations(range(len(centroid_sets)), 2))
    rand = [float(adjusted_rand_score(labels[a], labels[b])) for a, b in pairs]
    apart = [matched_distance(centroid_sets[a], centroid_sets[b]) / spread for a, b in pairs]
    return Stability(len(pairs), float(np.mean(rand)), min(rand), float(np.mean(apart)))


def nearest(features: NDArray[np.floating], centroids: NDArray[np.floating]) -> NDArray[np.int64]:
    """(n,) the nearest centroid of each feature vector, the lowest index on ties."""
    x, c = features.astype(np.float64), centroids.astype(np.float64)
    return np.asarray(((c**2).sum(axis=1) - 2 * x @ c.T).argmin(axis=1))


def matched_distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Mean Euclidean distance between centroids (K, C) matched one to one at the least total (Kuhn 1955)."""
    apart = np.sqrt(
        np.maximum(((one[:, None].astype(np.float64) - other[None].astype(np.float64)) ** 2).sum(axis=2), 0)
    )
    rows, columns = linear_sum_assignment(apart)
    return float(apart[rows, columns].mean())


def effective_number(counts: NDArray[np.integer]) -> float:
    """exp(entropy) of the shares of clusters: K when all are equally large, 1 when one has everything."""
    share = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0
