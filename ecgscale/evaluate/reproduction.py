"""The published experiment again, from the released recordings to the table of what was published and what came out.

What the publication says about its splits leaves two readings, so there are two protocols for PTB-XL:

    A   strict rotation: for each fold, network, K-means and forest never see it, and it is what scores
    B   the network learns from folds 1 to 9 (stopped on 9); K-means and a ten-fold forest by patient inside fold 10

CODE-15 % has no folds: network and K-means learn from the first parts of the release, the last fifth of the parts
scores, less the patients that were learnt from.

Every step is one that a command makes, finds what it made before, and goes on from there. A table of what was published
against what was obtained ends it, as Markdown and as facts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ecgscale.config import ArchiveConfig, EncoderConfig, FitConfig, RunConfig, RuntimeConfig, TrainConfig
from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import ForestSettings
from ecgscale.evaluate.surrogate.check import check_published
from ecgscale.evaluate.surrogate.surrogate import SurrogateRequest
from ecgscale.evaluate.written import evaluation_name, plain, read_evaluations
from ecgscale.passes.run.pipeline import explain_config, fit_config, make_archive
from ecgscale.passes.workers import OpenPool, in_process
from ecgscale.progress import SILENT, Progress
from ecgscale.store.provenance import versions
from ecgscale.tables import Table

PTBXL_FOLDS = tuple(range(1, 11))
SCORED_PARTS = 0.2

Place = Callable[[RunConfig], tuple[OpenPool, str]]
"""Where a configuration runs: a pool, and the device."""


@dataclass(frozen=True)
class ReproductionOptions:
    """What may differ from run to run; `train` are keys of `[train]`. With an `encoder` no network is trained: that one
    is used, and who may be scored follows from what it says it has seen."""

    encoder: Path | None = None
    clusters: int = 20
    train: dict[str, Any] = field(default_factory=dict)
    forests: ForestSettings = field(default_factory=ForestSettings)
    n_bootstrap: int = 1000
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)
    device: str = "auto"
    fit_records: int | None = None


@dataclass(frozen=True)
class Outcome:
    """One protocol: the result of each run by its name, as `ecgscale surrogate --json` prints it."""

    protocol: str
    summary: str
    runs: dict[str, dict[str, Any]]

    def value(self, score: str) -> tuple[float, float | None, tuple[float, float] | None] | None:
        """(value, SD, interval): over runs where there are several, else over the parts of the one, else the one value
        with its interval."""
        runs = [run for run in self.runs.values() if run.get(score) is not None]
        known = [run[score] for run in runs]
        if len(known) > 1:
            return float(np.mean(known)), float(np.std(known, ddof=1)), None
        if not known:
            return None
        part, pair = runs[0]["folds"]["summary"].get(score), runs[0]["intervals"].get(score)
        if part and part["sd"] is not None:
            return part["mean"], part["sd"], None
        return known[0], None, tuple(pair) if pair else None

    @property
    def records(self) -> int:
        """Records that scored, over all runs."""
        return sum(run["records"] for run in self.runs.values())


def reproduce_ptbxl(
    src: Path,
    out: Path,
    protocols: Sequence[str] = ("A", "B"),
    folds: Sequence[int] = PTBXL_FOLDS,
    options: ReproductionOptions | None = None,
    place: Place | None = None,
    progress: Progress = SILENT,
) -> list[Outcome]:
    """Protocols A (for each of `folds`) and B (inside the last of `folds`) on the PTB-XL release in `src`.

    Everything is made below `out`; folds that the archive does not have are named and left out. Raises UsageError when
    none is left.
    """
    options = options or ReproductionOptions()
    archive = ArchiveConfig(path=out / "archive", source="ptbxl", src=src)
    whole = _config(out / "A", archive, options)
    opened = make_archive(whole, progress)
    there = sorted({fold for fold in opened.metadata(["fold"]).column("fold").to_pylist() if fold is not None})
    asked = [fold for fold in folds if fold in there]
    if absent := sorted(set(folds) - set(there)):
        progress.say(f"the archive has no fold {', '.join(map(str, absent))}: left out")
    if not asked:
        raise UsageError(f"{src} has folds {', '.join(map(str, there)) or 'none'}, none of those asked for")

    def run(folder: Path, learnt: Sequence[int], stop: int, clustered: Sequence[int], **asked: Any) -> dict[str, Any]:
        train = TrainConfig(target="superclasses", train_folds=tuple(learnt), validation_folds=(stop,), **options.train)
        config = _config(folder, archive, options, train)
        config = config.model_copy(update={"fit": config.fit.model_copy(update={"folds": tuple(clustered)})})
        return _run(config, config, "superclasses", _request(options, **asked), options, place, progress)

    outcomes = []
    if "A" in protocols:
        runs = {}
        for fold in asked:
            others = [one for one in there if one != fold]
            stop = max((one for one in others if one < fold), default=others[-1])
            learnt = [one for one in others if one != stop]
            folds_of = {"train_folds": tuple(others), "test_folds": (fold,)}
            runs[f"fold {fold}"] = run(out / "A" / f"fold-{fold}", learnt, stop, others, **folds_of)
        outcomes.append(Outcome("A", "network, K-means and forest never saw the fold that scores", runs))
    if "B" in protocols:
        inside, below = asked[-1], [one for one in there if one < asked[-1]]
        if len(below) < 2:
            raise UsageError(f"protocol B inside fold {inside} needs two folds below it for the network")
        one = run(out / "B", below[:-1], below[-1], [inside], folds="patients:10", within=(inside,))
        summary = f"network on folds below {inside}; K-means and a ten-fold forest inside fold {inside}"
        outcomes.append(Outcome("B", summary, {f"inside fold {inside}": one}))
    return outcomes


def reproduce_code15(
    src: Path,
    out: Path,
    options: ReproductionOptions | None = None,
    place: Place | None = None,
    progress: Progress = SILENT,
) -> list[Outcome]:
    """Age on the CODE-15 % release in `src`; the last fifth of its parts scores. UsageError for a single part."""
    options = options or ReproductionOptions()
    learning, scoring = _split_parts(src, out)
    learnt = ArchiveConfig(path=out / "archive-learning", source="code15", src=learning)
    scored = ArchiveConfig(path=out / "archive-scoring", source="code15", src=scoring)
    config = _config(out / "age", learnt, options, TrainConfig(target="age", **options.train))
    if options.fit_records is not None:
        config = config.model_copy(update={"fit": config.fit.model_copy(update={"records": options.fit_records})})
    other = config.model_copy(update={"archive": scored})
    for one in (config, other):
        make_archive(one, progress)
    run = _run(config, other, "age", _request(options, folds="patients:10"), options, place, progress)
    summary = "network and K-means on the first parts of the release; a ten-fold forest on the last"
    return [Outcome("age", summary, {"last parts": run})]


def _run(
    config: RunConfig,
    explained: RunConfig,
    target: str,
    request: SurrogateRequest,
    options: ReproductionOptions,
    place: Place | None,
    progress: Progress,
) -> dict[str, Any]:
    """One network and one K-means, the records of `explained` explained, one surrogate check: that which was written
    for this dataset and request by these versions, or a new one. Whatever is there already is used."""
    pool, device = place(config) if place else (in_process, options.device)
    fitted = fit_config(config, progress, pool, device)
    dataset_id = explain_config(explained, fitted.directory, progress, pool, device).dataset_id
    name = evaluation_name("surrogate", target)
    written = read_evaluations(config.root, dataset_id).get(name)
    if written is None or (written.settings, written.versions) != (plain(asdict(request)), versions()):
        check_published(config.root, target, request, dataset=dataset_id, progress=progress)
        written = read_evaluations(config.root, dataset_id)[name]
    return written.facts


def _config(
    root: Path, archive: ArchiveConfig, options: ReproductionOptions, train: TrainConfig | None = None
) -> RunConfig:
    return RunConfig(
        root=root / "results",
        archive=archive,
        encoder=EncoderConfig(path=options.encoder or root / "encoder"),
        train=None if options.encoder else (train or TrainConfig(target="superclasses")),
        fit=FitConfig(clusters=options.clusters),
        runtime=options.runtime,
        device=options.device,  # type: ignore[arg-type]
    )


def _request(options: ReproductionOptions, **changes: Any) -> SurrogateRequest:
    return SurrogateRequest(forests=options.forests, n_bootstrap=options.n_bootstrap, baselines=True, **changes)


def _split_parts(src: Path, out: Path) -> tuple[Path, Path]:
    """Two folders of links, to the first and to the last parts of a CODE-15 % release, each with exams.csv."""
    parts = sorted(
        src.glob("exams_part*.hdf5"), key=lambda path: int("".join(c for c in path.stem if c.isdigit()) or 0)
    )
    if len(parts) < 2:
        raise UsageError(f"{src} holds {len(parts)} exams_part*.hdf5; to learn from some and score others takes two")
    n_scored = max(round(SCORED_PARTS * len(parts)), 1)
    folders = []
    for name, some in (("learning", parts[:-n_scored]), ("scoring", parts[-n_scored:])):
        folder = out / f"parts-{name}"
        folder.mkdir(parents=True, exist_ok=True)
        for path in (src / "exams.csv", *some):
            link = folder / path.name
            if not link.exists():
                link.symlink_to(path.resolve())
        folders.append(folder)
    return folders[0], folders[1]


PUBLISHED = {
    "agreement": "94.9 ± 0.5 %",
    "accuracy": "88.2 %",
    "network_accuracy": "88.4 %",
    "auroc": "79.6 % (or below)",
    "network_auroc": "81.4 % (or below)",
    "auroc_thresholded": "79.6 % (or above)",
    "network_auroc_thresholded": "81.4 % (or above)",
}
"""PTB-XL superclasses, ten-fold (Boubekki et al., arXiv 2509.15198). Whether its AUROCs come from scores or from
decisions is not said; decisions are likely, since scores give networks on PTB-XL some 0.9."""

ROWS = {
    "agreement": "forest agrees with the network, per label",
    "majority_agreement": "always the most frequent answer",
    "exact_match": "forest agrees in every label",
    "kappa": "Cohen's κ with the network",
    "accuracy": "accuracy by the labels, forest",
    "network_accuracy": "accuracy by the labels, network",
    "majority_accuracy": "accuracy of the most frequent label",
    "auroc": "AUROC from scores, forest",
    "network_auroc": "AUROC from scores, network",
    "auroc_thresholded": "AUROC from decisions, forest",
    "network_auroc_thresholded": "AUROC from decisions, network",
    "average_precision": "average precision, forest",
    "network_average_precision": "average precision, network",
    "r2": "forest's R² to the network's ages",
    "mae_to_network": "forest's mean absolute error to them (years)",
    "mae": "mean absolute error by the labels, forest",
    "network_mae": "mean absolute error by the labels, network",
    "mean_mae": "mean absolute error of the mean label",
}
_AS_THEY_ARE = {"mae_to_network", "mae", "network_mae", "mean_mae", "kappa", "r2"}
"""Not in percent."""


def table_lines(outcomes: Sequence[Outcome], title: str) -> list[str]:
    """The table in Markdown, and what each column is."""
    heads = ["", "published", *(f"protocol {outcome.protocol}" for outcome in outcomes)]
    published = PUBLISHED if all(outcome.protocol != "age" for outcome in outcomes) else {}
    rows = [(words, published.get(score, ""), *(_cell(outcome, score) for outcome in outcomes))
            for score, words in ROWS.items()]  # fmt: skip
    rows = [row for row in rows if any(row[2:])]
    rows.append(("records that score", "", *(str(outcome.records) for outcome in outcomes)))
    lines = [f"# {title}", "", *Table.of(heads, rows, right=heads[1:]).markdown().splitlines(), ""]
    for outcome in outcomes:
        how = "mean ± SD over runs" if len(outcome.runs) > 1 else "one run: mean ± SD over its parts, or 95 % interval"
        lines.append(f"- Protocol {outcome.protocol}: {outcome.summary}. Runs: {', '.join(outcome.runs)} ({how}).")
        lines += [f"  - {name}: {remark}" for name, run in outcome.runs.items() for remark in run["remarks"]]
    return lines


def facts_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """For `--json` and reproduction.json."""
    return {
        outcome.protocol: {
            "told": outcome.summary,
            "records": outcome.records,
            "scores": {
                score: {"value": found[0], "sd": found[1], "interval": found[2]}
                for score in ROWS
                if (found := outcome.value(score)) is not None
            },
            "runs": plain(outcome.runs),
        }
        for outcome in outcomes
    }


def write_table(out: Path, outcomes: Sequence[Outcome], title: str) -> Path:
    """Write out/reproduction.md."""
    path = out / "reproduction.md"
    path.write_text("\n".join(table_lines(outcomes, title)) + "\n", encoding="utf-8")
    return path


def _cell(outcome: Outcome, score: str) -> str:
    found = outcome.value(score)
    if found is None:
        return ""
    value, sd, pair = found
    unit = "" if score in _AS_THEY_ARE else " %"

    def number(x: float) -> str:
        return f"{100 * x:.1f}" if unit else f"{x:.2f}"

    if sd is not None:
        return f"{number(value)} ± {number(sd)}{unit}"
    return f"{number(value)}{unit}" + (f" [{number(pair[0])}, {number(pair[1])}]" if pair else "")
