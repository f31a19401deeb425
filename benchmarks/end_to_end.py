"""`explain` from archive to published Parquet, beside the bare forward pass and beside a script of the usual libraries.

The archive has the network's sampling rate. The bare loop runs the same network over the same recordings, decoded and
in memory before its clock starts; `explain` is timed from opening the archive to the published manifest, loading the
network included.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.inputs import CODE, Network, decoded, fit_model, load_module, write_archive, write_encoder
from benchmarks.report import Result, main
from benchmarks.student_script import BATCH, COLUMNS, explain_with_the_usual_libraries, fitted_kmeans
from benchmarks.timing import REPETITIONS, SETTLE_S, milliseconds, rounded, threads
from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.clusters.packed import pack
from ecgscale.clusters.soft import assign
from ecgscale.encoders.spec import load_spec
from ecgscale.encoders.taps import Encoder
from ecgscale.explain.segments import find_segments, segment_array, summarise
from ecgscale.passes.explain.explain import explain_archive
from ecgscale.store import open_explanations

AGREEMENT = 1e-4
"""Largest difference of a share or an entropy: float32 sums in another order, and timesteps that are ties."""


@dataclass(frozen=True)
class Size:
    """Records of the archive, of the script's archive, and batches in which the shares of time are measured."""

    network: Network
    records: int
    script_records: int
    batches: int
    n_clusters: int = 20
    repetitions: int = REPETITIONS


FULL = Size(CODE, 512, 128, 8)
QUICK = Size(CODE, 512, 64, 4)


@dataclass(frozen=True)
class Inputs:
    """Everything on disk, and the bare network with its recordings in memory."""

    archive: Path
    small_archive: Path
    encoder: Path
    root: Path
    model: ClusterModel
    module: torch.nn.Module
    x: NDArray[np.float32]

    @classmethod
    def make(cls, folder: Path, size: Size) -> Inputs:
        """Simulate, draw weights, fit."""
        archive = write_archive(folder / "archive", size.records, size.network)
        small = write_archive(folder / "small", size.script_records, size.network)
        encoder = write_encoder(folder / "encoder", size.network, archive)
        root = folder / "root"
        model = ClusterModel.load(fit_model(archive, encoder, root, size.n_clusters, min(size.records, 64)))
        x = decoded(archive, load_spec(encoder).input)
        return cls(archive, small, encoder, root, model, load_module(encoder), x)

    def explain(self, archive: Path) -> None:
        """The whole pass; outputs of an earlier one are removed by `forget`."""
        assert self.model.directory is not None
        explain_archive(Archive.open(archive), self.model.directory, self.root, device="cpu")

    def forget(self) -> None:
        """Remove all explanations, so that there is something to do again."""
        shutil.rmtree(self.root / "explanations", ignore_errors=True)

    def bare(self, records: int | None = None) -> None:
        """The network and nothing else, over recordings in memory."""
        with torch.inference_mode():
            for first in range(0, records or len(self.x), BATCH):
                self.module(torch.from_numpy(self.x[first : first + BATCH]))

    def script(self, out: Path) -> Any:
        """The script over the small archive."""
        spec = load_spec(self.encoder)
        layers = dict(zip(spec.layers, spec.depth_scales, strict=True))
        kmeans = fitted_kmeans(self.model.centroids)
        return explain_with_the_usual_libraries(self.small_archive, self.module, layers, kmeans, self.model.tau, out)


def run(size: Size, say: Callable[[str], None]) -> Result:
    """Measure, and compare what the script and `explain` say of the same recordings."""
    n_threads = min(2, len(os.sched_getaffinity(0)))
    with tempfile.TemporaryDirectory(prefix="ecgscale-benchmark-") as scratch, threads(n_threads):
        folder = Path(scratch)
        inputs = Inputs.make(folder, size)
        say(f"{size.records} recordings simulated, {size.n_clusters} clusters fitted")
        agreement = _compare(inputs, folder / "script.parquet")
        inputs.bare(2 * BATCH)
        rates: dict[str, list[float]] = {"explain": [], "bare": [], "script": []}
        for _ in range(size.repetitions):
            inputs.forget()
            rates["explain"].append(size.records / _seconds(lambda: inputs.explain(inputs.archive)))
            rates["bare"].append(len(inputs.x) / _seconds(inputs.bare))
            rates["script"].append(size.script_records / _seconds(lambda: inputs.script(folder / "script.parquet")))
            say(", ".join(f"{name} {found[-1]:.1f} records/s" for name, found in rates.items()))
        shares = _shares(inputs, size)
    say(f"after the forward pass: {shares['after_ms']} ms a record, of {shares['forward_ms']}")
    against = {name: [a / b for a, b in zip(rates["explain"], rates[name], strict=True)] for name in ("bare", "script")}
    ratios = {
        "explain_vs_bare_forward": rounded(statistics.median(against["bare"])),
        "explain_vs_script": rounded(statistics.median(against["script"])),
        "explain_share_of_forward": shares["share"],
    }
    details = {
        "records": size.records,
        "script_records": size.script_records,
        "threads": n_threads,
        "n_clusters": size.n_clusters,
        "records_per_s": {name: rounded(statistics.median(found)) for name, found in rates.items()},
        "ratio_ranges": {name: [rounded(min(r)), rounded(max(r))] for name, r in against.items()},
        "script_columns_read": COLUMNS,
        "agreement": agreement,
        "shares": shares,
    }
    return Result("end_to_end", ratios, details)


def _seconds(call: Callable[[], object]) -> float:
    time.sleep(SETTLE_S)
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _compare(inputs: Inputs, out: Path) -> dict[str, float]:
    """What both say of the same recordings: this is the warm-up too. Raises when they disagree."""
    inputs.explain(inputs.small_archive)
    ours = open_explanations(inputs.root).to_table().to_pandas().set_index("record_id")
    theirs = inputs.script(out).set_index("record_id")
    ours = ours.loc[theirs.index]
    facts = {
        f"{name}_difference": float(np.abs(np.stack(ours[name].to_list()) - np.stack(theirs[name].to_list())).max())
        for name in ("prediction", "proportions", "soft_proportions", "mean_entropy")
    }
    labels = [np.stack([_labels(segments) for segments in table["segments"]]) for table in (ours, theirs)]
    facts["labels_equal"] = float((labels[0] == labels[1]).mean())
    facts["segments_per_record"] = float(np.mean([len(segments) for segments in ours["segments"]]))
    inputs.forget()
    worst = max(facts["soft_proportions_difference"], facts["mean_entropy_difference"])
    if facts["labels_equal"] < 0.9999 or worst > AGREEMENT:
        raise AssertionError(f"explain and the script disagree: {facts}")
    return {name: float(f"{value:.7g}") for name, value in facts.items()}


def _labels(segments: Any) -> NDArray[np.int16]:
    lengths = [segment["stop"] - segment["start"] for segment in segments]
    return np.repeat(np.array([segment["cluster"] for segment in segments], np.int16), lengths)


def _shares(inputs: Inputs, size: Size) -> dict[str, Any]:
    """In one run, batch by batch: the forward pass, and everything that turns its activations into facts."""
    encoder = Encoder.load(inputs.encoder)
    n = min(encoder.batch, len(inputs.x))
    start, stop = np.zeros(n, np.int32), np.full(n, size.network.length, np.int32)
    runs = []
    for repetition in range(size.repetitions + 1):
        spent = dict.fromkeys(("forward", "assign", "summary", "segments", "pack"), 0.0)
        for batch in range(size.batches):
            x = inputs.x[(batch * n) % (len(inputs.x) - n + 1) :][:n]
            ticks = [time.perf_counter()]
            activations = encoder.forward(x)
            ticks.append(time.perf_counter())
            assignment = assign(activations.blocks, inputs.model, start, stop)
            ticks.append(time.perf_counter())
            summarise(assignment)
            ticks.append(time.perf_counter())
            segment_array(find_segments(assignment.labels, assignment.entropy), np.ones(n, bool))
            ticks.append(time.perf_counter())
            # A part of `assign`, once more on its own.
            pack(activations.blocks, inputs.model.layout, start, stop)
            ticks.append(time.perf_counter())
            for name, seconds in zip(("forward", "assign", "summary", "segments", "pack"), np.diff(ticks), strict=True):
                spent[name] += float(seconds) / (size.batches * n)
        if repetition:
            runs.append(spent)
    middle = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    after = [run["assign"] + run["summary"] + run["segments"] for run in runs]
    share = statistics.median(a / run["forward"] for a, run in zip(after, runs, strict=True))
    return {
        "share": rounded(share),
        "after_ms": milliseconds(statistics.median(after)),
        **{f"{name}_ms": milliseconds(value) for name, value in middle.items()},
    }


if __name__ == "__main__":
    main(lambda quick, say: run(QUICK if quick else FULL, say), __doc__)
