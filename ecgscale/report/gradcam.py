"""Grad-CAM of recordings, where the network was probed: what a reader study shows beside clusters."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from ecgscale.passes.probe_schema import SCHEMA
from ecgscale.passes.probes import probe_store
from ecgscale.report.subject import Subject
from ecgscale.store.dataset import open_explanations
from ecgscale.store.manifest import newest_number, read_manifest

Heat = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Seconds of the recording, and how much it mattered there, 0 to 1."""


def heat_of(subject: Subject) -> dict[str, Heat]:
    """Record id → Grad-CAM of the deepest tapped layer, scaled to its own maximum; empty where nothing was probed.

    Step l of L on the encoder's D timesteps stands at timestep (l + ½) D / L − ½, as the features have it.
    """
    found = subject.evaluations.get("probes")
    probe_id = found.facts.get("probe_id") if found else None
    store = probe_store(subject.root, subject.dataset_id, str(probe_id))
    manifest = read_manifest(store, newest_number(store)) if probe_id else None
    if manifest is None:
        return {}
    files = [store.location(name) for name in manifest.files]
    probed = pyarrow.dataset.dataset(files, schema=SCHEMA, format="parquet")
    wanted = (pc.field("status") == "ok") & pc.field("gradcam").is_valid()
    maps = {row["record_id"]: row["gradcam"] for row in probed.to_table(["record_id", "gradcam"], wanted).to_pylist()}
    heat = {}
    for record, start_s, rate, length in _axes(subject, list(maps)):
        deepest = np.array(maps[record][-1] if maps[record] else [], dtype=np.float64)
        if len(deepest) and deepest.max() > 0:
            steps = (np.arange(len(deepest)) + 0.5) * length / len(deepest) - 0.5
            heat[record] = (start_s + steps / rate, np.clip(deepest / deepest.max(), 0, 1))
    return heat


def _axes(subject: Subject, records: list[str]) -> list[tuple[str, float, float, int]]:
    """(record id, seconds of timestep 0, Hz, timesteps) of these explained records."""
    columns = ["record_id", "start_s", "sampling_rate", "length"]
    wanted = (pc.field("status") == "ok") & pc.field("record_id").isin(pa.array(records, pa.string()))
    rows = open_explanations(subject.root, subject.dataset_id).to_table(columns=columns, filter=wanted).to_pylist()
    return [(row["record_id"], row["start_s"], float(row["sampling_rate"]), row["length"]) for row in rows]
