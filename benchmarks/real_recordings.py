"""The main job in full on real recordings, with everything that has to hold of its results checked and counted.

    ingest PTB-XL, CODE-15 %, LUDB, CinC → train on PTB-XL folds 1–7, stopped on 8 → fit on 1–8 → explain all of them
    with that one model → every row checked → factored against dense on real activations → surrogate on fold 9

    python -m benchmarks.real_recordings [--data DIR] [--encoder DIR] [--out DIR]

Prints a table, writes numbers (no ids of recordings) to benchmarks/results/real_recordings.json, ends with one JSON
object, and exits with 1 when something does not hold. `--encoder` takes a network that is there instead of training
one; `--out` keeps the work, and a second run goes on from it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from benchmarks.against_dense import compare, real_activations, summary, unlike
from benchmarks.explained_rows import RowFacts, check_rows
from benchmarks.machine import machine_facts
from benchmarks.report import RESULTS
from ecgscale.archive.reader import Archive
from ecgscale.archive.sources.code15 import ingest_code15
from ecgscale.archive.sources.ptbxl import ingest_ptbxl
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.archive.sources.wfdb import ingest_wfdb
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import SPEC_FILE, load_spec
from ecgscale.encoders.splits import Folds
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.train import TrainSettings, train_encoder
from ecgscale.evaluate.surrogate.check import check_published
from ecgscale.passes.explain.explain import explain_archive
from ecgscale.passes.fit.fit import fit_archive
from ecgscale.passes.fit.request import FitRequest
from ecgscale.passes.fit.worker import random_weights_variance
from ecgscale.progress import Progress
from ecgscale.runtime.progress import make_progress
from ecgscale.store import open_explanations

ENVIRONMENT = "ECGSCALE_TEST_DATA"
TRAIN, VALIDATION, FIT, TEST = tuple(range(1, 8)), (8,), tuple(range(1, 9)), (9,)
COMPARED = 64
"""Recordings of each archive whose activations are compared with the dense definition."""

SOURCES = ("ptbxl", "code15", "ludb", "ludb by its gains", "cinc")
"""LUDB twice: its digital values are microvolts, its headers' gains stretch every lead to a span of 1 mV."""


@dataclass(frozen=True)
class Job:
    """Where things are."""

    data: Path
    work: Path
    encoder: Path
    progress: Progress

    @property
    def root(self) -> Path:
        """Models and explanations."""
        return self.work / "results"

    def archive(self, source: str) -> Archive:
        """The archive of a source; made if it is not there."""
        path = self.work / source.replace(" ", "-")
        if not (path / "_archive.json").exists():
            options = IngestOptions(progress=self.progress, overwrite=True)
            if source == "ptbxl":
                ingest_ptbxl(self.data / "ptbxl", path, 500, options)
            elif source == "code15":
                ingest_code15(self.data / "code15", path, 1.0, options)
            elif source == "cinc":
                ingest_wfdb(self.data / "cinc", path, None, options)
            else:
                ingest_wfdb(self.data / "ludb", path, 1000.0 if source == "ludb" else None, options)
        return Archive.open(path)


def run(job: Job) -> dict[str, Any]:
    """Everything in order; numbers by part, and under "failed" what does not hold."""
    seconds: dict[str, float] = {}

    def timed(name: str, started: float) -> None:
        seconds[name] = round(time.monotonic() - started, 1)

    started = time.monotonic()
    archives = {source: job.archive(source) for source in SOURCES}
    timed("ingest", started)
    started = time.monotonic()
    network = _network(job, archives["ptbxl"])
    timed("train", started)
    started = time.monotonic()
    model, fitted = _fit(job, archives["ptbxl"])
    timed("fit", started)
    started = time.monotonic()
    rows = {source: _explain(job, archive, model) for source, archive in archives.items()}
    timed("explain", started)
    started = time.monotonic()
    dense = {source: _against_dense(job, archive, model) for source, archive in archives.items()}
    timed("against_dense", started)
    started = time.monotonic()
    surrogate = _surrogate(job, rows["ptbxl"][0])
    timed("surrogate", started)
    failed = [f"rows of {source}" for source, (_, facts, _) in rows.items() if not facts.holds()]
    failed += [f"{way} on {source}" for source, (_, unheld) in dense.items() for way in unheld]
    return {
        "encoder": network,
        "fit": fitted,
        "explain": {source: facts.summary() | timing for source, (_, facts, timing) in rows.items()},
        "against_dense": {source: found for source, (found, _) in dense.items()},
        "surrogate": surrogate,
        "seconds": seconds,
        "failed": failed,
    }


def _network(job: Job, archive: Archive) -> dict[str, Any]:
    if not (job.encoder / SPEC_FILE).exists():
        settings = TrainSettings("superclasses", folds=Folds(TRAIN, VALIDATION, ()))
        train_encoder(archive, job.encoder, settings, progress=job.progress)
    spec = load_spec(job.encoder)
    training = spec.training
    named = (
        "train_folds",
        "validation_folds",
        "train_records",
        "validation_records",
        "epochs",
        "best_epoch",
        "metrics",
    )
    return {"factory": spec.factory, "outputs": list(spec.output.names)} | {
        name: training[name] for name in named if name in training
    }


def _fit(job: Job, archive: Archive) -> tuple[ClusterModel, dict[str, Any]]:
    request = FitRequest(folds=FIT)
    [fitted] = fit_archive(archive, job.encoder, job.root, request, job.progress)
    for warning in fitted.warnings:
        job.progress.say(f"note: {warning}")
    info = fitted.model.info
    random = random_weights_variance(archive, job.encoder, request, job.progress)
    return fitted.model, {
        "folds": list(FIT),
        "records": fitted.records,
        "timesteps": info["n_timesteps"],
        "clusters": fitted.model.n_clusters,
        "steps": info["n_iter"],
        "converged": info["converged"],
        "explained_variance": info["explained_variance"],
        "random_weights_explained_variance": random[fitted.model.n_clusters],
        "largest_share": info["diagnostics"]["largest_share"],
        "nearly_empty": len(info["diagnostics"]["nearly_empty"]),
        "tau": fitted.model.tau,
        "seconds": info["seconds"],
    }


def _explain(job: Job, archive: Archive, model: ClusterModel) -> tuple[str, RowFacts, dict[str, float]]:
    assert model.directory is not None
    result = explain_archive(archive, model.directory, job.root, entropy="timestep", progress=job.progress)
    table = open_explanations(job.root, result.dataset_id).to_table()
    mean = pc.mean(table["mean_entropy"]).as_py()
    facts = check_rows(table, archive)
    return result.dataset_id, facts, {"mean_entropy": mean, "seconds": round(result.seconds, 1)}


def _against_dense(job: Job, archive: Archive, model: ClusterModel) -> tuple[dict[str, Any], list[str]]:
    encoder = Encoder.load(model.encoder_path)
    found = compare(real_activations(archive, encoder, COMPARED), model)
    job.progress.say(
        f"{archive.path.name}: {found['kernels'].timesteps:,} timesteps compared with the dense definition"
    )
    return summary(found), unlike(found)


def _surrogate(job: Job, dataset: str) -> dict[str, Any]:
    checked = check_published(
        job.root, "superclasses", train_folds=FIT, test_folds=TEST, dataset=dataset, progress=job.progress
    )
    result = checked.result
    return {
        "train_folds": list(FIT),
        "test_folds": list(TEST),
        "train_records": result.train_records,
        "records": result.records,
        "seen_by_encoder": result.seen_by_encoder,
        "seen_by_clusters": result.seen_by_clusters,
        "scores": {name: value for name, value in result.scores.items() if value is not None},
        "intervals": {name: pair for name, pair in result.intervals.items() if pair is not None},
        "remarks": list(result.remarks),
    }


def page(found: dict[str, Any]) -> str:
    """The numbers as a table for people."""
    fit, lines = found["fit"], []
    lines.append(
        f"fit      K = {fit['clusters']}, {fit['records']} records, {fit['timesteps']:,} timesteps: "
        f"{fit['explained_variance']:.1%} of the variance explained (random weights "
        f"{fit['random_weights_explained_variance']:.1%}), largest cluster {fit['largest_share']:.1%},"
        f" tau {fit['tau']:.3f}"
    )
    lines.append(
        "\nexplain  archive            records  explained  lost  doubled  torn  off  shares sum to 1 within  entropy"
    )
    for name, facts in found["explain"].items():
        low, high = facts["entropy"]
        shares = max(facts["proportions_error"], facts["soft_error"])
        lines.append(
            f"         {name:18} {facts['records']:>7} {facts['explained']:>10} {facts['lost']:>5}"
            f" {facts['doubled']:>8} {facts['torn']:>5} {facts['off']:>4} {shares:>23.1e}"
            f"  {low:.4f}..{high:.4f}, mean {facts['mean_entropy']:.3f}"
        )
    lines.append(
        "\ndense    archive            timesteps  way        labels differ  no ties  distance   sums       entropy"
    )
    for name, ways in found["against_dense"].items():
        for way, it in ways.items():
            lines.append(
                f"         {name:18} {it['timesteps']:>9}  {way:10} {it['differing']:>13} {it['not_ties']:>8}"
                f"  {it['square_distance']:.1e}    {it['sums']:.1e}    {it['entropy']:.1e}"
            )
    lines.append(f"\nfold 9   {found['surrogate']['records']} records that neither the network nor K-means has seen")
    for name, value in found["surrogate"]["scores"].items():
        pair = found["surrogate"]["intervals"].get(name)
        lines.append(f"         {name:22} {value:.3f}" + (f"  [{pair[0]:.3f}, {pair[1]:.3f}]" if pair else ""))
    lines.append("\nseconds  " + ", ".join(f"{name} {value:g}" for name, value in found["seconds"].items()))
    lines.append("all of it holds" if not found["failed"] else "does not hold: " + "; ".join(found["failed"]))
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get(ENVIRONMENT), help=f"default: ${ENVIRONMENT}")
    parser.add_argument("--encoder", type=Path, help="a trained network; by default one is trained")
    parser.add_argument("--out", type=Path, help="work here and keep it; by default a folder that is removed")
    arguments = parser.parse_args()
    if arguments.data is None or not (arguments.data / "ptbxl").is_dir():
        parser.error(f"--data or ${ENVIRONMENT} has to name a folder with ptbxl/, code15/, ludb/ and cinc/")
    with tempfile.TemporaryDirectory(prefix="ecgscale-real-") as scratch:
        work = arguments.out or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        job = Job(arguments.data.resolve(), work, arguments.encoder or work / "encoder", make_progress())
        details = run(job)
    result = {"benchmark": "real_recordings", "ratios": {}, "details": details, "quick": False}
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**result, "machine": machine_facts()}, indent=1, ensure_ascii=False)
    (RESULTS / "real_recordings.json").write_text(text + "\n", encoding="utf-8")
    print(page(details))
    print(json.dumps(result))
    sys.exit(1 if details["failed"] else 0)


if __name__ == "__main__":
    main()
