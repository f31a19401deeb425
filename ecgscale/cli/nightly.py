"""`ecgscale nightly`: what is new since the last time, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, Placement, placement_of
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.config import RunConfig
    from ecgscale.nightly.night import NightResult
    from ecgscale.runtime.run_record import RunRecord

recompute_option = click.option(
    "--allow-recompute", is_flag=True, help="Compute published records again where their source has changed."
)


@click.command()
@click.argument("config", type=PLACE)
@click.option("--model", type=PLACE, help="Explain with this model: ROOT/models/ID. Default: that of what is served.")
@recompute_option
@command
def nightly(progress: Progress, config: Path, model: Path | None, allow_recompute: bool) -> dict[str, Any]:
    """Ingest, explain, judge and publish what is new since the last time, with the model that is served.

    What to type every night, from cron or `ray job submit`. It takes a lock, ingests source files that have arrived and
    settled, explains new and changed shards, holds back those that the quality gates find wrong, publishes the rest,
    and refreshes surrogate and drift. Nothing new: seconds. Stopped at any point: the same command goes on.

    \b
      [nightly]
      settle_minutes = 15         # files must have been as they are for so long
      deadline = "05:30"          # UTC; no shard is begun after it
    \b
      [gates]
      quarantine_rate = 0.05

    Exit codes: 0 done, 3 shards were set aside, 4 the gates held shards back (ecgscale status, then release or reject),
    5 another run is under way, 6 cut short.

    Example:  ecgscale nightly configs/nightly.toml
    """
    from ecgscale.config import load_config
    from ecgscale.runtime.run_record import run_record

    loaded = load_config(config)
    where = placement_of(loaded, progress)
    with run_record(loaded.root, "nightly", where.facts(), progress) as record:
        return night_facts(loaded, where, record, progress, model, allow_recompute)


def night_facts(
    config: RunConfig,
    where: Placement,
    record: RunRecord,
    progress: Progress,
    model: Path | None,
    allow_recompute: bool,
) -> dict[str, Any]:
    """Run the night, tell it, and put it into the run record; the facts of the command."""
    from ecgscale.nightly.night import run_night

    result = run_night(
        config,
        watch=record,
        model_dir=model,
        allow_recompute=allow_recompute,
        pool=where.pool,
        device=where.device,
        progress=progress,
    )
    facts = result.to_dict()
    record.add(result.exit_code, night=facts)
    for line in told(result):
        click.echo(line)
    return {**facts, "exit_code": int(result.exit_code)}


def told(result: NightResult) -> list[str]:
    """What a person wants to know of a night, a line each."""
    explained = result.explained
    lines = []
    if result.arrivals is not None:
        came = result.arrivals
        lines.append(f"arrived: {came.records:,} records in {len(came.shards)} shards; {came.waiting} settle still")
    new = explained.computed + explained.restamped
    counts = [(explained.retired, "gone from the archive"), (len(explained.left), "left for later")]
    lines.append(
        f"explained: {explained.computed} shards computed, {explained.restamped} moved, {explained.unchanged} unchanged"
        + "".join(f", {count} {what}" for count, what in counts if count)
    )
    again = [
        (explained.superseded, "gave way to newer ones of the same id"),
        (explained.repeated, "came twice alike and stand once"),
        (explained.conflicts, "have an id of another patient: quarantined"),
    ]
    lines += [f"recordings: {count:,} {what}" for count, what in again if count]
    if explained.quarantined:
        lines.append("quarantined: " + ", ".join(f"{n:,} {status}" for status, n in explained.quarantined.items()))
    lines += [f"set aside: {aside.key}: {aside.reason}" for aside in explained.set_aside]
    told_once = [(finding.alarm, finding.message) for finding in result.report.findings]
    lines += [f"{'gate' if alarm else 'note'}: {message}" for alarm, message in told_once]
    held = [shard.key for shard in explained.held if shard.state == "held"]
    if held:
        lines.append(f"held back: {', '.join(held)}")
        lines.append(f"next: ecgscale release ROOT {held[0]} --reason …, or reject; why: ecgscale status ROOT")
    state = "published" if explained.published else ("nothing new" if not new else "nothing published")
    lines.append(f"{state}: manifest {explained.manifest}, {explained.records:,} records: {explained.path}")
    return lines
