"""Training the reference network on an archive, into an encoder directory that records what it has seen."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import nn

from ecgscale.archive import Archive
from ecgscale.archive.validate import OK
from ecgscale.config import TRAINING
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.optimise import LoopSettings, Outcome, optimise, predict
from ecgscale.encoders.preprocess import NOT_WANTED, prepare_batch
from ecgscale.encoders.resnet1d import ResNet1d
from ecgscale.encoders.seen import SEEN_FILE, SeenRecords
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, OutputSpec, write_spec
from ecgscale.encoders.splits import TEST, TRAIN, UNUSED, VALIDATION, Folds, split
from ecgscale.encoders.taps import Encoder, fix_arithmetic, resolve_device
from ecgscale.encoders.targets import Target, encode, headline, read_labels, score
from ecgscale.errors import EncoderError, UsageError
from ecgscale.io.objects import open_objects
from ecgscale.io.places import is_remote, place
from ecgscale.leads import CANONICAL_LEADS, canonical_lead
from ecgscale.progress import SILENT, Progress

WEIGHTS_FILE = "weights.safetensors"


@contextmanager
def place_kept(out: str | Path, overwrite: bool) -> Iterator[None]:
    """Make the folder for an encoder before the training; if the block fails, folders go again in which nothing lies.

    Raises EncoderError for a file, a folder that cannot be made, and an encoder that must not be replaced.
    """
    where = place(out)
    if (where / SPEC_FILE).exists() and not overwrite:
        another = "place" if is_remote(out) else "directory"
        raise EncoderError(f"{out} already holds an encoder; give another {another}, or --overwrite to replace it")
    made: list[Path] = []
    if not is_remote(out):
        if where.exists() and not where.is_dir():
            raise EncoderError(f"{out} is a file; an encoder is a directory")
        made = [folder for folder in (where, *where.parents) if not folder.exists()]
        try:
            where.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EncoderError(f"{out} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        # Not empty, or gone: somebody else uses it.
        with suppress(OSError):
            for folder in made:
                folder.rmdir()
        raise


def put_encoder(out: str | Path, files: Mapping[str, bytes]) -> None:
    """Put an encoder's files to any place, the contract last: without it, what lies there is no encoder."""
    store = open_objects(out)
    if store.stat(SPEC_FILE) is not None:
        store.delete(SPEC_FILE)
    for name in sorted(files, key=lambda name: name == SPEC_FILE):
        store.put(name, files[name])


def write_encoder(out: str | Path, spec: EncoderSpec, module: nn.Module, seen: SeenRecords) -> None:
    """Write the directory; it has no encoder.toml, and so is no encoder, until everything else is in place."""
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    put_encoder(out, {WEIGHTS_FILE: save(state), SEEN_FILE: seen.text().encode()})
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
    targets, folds and shapes that cannot be trained, before any signal is read. Shards that cannot be read are left
    out, and said.
    """
    with place_kept(out, overwrite):
        return _train(archive.readable(progress.say), out, settings, progress)


def _train(archive: Archive, out: str | Path, settings: TrainSettings, progress: Progress) -> dict[str, Any]:
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
        "settings": {name: value for name, value in asdict(settings.loop).items() if name not in ("seed", "epochs")},
        "metrics": metrics,
    }
    spec = _spec(archive, settings, arguments, input_spec, data.target, training)
    write_encoder(out, spec, module, data.seen)
    for part, scores in metrics.items():
        progress.say(f"{part}: {headline(data.target.kind, scores)} on {len(data.rows_of(part))} records")
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
    """Labels, split and signals of everything that takes part, remarks are said."""
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
    seen = SeenRecords.of(archive, table, signals.rows, used.tolist())
    progress.say(f"split by {seen.split(settings.folds)}")
    return _TrainingSet(signals, target, used, seen)


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


MEMORY_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Signals:
    """`x` (M, n_leads, D) float32, in memory or on disk; `rows` (M,) are their places in the archive's table."""

    x: NDArray[np.float32]
    rows: NDArray[np.intp]
    rejected: dict[str, int]  # status → how many of the wanted records


def load_signals(
    archive: Archive,
    table: pa.Table,
    wanted: NDArray[np.bool_],
    spec: InputSpec,
    hop: int,
    *,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = SILENT,
) -> Signals:
    """Preprocess the `wanted` records of the archive; `table` has their `shard` and `row`.

    Beyond `memory_bytes` they go to a temporary file (in TMPDIR) that is gone when the array is. Unusable records are
    left out and counted by status. Raises UsageError when there is no room.
    """
    n_wanted = int(wanted.sum())
    x = _room((n_wanted, len(spec.leads), spec.length), memory_bytes, progress)
    shards = np.array(table.column("shard").to_pylist(), dtype=object)
    filled, rows, rejected = 0, [], Counter[str]()
    with progress.stage("read", n_wanted, "records") as stage:
        for shard in archive.shards:
            places = np.flatnonzero(shards == shard.key)
            if not wanted[places].any():
                continue
            seen: set[str] = set()
            for raw in archive.batches(shard, columns=[]):
                here = places[raw.first_row : raw.first_row + len(raw)]
                prepared = prepare_batch(raw, spec, hop, seen, np.flatnonzero(wanted[here]).tolist())
                good = prepared.usable
                n_good = int(good.sum())
                x[filled : filled + n_good] = prepared.x[good]
                rows.append(here[good])
                filled += n_good
                rejected.update(state for state in prepared.status if state not in (OK, NOT_WANTED))
                stage.advance(int(wanted[here].sum()))
    return Signals(x[:filled], np.concatenate(rows) if rows else np.array([], np.intp), dict(rejected))


def _room(shape: Sequence[int], memory_bytes: int, progress: Progress) -> NDArray[np.float32]:
    size = int(np.prod(shape)) * 4
    if size <= memory_bytes:
        return np.empty(shape, np.float32)
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size * 1.05:
        raise UsageError(
            f"the preprocessed signals take {size / 2**30:.1f} GiB and {folder} has {free / 2**30:.1f} GiB free; set "
            "TMPDIR to a larger disk, or train on fewer folds"
        )
    progress.say(f"keeping {size / 2**30:.1f} GiB of preprocessed signals in {folder} while training")
    # The nameless file lives as long as the mapping does, whatever ends the process.
    with tempfile.TemporaryFile(dir=folder) as file:
        return np.memmap(file, np.float32, "w+", shape=tuple(shape))


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
