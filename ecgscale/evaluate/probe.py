"""What the probes say: correlations of courses over time against circular shifts, and of clusters and pairs.

gradcam_entropy    rank correlation over time of Grad-CAM and entropy within a record, its mean over records, a layer
votes_entropy      the same of MC dropout's indecision about the cluster, and entropy
dropout_entropy    over records: standard deviation of the target's output under dropout against mean entropy
faithfulness       change of the target's output without a cluster, against as much taken out elsewhere (the same mask
                   moved round), because taking anything out changes something; and whether clusters that matter more
                   hold more Grad-CAM a timestep
occlusion          what one lead is worth: how far the target's output falls and moves without it, and which share of
                   the time has another cluster then; of each cluster, what it loses of its time
randomisation      how much of Grad-CAM and entropy is left when weights are put out of order, down to a depth
waves              over pairs of waves of one kind: distance in the latent space against distance in shape (DTW)

Courses have one value a step of the finest tapped layer. A null moves each record's entropy (or latent course) round by
its own random amount, 200 times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.stats import rankdata

from ecgscale.clusters.features import BlockLayout, interpolation
from ecgscale.encoders.spec import OutputSpec
from ecgscale.encoders.splits import split_by
from ecgscale.evaluate.localise.shifts import N_SHIFTS, NOTHING, AgainstShifts, against_shifts
from ecgscale.evaluate.metrics import Weights, interval, patient_weights, spearman, weighted_mean
from ecgscale.evaluate.published import USABLE, open_published
from ecgscale.evaluate.questions import probabilities
from ecgscale.evaluate.written import Written, write_evaluation
from ecgscale.passes.probe.probe import ProbeResult, open_probes
from ecgscale.passes.probe.schema import WAVES, ProbeSettings
from ecgscale.store.presence import announced

NAME = "probes"
FEWEST = 5
"""Records, pairs or clusters below which nothing is scored."""
FEWEST_STEPS = 4

Row = dict[str, Any]
Values = NDArray[np.float64]

_CHANGES = pa.schema(
    [
        ("cluster", pa.int16()),
        ("records", pa.int64()),
        *((f"{name}{end}", pa.float64()) for end in ("", "_low", "_high") for name in ("change", "gain")),
    ]
)


_LOST = pa.schema(
    [
        ("lead", pa.string()),
        ("cluster", pa.int16()),
        ("records", pa.int64()),
        *((f"lost{end}", pa.float64()) for end in ("", "_low", "_high")),
    ]
)


@dataclass(frozen=True)
class Mean:
    """A mean over records (or a correlation) with its 95 % interval over patients; None where there is nothing."""

    value: float | None
    interval: tuple[float, float] | None
    n: int


@dataclass(frozen=True)
class ProbeSummary:
    """What the probes of N records say; parts that were not run or cannot be scored are empty or None."""

    records: int
    gradcam_entropy: dict[str, AgainstShifts]
    votes_entropy: AgainstShifts | None
    dropout_entropy: Mean | None
    faithfulness: dict[str, Mean]
    occlusion: list[dict[str, Any]]
    randomisation: list[dict[str, Any]]
    waves: dict[str, AgainstShifts]
    clusters: pa.Table
    leads: pa.Table
    remarks: tuple[str, ...] = ()

    @property
    def tables(self) -> dict[str, pa.Table]:
        """The tables that have a row."""
        named = {"clusters": self.clusters, "leads": self.leads}
        return {name: table for name, table in named.items() if table.num_rows}

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the report; the change by cluster, and by lead and cluster, are tables of their own."""
        return {name: value for name, value in vars(self).items() if name not in ("clusters", "leads")}


@announced("ecgscale probe", existing=True)
def write_probes(
    root: str | Path, result: ProbeResult, settings: ProbeSettings, *, n_bootstrap: int = 1000
) -> Written[ProbeSummary]:
    """Summarise a run of the probe pass; writes ROOT/evaluations/<dataset>/probes.json with the tables clusters and
    leads."""
    published = open_published(root, result.dataset_id)
    spec = published.spec
    rows = open_probes(result).to_table(filter=USABLE).to_pylist()
    summary = summarise_probes(
        rows, spec.layers, spec.output, published.model.layout, n_bootstrap=n_bootstrap, seed=settings.seed
    )
    remarks = [*result.remarks, *summary.remarks]
    if WAVES in settings.probes and not summary.waves:
        remarks.append("no pairs of waves to compare: too few recordings, or no waves annotated or found in them")
    facts = {**summary.to_dict(), "probe_id": result.probe_id, "remarks": remarks}
    facts["resampled"] = split_by(row["patient_id"] for row in rows)
    path = write_evaluation(root, result.dataset_id, NAME, facts, summary.tables, settings=settings.to_dict())
    return Written(summary, facts, path)


def summarise_probes(
    rows: Sequence[Row],
    layers: Sequence[str],
    output: OutputSpec,
    layout: BlockLayout | None = None,
    *,
    n_bootstrap: int = 1000,
    seed: int = 0,
) -> ProbeSummary:
    """Summarise probed records (rows of `passes.probe.schema.SCHEMA`, those with status "ok").

    layout: of the layers; without it their steps have half-pixel centres
    """
    patients = [str(row["patient_id"] or row["record_id"]) for row in rows]
    weights = patient_weights(patients, n_bootstrap, seed) if rows else np.zeros((0, 0))
    rng = np.random.default_rng([seed, 10])
    courses = [np.array(row["entropy"], np.float64) for row in rows]
    gradcam = {}
    if any(row["gradcam"] for row in rows):
        for i, layer in enumerate(layers):
            maps = [_stretched(row, i, len(course), layout) for row, course in zip(rows, courses, strict=True)]
            gradcam[layer] = _over_time(maps, courses, weights, rng)
    votes = None
    if any(row["votes"] is not None for row in rows):
        each = [None if row["votes"] is None else np.array(row["votes"], np.float64) for row in rows]
        votes = _over_time(each, courses, weights, rng)
    masked = [masked_clusters(row, output) for row in rows]
    return ProbeSummary(
        records=len(rows),
        gradcam_entropy={layer: score for layer, score in gradcam.items() if score.value is not None},
        votes_entropy=votes,
        dropout_entropy=_dropout(rows, output, weights),
        faithfulness=_means([one.facts(layers) if one else {} for one in masked], weights),
        occlusion=_occlusion(rows, output, weights),
        randomisation=_randomisation(rows, layers, output, weights),
        waves=_pairs(rows),
        clusters=_change_by_cluster(masked, weights),
        leads=_lost_by_lead(rows, weights),
        remarks=() if len(rows) >= FEWEST else (f"{len(rows)} records were probed: too few for scores",),
    )


def rank_correlation(x: Values, y: Values, weights: Weights) -> Mean:
    """Rank correlation of (N,) x and y over records where both are known, with resampled patients (B, N)."""
    known, value = np.isfinite(x) & np.isfinite(y), _rho(x, y, FEWEST)
    n = int(known.sum())
    pair = interval(spearman(x[known], y[known]), weights[:, known]) if n >= FEWEST else None
    return Mean(value if np.isfinite(value) else None, pair, n)


def mean_over(values: Values, weights: Weights) -> Mean:
    """Mean of (N,) values over records where they are known, with resampled patients (B, N)."""
    known = np.isfinite(values)
    if known.sum() < FEWEST:
        return Mean(None, None, int(known.sum()))
    pair = interval(weighted_mean(values[known]), weights[:, known])
    return Mean(float(values[known].mean()), pair, int(known.sum()))


def _means(facts: Sequence[dict[str, float]], weights: Weights) -> dict[str, Mean]:
    """`mean_over` of every fact; records that do not have it take no part."""
    names = dict.fromkeys(name for each in facts for name in each)
    return {name: mean_over(np.array([each.get(name, np.nan) for each in facts]), weights) for name in names}


def _rho(x: Sequence[float] | Values, y: Sequence[float] | Values, fewest: int) -> float:
    """Rank correlation where both are known; NaN where that is in fewer than `fewest` places."""
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.isfinite(a) & np.isfinite(b)
    n = int(known.sum())
    return float(spearman(a[known], b[known])(np.ones((1, n)))[0]) if n >= fewest else float("nan")


def _target_values(predictions: Any, target: int, output: OutputSpec) -> Values:
    """What the network says of the target: its probability, or the value of a regression; (..., n) → (...)."""
    return np.asarray(probabilities(np.asarray(predictions), output)[..., target], np.float64)


def _stretched(row: Row, layer: int, steps: int, layout: BlockLayout | None) -> Values | None:
    """A Grad-CAM map (L,) at `steps` equal stretches of the record, by the linear interpolation that features use."""
    if not row["gradcam"]:
        return None
    cam = np.array(row["gradcam"][layer], np.float64)
    places = layout.places[layer] if layout and layout.places else None
    if layout and places:
        per = steps / layout.n_steps
        places = ((places[0] + 0.5) * per - 0.5, places[1] * per)
    left, right, part = interpolation(len(cam), steps, places)
    return np.asarray(cam[left] * (1 - part) + cam[right] * part)


def _over_time(
    first: Sequence[Values | None], second: Sequence[Values], weights: Weights, rng: np.random.Generator
) -> AgainstShifts:
    """Mean over records of the rank correlation over time of two courses, against shifts of the second."""
    each = np.full((len(second), 1 + N_SHIFTS), np.nan)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if a is not None:
            each[i] = _shifted_correlations(a, b, rng)
    known = np.isfinite(each).all(axis=1)
    if known.sum() < FEWEST:
        return NOTHING
    resampled = weighted_mean(each[known, 0])(weights[:, known])
    return against_shifts(each[known].mean(axis=0), resampled, two_sided=True)


def _shifted_correlations(a: Values, b: Values, rng: np.random.Generator) -> Values:
    """(1 + N_SHIFTS,) rank correlations of a with b as it is, and with b moved round by random amounts.

    All shifts at once: the circular cross-correlation of two courses is a product of their Fourier transforms.
    """
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < FEWEST_STEPS or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return np.full(1 + N_SHIFTS, np.nan)
    x, y = (rankdata(values[known]) for values in (a, b))
    x, y = ((values - values.mean()) / values.std() for values in (x, y))
    every = np.fft.irfft(np.fft.rfft(x) * np.conj(np.fft.rfft(y)), len(x)) / len(x)
    return np.asarray(every[np.append(0, rng.integers(1, len(x), N_SHIFTS))])


def _dropout(rows: Sequence[Row], output: OutputSpec, weights: Weights) -> Mean | None:
    if all(row["dropout"] is None for row in rows):
        return None
    spread = [_target_values(row["dropout"], row["target"], output).std() if row["dropout"] else np.nan for row in rows]
    return rank_correlation(np.array(spread), np.array([row["mean_entropy"] for row in rows], np.float64), weights)


def _occlusion(rows: Sequence[Row], output: OutputSpec, weights: Weights) -> list[dict[str, Any]]:
    """For each lead, over records: how far the target's output falls without it (`output_loss`), how far it moves in
    either direction (`output_change`), and the share of time that has another cluster then (`time_changed`)."""

    def lost(row: Row, part: Row) -> dict[str, float]:
        said, without = _target_values([row["prediction"], part["prediction"]], row["target"], output)
        loss = float(said - without)
        return {"output_loss": loss, "output_change": abs(loss), "time_changed": part["changed"]}

    return [
        {
            "lead": lead,
            **_means([lost(row, part) if part else {} for row, part in zip(rows, parts, strict=True)], weights),
        }
        for lead, parts in _by_lead(rows).items()
    ]


def _by_lead(rows: Sequence[Row]) -> dict[str, list[Row | None]]:
    """Lead → what was found of each record without it, None where nothing was."""
    each = [{part["lead"]: part for part in row["occluded"] or []} for row in rows]
    return {lead: [own.get(lead) for own in each] for lead in dict.fromkeys(lead for own in each for lead in own)}


def _lost_by_lead(rows: Sequence[Row], weights: Weights) -> pa.Table:
    """One row a lead and cluster: the mean share of the cluster's time that it loses without the lead, over the records
    that have it."""
    found: list[Row] = []
    for lead, parts in _by_lead(rows).items():
        n_clusters = max(len(part["lost"]) for part in parts if part)
        lost = np.array([part["lost"] if part else [np.nan] * n_clusters for part in parts], np.float64)
        for cluster, column in enumerate(lost.T):
            mean = mean_over(column, weights)
            low, high = mean.interval or (None, None)
            ends = {"lost": mean.value, "lost_low": low, "lost_high": high}
            found.append({"lead": lead, "cluster": cluster, "records": mean.n, **ends})
    return pa.Table.from_pylist(found, _LOST)


def _randomisation(
    rows: Sequence[Row], layers: Sequence[str], output: OutputSpec, weights: Weights
) -> list[dict[str, Any]]:
    """For each stage of the cascade, over records: what of Grad-CAM and of entropy is left (rank correlation over
    time), and how far the target's output moves."""

    def left(row: Row, stage: Row) -> dict[str, float]:
        both = _target_values([row["prediction"], stage["prediction"]], row["target"], output)
        maps = zip(layers, row["gradcam"], stage["gradcam"], strict=True)
        return {
            "entropy": _rho(row["entropy"], stage["entropy"], FEWEST_STEPS),
            **{f"gradcam:{layer}": _rho(cam, other, FEWEST_STEPS) for layer, cam, other in maps},
            "output_change": float(abs(both[1] - both[0])),
        }

    stages = [{stage["stage"]: left(row, stage) for stage in row["randomised"] or []} for row in rows]
    names = dict.fromkeys(name for each in stages for name in each)
    return [{"stage": name, **_means([each.get(name, {}) for each in stages], weights)} for name in names]


def _pairs(rows: Sequence[Row]) -> dict[str, AgainstShifts]:
    """For each kind of wave: rank correlation over pairs of latent and DTW distance, against moved courses."""
    pairs = [pair for row in rows for pair in row["pairs"] or []]
    found = {}
    for wave in sorted({pair["wave"] for pair in pairs}):
        own = [pair for pair in pairs if pair["wave"] == wave]
        if len(own) >= FEWEST:
            dtw = [pair["dtw_mv"] for pair in own]
            latent = np.array([[pair["latent"], *pair["shifted"]] for pair in own], np.float64)
            found[wave] = against_shifts(np.array([_rho(dtw, column, 0) for column in latent.T]), two_sided=True)
    return found


@dataclass(frozen=True)
class Masked:
    """The K clusters of one record, (K,) each: the change of the target without it, and the mean one without as much
    elsewhere; its shares of time and of Grad-CAM (K, layers), and its entropy."""

    cluster: NDArray[np.int64]
    change: Values
    elsewhere: Values
    share: Values
    gradcam: Values
    entropy: Values

    @property
    def gain(self) -> Values:
        """(K,) how much more the target changes without the cluster than without as much elsewhere."""
        return self.change - self.elsewhere

    def facts(self, layers: Sequence[str]) -> dict[str, float]:
        """What masking says of the record.

        change, change_elsewhere, change_gain (their difference): over the clusters, weighted by their time; with_…:
        rank correlations over the clusters of the gain with share of time, entropy, and Grad-CAM a timestep by layer
        (its share of the map over its share of time).
        """
        time = self.share / self.share.sum()
        change, elsewhere = float((self.change * time).sum()), float((self.elsewhere * time).sum())
        maps = {f"with_gradcam:{layer}": self.gradcam[:, i] / self.share for i, layer in enumerate(layers)}
        others = {"with_share_of_time": self.share, "with_entropy": self.entropy, **maps}
        return {
            "change": change,
            "change_elsewhere": elsewhere,
            "change_gain": change - elsewhere,
            **{name: _rho(self.gain, values, FEWEST) for name, values in others.items()},
        }


def masked_clusters(row: Row, output: OutputSpec) -> Masked | None:
    """What masking found of one probed record; None where it was not masked."""
    if not row["masked"]:
        return None
    of = {name: np.array([part[name] for part in row["masked"]]) for name in row["masked"][0]}
    said, without, elsewhere = (
        _target_values(predictions, row["target"], output)
        for predictions in (row["prediction"], of["prediction"], of["moved"])
    )
    change, elsewhere = np.abs(without - said), np.abs(elsewhere - said).mean(axis=1)
    return Masked(of["cluster"], change, elsewhere, of["share"], of["gradcam"], of["entropy"])


def _change_by_cluster(masked: Sequence[Masked | None], weights: Weights) -> pa.Table:
    """One row a cluster: the mean change of the target without it, and without as much elsewhere, over its records."""
    names = sorted({int(k) for one in masked if one for k in one.cluster})
    both = np.full((2, len(names), len(masked)), np.nan)
    for i, one in enumerate(masked):
        if one is not None:
            both[:, np.searchsorted(names, one.cluster), i] = one.change, one.gain
    columns = {"cluster": names, "records": np.isfinite(both[0]).sum(axis=1)}
    for name, values in zip(("change", "gain"), both, strict=True):
        means = [mean_over(each, weights) for each in values]
        columns[name] = [mean.value for mean in means]
        for i, end in enumerate(("low", "high")):
            columns[f"{name}_{end}"] = [mean.interval[i] if mean.interval else None for mean in means]
    return pa.table(columns, _CHANGES)
