"""Explain one in-memory signal, for a notebook: the same path, and the same bits, as the pass over an archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from ecgscale.archive.reader import RawBatch
from ecgscale.archive.validate import OK, describe
from ecgscale.clusters.model import ClusterModel
from ecgscale.clusters.soft import Assignment
from ecgscale.config import BATCH
from ecgscale.encoders.preprocess import prepare_batch
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import UsageError
from ecgscale.explain.facts import Facts, explain_batch, fitted_gaps, fitted_with_padding, load_encoder
from ecgscale.explain.segments import find_segments, summarise
from ecgscale.io.places import absolute
from ecgscale.leads import canonical_lead

SEGMENT_DTYPE = np.dtype(
    [
        ("start", np.int32),
        ("stop", np.int32),
        ("start_s", np.float64),
        ("stop_s", np.float64),
        ("cluster", np.int16),
        ("entropy", np.float32),
    ]
)


@dataclass(frozen=True, repr=False)
class ExplainedRecord:
    """One record as the network sees it. Times in seconds are those of the recording, from its first sample.

    segments: structured array with start, stop (timesteps of the encoder's axis), start_s, stop_s, cluster, entropy
    labels: int16 (n,), time_s: float64 (n,), entropy: float32 (n,) or None: of every valid timestep
    proportions, soft_proportions: float32 (K,); mean_entropy, distortion: over valid timesteps
    prediction: the network's raw outputs by name
    sampling_rate, length, valid_start, valid_stop: the encoder's time axis; start_s: recording time of its sample 0
    cropped: source samples cut off; flags: what is odd but usable
    """

    segments: np.ndarray
    labels: NDArray[np.int16]
    time_s: NDArray[np.float64]
    entropy: NDArray[np.float32] | None
    proportions: NDArray[np.float32]
    soft_proportions: NDArray[np.float32]
    mean_entropy: float
    distortion: float
    prediction: dict[str, float]
    sampling_rate: float
    length: int
    valid_start: int
    valid_stop: int
    start_s: float
    cropped: int
    flags: list[str]
    model_id: str

    def __repr__(self) -> str:
        outputs = ", ".join(f"{name} {value:.3g}" for name, value in self.prediction.items())
        clusters = len(np.unique(self.labels))
        return (
            f"ExplainedRecord({len(self.segments)} segments of {clusters} clusters over "
            f"{len(self.labels) / self.sampling_rate:.2f} s, mean entropy {self.mean_entropy:.3f}; {outputs})"
        )


def explain_record(
    signal: ArrayLike,
    leads: Sequence[str],
    sampling_rate: float,
    *,
    model: str | Path | ClusterModel,
    units_per_mv: float = 1.0,
    valid: tuple[int, int] | None = None,
    entropy: bool = True,
    fill_gaps: float | None = None,
    batch: int = BATCH,
    device: str = "auto",
) -> ExplainedRecord:
    """Explain `signal`, (n_leads, samples) with the names of its `leads`, under a cluster model (ROOT/models/ID).

    sampling_rate: Hz; units_per_mv: value of 1 mV in `signal` (1 = millivolt, 1000 = microvolt)
    valid: half-open span of samples that are not padding (all by default)
    fill_gaps: gaps (NaN) of up to so many milliseconds are filled; by default as the model was fitted
    batch: as for `ecgscale explain`, to get the very bits that it writes

    The encoder is loaded on the first call and kept. Raises `UsageError` for a signal that cannot be explained.
    """
    loaded = model if isinstance(model, ClusterModel) else _model(absolute(model))
    encoder = _encoder(loaded, device, batch)
    raw = raw_batch(signal, leads, sampling_rate, units_per_mv, valid)
    gaps_ms = fitted_gaps(loaded) if fill_gaps is None else fill_gaps
    prepared = prepare_batch(raw, encoder.spec.input, encoder.hop, gaps_ms=gaps_ms)
    facts = explain_batch(prepared, encoder, loaded, fitted_with_padding(loaded))
    if facts.status[0] != OK or facts.assignment is None:
        wanted = f"; the encoder takes {', '.join(encoder.spec.input.leads)}" if "leads" in facts.status[0] else ""
        raise UsageError(f"the signal cannot be explained: {describe(raw, 0, facts.status[0])}{wanted}")
    start_s = float(prepared.start_s[0])
    return _record(facts, facts.assignment, encoder, loaded.model_id, start_s, int(prepared.cropped[0]), entropy)


def _record(
    facts: Facts, assignment: Assignment, encoder: Encoder, model_id: str, start_s: float, cropped: int, entropy: bool
) -> ExplainedRecord:
    spec = encoder.spec
    rate, start, stop = spec.input.sampling_rate, int(facts.valid_start[0]), int(facts.valid_stop[0])
    found = find_segments(assignment.labels, assignment.entropy)
    segments = np.zeros(len(found.start), SEGMENT_DTYPE)
    for name in ("start", "stop", "cluster", "entropy"):
        segments[name] = getattr(found, name)
    segments["start_s"] = start_s + found.start / rate
    segments["stop_s"] = start_s + found.stop / rate
    summary = summarise(assignment)
    return ExplainedRecord(
        segments=segments,
        labels=assignment.labels[0, start:stop],
        time_s=start_s + np.arange(start, stop) / rate,
        entropy=assignment.entropy[0, start:stop] if entropy else None,
        proportions=summary.proportions[0],
        soft_proportions=summary.soft_proportions[0],
        mean_entropy=float(summary.mean_entropy[0]),
        distortion=float(summary.distortion[0]),
        prediction=dict(zip(spec.output.names, facts.prediction[0].tolist(), strict=True)),
        sampling_rate=rate,
        length=spec.input.length,
        valid_start=start,
        valid_stop=stop,
        start_s=start_s,
        cropped=cropped,
        flags=facts.flags[0],
        model_id=model_id,
    )


def raw_batch(
    signal: ArrayLike, leads: Sequence[str], sampling_rate: float, units_per_mv: float, valid: tuple[int, int] | None
) -> RawBatch:
    """A batch of one; `UsageError` when the array does not have one row a lead."""
    values: Any = np.asarray(signal)
    if values.ndim != 2 or len(values) != len(leads) or values.dtype.kind not in "iuf":
        turned = " (pass signal.T)" if values.ndim == 2 and values.shape[1] == len(leads) else ""
        raise UsageError(
            f"signal has shape {values.shape} of {values.dtype}; expected numbers of shape ({len(leads)}, samples), "
            f"a row for each of {', '.join(leads)}{turned}"
        )
    start, stop = valid or (0, values.shape[1])
    return RawBatch(
        shard="signal",
        first_row=0,
        table=pa.RecordBatch.from_pylist([{"record_id": "in-memory"}]),
        record_ids=["in-memory"],
        # Any other kind of number is a float64 to the network's preprocessing, too.
        values=(values if values.dtype in (np.int16, np.float32) else values.astype(np.float64)).ravel(),
        offsets=np.array([0, values.size]),
        leads=[tuple(canonical_lead(lead) for lead in leads)],
        sampling_rate=np.array([sampling_rate], np.float32),
        units_per_mv=np.array([units_per_mv], np.float32),
        valid_start=np.array([start], np.int32),
        valid_stop=np.array([stop], np.int32),
    )


@lru_cache(maxsize=4)
def _model(path: str) -> ClusterModel:
    return ClusterModel.load(path)


_encoders: dict[tuple[str, str, int], Encoder] = {}


def _encoder(model: ClusterModel, device: str, batch: int) -> Encoder:
    """The encoder of `model`, kept for the next call; only the last one, since networks are large."""
    key = (str(model.encoder_path), device, batch)
    if key not in _encoders:
        _encoders.clear()
        _encoders[key] = load_encoder(model, device, batch)
    return _encoders[key]
