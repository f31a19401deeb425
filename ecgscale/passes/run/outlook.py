"""What a configuration will do, before it does it: inputs there or to be made, shards committed or pending, and sizes.

Nothing is written and no signal is read: only folder listings, footers, ids and folds, commit records, and the tables
of a source that is still to be ingested.
"""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from ecgscale.archive.reader import Archive
from ecgscale.archive.schema import SignalType
from ecgscale.archive.sources import open_source, options_of
from ecgscale.archive.sources.files import SourceFolder
from ecgscale.clusters.cache import bytes_per_record
from ecgscale.clusters.model import ClusterModel
from ecgscale.config import ArchiveConfig, RunConfig
from ecgscale.encoders.spec import SPEC_FILE, InputSpec
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import ShardError, UsageError
from ecgscale.explain.facts import code_explaining, encoder_layout
from ecgscale.io.places import is_remote
from ecgscale.passes.explain.explain import identify
from ecgscale.passes.explain.plan import freeze_plan
from ecgscale.passes.fit.fit import fitted_models
from ecgscale.passes.fit.request import select
from ecgscale.passes.memory import plan_memory
from ecgscale.passes.run.pipeline import explain_settings, fit_request
from ecgscale.passes.run.sizing import (
    MINIBATCH_STEPS,
    STEP_RECORDS,
    Sizes,
    explained_bytes,
    planned_encoder,
    shard_bytes,
    shard_count,
)
from ecgscale.store.dataset import dataset_store
from ecgscale.store.manifest import newest_number, read_manifest

LLOYD_ITERATIONS = 30
"""About as many as Lloyd takes to settle within its tolerance."""

FOLDS = 10
"""Of PTB-XL and of simulated archives; what share of an archive that is not there yet some folds will be."""


@dataclass(frozen=True)
class ArchiveOutlook:
    """The archive: `there`, or to be made from `source`, with the sizes it then has, about."""

    path: str
    there: bool
    source: str | None
    records: int
    shards: int
    bytes: int


@dataclass(frozen=True)
class ExplainOutlook:
    """Shards of the explain pass by what becomes of them, and the records to compute.

    longer: records of the archive that go on, padding left out, behind what the network sees; None where the archive
    is not there or does not say how long they are
    """

    committed: int
    moved: int
    pending: int
    pending_records: int
    set_aside: dict[str, str]
    longer: int | None = None


@dataclass(frozen=True)
class Outlook:
    """Everything `ecgscale plan` says but how long it takes. `model` is the finished one, if there is one."""

    archive: ArchiveOutlook
    encoder: str
    encoder_there: bool
    train_records: int
    model: str | None
    fit_records: int
    explain: ExplainOutlook
    sizes: Sizes
    network_seconds: float

    @property
    def anything(self) -> bool:
        """Whether there is something to fit or to explain."""
        return bool(self.fit_records or self.explain.pending_records)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def look_ahead(
    config: RunConfig, encoder: Encoder, model_dir: Path | None = None, records: int | None = None, device: str = "cpu"
) -> Outlook:
    """What a run of `config` would do now, with `model_dir` instead of a fit if it is given.

    With `records`, what it would do with so many of the source, nothing of which has to be there. `device` is the
    workers'. The inputs are those of `to_be_made`, which raises for what would stop the run.
    """
    there = records is None and (config.archive.path / "_archive.json").exists()
    opened = Archive.open(config.archive.path) if there else None
    archive, unreadable = _archive(config.archive, opened, records)
    encoder_there = (config.encoder.path / SPEC_FILE).exists()
    model = ClusterModel.load(model_dir) if model_dir else _finished(config, opened, encoder_there, device)
    if model is not None and opened is not None:
        explain = _explain(config, opened, model)
    else:
        explain = ExplainOutlook(0, 0, archive.shards - len(unreadable), archive.records, unreadable)
    if opened is not None:
        explain = replace(explain, longer=_longer(opened, encoder.spec.input))
    to_fit = 0 if model is not None else _fit_records(config, opened, archive.records)
    layout, fit = encoder_layout(encoder), config.fit
    sizes = Sizes(
        records=archive.records,
        shards=archive.shards,
        bytes_in=archive.bytes,
        fit_records=to_fit,
        pending_records=explain.pending_records,
        bytes_out=explained_bytes(explain.pending_records, encoder.spec.input.length, config.explain.entropy),
        activation_bytes=bytes_per_record(layout, fit.cache_dtype),
        passes=2 + (LLOYD_ITERATIONS if fit.algorithm == "lloyd" else 0),
        steps=0 if fit.algorithm == "lloyd" else min(MINIBATCH_STEPS, fit.max_epochs * max(10, to_fit // STEP_RECORDS)),
    )
    train = config.train
    folds = train.train_folds if train else ()
    return Outlook(
        archive=archive,
        encoder=_written(config.encoder.path),
        encoder_there=encoder_there,
        train_records=0 if encoder_there else _share(archive.records, folds),
        model=model.model_id if model else None,
        fit_records=to_fit,
        explain=explain,
        sizes=sizes,
        network_seconds=encoder.spec.input.seconds,
    )


def outlook_encoder(config: RunConfig, device: str = "cpu") -> Encoder:
    """The configuration's encoder, or the network that [train] would make; UsageError when there is neither."""
    if (config.encoder.path / SPEC_FILE).exists():
        return Encoder.load(config.encoder.path, device, config.batch, config.precision)
    if config.train is None:
        raise UsageError(
            f"{config.encoder.path} has no {SPEC_FILE}, and there is no [train] section to make an encoder from"
        )
    return planned_encoder(config.train, config.batch, device, config.precision)


def memory_summary(config: RunConfig, encoder: Encoder, sizes: Sizes, workers: int) -> str:
    """The line that a fit begins with, for the share of one of `workers`; UsageError when the limit cannot hold it."""
    shards = max(sizes.shards, 1)
    share = math.ceil(shards / workers) * math.ceil(sizes.fit_records / shards)
    request = fit_request(config, "cpu")
    k = config.fit.clusters
    plan = plan_memory(encoder_layout(encoder), share, k, k, encoder, config.fit.cache_dtype, request.memory)
    return plan.summary(workers=workers > 1).removeprefix("memory: ")


def _written(where: Path) -> str:
    """A place as a person writes it."""
    return str(where) if is_remote(where) else os.path.normpath(where)


def _archive(
    config: ArchiveConfig, opened: Archive | None, records: int | None
) -> tuple[ArchiveOutlook, dict[str, str]]:
    """What there is or will be, and which shards cannot be read, with the reason."""
    where = ArchiveOutlook(_written(config.path), opened is not None, config.source, 0, 0, 0)
    if opened is not None:
        n_bytes, (rows, unreadable) = sum(shard.size for shard in opened.shards), _rows(opened)
        return replace(where, records=rows, shards=len(opened.shards), bytes=n_bytes), unreadable
    found = records if records is not None else _source_records(config)
    signal, samples = _recording(config)
    n_bytes = shard_bytes(found, 12, samples, signal)
    return replace(where, records=found, shards=shard_count(found, n_bytes, config.shard_records), bytes=n_bytes), {}


def _rows(archive: Archive) -> tuple[int, dict[str, str]]:
    rows, unreadable = 0, {}
    for shard in archive.shards:
        try:
            rows += archive.footer(shard).rows
        except ShardError as error:
            unreadable[shard.key] = str(error)
    return rows, unreadable


def _longer(archive: Archive, spec: InputSpec) -> int | None:
    """How many records an explanation would crop, by their rates and where their padding begins, no signal read."""
    found, columns = 0, ("sampling_rate", "valid_stop")
    for shard in archive.shards:
        try:
            table = archive.shard_metadata(shard, columns)
        except ShardError:
            continue  # told already
        rate, stop = (table.column(name).to_numpy().astype(np.float64) for name in columns)
        if np.isnan(stop).any():
            return None
        # A rate that no network can use is another matter.
        seen = spec.length / spec.sampling_rate * np.where(rate > 0, rate, np.nan)
        found += int((stop > np.ceil(seen - 1e-6)).sum())
    return found


def _recording(config: ArchiveConfig) -> tuple[SignalType, int]:
    """Sample type and samples a lead of what a source usually holds."""
    if config.source == "code15":
        return "float32", 4096
    return "int16", 10 * (config.rate if config.source == "ptbxl" else 500)


def _source_records(config: ArchiveConfig) -> int:
    """Records of a source that is still to be ingested, from its tables, headers or names."""
    if config.source in (None, "simulate") or config.src is None:
        return config.records
    with TemporaryDirectory(prefix="ecgscale-plan-") as scratch:
        source = open_source(config, SourceFolder(config.src, Path(scratch)))
        # Of parts that are not opened, their sizes say about how many.
        return source.total or sum(piece.records for piece in source.pieces(options_of(config)))


def _share(records: int, folds: tuple[int, ...]) -> int:
    return records * len(folds) // FOLDS if folds else records


def _fit_records(config: RunConfig, archive: Archive | None, records: int) -> int:
    fit = config.fit
    if archive is not None:
        return len(select(archive, fit.folds, fit.records, fit.seed))
    return min(_share(records, fit.folds or ()), fit.records or records)


def _finished(config: RunConfig, archive: Archive | None, encoder_there: bool, device: str) -> ClusterModel | None:
    if archive is None or not encoder_there:
        return None
    found = fitted_models(archive, config.encoder.path, config.root, fit_request(config, device))
    return found.get(config.fit.clusters)


def _explain(config: RunConfig, archive: Archive, model: ClusterModel) -> ExplainOutlook:
    settings = explain_settings(config, model)
    store = dataset_store(config.root, identify(archive, model, settings).dataset_id)
    number = newest_number(store)
    plan = freeze_plan(archive, store, read_manifest(store, number) if number else None, code_explaining(model))
    aside = {shard.key: shard.reason for shard in plan.set_aside}
    committed = len(plan.published) + len(plan.committed)
    return ExplainOutlook(committed, len(plan.moved), len(plan.pending), plan.pending_records, aside)
