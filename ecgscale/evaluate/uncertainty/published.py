"""Uncertainty of what was published below a ROOT."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import load_spec
from ecgscale.errors import UsageError
from ecgscale.evaluate.published import left_out
from ecgscale.evaluate.seen import ALL, Seen, groups_of, headline_of, patients_of, what_was_seen
from ecgscale.evaluate.surrogate.questions import list_matrix, pose
from ecgscale.evaluate.truth import label_columns, read_truth, suitable_columns
from ecgscale.evaluate.uncertainty.uncertainty import FEWEST, Uncertainty, facts_of, measure_uncertainty, questions_of
from ecgscale.evaluate.written import evaluation_name, write_evaluation
from ecgscale.io.places import place
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress
from ecgscale.store.dataset import find_dataset, open_explanations
from ecgscale.store.presence import announced


@dataclass(frozen=True)
class PublishedUncertainty:
    """What was measured, on which records, and where it was written."""

    result: Uncertainty
    facts: dict[str, Any]
    path: Path


@announced("ecgscale uncertainty", existing=True)
def uncertainty_published(
    root: str | Path,
    target: str | None = None,
    *,
    dataset: str | None = None,
    everyone: bool = False,
    n_bootstrap: int = 1000,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> PublishedUncertainty:
    """Set entropy beside error and calibration on the newest explanations below `root` (or those of `dataset`).

    Measured on records that neither encoder nor K-means had seen, as far as that is known and there are enough;
    `everyone` takes all of them. `target` is by default what the encoder was trained on. Writes
    ROOT/evaluations/<dataset>/uncertainty-<target>.json with its tables (strata, curves). Raises `UsageError` when
    nothing is published, the target is not there, or fewer than 20 records have a label.
    """
    found = find_dataset(root, dataset)
    assert found.manifest is not None
    identity = found.manifest.content.identity
    encoder_dir = place(root) / "encoders" / identity.encoder_id
    spec, model = load_spec(encoder_dir), ClusterModel.load(place(root) / "models" / identity.model_id)
    explanations = open_explanations(root, found.dataset_id)
    schema = explanations.schema
    asked = target or spec.training.get("target")
    if not asked:
        there = ", ".join(label_columns(schema)) or "none"
        raise UsageError(f"{spec.name} does not say what it was trained on; give --target, one of: {there}")
    columns = ["record_id", "patient_id", "prediction", "mean_entropy", *suitable_columns(schema, asked, spec)]
    if "age" in schema.names:
        columns.append("age")
    table = explanations.to_table(columns=list(dict.fromkeys(columns)), filter=pc.field("status") == "ok")
    truth = read_truth(table, asked, spec.output)
    records, patients = (table.column(name).to_pylist() for name in ("record_id", "patient_id"))
    seen = what_was_seen(found.manifest, spec, encoder_dir, model, [str(record) for record in records], patients)
    questions = pose(list_matrix(table, "prediction"), truth, spec.output, seen.validation)
    if questions.can_fit.sum() < FEWEST:
        raise UsageError(f"{questions.can_fit.sum()} explained records have a label of {asked}; {FEWEST} are needed")
    name, scored, notes = _measured_on(questions.can_fit, None if everyone else seen)
    progress.say(f"entropy against error of {spec.name} on {asked}: {int(scored.sum())} records")
    rows = np.flatnonzero(scored)
    result = measure_uncertainty(
        questions_of(questions, scored),
        table.column("mean_entropy").to_numpy()[rows],
        patients_of(table)[rows].tolist(),
        _ages(table, rows),
        n_bootstrap=n_bootstrap,
        seed=seed,
        spread=spread,
        progress=progress,
    )
    if unlabelled := int((~questions.can_fit).sum()):
        notes.append(f"{unlabelled} explained records have no label that the network knows")
    remarks = [*left_out(explanations), *notes, *result.remarks]
    told = {"target": asked, "kind": spec.output.kind, "measured_on": name}
    facts = {**told, **facts_of(result), "remarks": remarks}
    tables = {"strata": result.table(), "curves": result.curves}
    settings = {"target": asked, "everyone": everyone, "n_bootstrap": n_bootstrap, "seed": seed}
    path = write_evaluation(
        root, found.dataset_id, evaluation_name("uncertainty", asked), facts, tables, settings=settings
    )
    return PublishedUncertainty(result, facts, path)


def _measured_on(labelled: NDArray[np.bool_], seen: Seen | None) -> tuple[str, NDArray[np.bool_], list[str]]:
    """(the group that is measured, which records those are, remarks): unseen ones if there are enough; None: all."""
    groups = groups_of(labelled, seen)
    name, remark = (ALL, None) if seen is None else headline_of(groups)
    if groups[name].sum() >= FEWEST:
        return name, groups[name], [remark] if remark else []
    told = f"only {groups[name].sum()} records are new to encoder and K-means: measured on all, most of them seen"
    return ALL, groups[ALL], [told]


def _ages(table: pa.Table, rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    if "age" not in table.column_names:
        return None
    ages = table.column("age").cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.asarray(ages, np.float64)[rows]
