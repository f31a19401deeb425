"""The surrogate check of what was published below a ROOT, with its encoder's contract and what had been seen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.config import SurrogateConfig
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, load_spec
from ecgscale.errors import UsageError
from ecgscale.evaluate.seen import Seen, what_was_seen
from ecgscale.evaluate.surrogate.baselines import Baseline
from ecgscale.evaluate.surrogate.out_of_core import OutOfCore
from ecgscale.evaluate.surrogate.surrogate import (
    ExplainedRecords,
    SurrogateRequest,
    explained_records,
    score_surrogate,
)
from ecgscale.evaluate.truth import label_columns, suitable_columns, target_columns
from ecgscale.evaluate.written import SurrogateResult, evaluation_name, write_evaluation
from ecgscale.io.places import place
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.dataset import ExplainedDataset, find_dataset, open_explanations
from ecgscale.store.presence import announced
from ecgscale.words import named

Scheduler = Callable[..., Any] | str | None


@dataclass(frozen=True)
class PublishedRecords:
    """The explained records of one dataset, and everything they came from."""

    root: Path
    found: ExplainedDataset
    spec: EncoderSpec
    encoder_dir: Path
    model: ClusterModel
    target: str
    seen: Seen
    data: ExplainedRecords


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
            f"encoder: {_told_folds(self.seen.encoder_folds)}{_told_count(result.seen_by_encoder, result.records)}",
            f"K-means: {_told_folds(self.seen.clusters_folds)}{_told_count(result.seen_by_clusters, result.records)}",
        ]


def open_published(
    root: str | Path,
    target: str | None = None,
    request: SurrogateRequest | None = None,
    dataset: str | None = None,
) -> PublishedRecords:
    """The explained records of the newest dataset below `root` (or `dataset`), with labels of `target`.

    `target` is by default the column that the encoder says it was trained on. Raises `UsageError` when nothing is
    published, when no target is known, or when the dataset has no such column (listing those it has).
    """
    request = request or SurrogateRequest()
    found = find_dataset(root, dataset)
    assert found.manifest is not None
    identity = found.manifest.content.identity
    encoder_dir = place(root) / "encoders" / identity.encoder_id
    spec = load_spec(encoder_dir)
    model = ClusterModel.load(place(root) / "models" / identity.model_id)
    explanations = open_explanations(root, found.dataset_id)
    schema = explanations.schema
    asked = target or spec.training.get("target")
    if not asked:
        there = ", ".join(label_columns(schema))
        raise UsageError(f"{spec.name} does not say what it was trained on; give --target, one of: {there}")
    labels = suitable_columns(schema, asked, spec)
    columns = ["record_id", "patient_id", "source_shard", "status", "prediction", *labels]
    columns += ["fold"] if "fold" in schema.names else []
    columns += [] if request.out_of_core else ["proportions"]
    table = explanations.to_table(columns=columns)
    records = [str(record) for record in table.column("record_id").to_pylist()]
    seen = what_was_seen(found.manifest, spec, encoder_dir, model, records, table.column("patient_id").to_pylist())
    data = explained_records(table, asked, spec.output, request, seen)
    return PublishedRecords(place(root), found, spec, encoder_dir, model, asked, seen, data)


def check_asked(archive: Archive, encoder: Path, asked: SurrogateConfig, folds: bool = True) -> None:
    """Raise `UsageError` for a `[surrogate]` that `check_published` would refuse after hours of work.

    Looked at are the columns of the archive, the network's outputs if `encoder` is there already, and with `folds` (a
    column is read) whether the archive has those that are named.
    """
    schema = archive.schema()
    try:
        target_columns(schema, asked.target)
        if (encoder / SPEC_FILE).exists():
            suitable_columns(schema, asked.target, load_spec(encoder))
    except UsageError as error:
        raise UsageError(f"[surrogate] target: {error}") from error
    wanted = {*(asked.train_folds or ()), *(asked.test_folds or ())}
    if not wanted or not folds:
        return
    known = set(archive.metadata(["fold"]).column("fold").to_pylist()) if "fold" in schema.names else set()
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
    baselines: Callable[[PublishedRecords], Mapping[str, Baseline]] | None = None,
    scheduler: Scheduler = None,
    spread: Spread = HERE,
    write: bool = True,
    progress: Progress = SILENT,
) -> PublishedSurrogate:
    """Score surrogates of the network on the newest explanations below `root` (or those of `dataset`), and write the
    scores beside them.

    `train_folds` and `test_folds` stand for those of the `request`; `baselines` makes more of them than permuted
    proportions; `scheduler` is dask's, for a request out of core; `spread` is where the forests of any other grow.
    Errors as `open_published` and `score_surrogate`.
    """
    request = request or SurrogateRequest()
    if train_folds or test_folds:
        request = replace(request, train_folds=tuple(train_folds), test_folds=tuple(test_folds))
    published = open_published(root, target, request, dataset)
    data = published.data
    progress.say(f"surrogate of {published.spec.name} on {published.target}: {len(data.questions)} records")
    features = None
    if request.out_of_core:
        files = published.found.files()
        features = OutOfCore.over(
            files, data.table.column("record_id").to_pylist(), published.model.n_clusters, scheduler
        )
    made = baselines(published) if baselines and request.baselines else {}
    if request.out_of_core:
        # Dask spreads the questions; forests stay where it is spoken to.
        spread = HERE
    result = score_surrogate(
        data, published.target, request, features=features, baselines=made, spread=spread, progress=progress
    )
    checked = PublishedSurrogate(result, published.seen, published.found.dataset_id)
    if not write:
        return checked
    name = evaluation_name("surrogate", published.target)
    tables = {"records": result.out_of_fold}
    path = write_evaluation(root, checked.dataset_id, name, checked.to_dict(), tables, settings=asdict(request))
    return replace(checked, path=path)


def _told_folds(folds: tuple[int, ...] | None) -> str:
    return f"folds {', '.join(map(str, folds))}; " if folds else ""


def _told_count(count: int | None, records: int) -> str:
    return "what it saw is not told" if count is None else f"{count} of the {records} records scored, or their patients"
