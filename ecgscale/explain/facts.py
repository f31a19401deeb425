"""A prepared batch → facts: one forward pass, then assignment under the frozen model.

Records that cannot be explained (a status other than "ok", before or after the network) have no facts and do not take
part in the assignment; the others do not notice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.model import ClusterModel
from ecgscale.clusters.soft import Assignment, assign
from ecgscale.config import BATCH
from ecgscale.encoders.preprocess import Prepared
from ecgscale.encoders.spec import SPEC_FILE, EncoderParts, changes, contract_digest, encoder_parts, load_spec
from ecgscale.encoders.taps import Encoder, Precision
from ecgscale.errors import ModelError
from ecgscale.io.numbered import canonical_digest
from ecgscale.io.places import local_copy
from ecgscale.progress import Stopwatch
from ecgscale.store.failures import code_digest
from ecgscale.words import named


@dataclass(frozen=True)
class Facts:
    """What the network and the clusters say of a batch of N records, n of them explained.

    status, flags: of all N; explained: bool (N,)
    valid_start, valid_stop: int32 (n,), the timesteps explained; prediction: float32 (n, outputs)
    assignment: of the n records; None when there are none
    """

    status: list[str]
    flags: list[list[str]]
    explained: NDArray[np.bool_]
    valid_start: NDArray[np.int32]
    valid_stop: NDArray[np.int32]
    prediction: NDArray[np.float32]
    assignment: Assignment | None


def encoder_layout(encoder: Encoder) -> BlockLayout:
    """The shapes of an encoder's taps, where their steps sit on its time axis, and its depth scales."""
    channels, lengths = zip(*encoder.layout, strict=True)
    places = tuple((tap.time.start, tap.time.step) if tap.time else None for tap in encoder.taps)
    scales = tuple(map(float, encoder.spec.depth_scales))
    return BlockLayout(tuple(channels), tuple(lengths), encoder.spec.input.length, scales, places)


def load_encoder(model: ClusterModel, device: str = "auto", batch: int = BATCH) -> Encoder:
    """The encoder that `model` was fitted for; `ModelError` when the one beside it is another."""
    encoder = Encoder.load(model.encoder_path, device=device, batch=batch, precision=fitted_precision(model))
    assert encoder.parts is not None
    _require_parts(model, encoder.parts)
    # Of a model from before code was part of the digest, it is the one that its explanations name.
    encoder.digest = encoder_digest_of(model)
    found, expected = encoder_layout(encoder), model.layout
    if found != expected:
        raise ModelError(
            f"cluster model {model.model_id} was fitted on {_told(expected)}, but the encoder in {model.encoder_path} "
            f"gives {_told(found)}; put the encoder back that it was fitted with, or fit again"
        )
    return encoder


def _told(layout: BlockLayout) -> str:
    shapes = tuple(zip(layout.channels, layout.lengths, strict=True))
    places = f", steps at (start, step) {layout.places}" if layout.places else ""
    return f"layers of (channels, steps) {shapes} with scales {layout.scales} over {layout.n_steps} samples{places}"


def require_encoder(model: ClusterModel) -> None:
    """Raise `ModelError` when contract, weights or code of the encoder are not those that `model` was fitted with."""
    _require_parts(model, encoder_parts(model.encoder_path))


def require_encoder_files(model: ClusterModel, directory: Path) -> None:
    """`require_encoder` for whoever reads the contract and runs nothing: the network's code need not be here."""
    parts, before = encoder_parts(directory), encoder_parts_of(model)
    _require_parts(model, replace(parts, code=before.get("code")))


def require_contract(model: ClusterModel, directory: Path) -> None:
    """`require_encoder` of encoder.toml alone, for whoever takes the names of outputs from it and nothing else."""
    before = encoder_parts_of(model).get("contract")
    if before and contract_digest(load_spec(directory)) != before:
        raise ModelError(
            f"{directory / SPEC_FILE} was changed since cluster model {model.model_id} was fitted: put it back"
        )


def _require_parts(model: ClusterModel, parts: EncoderParts) -> None:
    changed = list(changes(parts, encoder_digest_of(model), encoder_parts_of(model)))
    if changed:
        raise ModelError(
            f"the encoder in {model.encoder_path} is not the one that cluster model {model.model_id} was fitted with: "
            f"{named(changed)} changed (digest {parts.digest[:12]}…, fitted with {encoder_digest_of(model)[:12]}…); "
            "put that encoder back, or fit again with what it is now, which makes another model"
        )


def encoder_parts_of(model: ClusterModel) -> dict[str, Any]:
    """The parts of the encoder that `model` was fitted with; empty in models of before they were kept."""
    return dict((model.info.get("encoder") or {}).get("parts") or {})


def code_explaining(model: ClusterModel) -> str:
    """What changes with the code that explains by `model`: this package's, and that of the network itself."""
    network = load_spec(model.encoder_path).code(local_copy(model.encoder_path))
    return code_digest(canonical_digest(network) if network else "")


def encoder_digest_of(model: ClusterModel) -> str:
    """Digest of the encoder that `model` was fitted with; `ModelError` when it does not say."""
    digest = (model.info.get("encoder") or {}).get("digest")
    if not digest:
        raise ModelError(f"model.json of {model.model_id} does not name the digest of its encoder; fit again")
    return str(digest)


def fitted_precision(model: ClusterModel) -> Precision:
    """The arithmetic of the forward passes that `model` was fitted on."""
    return "bfloat16" if model.info.get("precision") == "bfloat16" else "float32"


def fitted_with_padding(model: ClusterModel) -> bool:
    """Whether padding took part in the fit of `model`: it then has clusters for it."""
    return bool(model.info.get("include_padding", False))


def fitted_gaps(model: ClusterModel) -> float:
    """Milliseconds of gaps that were filled for the fit of `model`."""
    return float(model.info.get("fill_gaps", 0.0))


def explain_batch(
    prepared: Prepared,
    encoder: Encoder,
    model: ClusterModel,
    include_padding: bool = False,
    watch: Stopwatch | None = None,
) -> Facts:
    """Facts of up to `encoder.batch` prepared records. With `include_padding` all D timesteps count as valid.

    `watch` learns of the stages "forward" and "cluster".
    """
    watch = watch or Stopwatch()
    status, flags = list(prepared.status), [list(flag) for flag in prepared.flags]
    usable = prepared.usable
    n_outputs = len(encoder.spec.output.names)
    if not usable.any():
        none = np.zeros(0, np.int32)
        return Facts(status, flags, usable, none, none, np.zeros((0, n_outputs), np.float32), None)
    with watch.time("forward"):
        activations = encoder.forward(prepared.x)
        # Asking for values waits for the device, so its time is counted here and nowhere else.
        finite = activations.finite()
    for row in np.flatnonzero(usable & ~finite):
        status[row] = "non_finite_output"
        usable[row] = False
    start, stop = prepared.spans(usable, include_padding)
    kept = activations.of(usable)
    with watch.time("cluster"):
        assignment = assign(kept.blocks, model, start, stop) if usable.any() else None
    prediction = kept.prediction.cpu().numpy()
    if assignment is not None and not (sound := assignment.finite()).all():
        # Whatever made it so: no row says "ok" beside a number that is none.
        for row in np.flatnonzero(usable)[~sound]:
            status[row] = "non_finite_output"
            usable[row] = False
        start, stop, prediction = start[sound], stop[sound], prediction[sound]
        assignment = assignment.of(sound) if sound.any() else None
    return Facts(status, flags, usable, start, stop, prediction, assignment)
