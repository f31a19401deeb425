"""The summary of a probe run, beside the explanations it is about."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from ecgscale.encoders.spec import load_spec
from ecgscale.evaluate.probes import ProbeSummary, summarise_probes
from ecgscale.evaluate.written import write_evaluation
from ecgscale.passes.probe_schema import WAVES, ProbeSettings
from ecgscale.passes.probes import ProbeResult, open_probes
from ecgscale.places import place
from ecgscale.store.dataset import find_dataset
from ecgscale.store.presence import announced

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
    """Summarise a probe run of `ecgscale.passes.probes`; writes ROOT/evaluations/<dataset>/probes.json with the table
    clusters."""
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
