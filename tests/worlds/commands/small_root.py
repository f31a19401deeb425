"""A simulated archive, a small untrained network that names superclasses, K-means and explanations: everything that
evaluations which ask the network again need, in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ecgscale.archive.reader import Archive
from ecgscale.archive.synthetic.patients import SUPERCLASSES
from ecgscale.encoders.seen import SEEN_FILE, seen_lines
from ecgscale.passes.explain.explain import explain_archive
from ecgscale.passes.fit.fit import fit_archive
from tests.worlds.commands.simulated import request, simulated
from tests.worlds.formula.small_networks import ARGUMENTS, spec_of, write_small_encoder

RECORDS = 150
ENCODER_FOLDS, CLUSTER_FOLDS = tuple(range(1, 8)), tuple(range(1, 9))


@dataclass(frozen=True)
class SmallRoot:
    """Where things are."""

    root: Path
    archive: Path
    encoder: Path
    dataset_id: str


def write_small_root(folder: Path) -> SmallRoot:
    """Folds 1 to 7 stand as seen by the network (7: validation), 1 to 8 by K-means."""
    archive = Archive.open(simulated(folder / "archive", RECORDS, 50))
    facts = archive.metadata(["record_id", "patient_id", "fold"]).to_pylist()
    seen = [row for row in facts if row["fold"] in ENCODER_FOLDS]
    training = {
        "target": "superclasses",
        "archive_id": archive.archive_id,
        "source": str(archive.info["source"]["kind"]),
        "split": "fold",
        "train_folds": list(ENCODER_FOLDS[:-1]),
        "validation_folds": [ENCODER_FOLDS[-1]],
        "seen": SEEN_FILE,
    }
    encoder = write_small_encoder(folder / "encoder")
    _five_outputs(encoder, training)
    parts = ["validation" if row["fold"] == ENCODER_FOLDS[-1] else "train" for row in seen]
    ids, patients = [row["record_id"] for row in seen], [row["patient_id"] for row in seen]
    (encoder / SEEN_FILE).write_text(seen_lines(training["source"], ids, patients, parts))
    [fitted] = fit_archive(archive, encoder, folder / "root", request(folds=CLUSTER_FOLDS))
    done = explain_archive(archive, fitted.directory, folder / "root", device="cpu", batch=8)
    return SmallRoot(folder / "root", folder / "archive", encoder, done.dataset_id)


def _five_outputs(encoder: Path, training: dict) -> None:
    """The same network with one output a superclass."""
    import torch
    from safetensors.torch import save_file

    from ecgscale.encoders.resnet1d import ResNet1d
    from ecgscale.encoders.spec import write_spec

    arguments = {**ARGUMENTS, "n_classes": len(SUPERCLASSES)}
    torch.manual_seed(3)
    module = ResNet1d(**arguments).eval()
    with torch.no_grad():
        module.lin.weight *= 20  # outputs of an untrained network hardly differ between records
    save_file(module.state_dict(), encoder / "weights.safetensors")
    output = {"kind": "multilabel", "scale": "logit", "names": list(SUPERCLASSES)}
    write_spec(encoder, spec_of(arguments=arguments, output=output, training=training))
