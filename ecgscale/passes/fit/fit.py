"""Fit cluster models on an archive: one forward pass over the chosen records, then K-means on kept activations.

    choose records → run the network once, keep its low-resolution activations → K-means → exact last pass → save

The model's id is a digest of everything that decides its centroids, so the same command finds the finished model.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ecgscale.archive.reader import Archive
from ecgscale.clusters.checkpoint import Checkpoint
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.init import Earlier
from ecgscale.clusters.kmeans import KMeansFit, fit_kmeans
from ecgscale.clusters.model import MIN_TAU, ClusterModel, id_of_fit
from ecgscale.encoders.check import require_steady, require_timely
from ecgscale.encoders.seen import SEEN_FILE, seen_lines
from ecgscale.encoders.spec import changes, encoder_digest, load_spec
from ecgscale.encoders.taps import Encoder, resolve_device
from ecgscale.errors import EcgscaleError, ModelError
from ecgscale.explain.facts import encoder_digest_of, encoder_layout, encoder_parts_of, require_encoder
from ecgscale.io.numbered import canonical_digest
from ecgscale.io.places import Place, absolute, place
from ecgscale.passes.alongside import copy_encoder
from ecgscale.passes.explain.chosen_model import finished_models
from ecgscale.passes.fit.pool_source import PoolSource
from ecgscale.passes.fit.request import FitRequest, Selection, select
from ecgscale.passes.fit.worker import FitWorker
from ecgscale.passes.memory import plan_memory
from ecgscale.passes.workers import OpenPool, WorkerSpec, driver_device, in_process, is_divided
from ecgscale.progress import SILENT, Progress
from ecgscale.store.presence import announced
from ecgscale.store.provenance import versions
from ecgscale.words import cropped_line, named

FIT_VERSION = 2
"""Raised when the same command would give other centroids; part of the model's id."""

DOMINANT = 0.5
NEARLY_EMPTY = 0.001


@dataclass(frozen=True)
class FittedModel:
    """One finished model: where it is, how good, what is odd about it."""

    directory: Place
    model: ClusterModel
    records: int
    already_there: bool
    warnings: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """For `--json`."""
        info = self.model.info
        return {
            "model_id": self.model.model_id,
            "n_clusters": self.model.n_clusters,
            "inertia": info["inertia"],
            "explained_variance": info["explained_variance"],
            "n_iter": info["n_iter"],
            "records": self.records,
            "cropped": info.get("cropped"),
            "largest_share": info["diagnostics"]["largest_share"],
            "nearly_empty": info["diagnostics"]["nearly_empty"],
            "tau": self.model.tau,
            "path": str(self.directory),
        }


@announced("ecgscale fit")
def fit_archive(
    archive: Archive,
    encoder_dir: str | Path,
    root: str | Path,
    request: FitRequest | None = None,
    progress: Progress = SILENT,
    pool: OpenPool = in_process,
    start: ClusterModel | None = None,
) -> list[FittedModel]:
    """Fit one model for each K asked for, save them under `root`/models, and copy the encoder alongside them.

    The workers of `pool` hold the activations; the centroids are the same to the last bit whoever they are.
    K-means begins at the centroids of the model `start`, if there is one, else with k-means++.
    Raises UsageError for a request that cannot be met; records that cannot be used are counted.
    """
    request = request or FitRequest()
    root = place(root)
    device = driver_device(pool, request.device)
    encoder = Encoder.load(encoder_dir, device=device, batch=request.batch, precision=request.precision)
    layout = encoder_layout(encoder)
    selection = select(archive, request.folds, request.records, request.settings.seed)
    for note in (*encoder.notes, *archive.notes()):
        progress.say(f"note: {note}")
    for reason in selection.skipped.values():
        progress.say(f"left out of the fit: {reason}")
    kind = "cuda" if request.device == "cuda" else encoder.device.type
    identity = _identity(archive, encoder.digest, encoder.spec.layers, selection, request, kind)
    if start is not None:
        if start.layout != layout:
            raise ModelError(
                f"{start.model_id} is of another network, or of other layers or scales: no start for this fit"
            )
        identity["start"] = {"model_id": start.model_id, "digest": start.digest}
    ids = _model_ids(identity, request)
    models = root / "models"
    found = {k: _finished(models / model_id) for k, model_id in ids.items()}
    todo = [k for k in request.clusters if found[k] is None]
    _require_encoders(found)
    if todo:
        memory = plan_memory(layout, len(selection), max(todo), sum(todo), encoder, request.cache_dtype, request.memory)
        progress.say(memory.summary(workers=is_divided(pool)))
        _tell_other_code(models, encoder, progress)
        steady = require_steady(encoder, request.allow_nondeterministic)
        if not steady:
            progress.say("note: the network is not a function of its input alone; the model records it")
        for why in require_timely(encoder):
            progress.say(f"note: {why}; encoder.toml says to trust it")
        encoder_id = copy_encoder(encoder, root)
        checkpoint = Checkpoint(root / "_fits" / f"{canonical_digest({**identity, 'n_clusters': todo})[:16]}.npz")
        budget = memory.cache_budget
        fits = _fit(pool, archive, encoder, selection, request, todo, budget, progress, checkpoint, start)
        for k, model in fits.items():
            info = {
                "model_id": ids[k] + ("-torn" if model.info["left_out"].get("unreadable_shard") else ""),
                "encoder": _encoder_facts(encoder, encoder_id),
                **identity,
                **model.info,
                "deterministic": steady,
            }
            directory = replace(model, info=info).save(models, _sidecars(archive, selection))
            found[k] = ClusterModel.load(directory)
        checkpoint.remove()
    return [_fitted(found[k], k not in todo) for k in request.clusters]


def fitted_models(
    archive: Archive, encoder_dir: str | Path, root: str | Path, request: FitRequest
) -> dict[int, ClusterModel]:
    """Those models that `fit_archive` would find finished, by K; nothing is computed and nothing written.

    `request.device` is that of the fit: of the workers, if there were some.
    """
    kind = resolve_device(request.device).type if request.device == "auto" else request.device
    ids = _model_ids(_asked(archive, encoder_dir, request, kind), request)
    found = {k: _finished(place(root) / "models" / model_id) for k, model_id in ids.items()}
    return {k: model for k, model in found.items() if model is not None}


def fit_of(
    model: ClusterModel, archive: Archive, encoder_dir: str | Path, request: FitRequest
) -> Literal["now", "before"] | None:
    """Whether `model` was fitted as `request` asks, wherever it ran and began: on what `archive` holds "now", or on
    what it held "before".

    `request` has one K. Nothing is computed; ids and footers of the archive are read, and the encoder's files.
    """
    asked = _asked(archive, encoder_dir, request, str(model.info.get("device")))
    on, then = asked.pop("fitted_on"), model.info.get("fitted_on", {})
    alike = model.n_clusters in request.clusters and all(model.info.get(k) == v for k, v in asked.items())
    if not alike or any(on[name] != then.get(name) for name in ("archive_id", "folds")):
        return None
    return "now" if on == then and not model.info.get("left_out", {}).get("unreadable_shard") else "before"


def _asked(archive: Archive, encoder_dir: str | Path, request: FitRequest, device: str) -> dict[str, Any]:
    """`_identity` of a fit that nobody begins, as JSON has it."""
    layers, digest = load_spec(encoder_dir).layers, encoder_digest(encoder_dir)
    selection = select(archive, request.folds, request.records, request.settings.seed)
    facts: dict[str, Any] = json.loads(json.dumps(_identity(archive, digest, layers, selection, request, device)))
    return facts


def _fit(
    pool: OpenPool,
    archive: Archive,
    encoder: Encoder,
    selection: Selection,
    request: FitRequest,
    todo: Sequence[int],
    budget: int | None,
    progress: Progress,
    checkpoint: Checkpoint,
    start: ClusterModel | None,
) -> dict[int, ClusterModel]:
    """A model for each K in `todo`; each worker keeps `budget` bytes of activations in memory."""
    started = time.monotonic()
    arguments = {
        "archive": absolute(archive.path),
        "encoder": absolute(str(encoder.directory)),
        "request": request,
        "cache_budget": budget,
    }
    spec = WorkerSpec(
        "ecgscale.passes.fit.worker:fit_worker",
        arguments,
        here=lambda: FitWorker(archive, encoder, request, budget, alone=True),
    )
    with pool(spec) as workers:
        source = PoolSource(workers, encoder_layout(encoder), selection, progress, is_divided(pool))
        left_out = source.fill()
        n_left_out = sum(left_out.values())
        if left_out:
            by_status = ", ".join(f"{count} {status}" for status, count in sorted(left_out.items()))
            progress.say(f"{n_left_out} of {len(selection)} records take no part: {by_status}")
        if source.cropped:
            progress.say(cropped_line(source.cropped, encoder.spec.input.seconds))
        filled = time.monotonic()
        earlier = Earlier(start.centroids, start.counts) if start is not None else None
        fits = fit_kmeans(source, todo, request.settings, progress, checkpoint, earlier)
    facts = {
        "records_used": len(selection) - n_left_out,
        "left_out": dict(sorted(left_out.items())),
        "cropped": source.cropped,
        "seconds": {"forward": round(filled - started, 3), "kmeans": round(time.monotonic() - filled, 3)},
    }
    return {k: _model(fit, source.layout, request, facts) for k, fit in zip(todo, fits, strict=True)}


def _model(fit: KMeansFit, layout: BlockLayout, request: FitRequest, facts: dict[str, Any]) -> ClusterModel:
    share = fit.final.counts / max(fit.final.n_timesteps, 1)
    tau = request.tau
    if tau is None:
        tau = 1.0 if request.gamma == 1 else max(fit.final.mean_margin, MIN_TAU)
    info = {
        "inertia": fit.inertia,
        "explained_variance": fit.explained_variance,
        "mean_margin": fit.final.mean_margin,
        "n_iter": fit.n_iter,
        "converged": fit.converged,
        "history": fit.history,
        "n_timesteps": fit.final.n_timesteps,
        "diagnostics": {
            "largest_share": float(share.max()),
            "nearly_empty": [int(k) for k in np.flatnonzero(share < NEARLY_EMPTY)],
            "repaired": fit.repaired,
        },
        "reference": {"proportions": [float(s) for s in share]},
        "sum_scale": asdict(fit.final.scale),
        **facts,
        "versions": versions(),
    }
    return ClusterModel(fit.centroids, fit.final.counts, layout, request.gamma, tau, info)


def _fitted(model: ClusterModel | None, already_there: bool) -> FittedModel:
    assert model is not None
    assert model.directory is not None
    return FittedModel(model.directory, model, int(model.info["records_used"]), already_there, tuple(diagnose(model)))


def diagnose(model: ClusterModel) -> Iterator[str]:
    """What is odd about a fitted model, each with what to do about it."""
    found = model.info["diagnostics"]
    if found["largest_share"] > DOMINANT:
        yield (
            f"one cluster holds {found['largest_share']:.0%} of all timesteps: fit on a more balanced set of records"
            " (--folds, --records), or more --clusters; padding counts as valid only with --include-padding"
        )
    if found["nearly_empty"]:
        empty = ", ".join(map(str, found["nearly_empty"]))
        yield f"clusters {empty} hold less than {NEARLY_EMPTY:.1%} of the timesteps each: fewer --clusters may do"
    if model.info["explained_variance"] < 0.2:
        yield (
            f"the clusters explain only {model.info['explained_variance']:.0%} of the variance: an encoder that is"
            " under-trained looks like this; compare with --compare-random, or try more --clusters"
        )
    if not model.info["converged"]:
        yield "the fit ended at its limit of steps before it settled; raise --max-epochs"


def _identity(
    archive: Archive, digest: str, layers: Sequence[str], selection: Selection, request: FitRequest, device: str
) -> dict[str, Any]:
    """Everything that decides the centroids."""
    records = hashlib.sha256("\n".join(map(str, selection.record_ids)).encode())
    contents = hashlib.sha256(
        "\n".join(archive.footer(s).content_digest for s in archive.shards if s.key in selection.rows).encode()
    )
    return {
        "fit_version": FIT_VERSION,
        "encoder_digest": digest,
        "layers": list(layers),
        "fitted_on": {
            "archive_id": archive.archive_id,
            "folds": list(request.folds) if request.folds else None,
            "records": len(selection),
            "records_digest": records.hexdigest(),
            "content_digest": contents.hexdigest(),
        },
        "algorithm": request.settings.algorithm,
        "seed": request.settings.seed,
        "settings": asdict(request.settings),
        "softmax": {"gamma": request.gamma, "tau": request.tau},
        "batch": request.batch,
        "include_padding": request.include_padding,
        "fill_gaps": request.fill_gaps,
        "precision": request.precision,
        "cache_dtype": request.cache_dtype,
        "device": device,
    }


def _model_ids(identity: dict[str, Any], request: FitRequest) -> dict[int, str]:
    return {k: id_of_fit({**identity, "n_clusters": k}) for k in request.clusters}


def _finished(directory: Place) -> ClusterModel | None:
    return ClusterModel.load(directory) if (directory / "model.json").exists() else None


def _sidecars(archive: Archive, selection: Selection) -> dict[str, str]:
    known = [(r, p) for r, p in zip(selection.record_ids, selection.patient_ids, strict=True) if r is not None]
    source = str(archive.info.get("source", {}).get("kind", ""))
    return {SEEN_FILE: seen_lines(source, [r for r, _ in known], [p for _, p in known], ["fit"] * len(known))}


def _encoder_facts(encoder: Encoder, encoder_id: str) -> dict[str, Any]:
    facts = {"id": encoder_id, "path": f"../../encoders/{encoder_id}", "digest": encoder.digest}
    return facts if encoder.parts is None else {**facts, "parts": encoder.parts.facts()}


def _require_encoders(models: Mapping[int, ClusterModel | None]) -> None:
    """A finished model is worth what its encoder below ROOT is."""
    for model in {model.encoder_path: model for model in models.values() if model is not None}.values():
        require_encoder(model)


def _tell_other_code(models: Place, encoder: Encoder, progress: Progress) -> None:
    """Say so when there are models of the same network whose code was another one."""
    parts = encoder.parts
    if parts is None or not parts.code:
        return
    for model_id in finished_models(models.parent):
        try:
            model = ClusterModel.load(models / model_id)
        except EcgscaleError:
            continue
        before = encoder_parts_of(model)
        if before.get("files") == parts.files and before.get("code") != parts.code:
            what = named(list(changes(parts, encoder_digest_of(model), before)))
            progress.say(f"note: since model {model_id}, {what} changed: what is fitted now is another model")
