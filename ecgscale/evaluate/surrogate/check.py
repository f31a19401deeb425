"""The surrogate check of what was published below a ROOT."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from ecgscale.archive.reader import Archive
from ecgscale.config import SurrogateConfig
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, load_spec
from ecgscale.errors import UsageError
from ecgscale.evaluate.forests import OutOfCore
from ecgscale.evaluate.published import Published, open_published
from ecgscale.evaluate.questions import read_truth, suitable_columns, target_columns
from ecgscale.evaluate.seen import Seen
from ecgscale.evaluate.surrogate.scores import Baseline
from ecgscale.evaluate.surrogate.surrogate import (
    ExplainedRecords,
    SurrogateRequest,
    SurrogateResult,
    explained_records,
    score_surrogate,
)
from ecgscale.evaluate.written import evaluation_name, write_evaluation
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.presence import announced
from ecgscale.words import named

Scheduler = Callable[..., Any] | str | None


@dataclass(frozen=True)
class PublishedSurrogate:
    """The scores of one dataset, what its encoder and its clusters had seen, and where the scores were written."""

    result: SurrogateResult
    seen: Seen
    dataset_id: str
    path: Path | None = None

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        folds = {"encoder_folds": self.seen.encoder_folds, "clusters_folds": self.seen.clusters_folds}
        return {
            **self.result.to_dict(),
            "dataset_id": self.dataset_id,
            **{name: list(seen) if seen else None for name, seen in folds.items()},
            "path": str(self.path) if self.path else None,
        }

    def seen_by(self) -> list[str]:
        """Who saw the records of the headline before, in words."""
        result = self.result
        return [
            f"encoder: {_seen(self.seen.encoder_folds, result.seen_by_encoder, result.records)}",
            f"K-means: {_seen(self.seen.clusters_folds, result.seen_by_clusters, result.records)}",
        ]


def open_records(
    root: str | Path,
    target: str | None = None,
    request: SurrogateRequest | None = None,
    dataset: str | None = None,
    *,
    unlabelled: bool = False,
) -> tuple[Published, ExplainedRecords]:
    """The newest dataset below `root` (or `dataset`), and its explained records with labels of `target`.

    `target` is by default the column that the encoder says it was trained on. Raises `UsageError` when nothing is
    published, when no target is known, or when the dataset has no such column (listing those it has); with
    `unlabelled` records go without labels instead, unless a `target` was asked for.
    """
    request = request or SurrogateRequest()
    published = open_published(root, dataset)
    asks = unlabelled and target is None
    why = _why_unlabelled(published.schema.empty_table(), published.spec) if asks else None
    asked = published.target(target) if why is None else None
    labels = suitable_columns(published.schema, asked, published.spec) if asked is not None else []
    columns = ["record_id", "patient_id", "source_shard", "status", "prediction", *labels]
    columns += [] if request.out_of_core else ["proportions"]
    table = published.table(columns, if_there=["fold"], wanted=None)
    if asks and why is None and (why := _why_unlabelled(table, published.spec)):
        asked = None
    data = explained_records(table, asked, published.spec.output, request, published.seen(table), without=why or "")
    return published, data


def _why_unlabelled(rows: pa.Table, spec: EncoderSpec) -> str | None:
    """Why these rows (or none, of all columns) have no labels where no target is asked for; None where they have."""
    if not (trained_on := str(spec.training.get("target") or "")):
        return f"{spec.name} does not say which column it was trained on, and no --target is given"
    try:
        read_truth(rows, trained_on, spec.output)
    except UsageError as error:
        return f"{spec.name} was trained on {trained_on}, and no --target is given; {error}"
    return None


def check_asked(archive: Archive, encoder: Path, asked: SurrogateConfig, folds: bool = True) -> None:
    """Raise `UsageError` for a `[surrogate]` that `check_published` would refuse after hours of work.

    Looked at are the columns of the archive, the network's outputs if `encoder` is there already, and with `folds` (a
    column is read) whether the archive has those that are named. Without a target there are labels or not.
    """
    schema = archive.schema()
    try:
        if asked.target is not None:
            target_columns(schema, asked.target)
            if (encoder / SPEC_FILE).exists():
                suitable_columns(schema, asked.target, load_spec(encoder))
    except UsageError as error:
        raise UsageError(f"[surrogate] target: {error}") from error
    wanted = {*(asked.train_folds or ()), *(asked.test_folds or ())}
    if not wanted or not folds:
        return
    known = set(archive.metadata(["fold"], []).column("fold").to_pylist()) if "fold" in schema.names else set()
    if absent := sorted(wanted - known):
        there = ", ".join(map(str, sorted(known - {None}))) or "none"
        raise UsageError(
            f"[surrogate] train_folds, test_folds: {archive.path} has no fold {named([str(fold) for fold in absent])}; "
            f"there are: {there}"
        )


@announced("ecgscale surrogate", when="write", existing=True)
def check_published(
    root: str | Path,
    target: str | None = None,
    request: SurrogateRequest | None = None,
    *,
    train_folds: Sequence[int] = (),
    test_folds: Sequence[int] = (),
    dataset: str | None = None,
    baselines: Callable[[Published, ExplainedRecords], Mapping[str, Baseline]] | None = None,
    scheduler: Scheduler = None,
    spread: Spread = HERE,
    write: bool = True,
    progress: Progress = SILENT,
) -> PublishedSurrogate:
    """Score surrogates of the network on the newest explanations below `root` (or those of `dataset`), and write the
    scores alongside.

    `train_folds` and `test_folds` stand for those of the `request`; `baselines` makes more of them than permuted
    proportions; `scheduler` is dask's, for a request out of core; `spread` is where the forests of any other grow.
    Where no `target` is given and the encoder's own is not there, the agreement with the network is scored alone.
    Errors as `open_records` and `score_surrogate`.
    """
    request = request or SurrogateRequest()
    if train_folds or test_folds:
        request = replace(request, train_folds=tuple(train_folds), test_folds=tuple(test_folds))
    published, data = open_records(root, target, request, dataset, unlabelled=True)
    progress.say(f"surrogate of {published.spec.name} on {data.about}: {len(data.questions)} records")
    features = None
    if request.out_of_core:
        ids = data.table.column("record_id").to_pylist()
        features = OutOfCore.over(published.found.files(), ids, published.model.n_clusters, scheduler)
        # Dask spreads the questions; forests stay where it is spoken to.
        spread = HERE
    made = baselines(published, data) if baselines and request.baselines else {}
    result = score_surrogate(data, request, features=features, baselines=made, spread=spread, progress=progress)
    assert data.seen is not None
    checked = PublishedSurrogate(result, data.seen, published.dataset_id)
    if not write:
        return checked
    name = evaluation_name("surrogate", data.target)
    tables = {"records": result.out_of_fold}
    made_with = request if data.target else replace(request, thresholds="half")
    path = write_evaluation(root, checked.dataset_id, name, checked.to_dict(), tables, settings=asdict(made_with))
    return replace(checked, path=path)


def _seen(folds: tuple[int, ...] | None, count: int | None, records: int) -> str:
    first = f"folds {', '.join(map(str, folds))}; " if folds else ""
    if count is None:
        return f"{first}what it saw is not told"
    return f"{first}{count} of the {records} records scored, or their patients"
