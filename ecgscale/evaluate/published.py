"""The surrogate check of what was published below a ROOT, with its encoder's contract and what had been seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import load_spec
from ecgscale.errors import UsageError
from ecgscale.evaluate.seen import Seen, what_was_seen
from ecgscale.evaluate.surrogate import SurrogateResult, holdout_surrogate
from ecgscale.evaluate.truth import label_columns, target_columns
from ecgscale.progress import SILENT, Progress
from ecgscale.store.dataset import find_dataset, open_explanations


@dataclass(frozen=True)
class PublishedSurrogate:
    """The scores of one dataset, and what its encoder and its clusters had seen."""

    result: SurrogateResult
    seen: Seen
    dataset_id: str

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        folds = {"encoder_folds": self.seen.encoder_folds, "clusters_folds": self.seen.clusters_folds}
        return {
            **self.result.to_dict(),
            "dataset_id": self.dataset_id,
            **{name: list(seen) if seen else None for name, seen in folds.items()},
        }

    def seen_by(self) -> list[str]:
        """Who saw the records scored before, in words."""
        result = self.result
        return [
            f"encoder: {_told_folds(self.seen.encoder_folds)}{_told_count(result.seen_by_encoder, result.records)}",
            f"K-means: {_told_folds(self.seen.clusters_folds)}{_told_count(result.seen_by_clusters, result.records)}",
        ]


def check_published(
    root: str | Path,
    target: str | None = None,
    *,
    train_folds: Sequence[int] = (),
    test_folds: Sequence[int] = (),
    dataset: str | None = None,
    seed: int = 0,
    n_bootstrap: int = 1000,
    progress: Progress = SILENT,
) -> PublishedSurrogate:
    """Score surrogates of the network on the newest explanations below `root` (or those of `dataset`).

    `target` is the label column, by default the one the encoder says it was trained on. Errors as
    `holdout_surrogate`; `UsageError` too when nothing is published or no target is known.
    """
    found = find_dataset(root, dataset)
    assert found.manifest is not None
    identity = found.manifest.content.identity
    encoder_dir = Path(root) / "encoders" / identity.encoder_id
    spec = load_spec(encoder_dir)
    model = ClusterModel.load(Path(root) / "models" / identity.model_id)
    explanations = open_explanations(root, found.dataset_id)
    schema = explanations.schema
    asked = target or spec.training.get("target")
    if not asked:
        there = ", ".join(label_columns(schema))
        raise UsageError(f"{spec.name} does not say what it was trained on; give --target, one of: {there}")
    columns = ["record_id", "patient_id", "status", "prediction", "proportions", *target_columns(schema, asked)]
    table = explanations.to_table(columns=[*columns, *(name for name in ("fold",) if name in schema.names)])
    progress.say(f"surrogate of {spec.name} on {asked}: {table.num_rows} records")
    records = [str(record) for record in table.column("record_id").to_pylist()]
    seen = what_was_seen(found.manifest, spec, encoder_dir, model, records, table.column("patient_id").to_pylist())
    result = holdout_surrogate(
        table,
        asked,
        spec.output,
        train_folds=train_folds,
        test_folds=test_folds,
        seen=seen,
        seed=seed,
        n_bootstrap=n_bootstrap,
    )
    return PublishedSurrogate(result, seen, found.dataset_id)


def _told_folds(folds: tuple[int, ...] | None) -> str:
    return f"folds {', '.join(map(str, folds))}; " if folds else ""


def _told_count(count: int | None, records: int) -> str:
    return "what it saw is not told" if count is None else f"{count} of the {records} records scored, or their patients"
