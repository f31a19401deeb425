"""`ecgscale nightly`: what is new since the last time, and nothing else."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, Placement, placement_of
from ecgscale.progress import Progress
from ecgscale.words import counted, named

if TYPE_CHECKING:
    from ecgscale.config import RunConfig
    from ecgscale.nightly.night import NightResult
    from ecgscale.runtime.run_record import RunRecord

recompute_option = click.option(
    "--allow-recompute", is_flag=True, help="Compute published records again where their source has changed."
)
withdrawal_option = click.option(
    "--allow-withdrawal", is_flag=True, help="Withdraw many published records whose shards are gone from the archive."
)


@click.command()
@click.argument("config", type=PLACE)
@click.option(
    "--model", type=PLACE, metavar="PATH|ID", help="Explain with this model. Default: that of what is served."
)
@recompute_option
@withdrawal_option
@command
def nightly(
    progress: Progress, config: Path, model: Path | None, allow_recompute: bool, allow_withdrawal: bool
) -> dict[str, Any]:
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

    Exit codes: 0 done, 3 shards were set aside, 4 the gates held shards back (ecgscale quarantine --held, then release
    or reject), 5 another run is under way, 6 cut short.

    Example:  ecgscale nightly configs/nightly.toml
    """
    from ecgscale.config import load_config
    from ecgscale.runtime.run_record import run_record

    loaded = load_config(config)
    where = placement_of(loaded, progress)
    with run_record(loaded.root, "nightly", where.facts(), progress) as record:
        return night_facts(loaded, where, record, progress, model, allow_recompute, allow_withdrawal)


def night_facts(
    config: RunConfig,
    where: Placement,
    record: RunRecord,
    progress: Progress,
    model: Path | None,
    allow_recompute: bool,
    allow_withdrawal: bool,
) -> dict[str, Any]:
    """Run the night, tell it, and put it into the run record; the facts of the command."""
    from ecgscale.nightly.night import run_night
    from ecgscale.passes.explain.chosen_model import named_model

    result = run_night(
        config,
        watch=record,
        model_dir=named_model(config.root, model) if model is not None else None,
        allow_recompute=allow_recompute,
        allow_withdrawal=allow_withdrawal,
        pool=where.pool,
        device=where.device,
        progress=progress,
    )
    facts = result.to_dict()
    record.add(result.exit_code, night=facts)
    for line in told(result, config.root):
        click.echo(line)
    return {**facts, "exit_code": int(result.exit_code)}


def told(result: NightResult, root: Path) -> list[str]:
    """What a person wants to know of a night, a line each, and what to type next."""
    explained = result.explained
    lines = []
    if result.arrivals is not None:
        came = result.arrivals
        records, shards = counted(came.records, "record"), counted(len(came.shards), "shard")
        lines.append(f"arrived: {records} in {shards}; {came.waiting:,} settle still")
    new = explained.computed + explained.restamped
    counts = [(explained.retired, "withdrawn: gone from the archive"), (len(explained.left), "left for later")]
    lines.append(
        f"explained: {counted(explained.computed, 'shard')} computed, {explained.restamped:,} moved, "
        f"{explained.unchanged:,} unchanged" + "".join(f", {count:,} {what}" for count, what in counts if count)
    )
    again = [
        (explained.superseded, "gave way to newer ones of the same id"),
        (explained.repeated, "came twice alike: kept once"),
        (explained.conflicts, "quarantined: another patient has the id"),
    ]
    lines += [f"recordings: {count:,} {what}" for count, what in again if count]
    if explained.quarantined:
        lines.append("quarantined: " + ", ".join(f"{n:,} {status}" for status, n in explained.quarantined.items()))
    lines += [f"set aside: {aside.key} (why: `ecgscale status`)" for aside in explained.set_aside]
    told_once = [(finding.alarm, finding.message) for finding in result.report.findings]
    lines += [f"{'gate' if alarm else 'note'}: {message}" for alarm, message in told_once]
    held = [shard.key for shard in explained.held if shard.state == "held"]
    if held:
        where = shlex.quote(str(root))
        lines.append(f"{counted(len(held), 'shard')} held back: {named(held)}")
        lines.append(f"look:   ecgscale quarantine {where} --held")
        lines.append(f"decide: ecgscale release {where} {held[0]} --reason TEXT     (or reject)")
    state = "published" if explained.published else ("nothing new" if not new else "nothing published")
    if explained.withdrawn:
        withdrawn = counted(explained.withdrawn, "record")
        lines.append(f"withdrawn: {withdrawn} of shards that were published before and are not now")
    records = counted(explained.records, "record")
    lines.append(f"{state}: manifest {explained.manifest}, {records}: {explained.path}")
    return lines
