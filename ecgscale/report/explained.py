"""One explained recording: its row of the published explanations and its samples from the archive.

Segments live on the encoder's time axis, samples on the recording's own; both are brought to seconds from the
recording's first sample: timestep i of the encoder is at `start_s + i / sampling_rate`.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ecgscale.errors import EcgscaleError, UsageError
from ecgscale.evaluate.published import Published, open_source
from ecgscale.evaluate.questions import probabilities
from ecgscale.io.places import place
from ecgscale.report.ecg_paper import Layout, draw_recording
from ecgscale.report.page import Band
from ecgscale.report.recordings import read_recordings
from ecgscale.store.dataset import ExplainedDataset, find_dataset, open_explanations
from ecgscale.store.holds import HeldFile, held_files
from ecgscale.words import counted, named

_LABELS = ("superclasses", "rhythm", "age", "sex")


@dataclass(frozen=True)
class ExplainedRecording:
    """What a page needs: (n_leads, n_samples) millivolts, their leads and rate, and what the network made of them."""

    record_id: str
    signal_mv: NDArray[np.float64]
    leads: tuple[str, ...]
    rate: float
    segments: list[Band]
    entropy: tuple[NDArray[np.float64], NDArray[np.float64]] | None
    outputs: dict[str, float]
    """What the network says: probabilities by class, or the value of a regression."""
    row: dict[str, Any]
    dataset_id: str
    held: str = ""
    """"held" or "rejected" where its shard is held back, so that it is not published."""

    def draw(self, layout: Layout = "3x4", window: tuple[float, float] | None = None) -> Figure:
        """The recording on ECG paper; errors as `draw_recording`."""
        return draw_recording(
            self.signal_mv,
            self.leads,
            self.rate,
            self.segments,
            self.entropy,
            title=f"{self.record_id}     {outputs_text(self.outputs)}",
            subtitle=_facts_text(self.row),
            layout=layout,
            window=window,
            footer=f"explanations {self.dataset_id}{f' ({self.held}, not published)' if self.held else ''}"
            f"   mean entropy {self.row['mean_entropy']:.3f}   distortion {self.row['distortion']:.3f}",
        )


def load_explained(
    root: str | Path,
    record_id: str,
    archive: str | Path | None = None,
    dataset: str | None = None,
    held: bool = False,
) -> ExplainedRecording:
    """The published explanation of `record_id` below `root`, with its signal; `held`: that of a shard held back.

    `archive` says where the archive is now, if it moved; `dataset` chooses among several. Raises `UsageError` for an
    unknown record (naming the nearest ids, or the shard that is held back with it), a quarantined one (naming its
    status), or another archive than the one that was explained, and `EcgscaleError` when the archive no longer holds
    the record.
    """
    found = find_dataset(root, dataset)
    assert found.manifest is not None
    row, state = _held_row(found, record_id) if held else (_published_row(root, found, record_id), "")
    if row["status"] != "ok":
        raise UsageError(
            f"record {record_id!r} was quarantined: {row['status']} (shard {row['source_shard']}). "
            "It has no segments to draw; `ecgscale inspect ARCHIVE` tells more."
        )
    opened, why_not = open_source(found.manifest, archive)
    if opened is None:
        raise UsageError(why_not)
    shard = str(row["source_shard"])
    recording = next(read_recordings(opened, {shard: [record_id]}), None)
    if recording is None:
        raise EcgscaleError(
            f"{opened.path}: shard {shard} no longer holds record {record_id!r}; it changed after it was explained. "
            "Explain the archive again."
        )
    start_s, encoder_rate = float(row["start_s"]), float(row["sampling_rate"])

    def seconds(step: int) -> float:
        return start_s + step / encoder_rate

    segments = [Band(seconds(s["start"]), seconds(s["stop"]), s["cluster"], s["entropy"]) for s in row["segments"]]
    entropy = None
    if row["entropy"] is not None:
        steps = row["valid_start"] + np.arange(len(row["entropy"]))
        entropy = (start_s + steps / encoder_rate, np.array(row["entropy"]))
    output = Published(place(root), found).spec.output
    outputs = dict(zip(output.names, probabilities(np.array(row["prediction"]), output).tolist(), strict=True))
    signal_mv, leads, rate = recording.signal_mv, recording.leads, recording.rate
    return ExplainedRecording(
        record_id, signal_mv, leads, rate, segments, entropy, outputs, row, found.dataset_id, state
    )


def _published_row(root: str | Path, found: ExplainedDataset, record_id: str) -> dict[str, Any]:
    explanations = open_explanations(root, found.dataset_id)
    rows = explanations.to_table(filter=pc.field("record_id") == record_id).to_pylist()
    if rows:
        return _best(rows)
    for file in held_files(found):
        if file.rows(["record_id"], record_id).num_rows:
            raise UsageError(
                f"record {record_id!r} is in shard {_held_text(file)}, so it is not published. `ecgscale plot --held` "
                f"draws it all the same; `ecgscale quarantine {root} --held` says why it is not"
            )
    known = explanations.to_table(columns=["record_id"]).column("record_id").to_pylist()
    raise UsageError(
        f"no record {record_id!r} among the {len(known):,} of dataset {found.dataset_id} below {root}. "
        f"Near it: {_near(record_id, known)}"
    )


def _held_row(found: ExplainedDataset, record_id: str) -> tuple[dict[str, Any], str]:
    """The row of a record in a shard that is held back, and whether it is "held" or "rejected"."""
    files = list(held_files(found))
    for file in files:
        rows = file.rows(record_id=record_id).to_pylist()
        if rows:
            return _best(rows), file.hold.state
    if not files:
        raise UsageError(f"no shard of dataset {found.dataset_id} is held back; leave --held out")
    known = [value for file in files for value in file.rows(["record_id"]).column("record_id").to_pylist()]
    raise UsageError(
        f"no record {record_id!r} in {counted(len(files), 'shard')} held back from dataset {found.dataset_id} "
        f"({named([file.hold.source.key for file in files])}). Near it: {_near(record_id, known)}. "
        "Without --held, what is published is looked at"
    )


def _best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A doubled id keeps its first record; the others are quarantined under the same id."""
    return next((row for row in rows if row["status"] == "ok"), rows[0])


def _held_text(file: HeldFile) -> str:
    state = "rejected" if file.hold.state == "rejected" else "held back"
    return f"{file.hold.source.key}, which is {state} since {file.hold.held_at[:10]}"


def _near(record_id: str, known: list[Any]) -> str:
    ids = [str(value) for value in known]
    return ", ".join(difflib.get_close_matches(record_id, ids, n=5, cutoff=0.4) or sorted(ids)[:5])


def outputs_text(outputs: dict[str, float]) -> str:
    """Probabilities or values by name, the largest first."""
    ranked = sorted(outputs.items(), key=lambda pair: -pair[1])
    shown = "   ".join(f"{name} {value:.2f}" for name, value in ranked[:6])
    return shown + (f"   … {len(ranked) - 6} more" if len(ranked) > 6 else "")


def _facts_text(row: dict[str, Any]) -> str:
    """Labels that the explanations carry, and what is odd about the recording."""
    parts = []
    for name in _LABELS:
        value = row.get(name)
        if value is not None and value != []:
            text = ", ".join(value) if isinstance(value, list) else str(value)
            text = f"{value:g}" if isinstance(value, float) else text
            parts.append(f"{name}: {text.replace('_', ' ')}")
    return "   ".join([*parts, *row["flags"]])
