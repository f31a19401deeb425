"""`ecgscale audit`: records whose label, network and surrogate disagree."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, runtime_options, spread_of
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.evaluate.audit import AuditResult


@click.command()
@click.argument("root", type=PLACE)
@click.option("--target", metavar="COLUMN", help="Label column; by default the one the encoder was trained on.")
@click.option("--folds", metavar="fold|patients:N", help="Cross-validate by the archive's folds, or by patient.")
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Records to print.")
@click.option("--flip", type=click.FloatRange(0, 0.5, min_open=True), default=0.05, show_default=True,
              help="Share of labels that are flipped to test the ranking.")  # fmt: skip
@click.option("--flips", type=click.IntRange(0), default=3, show_default=True, help="Repeats of that test; 0: none.")
@click.option("--trees", type=click.IntRange(1), default=200, show_default=True, help="Of each forest.")
@click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
@click.option("--seed", type=int, default=0, show_default=True)
@runtime_options
@command
def audit(
    progress: Progress,
    root: Path,
    target: str | None,
    folds: str | None,
    top: int,
    flip: float,
    flips: int,
    trees: int,
    dataset: str | None,
    seed: int,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """List the records whose label is least believed, the most suspicious first.

    A random forest on cluster proportions, fitted without the record's patient, says what it thinks of each label, and
    so does the network where it has not seen the record. The ranking is tested: labels are flipped in 5 % of the
    records, and as many records at the top of the list are looked at. All records go to ROOT/evaluations; the report
    shows their ECGs. Needs cleanlab: pip install 'ecgscale[evaluate]'.

    \b
      ecgscale audit results
      ecgscale audit results --target superclasses --top 50
    """
    from dataclasses import asdict

    from ecgscale.evaluate.audit import AuditRequest, audit_labels
    from ecgscale.evaluate.forests import ForestSettings
    from ecgscale.evaluate.surrogate.check import open_records
    from ecgscale.evaluate.written import evaluation_name, write_evaluation
    from ecgscale.store.presence import at_work

    request = AuditRequest(folds, ForestSettings(trees=trees, seed=seed), flip, flips)
    with at_work(root, "ecgscale audit"):
        published, data = open_records(root, target, dataset=dataset)
        with spread_of(runtime, workers, gpus_per_worker, "cpu", progress) as (spread, _):
            result = audit_labels(data, request, progress, spread)
        name = evaluation_name("audit", data.target)
        facts = result.to_dict()
        path = write_evaluation(
            root, published.dataset_id, name, facts, {"records": result.table}, settings=asdict(request)
        )
    click.echo(told(result, top))
    click.echo(f"written: {path}")
    return {**result.to_dict(top), "path": str(path)}


def told(result: AuditResult, top: int) -> str:
    """The first records as lines for people."""
    from ecgscale.cli.surrogate import table_lines

    lines = [f"{result.target}: {result.records} labels judged ({result.split})"]
    rows = [
        [row["record_id"], f"{row['quality']:.3f}", *(_cell(row[who]) for who in ("label", "network", "surrogate")),
         row["stands_alone"]]
        for row in result.table.slice(0, top).to_pylist()
    ]  # fmt: skip
    lines += table_lines(["record", "quality", "label", "network", "surrogate", "alone"], rows)
    alone = result.stands_alone
    lines.append(
        f"against the other two stand: the label of {alone.get('label', 0)} records, the network on "
        f"{alone.get('network', 0)}, the surrogate on {alone.get('surrogate', 0)}"
    )
    if result.flipped:
        found = result.flipped
        spread = f" ± {found['precision']['sd']:.2f}" if found["precision"]["sd"] is not None else ""
        lines.append(
            f"test: {found['records']} labels flipped, of as many records at the top {found['precision']['mean']:.0%}"
            f"{spread} were among them (chance {found['chance']:.0%})"
        )
    return "\n".join([*lines, *(f"note: {remark}" for remark in result.remarks)])


def _cell(value: Any) -> str:
    return (" ".join(value) or "-") if isinstance(value, list) else f"{value:.1f}"
