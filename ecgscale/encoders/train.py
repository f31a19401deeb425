"""Training the reference network on an archive, into an encoder directory that records what it has seen.

Putting a trained network on disk: weights, the list of what it has seen, and last of all its contract.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from ecgscale.archive import Archive
from ecgscale.config import TRAINING
from ecgscale.encoders.optimise import LoopSettings, Outcome, optimise, predict
from ecgscale.encoders.preprocess import Signals, load_signals
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.seen import SEEN_FILE, seen_lines
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, InputSpec, OutputSpec, encoder_files, write_spec
from ecgscale.encoders.splits import TEST, TRAIN, UNUSED, VALIDATION, Folds, split
from ecgscale.encoders.taps import Encoder, fix_arithmetic, resolve_device
from ecgscale.encoders.targets import Target, encode, read_labels, score, told
from ecgscale.errors import EncoderError, UsageError
from ecgscale.io.objects import put_whole
from ecgscale.io.places import is_remote, place, upload
from ecgscale.leads import CANONICAL_LEADS, canonical_lead
from ecgscale.progress import SILENT, Progress

WEIGHTS_FILE = "weights.safetensors"


@dataclass(frozen=True)
class SeenRecords:
    """The records that trained or stopped the network (test records are not among them), and the archive's digest."""

    source: str
    record_ids: list[str]
    patient_ids: list[str | None]
    parts: list[str]
    folds: list[int | None]
    archive_digest: str

    @classmethod
    def of(cls, archive: Archive, table: pa.Table, rows: NDArray[np.intp], parts: Sequence[str]) -> SeenRecords:
        """Of the `rows` of the archive's table; `parts` says what each was used for."""
        kept = [(row, part) for row, part in zip(rows.tolist(), parts, strict=True) if part != TEST]
        index = pa.array([row for row, _ in kept], pa.int64())
        taken = table.take(index)

        def column(name: str) -> list[Any]:
            return taken.column(name).to_pylist() if name in taken.column_names else [None] * len(kept)

        return cls(
            source=str(archive.info.get("source", {}).get("kind", "")),
            record_ids=column("record_id"),
            patient_ids=column("patient_id"),
            parts=[part for _, part in kept],
            folds=column("fold"),
            archive_digest=archive_digest(archive),
        )

    def _folds_of(self, part: str) -> list[int]:
        return sorted(
            {fold for fold, used in zip(self.folds, self.parts, strict=True) if used == part and fold is not None}
        )

    def text(self) -> str:
        """What goes into the file beside the weights."""
        return seen_lines(self.source, self.record_ids, self.patient_ids, self.parts)

    def facts(self, archive: Archive, folds: Folds) -> dict[str, Any]:
        """The lines of `[training]` about data: which archive, which folds, how many records and patients."""
        facts: dict[str, Any] = {
            "archive_id": archive.archive_id,
            "archive_digest": self.archive_digest,
            "source": self.source,
            "split": "fold" if folds.validation else "patient",
            "train_folds": self._folds_of(TRAIN) if folds.validation else list(folds.train),
            "validation_folds": list(folds.validation),
            "test_folds": list(folds.test),
        }
        for part in (TRAIN, VALIDATION):
            chosen = [i for i, used in enumerate(self.parts) if used == part]
            facts[f"{part}_records"] = len(chosen)
            facts[f"{part}_patients"] = len({self.patient_ids[i] or f"record:{self.record_ids[i]}" for i in chosen})
        facts["seen"] = SEEN_FILE
        facts["seen_digest"] = hashlib.sha256(self.text().encode()).hexdigest()
        facts["versions"] = {name: version(name) for name in ("ecgscale", "numpy", "scipy", "torch")}
        return facts


def archive_digest(archive: Archive) -> str:
    """SHA-256 over the content digests of all shards: equal for equal content, whenever it was written."""
    digest = hashlib.sha256()
    for shard in archive.shards:
        digest.update(f"{shard.key}\0{archive.footer(shard).content_digest}\n".encode())
    return digest.hexdigest()


def check_out(out: Path, overwrite: bool) -> None:
    """Raise EncoderError unless an encoder may be written to `out`: asked before the training, not after it."""
    if out.exists() and not out.is_dir():
        raise EncoderError(f"{out} is a file; an encoder is a directory")
    if (out / SPEC_FILE).exists() and not overwrite:
        raise EncoderError(f"{out} already holds an encoder; give another directory, or --overwrite to replace it")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EncoderError(f"{out} cannot be made: {error.strerror}") from error


def check_place(out: str | Path, overwrite: bool) -> None:
    """`check_out` for any place: of an object store, that no encoder lies there that must not be replaced."""
    if not is_remote(out):
        check_out(Path(out), overwrite)
    elif (place(out) / SPEC_FILE).exists() and not overwrite:
        raise EncoderError(f"{out} already holds an encoder; give another place, or --overwrite to replace it")


@contextmanager
def place_kept(out: str | Path, overwrite: bool) -> Iterator[None]:
    """`check_place`; folders that it made go again when the block fails before anything lies in them."""
    made = [] if is_remote(out) else [folder for folder in (Path(out), *Path(out).parents) if not folder.exists()]
    check_place(out, overwrite)
    try:
        yield
    except BaseException:
        # Not empty, or gone: somebody else uses it.
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def move_encoder(folder: Path, out: str | Path) -> None:
    """Put a finished encoder's files to `out`, the contract last: without it, what lies there is no encoder."""
    if is_remote(out):
        upload(folder, out, last=SPEC_FILE)
        return
    (Path(out) / SPEC_FILE).unlink(missing_ok=True)
    for file in sorted(encoder_files(folder), key=lambda file: file.name == SPEC_FILE):
        put_whole(Path(out) / file.name, file.read_bytes())


def write_encoder(out: Path, spec: EncoderSpec, module: nn.Module, seen: SeenRecords) -> None:
    """Write the directory; it has no encoder.toml, and so is no encoder, until everything else is in place."""
    (out / SPEC_FILE).unlink(missing_ok=True)
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    put_whole(out / WEIGHTS_FILE, save(state))
    put_whole(out / SEEN_FILE, seen.text().encode())
    write_spec(out, spec)


CHANNELS = (64, 128, 196, 256, 320)
TAPPED = 3


@dataclass(frozen=True)
class TrainSettings:
    """What to train and how; the defaults suit a few hundred records on two cores and larger sets alike."""

    target: str
    kind: str = TRAINING.kind
    folds: Folds = field(default_factory=Folds)
    validation_share: float = 0.15
    leads: tuple[str, ...] = CANONICAL_LEADS
    sampling_rate: float = TRAINING.rate
    length: int = TRAINING.length
    blocks: tuple[tuple[int, int], ...] = TRAINING.blocks
    kernel_size: int = 17
    dropout: float = TRAINING.dropout
    loop: LoopSettings = field(default_factory=LoopSettings)
    device: str = "auto"


def default_blocks(length: int) -> tuple[tuple[int, int], ...]:
    """The CODE shapes for any length: five blocks, each but the first a quarter as long as the one before."""
    if length % 4 ** (len(CHANNELS) - 1):
        raise UsageError(
            f"length {length} is no multiple of {4 ** (len(CHANNELS) - 1)}, which the default blocks need; "
            "choose such a length, or give --blocks CHANNELSxSAMPLES,…"
        )
    return tuple((channels, length // 4**i) for i, channels in enumerate(CHANNELS))


def train_encoder(
    archive: Archive, out: str | Path, settings: TrainSettings, *, overwrite: bool = False, progress: Progress = SILENT
) -> dict[str, Any]:
    """Train a ResNet1d on `archive` and write the encoder directory `out`; returns the facts that `--json` prints.

    The same archive, settings and seed give the same weights on equal hardware and software. Raises UsageError for
    targets, folds and shapes that cannot be trained, before any signal is read.
    """
    with place_kept(out, overwrite):
        if not is_remote(out):
            return _train(archive, Path(out), settings, progress)
        with TemporaryDirectory() as scratch:
            facts = _train(archive, Path(scratch), settings, progress)
            move_encoder(Path(scratch), out)
    return {**facts, "encoder": str(out)}


def _train(archive: Archive, out: Path, settings: TrainSettings, progress: Progress) -> dict[str, Any]:
    device = resolve_device(settings.device)
    fix_arithmetic()
    arguments, input_spec = _network(settings)
    data = _read(archive, settings, arguments, input_spec, progress)
    arguments["n_classes"] = len(data.target.names)
    module, outcome = _fit(data, arguments, settings.loop, device, progress)
    metrics = {part: data.scores(module, part, device) for part in (VALIDATION, TEST) if len(data.rows_of(part))}
    training = {
        "target": settings.target,
        **data.seen.facts(archive, settings.folds),
        "rejected": data.signals.rejected,
        "seed": settings.loop.seed,
        "epochs": len(outcome.history),
        "best_epoch": outcome.best_epoch,
        "settings": _loop_facts(settings.loop),
        "metrics": metrics,
    }
    spec = _spec(archive, settings, arguments, input_spec, data.target, training)
    write_encoder(out, spec, module, data.seen)
    for part, scores in metrics.items():
        progress.say(f"{part}: {told(data.target.kind, scores)} on {len(data.rows_of(part))} records")
    return {
        "encoder": str(out),
        "encoder_id": Encoder.load(out).encoder_id,
        "target": settings.target,
        "kind": data.target.kind,
        "names": list(data.target.names),
        "epochs": len(outcome.history),
        "best_epoch": outcome.best_epoch,
        **{f"{part}_records": len(data.rows_of(part)) for part in (TRAIN, VALIDATION, TEST)},
        "rejected": data.signals.rejected,
        "metrics": metrics,
    }


@dataclass(frozen=True)
class _TrainingSet:
    """Preprocessed signals, their targets and parts, all in one order."""

    signals: Signals
    target: Target
    parts: NDArray[np.str_]
    seen: SeenRecords

    def rows_of(self, part: str) -> NDArray[np.intp]:
        return np.flatnonzero(self.parts == part)

    def scores(self, module: nn.Module, part: str, device: torch.device) -> dict[str, float]:
        rows = self.rows_of(part)
        predicted = predict(module, self.signals.x, rows, device).numpy()
        return score(self.target.kind, self.target.names, predicted, self.target.y[rows])


def _network(settings: TrainSettings) -> tuple[dict[str, Any], InputSpec]:
    """Arguments of the factory (but for n_classes) and the input contract; UsageError for shapes that do not fit."""
    leads = tuple(canonical_lead(lead) for lead in settings.leads)
    spec = InputSpec(leads=leads, sampling_rate=settings.sampling_rate, length=settings.length)
    blocks = settings.blocks or default_blocks(settings.length)
    arguments: dict[str, Any] = {
        "input_dim": [len(leads), settings.length],
        "blocks_dim": [list(block) for block in blocks],
        "kernel_size": settings.kernel_size,
        "dropout_rate": settings.dropout,
    }
    try:
        with torch.device("meta"):
            ResNet1d(**arguments, n_classes=1)
    except ValueError as error:
        raise UsageError(f"no network has these blocks: {error}") from error
    return arguments, spec


def _read(
    archive: Archive, settings: TrainSettings, arguments: dict[str, Any], spec: InputSpec, progress: Progress
) -> _TrainingSet:
    """Labels, split and signals of everything that takes part, with remarks told."""
    labels, table = read_labels(archive, settings.target, settings.kind)
    labelled = labels.labelled()
    parts, remarks = split(table, labelled, settings.folds, settings.validation_share, settings.loop.seed)
    first_tapped = arguments["blocks_dim"][-TAPPED:][0]
    hop = settings.length // first_tapped[1]
    signals = load_signals(archive, table, parts != UNUSED, spec, hop, progress=progress)
    used = parts[signals.rows]
    for part in (TRAIN, VALIDATION):
        if not (used == part).any():
            found = ", ".join(f"{status} ({n})" for status, n in signals.rejected.items())
            raise UsageError(
                f"no usable record is left for {part}: {found}; `ecgscale inspect {archive.path}` tells more"
            )
    target, more = encode(labels, signals.rows, used == TRAIN)
    if unlabelled := int((~labelled).sum()):
        remarks.append(f"{unlabelled} record(s) without {settings.target} are left out")
    remarks += [f"{n} record(s) are left out: {status}" for status, n in signals.rejected.items()]
    counts = ", ".join(f"{int((used == part).sum())} {part}" for part in (TRAIN, VALIDATION, TEST) if part in used)
    progress.say(f"{target.kind} on {settings.target} ({', '.join(target.names)}): {counts} records")
    for remark in [*remarks, *more]:
        progress.say(f"note: {remark}")
    return _TrainingSet(signals, target, used, SeenRecords.of(archive, table, signals.rows, used.tolist()))


def _fit(
    data: _TrainingSet, arguments: dict[str, Any], loop: LoopSettings, device: torch.device, progress: Progress
) -> tuple[nn.Module, Outcome]:
    """A network from seeded initial weights, trained; the process's random state is left as it was."""
    train, validation = data.rows_of(TRAIN), data.rows_of(VALIDATION)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(loop.seed)
        module = ResNet1d(**arguments).to(device)
        outcome = optimise(
            module, data.signals.x, data.target, train, validation, loop, device=device, progress=progress
        )
    return module, outcome


def _spec(
    archive: Archive,
    settings: TrainSettings,
    arguments: dict[str, Any],
    input_spec: InputSpec,
    target: Target,
    training: dict[str, Any],
) -> EncoderSpec:
    layers = tuple(f"resblock1d_{i}" for i in range(len(arguments["blocks_dim"])))[-TAPPED:]
    source = archive.info.get("source", {}).get("kind", "ecg")
    return EncoderSpec(
        name=f"{source}-{settings.target.replace(',', '-')}-resnet1d",
        factory="ecgscale.encoders.resnet1d:ResNet1d",
        weights=WEIGHTS_FILE,
        layers=layers,
        depth_scales=(1.0,) * len(layers),
        arguments=arguments,
        input=input_spec,
        output=OutputSpec(
            kind=target.kind, scale="value" if target.kind == "regression" else "logit", names=target.names
        ),
        training=training,
    )


def _loop_facts(loop: LoopSettings) -> dict[str, Any]:
    facts = asdict(loop)
    del facts["seed"], facts["epochs"]
    return facts
