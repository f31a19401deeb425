"""`ecgscale status`: what is going on below a ROOT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress
from ecgscale.words import named

if TYPE_CHECKING:
    from ecgscale.nightly.history import History
    from ecgscale.nightly.status import DatasetStatus, RootStatus

NAMED = 5


@click.command()
@click.argument("root", type=PLACE)
@click.option("--archive", type=PLACE, help="Where the archive is now, if it moved.")
@click.option("--history", type=click.IntRange(min=0), default=0, metavar="N",
              help="Also the last N manifests, and the last N decisions: who, when, why.")  # fmt: skip
@command
def status(progress: Progress, root: Path, archive: Path | None, history: int) -> dict[str, Any]:
    """Say what is published below ROOT, what waits, what failed or is held back, and how the last runs ended.

    One table a dataset. Nothing but listings and small records is read, so it takes seconds. Ages are by the clock of
    the store. With --history, also what was published before, by which command and run (`ecgscale rollback` goes back
    to one of these manifests), and what people released, rejected, rolled back and promoted.

    \b
    Example:
      ecgscale status results
      ecgscale status results --history 10
      ecgscale status s3://bucket/results --json
    """
    from ecgscale.nightly.history import root_history
    from ecgscale.nightly.status import root_status

    found = root_status(root, archive)
    past = root_history(root, history) if history else None
    for text in [*_tables(found), *(_history(past) if past else ())]:
        click.echo(text)
    return {**found.to_dict(), **({"history": past.to_dict()} if past else {})}


def _tables(found: RootStatus) -> Iterator[str]:
    from ecgscale.cli.tables import age, facts_table, rows_table

    for dataset in found.datasets:
        title = f"dataset {dataset.dataset_id}" + (" (served)" if dataset.served else "")
        yield facts_table(title, dict(_facts(dataset))) + "\n"
    if not found.datasets:
        yield f"no explanations lie below {found.root} yet"
    if found.running:
        yield f"under way: {found.running}"
    rows = [
        [
            run.command or "",
            (run.started or "")[:19].replace("T", " "),
            age((found.time - run.ended).total_seconds()) + " ago",
            run.outcome,
            "" if run.exit_code is None else str(run.exit_code),
            "" if run.records is None else f"{run.records:,}",
            age(run.seconds),
        ]
        for run in found.runs
    ]
    heads = ["run", "started (UTC)", "ended", "outcome", "exit", "computed", "took"]
    if rows:
        yield rows_table(heads, rows, "last runs", right=("exit", "computed", "took"))
    if found.remark:
        yield f"note: {found.remark}"


def _history(past: History) -> Iterator[str]:
    from ecgscale.cli.tables import rows_table

    manifests = [
        [
            line.dataset_id,
            str(line.number),
            _minute(line.created),
            line.by or "not known",
            line.run_id[:12],
            f"{line.records:,}",
            f"{line.shards:,}",
            f"{line.held:,}",
        ]
        for line in past.manifests
    ]
    heads = ["dataset", "manifest", "published (UTC)", "by", "run", "records", "shards", "held"]
    if manifests:
        yield "\n" + rows_table(heads, manifests, "last manifests", right=("manifest", "records", "shards", "held"))
    decisions = [
        [
            _minute(line.at),
            line.who,
            line.what,
            named(line.shards, 2) if line.shards else f"dataset {line.dataset_id}",
            line.reason,
        ]
        for line in past.decisions
    ]
    if decisions:
        yield "\n" + rows_table(["decided (UTC)", "by", "what", "on", "reason"], decisions, "last decisions")
    else:
        yield "\nnobody has released, rejected, rolled back or promoted anything yet"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _facts(dataset: DatasetStatus) -> Iterator[tuple[str, str]]:
    from ecgscale.cli.tables import age, size

    yield "model", dataset.model_id
    yield "archive", f"{dataset.archive or 'not known'} ({dataset.archive_id})"
    number = f"{dataset.manifest}, {age(dataset.published_s)} old" if dataset.manifest else "none: nothing is published"
    yield "manifest", number
    yield "shards published", f"{dataset.shards:,}"
    yield "records", f"{dataset.records:,}" + (f", {dataset.superseded:,} superseded" if dataset.superseded else "")
    yield "size", size(dataset.bytes)
    waiting = dataset.waiting
    yield "committed, not published", f"{waiting.unpublished:,}"
    unknown = f"not known: {waiting.remark}"
    yield "pending in the archive", unknown if waiting.pending is None else f"{waiting.pending:,}"
    if waiting.gone:
        yield "gone from the archive", f"{waiting.gone:,}"
    yield "failed", _named(dataset.failed)
    yield "held", _named(dataset.held)
    yield "rejected", _named(dataset.rejected)
    yield "set aside", _named(dataset.set_aside)
    by_reason = ", ".join(f"{count:,} {reason}" for reason, count in dataset.quarantined.items())
    total = sum(dataset.quarantined.values())
    yield "records quarantined", f"{total:,}" + (f": {by_reason}" if by_reason else "")


def _named(shards: Mapping[str, str]) -> str:
    """How many, and the first reasons with their shards, a line each."""
    from ecgscale.cli.tables import by_reason

    return "\n".join([f"{len(shards):,}", *by_reason(shards, NAMED)])
