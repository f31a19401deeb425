"""What the probes say: correlations of courses over time against circular shifts, and of clusters and pairs.

gradcam_entropy    rank correlation over time of Grad-CAM and entropy within a record, its mean over records, a layer
votes_entropy      the same of MC dropout's indecision about the cluster, and entropy
dropout_entropy    over records: standard deviation of the target's output under dropout against mean entropy
masking            change of the target's output without a cluster, against as much taken out elsewhere; and whether
                   clusters that matter more (by masking) hold more Grad-CAM a timestep
randomisation      how much of Grad-CAM and entropy is left when weights are put out of order, down to a depth
waves              over pairs of waves of one kind: distance in the latent space against distance in shape (DTW)

Courses have one value a step of the finest tapped layer. A null moves each record's entropy (or latent course) round by
its own random amount, 200 times.

The summary of a probe run, beside the explanations it is about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.stats import rankdata

from ecgscale.clusters.features import half_pixel
from ecgscale.encoders.spec import OutputSpec, load_spec
from ecgscale.evaluate.bootstrap import patient_weights, spearman, weighted_mean
from ecgscale.evaluate.localise.shifts import N_SHIFTS
from ecgscale.evaluate.probe.masking import (
    FEWEST,
    AgainstShifts,
    Mean,
    Row,
    against_shifts,
    change_by_cluster,
    faithfulness,
    mean_over,
    rank_correlation,
    target_values,
)
from ecgscale.evaluate.written import write_evaluation
from ecgscale.io.places import place
from ecgscale.passes.probe.probe import ProbeResult, open_probes
from ecgscale.passes.probe.schema import WAVES, ProbeSettings
from ecgscale.store.dataset import find_dataset
from ecgscale.store.presence import announced


@dataclass(frozen=True)
class ProbeSummary:
    """What the probes of N records say; parts that were not run or cannot be scored are empty or None."""

    records: int
    gradcam_entropy: dict[str, AgainstShifts]
    votes_entropy: AgainstShifts | None
    dropout_entropy: Mean | None
    faithfulness: dict[str, Mean]
    randomisation: list[dict[str, Any]]
    waves: dict[str, AgainstShifts]
    clusters: pa.Table
    remarks: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the report; the change by cluster is a table of its own."""
        return {
            "records": self.records,
            "gradcam_entropy": self.gradcam_entropy,
            "votes_entropy": self.votes_entropy,
            "dropout_entropy": self.dropout_entropy,
            "faithfulness": self.faithfulness,
            "randomisation": self.randomisation,
            "waves": self.waves,
            "remarks": list(self.remarks),
        }


def summarise_probes(
    rows: Sequence[Row], layers: Sequence[str], output: OutputSpec, *, n_bootstrap: int = 1000, seed: int = 0
) -> ProbeSummary:
    """Summarise probed records (rows of `passes.probe_schema.SCHEMA`, those with status "ok")."""
    remarks = [] if len(rows) >= FEWEST else [f"{len(rows)} records were probed: too few for scores"]
    patients = [str(row["patient_id"] or row["record_id"]) for row in rows]
    weights = patient_weights(patients, n_bootstrap, seed) if rows else np.zeros((0, 0))
    rng = np.random.default_rng([seed, 10])
    courses = [np.array(row["entropy"], np.float64) for row in rows]
    gradcam = {
        layer: _over_time(
            [_stretched(row, i, len(course)) for row, course in zip(rows, courses, strict=True)], courses, weights, rng
        )
        for i, layer in enumerate(layers)
        if any(row["gradcam"] for row in rows)
    }
    votes = _over_time([_series(row["votes"]) for row in rows], courses, weights, rng) if _any(rows, "votes") else None
    return ProbeSummary(
        records=len(rows),
        gradcam_entropy={layer: score for layer, score in gradcam.items() if score.value is not None},
        votes_entropy=votes,
        dropout_entropy=_dropout(rows, output, weights),
        faithfulness=faithfulness(rows, layers, output, weights),
        randomisation=_randomisation(rows, layers, output, weights),
        waves=_pairs(rows),
        clusters=change_by_cluster(rows, output, weights),
        remarks=tuple(remarks),
    )


def _any(rows: Sequence[Row], column: str) -> bool:
    return any(row[column] is not None for row in rows)


def _series(values: Sequence[float] | None) -> NDArray[np.float64] | None:
    return None if values is None else np.array(values, np.float64)


def _stretched(row: Row, layer: int, steps: int) -> NDArray[np.float64] | None:
    """A Grad-CAM map (L,) at `steps` steps, by the linear interpolation that features use."""
    if not row["gradcam"]:
        return None
    cam = np.array(row["gradcam"][layer], np.float64)
    left, right, part = half_pixel(len(cam), steps)
    return np.asarray(cam[left] * (1 - part) + cam[right] * part)


def _over_time(
    first: Sequence[NDArray[np.float64] | None],
    second: Sequence[NDArray[np.float64]],
    weights: NDArray[np.float64],
    rng: np.random.Generator,
) -> AgainstShifts:
    """Mean over records of the rank correlation over time of two courses, against shifts of the second."""
    each = np.full((len(second), 1 + N_SHIFTS), np.nan)
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        if a is not None:
            each[i] = _shifted_correlations(a, b, rng)
    known = np.isfinite(each).all(axis=1)
    if known.sum() < FEWEST:
        return against_shifts(np.array([np.nan]))
    resampled = weighted_mean(each[known, 0])(weights[:, known])
    return against_shifts(each[known].mean(axis=0), resampled, two_sided=True)


def _shifted_correlations(
    a: NDArray[np.float64], b: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """(1 + N_SHIFTS,) rank correlations of a with b as it is, and with b moved round by random amounts.

    All shifts at once: the circular cross-correlation of two courses is a product of their Fourier transforms.
    """
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 4 or np.ptp(a[known]) == 0 or np.ptp(b[known]) == 0:
        return np.full(1 + N_SHIFTS, np.nan)
    x, y = (rankdata(values[known]) for values in (a, b))
    x, y = ((values - values.mean()) / values.std() for values in (x, y))
    every = np.fft.irfft(np.fft.rfft(x) * np.conj(np.fft.rfft(y)), len(x)) / len(x)
    return np.asarray(every[np.append(0, rng.integers(1, len(x), N_SHIFTS))])


def _dropout(rows: Sequence[Row], output: OutputSpec, weights: NDArray[np.float64]) -> Mean | None:
    if not _any(rows, "dropout"):
        return None
    spread = np.array(
        [target_values(row["dropout"], row["target"], output).std() if row["dropout"] else np.nan for row in rows]
    )
    return rank_correlation(spread, np.array([row["mean_entropy"] for row in rows], np.float64), weights)


def _randomisation(
    rows: Sequence[Row], layers: Sequence[str], output: OutputSpec, weights: NDArray[np.float64]
) -> list[dict[str, Any]]:
    """For each stage of the cascade, over records: what of Grad-CAM and of entropy is left (rank correlation over
    time), and how far the target's output moves."""
    stages = list(dict.fromkeys(stage["stage"] for row in rows for stage in row["randomised"] or []))
    found = []
    for name in stages:
        left: dict[str, list[float]] = {
            "entropy": [],
            **{f"gradcam:{layer}": [] for layer in layers},
            "output_change": [],
        }
        for row in rows:
            stage = next((one for one in row["randomised"] or [] if one["stage"] == name), None)
            if stage is None:
                for values in left.values():
                    values.append(np.nan)
                continue
            left["entropy"].append(_plain_correlation(row["entropy"], stage["entropy"]))
            for i, layer in enumerate(layers):
                left[f"gradcam:{layer}"].append(_plain_correlation(row["gradcam"][i], stage["gradcam"][i]))
            both = target_values(np.array([row["prediction"], stage["prediction"]]), row["target"], output)
            left["output_change"].append(float(abs(both[1] - both[0])))
        found.append({"stage": name, **{key: mean_over(np.array(values), weights) for key, values in left.items()}})
    return found


def _plain_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    x, y = np.array(a, np.float64), np.array(b, np.float64)
    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < 4:
        return float("nan")
    return float(spearman(x[known], y[known])(np.ones((1, int(known.sum()))))[0])


def _pairs(rows: Sequence[Row]) -> dict[str, AgainstShifts]:
    """For each kind of wave: rank correlation over pairs of latent and DTW distance, against moved courses."""
    pairs = [pair for row in rows for pair in row["pairs"] or []]
    found = {}
    for wave in sorted({pair["wave"] for pair in pairs}):
        own = [pair for pair in pairs if pair["wave"] == wave]
        if len(own) < FEWEST:
            continue
        dtw = np.array([pair["dtw_mv"] for pair in own], np.float64)
        latent = np.array([[pair["latent"], *pair["shifted"]] for pair in own], np.float64)
        alike = np.ones((1, len(own)))
        values = [float(spearman(dtw, column)(alike)[0]) for column in latent.T]
        found[wave] = against_shifts(np.array(values), two_sided=True)
    return found


NAME = "probes"


@dataclass(frozen=True)
class PublishedProbes:
    """What the probes say, and where it was written."""

    summary: ProbeSummary
    facts: dict[str, Any]
    path: Path


@announced("ecgscale probe", existing=True)
def write_probes(
    root: str | Path, result: ProbeResult, settings: ProbeSettings, *, n_bootstrap: int = 1000
) -> PublishedProbes:
    """Summarise a run of the probe pass; writes ROOT/evaluations/<dataset>/probes.json with the table clusters."""
    manifest = find_dataset(root, result.dataset_id).manifest
    assert manifest is not None
    spec = load_spec(place(root) / "encoders" / manifest.content.identity.encoder_id)
    rows = open_probes(result).to_table(filter=pc.field("status") == "ok").to_pylist()
    summary = summarise_probes(rows, spec.layers, spec.output, n_bootstrap=n_bootstrap, seed=settings.seed)
    remarks = [*result.remarks, *summary.remarks]
    if WAVES in settings.probes and not summary.waves:
        remarks.append("no pairs of waves to compare: too few recordings, or no waves annotated or found in them")
    facts = {**summary.to_dict(), "probe_id": result.probe_id, "remarks": remarks}
    tables = {"clusters": summary.clusters} if summary.clusters.num_rows else {}
    path = write_evaluation(root, result.dataset_id, NAME, facts, tables, settings=settings.to_dict())
    return PublishedProbes(summary, facts, path)
