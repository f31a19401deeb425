"""`ecgscale explain`: every record of an archive to facts, as Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, pool_of, runtime_options
from ecgscale.progress import Progress
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.passes.explain.explain import ExplainResult


@click.command()
@click.argument("archive", type=PLACE)
@click.option(
    "--model",
    type=PLACE,
    metavar="PATH|ID",
    help="Cluster model: ROOT/models/ID, or its ID alone. Default: the only one below ROOT, or the one that is served.",
)
@click.option("--out", "root", required=True, type=PLACE, help="ROOT to write explanations below.")
@click.option(
    "--entropy",
    type=click.Choice(["none", "timestep"]),
    default="none",
    show_default=True,
    help="Write the entropy of every timestep too; its means over segments and records always are.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    help="Records in a forward pass; part of the dataset's identity.",
)
@click.option(
    "--include-padding/--exclude-padding",
    default=None,
    help="Explain zero padding too, as the published method does; by default as the model was fitted.",
)
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@runtime_options
@command
def explain(
    progress: Progress,
    archive: Path,
    model: Path | None,
    root: Path,
    entropy: Any,
    batch: int,
    include_padding: bool | None,
    device: str,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Say for every record of ARCHIVE when the network is in which cluster, and how surely.

    Writes one Parquet file for each shard of the archive and publishes them together. Stopped or failed in the
    middle, type the same command again: what is committed is not computed again, and unchanged shards are not
    even read. A shard that cannot be read is set aside (exit code 3); the rest goes on.

    \b
    Example:
      ecgscale explain archive --out out
      ecgscale explain archive --out out --model k20-1a2b3c4d5e6f --runtime ray --workers 16 --device cuda
    Then, in Python:
      import duckdb, ecgscale
      ds = ecgscale.open_explanations("out")
      duckdb.sql("SELECT status, count(*) FROM ds GROUP BY status").show()
    """
    from ecgscale.archive.reader import Archive
    from ecgscale.passes.explain.chosen_model import model_of_root, named_model
    from ecgscale.passes.explain.explain import explain_archive
    from ecgscale.runtime.run_record import run_record

    if model is None:
        chosen = model_of_root(root)
        progress.say(f"with model {chosen.name}; --model names another")
    else:
        chosen = named_model(root, model)
    pool, device = pool_of(runtime, workers, gpus_per_worker, device, progress)
    with run_record(root, "explain", {"name": runtime, "workers": workers or 1, "device": device}, progress) as record:
        result = explain_archive(
            Archive.open(archive),
            chosen,
            root,
            entropy=entropy,
            batch=batch,
            include_padding=include_padding,
            device=device,
            progress=progress,
            pool=pool,
            watch=record,
        )
        record.add(result.exit_code, explained=result.to_dict())
    click.echo(_summary(result, root))
    return {**result.to_dict(), "exit_code": int(result.exit_code)}


def _summary(result: ExplainResult, root: Path) -> str:
    from ecgscale.cli.tables import by_reason
    from ecgscale.store.dataset import served

    quarantined = sum(result.quarantined.values())
    done = [("computed", result.computed), ("unchanged", result.unchanged), ("re-stamped", result.restamped)]
    done += [("retired", result.retired), ("set aside", len(result.set_aside))]
    lines = [
        f"{counted(result.records, 'record')} in {counted(result.shards, 'shard')}, {result.records - quarantined:,} "
        f"explained and {quarantined:,} quarantined, in {result.seconds:.1f} s",
        "  shards: " + ", ".join(f"{count:,} {name}" for name, count in done if count),
    ]
    if result.withdrawn:
        lines.append(f"  withdrawn: {counted(result.withdrawn, 'record')} of shards that were published before")
    if result.quarantined:
        reasons = ", ".join(f"{count:,} {status}" for status, count in result.quarantined.items())
        lines.append(f"  quarantined: {reasons}")
    again = [
        (result.superseded, "gave way to newer ones of the same id"),
        (result.repeated, "came twice alike: kept once"),
        (result.conflicts, "quarantined: another patient has the id"),
    ]
    lines += [f"  {counted(count, 'recording')} {what}" for count, what in again if count]
    lines += [f"  set aside {aside.key} (why: `ecgscale status`)" for aside in result.set_aside]
    for state in ("held", "rejected"):
        held = {shard.key: shard.reason for shard in result.held if shard.state == state}
        lines += [f"  {state} {line}" for line in by_reason(held)]
    published = "published as" if result.published else "nothing new; still"
    lines.append(f"  {published} manifest {result.manifest} of {result.path}")
    pointer = served(root)
    if pointer is not None and pointer.dataset_id != result.dataset_id:
        lines.append(
            f"  served is still {pointer.dataset_id}; ecgscale promote {root} {result.dataset_id} changes that"
        )
    lines += [
        "",
        "Next, in Python: which clusters are the records in, and where is the network least sure?",
        "  import duckdb, ecgscale",
        f"  ds = ecgscale.open_explanations({str(root)!r})",
        "  duckdb.sql(\"SELECT record_id, mean_entropy, proportions FROM ds WHERE status = 'ok' "
        'ORDER BY mean_entropy DESC LIMIT 10").show()',
        f"Or look at one: ecgscale plot {root} RECORD_ID -o ecg.png",
    ]
    return "\n".join(lines)
