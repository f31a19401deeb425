"""`ecgscale compare`: what another network, or another fit, made of the same recordings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import PLACE, Where, bootstrap_option, dataset_option, runtime_options, seed_option
from ecgscale.progress import Progress
from ecgscale.tables import aligned, bracketed, percent
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.evaluate.compare import Compared


@click.command()
@click.argument("root", metavar="ROOT_A", type=PLACE)
@click.argument("other", metavar="ROOT_B", type=PLACE)
@dataset_option
@click.option("--other-dataset", metavar="ID", help="Which explanations of ROOT_B; by default those that are served.")
@click.option("--top", type=click.IntRange(0), default=10, show_default=True, help="Records to print.")
@seed_option
@bootstrap_option
@runtime_options
@command
def compare(progress: Progress, root: Path, other: Path, top: int, where: Where, **asked: Any) -> dict[str, Any]:
    """Set two networks, or two fits, beside each other on the recordings that both explained.

    Clusters are matched one to one by the time that they have in common. Told are the share of time in matched pairs
    and the mutual information adjusted for chance, each with its 95 % interval over patients and beside what moving B's
    clusters round gives; the pairs; the records that differ most; and, for outputs of the same name, how often both
    networks say the same and which records flip. Results go to ROOT_A/evaluations; nothing is written below ROOT_B.

    Both may be one ROOT, with --other-dataset for what a refit explained there.

    \b
      ecgscale compare results retrained
      ecgscale compare results results --other-dataset 3f1c0a9be7d24581
    """
    from ecgscale.evaluate.compare import compare_published
    from ecgscale.evaluate.written import plain

    with where.spread("cpu", progress) as (spread, _):
        done = compare_published(root, other, spread=spread, progress=progress, **asked)
    a, b = done.facts["a"], done.facts["b"]
    for name, side in (("A", a), ("B", b)):
        say(f"{name}: {side['model_id']} of {side['encoder_id']}, {side['clusters']} clusters ({side['root']})")
    say(*compare_summary(done.result, top))
    say(f"written: {done.path}")
    facts: dict[str, Any] = plain(done.facts)
    return {**facts, "evaluation": str(done.path)}


def compare_summary(found: Compared, top: int) -> list[str]:
    """The scores, the pairs and the first records as lines for people."""
    lines = [f"{counted(found.records, 'record')} in both, {found.seconds / 3600:,.2f} hours"]
    for text, score in (("time in matched clusters", found.agreement), ("AMI, adjusted for chance", found.ami)):
        if score.value is not None:
            null = f"   moved round {score.shifted_mean:.3f}" if score.shifted_mean is not None else ""
            lines.append(f"  {text:<26} {score.value:.3f}{bracketed(score.interval)}{null}")
    rows = [
        [f"{row['a']}", f"{row['b']}", *(percent(row[name]) for name in ("jaccard", "of_a", "of_b"))]
        for row in found.matched
    ]
    if rows:
        lines += ["", *aligned(["cluster of A", "of B", "Jaccard", "of A's time", "of B's time"], rows)]
    for name, alone in (("A", found.alone_a), ("B", found.alone_b)):
        if alone:
            lines.append(f"without a partner in {name}: {', '.join(map(str, alone))}")
    lines += _predictions(found)
    if rows := [
        [row["record_id"], percent(row["apart"]), " ".join(row["flips"] or [])] for row in found.most_different[:top]
    ]:
        lines += ["", *aligned(["most different", "of its time", "answers"], rows)]
    return [*lines, *(f"note: {remark}" for remark in found.remarks)]


def _predictions(found: Compared) -> list[str]:
    said = found.predictions
    if said is None:
        return []
    if said["kind"] == "regression":
        off, size = (said[name] for name in ("difference", "absolute"))
        apart = f"B less A {off['value']:+.3f}{bracketed(off['interval'])}, {size['value']:.3f} either way"
        return ["", f"predictions of {said['names'][0]}: {apart}"]
    score = said["agreement"]
    rows = [
        [
            name,
            *(_number(of[key]["value"]) for key in ("agreement", "kappa", "probability_apart")),
            *(f"{of[key]:,}" for key in ("yes_a", "yes_b", "only_a", "only_b")),
        ]
        for name, of in said["labels"].items()
    ]
    return [
        "",
        f"predictions agree in {score['value']:.3f}{bracketed(score['interval'])}; {said['flipped']:,} records flip",
        *aligned(["label", "agreement", "kappa", "P apart", "yes of A", "of B", "A alone", "B alone"], rows),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
