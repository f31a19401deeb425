"""A night: what is new is ingested, explained, judged, published; then scores and records follow.

    preflight → lock → arrivals → plan → explain → gates → publish → surrogate and drift → run record → prune

Every step can be cut short and repeated: the same command goes on. Nothing is fitted; the model is that of what is
served. Times are UTC.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.config import RunConfig
from ecgscale.encoders.spec import load_spec
from ecgscale.errors import ArchiveError, EcgscaleError, ExitCode
from ecgscale.evaluate.surrogate.check import check_published
from ecgscale.evaluate.written import write_evaluation
from ecgscale.io.places import Place
from ecgscale.io.settings import StoreError
from ecgscale.nightly.gates.evidence import GateReport
from ecgscale.nightly.gates.gatekeeper import Gatekeeper, NightRecord
from ecgscale.nightly.preflight import preflight
from ecgscale.passes.explain.committing import RunLimits
from ecgscale.passes.explain.explain import ExplainResult, Policy, identify
from ecgscale.passes.explain.guard import Guard
from ecgscale.passes.run.pipeline import explain_config, explain_settings, published_model
from ecgscale.passes.watch import RunWatch
from ecgscale.passes.workers import OpenPool, in_process
from ecgscale.progress import SILENT, Progress
from ecgscale.store.dataset import dataset_store
from ecgscale.store.garbage import collect_garbage
from ecgscale.store.lease import Lease, LockedError

if TYPE_CHECKING:
    from ecgscale.archive.intake.arrivals import Arrivals

SHOWN_NIGHTS = 60


@dataclass(frozen=True)
class NightResult:
    """What one night did.

    arrivals: what was ingested (None: shards come by themselves, or nothing could be: `no_arrivals` says why)
    explained: what was computed and published; report: what the gates said
    refreshed: what the evaluations after it gave, or why they gave nothing; seconds: of all of it, from end to end
    """

    arrivals: Arrivals | None
    no_arrivals: str | None
    explained: ExplainResult
    report: GateReport
    refreshed: dict[str, Any]
    seconds: float

    @property
    def exit_code(self) -> ExitCode:
        """A held night before shards set aside: it is the one that somebody has to look at."""
        if not self.report.passed:
            return ExitCode.GATE_HELD
        if self.no_arrivals is not None:
            return ExitCode.FAILED
        return self.explained.exit_code

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the run record."""
        return {
            **self.explained.to_dict(),
            "seconds": round(self.seconds, 3),
            "explain_seconds": round(self.explained.seconds, 3),
            "arrivals": self.arrivals.to_dict() if self.arrivals else None,
            **({"error": self.no_arrivals} if self.no_arrivals else {}),
            "gates": self.report.to_dict(),
            **self.refreshed,
        }


def run_night(
    config: RunConfig,
    *,
    watch: RunWatch,
    model_dir: Place | None = None,
    allow_recompute: bool = False,
    allow_withdrawal: bool = False,
    pool: OpenPool = in_process,
    device: str | None = None,
    progress: Progress = SILENT,
    now: datetime | None = None,
) -> NightResult:
    """Do what is new of one night, with the model that is served unless `model_dir` names another.

    Raises `LockedError` when another night is under way, `UsageError` for what has to be put right first (nothing was
    published yet, a plan that would compute published records again), `StoreError` for a store that refuses.
    """
    started = time.monotonic()
    now = now or datetime.now(UTC)
    night = config.nightly
    frozen = model_dir or published_model(config)
    model = ClusterModel.load(frozen)
    preflight(config.root, model)
    with Lease(config.root, watch.run_id, "ecgscale nightly", night.lease_seconds) as lease:
        arrivals, no_arrivals = _arrivals(config, progress)
        archive = Archive.open(config.archive.path)
        identity = identify(archive, model, explain_settings(config, model))
        store = dataset_store(config.root, identity.dataset_id)
        keeper = Gatekeeper(
            store=store,
            settings=config.gates,
            output_names=load_spec(model.encoder_path).output.names,
            model_id=model.model_id,
            now=now,
            run_id=watch.run_id,
            archive=archive,
            progress=progress,
        )

        def admission(*fresh: Any) -> Any:
            lease.check()
            return keeper(*fresh)

        explained = explain_config(
            config,
            frozen,
            progress,
            pool,
            device,
            watch,
            Policy(
                admission=admission,
                limits=RunLimits(night.max_shards, _deadline(night.deadline, now)),
                partial=night.policy == "committed",
            ),
            Guard(config.root, allow_recompute, allow_withdrawal, night, identity.dataset_id),
        )
        keeper.judge_nothing()
        assert keeper.report is not None
        lease.check()
        keeper.write()
        refreshed = _refresh(config, explained, keeper.nights, progress)
        if explained.published:
            refreshed["removed"] = _prune(config, progress)
        seconds = time.monotonic() - started
        return NightResult(arrivals, no_arrivals, explained, keeper.report, refreshed, seconds)


def _arrivals(config: RunConfig, progress: Progress) -> tuple[Arrivals | None, str | None]:
    """Ingest the source's new files; no `Arrivals` where shards come into the archive by themselves.

    A source that cannot be read (a disk that is not mounted) does not keep the night from what the archive has: the
    reason comes back instead, and the night does not end as if all were well.
    """
    if config.archive.source in (None, "simulate"):
        return None, None
    from ecgscale.archive.intake.arrivals import ingest_arrivals

    night = config.nightly
    try:
        arrivals = ingest_arrivals(config.archive, night.settle_minutes, night.give_up_hours, progress)
    except (ArchiveError, StoreError) as error:
        progress.say(f"nothing was ingested: {error}")
        return None, f"nothing was ingested: {error}"
    for note in arrivals.notes:
        progress.say(f"note: {note}")
    return arrivals, None


def _deadline(clock: str | None, now: datetime) -> float:
    """The next time that it is `clock` (UTC, HH:MM), on the monotonic clock."""
    if clock is None:
        return float("inf")
    hour, minute = map(int, clock.split(":"))
    due = now.astimezone(UTC).replace(hour=hour, minute=minute, second=0, microsecond=0)
    if due <= now:
        due += timedelta(days=1)
    return time.monotonic() + (due - now).total_seconds()


def _prune(config: RunConfig, progress: Progress) -> int:
    """Remove what nobody has referred to for a while; how many objects. The lease is held already."""
    try:
        cleaned = collect_garbage(config.root, timedelta(hours=config.nightly.gc_grace_hours), progress=progress)
    except (StoreError, LockedError) as error:
        progress.say(f"note: not cleaned up: {error}")
        return 0
    return int(cleaned.to_dict()["removed"])


def _refresh(
    config: RunConfig, explained: ExplainResult, nights: Sequence[NightRecord], progress: Progress
) -> dict[str, Any]:
    """Scores and the table of nights, after publishing: what cannot be computed is noted and undoes nothing."""
    write_evaluation(
        config.root,
        explained.dataset_id,
        "drift",
        {"nights": [{"started": r.started, "run_id": r.run_id, **r.night, **r.report} for r in nights[-SHOWN_NIGHTS:]]},
        settings=config.gates.model_dump(mode="json"),
    )
    if config.surrogate is None or not explained.published:
        return {"surrogate": None}
    try:
        checked = check_published(
            config.root,
            config.surrogate.target,
            train_folds=config.surrogate.train_folds or (),
            test_folds=config.surrogate.test_folds or (),
            dataset=explained.dataset_id,
            progress=progress,
        )
    except EcgscaleError as error:
        progress.say(f"note: the surrogate was not scored: {error}")
        return {"surrogate": None, "surrogate_error": str(error)}
    return {"surrogate": headline(checked.to_dict())}


def headline(scores: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers, names and remarks of an evaluation: its tables lie in the file that `path` names."""
    return {
        name: value
        for name, value in scores.items()
        if not isinstance(value, Mapping)
        and not (isinstance(value, list) and any(isinstance(inner, Mapping | list) for inner in value))
    }
