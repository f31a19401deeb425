"""A sweep as tables and as a few sentences: means and SDs by setting, where a curve over K bends (the elbow), and from
where on it is flat (the plateau)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from ecgscale.errors import UsageError
from ecgscale.evaluate.sweep.fits import Material, Origin, from_archive, from_root, gather
from ecgscale.evaluate.sweep.sweep import AXES, CLUSTERS, Sweep, SweepRequest
from ecgscale.evaluate.written import evaluation_name, write_evaluation
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.presence import announced


def elbow(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The x whose point lies furthest above the chord from first to last point, both axes scaled to 0…1.

    The rule of Satopää et al. 2011 ("Kneedle") for a concave rising curve, without smoothing. None for fewer than three
    points, or a curve that does not rise.
    """
    if len(x) < 3 or y[-1] <= y[0]:
        return None
    u = (np.asarray(x, float) - x[0]) / (x[-1] - x[0])
    v = (np.asarray(y, float) - y[0]) / (y[-1] - y[0])
    above = v - u
    best = int(above.argmax())
    return float(x[best]) if above[best] > 0 else None


def plateau(
    x: Sequence[float], mean: Sequence[float], sd: Sequence[float], least: float = 0.005, rising: bool = True
) -> float | None:
    """The smallest x from which on nothing beyond it is better than it by more than the SD of the better one, `least`
    at the least. None where there is none: of the last x nobody knows whether more would be better.

    `rising`: higher is better, else lower.
    """
    sign = 1.0 if rising else -1.0
    value, spread = sign * np.asarray(mean, float), np.maximum(np.asarray(sd, float), least)
    for i in range(len(x) - 1):
        if (value[i + 1 :] - spread[i + 1 :] <= value[i]).all():
            return float(x[i])
    return None


_NOT_AVERAGED = {"vary", "setting", "seed", "converged"}


@dataclass(frozen=True)
class SweepResult:
    """`runs`: a row a run; `stability`: a row a setting; `summary`: by axis, each setting's mean and SD of every score.

    `elbow`: K where explained variance bends; `plateau`: smallest K that nothing larger beats by more than its SD over
    seeds, by `plateau_score`, None where the largest is the best or all are alike but for chance. An axis that was not
    asked for has no rows. `path` is where it was written.
    """

    target: str
    kind: str
    elbow: float | None
    plateau: float | None
    plateau_score: str
    train_records: int
    records: int
    split: str
    summary: dict[str, list[dict[str, Any]]]
    remarks: tuple[str, ...]
    runs: pa.Table = field(repr=False)
    stability: pa.Table = field(repr=False)
    dataset_id: str = field(repr=False)
    path: Path | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the evaluation's facts."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.repr}


@announced("ecgscale sweep", existing=True)
def sweep_root(
    root: Path,
    target: str | None = None,
    request: SweepRequest | None = None,
    *,
    dataset: str | None = None,
    archive: Path | None = None,
    device: str = "auto",
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> SweepResult:
    """Sweep what was published below `root`, on the workers of `spread`; writes ROOT/evaluations/<dataset>/
    sweep-<target>.json."""
    request = request or SweepRequest()
    origin = from_root(root, target, dataset, archive, request.forests.seed, spread, progress)
    return _swept(root, origin, request, device, spread, progress)


@announced("ecgscale sweep")
def sweep_archive(
    archive: Path,
    encoder_dir: Path,
    root: Path,
    target: str | None = None,
    request: SweepRequest | None = None,
    *,
    device: str = "auto",
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> SweepResult:
    """The same of an archive before anything is fitted; writes ROOT/evaluations/unexplained-<archive>/sweep-….json."""
    origin = from_archive(archive, encoder_dir, target, progress)
    return _swept(root, origin, request or SweepRequest(), device, spread, progress)


def _swept(
    root: Path, origin: Origin, request: SweepRequest, device: str, spread: Spread, progress: Progress
) -> SweepResult:
    _check(request, origin.spec.layers)
    material = gather(origin, request.records, request.forests.seed, device, spread, progress)
    for remark in material.remarks:
        progress.say(remark)
    sweep = Sweep(material, request).run(progress, spread)
    result = summarised(sweep, origin.target, origin.dataset_id)
    tables = {"runs": result.runs, "stability": result.stability}
    name = evaluation_name("sweep", origin.target)
    path = write_evaluation(root, origin.dataset_id, name, result.to_dict(), tables, settings=asdict(request))
    return replace(result, path=path)


def _check(request: SweepRequest, layers: Sequence[str]) -> None:
    """Raise UsageError for axes that there are not, and layers and depth factors that do not fit the encoder's taps."""
    if not request.axes or not set(request.axes) <= set(AXES):
        raise UsageError(f"axes {', '.join(request.axes) or 'none'}: what can be varied is {', '.join(AXES)}")
    tapped = ", ".join(f"{i}: {name}" for i, name in enumerate(layers))
    for blocks in request.layers:
        if not blocks or len(set(blocks)) < len(blocks) or not set(blocks) <= set(range(len(layers))):
            raise UsageError(f"--layers {','.join(map(str, blocks))}: the encoder taps {tapped}")
    for scales in request.depths:
        if len(scales) != len(layers) or not all(np.isfinite(w) and w > 0 for w in scales):
            given = ",".join(f"{w:g}" for w in scales)
            raise UsageError(f"--depth {given}: one positive factor a tapped layer is needed; they are {tapped}")


def summarised(sweep: Sweep, target: str, dataset_id: str) -> SweepResult:
    """The tables and sentences of a sweep that was run."""
    material: Material = sweep.material
    runs = pd.DataFrame(sweep.runs)
    # A score that no run has is no column; one that is the same throughout (the network's) is shown once.
    runs = runs.dropna(axis=1, how="all")
    stabilities = pd.DataFrame(sweep.stabilities, columns=["vary", "setting", "across", "pairs", "ari", "ari_min",
                                                           "centroid_distance"])  # fmt: skip
    summary = {axis: _axis(runs, stabilities, axis) for axis in AXES}
    rows = [row for row in summary[CLUSTERS] if row["x"] is not None]
    rows.sort(key=lambda row: row["x"])
    x = [row["x"] for row in rows]
    score = "r2" if material.questions.kind == "regression" else "agreement"
    explained = [row["explained_variance"] for row in rows]
    known = [row for row in rows if row.get(score) is not None]
    return SweepResult(
        target=target,
        kind=material.questions.kind,
        dataset_id=dataset_id,
        runs=pa.Table.from_pandas(runs, preserve_index=False),
        stability=pa.Table.from_pandas(stabilities, preserve_index=False),
        summary=summary,
        elbow=elbow(x, explained) if None not in explained else None,
        plateau=_plateau(known, score, int(material.test.sum())),
        plateau_score=score,
        train_records=int(material.train.sum()),
        records=int(material.test.sum()),
        split=material.split,
        remarks=(*material.remarks, *sweep.remarks),
    )


def _plateau(rows: Sequence[dict[str, Any]], score: str, scored: int) -> float | None:
    """Where the score stops rising with K; None as well where K makes no difference that so few records can show."""
    mean = np.array([row[score] for row in rows])
    if score == "agreement" and len(mean):
        # The standard error of a share of so many records.
        chance = float(np.sqrt(mean.mean() * (1 - mean.mean()) / max(scored, 1)))
        if np.ptp(mean) <= chance:
            return None
    return plateau([row["x"] for row in rows], mean.tolist(), [row[f"{score}_sd"] or 0.0 for row in rows])


def _axis(runs: pd.DataFrame, stabilities: pd.DataFrame, axis: str) -> list[dict[str, Any]]:
    """One entry a setting, in the order of the runs: n, and mean and SD over seeds of every number."""
    own = runs[runs["vary"] == axis]
    columns = [name for name in own.columns if name not in _NOT_AVERAGED and own[name].notna().any()]
    found = []
    for setting, group in own.groupby("setting", sort=False):
        entry: dict[str, Any] = {"setting": setting, "runs": len(group), "x": None}
        for name in columns:
            values = group[name].dropna().to_numpy(np.float64)
            entry[name] = float(values.mean()) if len(values) else None
            if name not in ("x", "n_clusters", "n_records", "gamma", "tau"):
                entry[f"{name}_sd"] = float(values.std(ddof=1)) if len(values) > 1 else None
        for _, row in stabilities[(stabilities["vary"] == axis) & (stabilities["setting"] == setting)].iterrows():
            entry[f"ari_{row['across']}"] = float(row["ari"])
            entry[f"centroid_distance_{row['across']}"] = float(row["centroid_distance"])
        found.append(entry)
    return found
