"""Questions to what was published: `localise`, `uncertainty`, `temporal` and `audit`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import (
    PLACE,
    Where,
    archive_option,
    bootstrap_option,
    dataset_option,
    rotation_option,
    runtime_options,
    seed_option,
    target_option,
    trees_option,
)
from ecgscale.progress import Progress
from ecgscale.tables import aligned, bracketed

if TYPE_CHECKING:
    from ecgscale.evaluate.audit import AuditResult
    from ecgscale.evaluate.localise.physiology import PublishedLocalisation
    from ecgscale.evaluate.temporal import Temporal
    from ecgscale.evaluate.uncertainty import Stratum

_LOCALISE = {
    "information": "of the waves' entropy, clusters explain",
    "adjusted": "mutual information adjusted for chance",
    "purity": "timesteps in their cluster's commonest part",
    "boundary_f1_20ms": "changes of cluster at wave edges, 20 ms: F1",
    "boundary_f1_40ms": "                                  40 ms: F1",
    "qrs_f1": "QRS found by a union of clusters: F1",
}

_UNCERTAINTY = {
    "error": "the network's error",
    "rho": "rank correlation of entropy and error",
    "rho_within_age": "  within decades of age",
    "rho_own": "  the same of the network's own entropy",
    "rho_difference": "  difference",
    "rho_given_own": "  what entropy adds to it (partial)",
    "auroc": "entropy finds records with a wrong label: AUROC",
    "auroc_own": "  the network's own entropy",
    "ece": "expected calibration error",
    "ece_high_less_low": "  high third of entropy less low third",
    "brier": "Brier score",
    "brier_high_less_low": "  high third of entropy less low third",
}

_TEMPORAL = {
    "bag": "share of time in each cluster (the bag)",
    "dwell": "  with lengths and numbers of segments",
    "ngrams": "  with pairs and triples of segments",
    "ngrams_shuffled": "    of shuffled segments (control)",
    "markov": "Markov chains, likelihood alone",
    "markov_shuffled": "    of shuffled segments (control)",
    "hmm": "hidden Markov models, likelihood alone",
    "hmm_shuffled": "    of shuffled segments (control)",
}


@click.command()
@click.argument("root", type=PLACE)
@archive_option
@dataset_option
@click.option("--records", type=click.IntRange(min=1), default=1000, show_default=True, help="At most so many, drawn.")
@click.option(
    "--waves",
    type=click.Choice(["auto", "fiducials", "delineated"]),
    default="auto",
    show_default=True,
    help="Annotations, or waves found by NeuroKit2; auto takes annotations where there are any.",
)
@seed_option
@runtime_options
@command
def localise(progress: Progress, root: Path, where: Where, **asked: Any) -> dict[str, Any]:
    """Compare the clusters with P, QRS, T and TP, between the first and the last annotated wave of each recording.

    Every score stands beside its 95 % interval over patients and beside what circular shifts give: each recording's
    clusters moved round by a random amount, 200 times. QRS timesteps are found by a union of clusters that is chosen on
    half of the patients and scored on the other half. Then: the average beat of every cluster, and whether clusters
    change where the network's grid has its lines (checkerboard artefacts).

    Waves are the archive's annotations (LUDB, simulated archives). Without any, NeuroKit2 finds them:
    pip install 'ecgscale[evaluate]'.

    \b
      ecgscale localise results
      ecgscale localise results --waves delineated --records 200 --workers 4
    """
    from ecgscale.evaluate.localise.physiology import localise_published

    with where.spread("cpu", progress) as (spread, _):
        done = localise_published(root, spread=spread, progress=progress, **asked)
    say(*localise_summary(done))
    return {**_flat(done), "evaluation": str(done.path)}


def localise_summary(done: PublishedLocalisation) -> list[str]:
    """The scores as lines for people."""
    facts, scores = done.facts, done.result.scores
    without = f"{facts['without_waves']} without; split by {facts['split']}"
    lines = [f"{facts['records']} records with waves ({facts['waves_from']}), {without}"]
    for name, text in _LOCALISE.items():
        score = scores[name]
        if score.value is None:
            continue
        pair = bracketed(score.interval, "  ")
        shifted = (
            f"   shifted {score.shifted_mean:.3f}, 99 % below {score.shifted_p99:.3f}" if score.shifted_p99 else ""
        )
        lines.append(f"  {text:<44} {score.value:.3f}{pair}{shifted}")
    for union in done.result.unions[:1]:
        clusters = ", ".join(map(str, union.clusters)) or "none"
        lines.append(f"    clusters {clusters}: chosen on {union.chosen_on} records, scored on {union.scored_on}")
    for part, purest in facts["purest"].items():
        if purest:
            lines.append(
                f"  purest in {part:<3}  cluster {purest['cluster']:>2}, {purest['share']:.2f} of its timesteps"
            )
    for test in done.checkerboard:
        if test.uneven is not None:
            verdict = "uneven: see docs/evaluation.md" if test.uneven else "even"
            lines.append(f"  boundaries modulo {test.hop:g} ({test.layer}): {verdict}, V {test.cramers_v:.3f}")
    return [*lines, *(f"note: {remark}" for remark in facts["remarks"])]


def _flat(done: PublishedLocalisation) -> dict[str, Any]:
    """For `--json`: scores as numbers first, everything else as the evaluation has it."""
    from ecgscale.evaluate.written import plain

    facts: dict[str, Any] = plain(done.facts)
    values = {name: score["value"] for name, score in facts["scores"].items()}
    return {**values, **{key: value for key, value in facts.items() if key != "clusters_in_beat"}}


@click.command()
@click.argument("root", type=PLACE)
@target_option
@click.option("--everyone", is_flag=True, help="Take records that encoder or K-means had seen, too.")
@dataset_option
@seed_option
@bootstrap_option
@runtime_options
@command
def uncertainty(progress: Progress, root: Path, where: Where, **asked: Any) -> dict[str, Any]:
    """Set the entropy of recordings beside the network's errors and the truth of its probabilities.

    For all records, by decade of age, by class, and by third of entropy; beside it what the entropy of the network's
    own probabilities says, which costs nothing. Brackets hold 95 % intervals from resampled patients.

    \b
      ecgscale uncertainty results
      ecgscale uncertainty results --target superclasses --everyone
    """
    from ecgscale.evaluate.uncertainty import uncertainty_published
    from ecgscale.evaluate.written import plain

    with where.spread("cpu", progress) as (spread, _):
        done = uncertainty_published(root, spread=spread, progress=progress, **asked)
    everything, *strata = done.result.strata
    say(f"{done.facts['target']}: {everything.records} records; resampled by {done.result.resampled}")
    for name, text in _UNCERTAINTY.items():
        if (score := _score(everything, name)) is not None:
            say(f"  {text:<48} {score}")
    for stratum in strata:
        scores = " ".join(f"{name} {value}" for name in ("error", "rho", "ece") if (value := _score(stratum, name)))
        label = f"{stratum.kind} {stratum.name}"
        say(f"  {label:<24} {stratum.records:>6} records   {scores or 'too few for scores'}")
    for remark in done.facts["remarks"]:
        say(f"note: {remark}")
    facts: dict[str, Any] = plain(done.facts)
    return {**facts, "evaluation": str(done.path)}


@click.command()
@click.argument("root", type=PLACE)
@click.option("--target", metavar="COLUMN", required=True, help="Label column with classes, such as rhythm.")
@click.option(
    "--records", type=click.IntRange(min=1), default=20_000, show_default=True, help="At most so many, drawn."
)
@trees_option(300)
@dataset_option
@seed_option
@bootstrap_option
@runtime_options
@command
def temporal(progress: Progress, root: Path, target: str, where: Where, **asked: Any) -> dict[str, Any]:
    """Tell a label from the order of clusters, and from their shares of time alone: is there more in the order?

    Scores are cross-validated, by patient where patients are known. Beside each stands the same on recordings whose
    segments were put into a random order. Bits a segment say how predictable the next cluster is to a model that
    remembers, and to one that does not.

    \b
      ecgscale temporal results --target rhythm
      ecgscale temporal results --target superclasses --records 2000
    """
    from ecgscale.evaluate.temporal import temporal_published
    from ecgscale.evaluate.written import plain

    with where.spread("cpu", progress) as (spread, _):
        done = temporal_published(root, target, spread=spread, progress=progress, **asked)
    say(f"{target}: {done.result.records} records, split by {done.result.split}; AUROC, gain over the bag")
    for name, text in _TEMPORAL.items():
        if (score := _score(done.result, f"auroc_{name}")) is not None:
            gain = _score(done.result, f"gain_{name}")
            say(f"  {text:<42} {score}" + (f"   {gain}" if gain else ""))
    for name in ("ngrams", "markov", "hmm"):
        if (score := _score(done.result, f"order_{name}")) is not None:
            label = f"what order alone gives: {name}"
            say(f"  {label:<42} {score}")
    for name in ("bag", "markov", "hmm", "markov_shuffled", "hmm_shuffled"):
        if (score := _score(done.result, f"bits_{name}")) is not None:
            label = f"bits a segment, {name.replace('_', ', ')}"
            say(f"  {label:<42} {score}")
    for remark in done.facts["remarks"]:
        say(f"note: {remark}")
    facts: dict[str, Any] = plain(done.facts)
    return {**facts, "evaluation": str(done.path)}


def _score(result: Stratum | Temporal, name: str) -> str | None:
    """A score with its interval; None where there is none."""
    value, pair = result.scores.get(name), result.intervals.get(name)
    if value is None:
        return None
    return f"{value:.3f}" + bracketed(pair)


@click.command()
@click.argument("root", type=PLACE)
@target_option
@rotation_option
@click.option("--top", type=click.IntRange(1), default=20, show_default=True, help="Records to print.")
@click.option("--flip", type=click.FloatRange(0, 0.5, min_open=True), default=0.05, show_default=True,
              help="Share of labels that are flipped to test the ranking.")  # fmt: skip
@click.option("--flips", type=click.IntRange(0), default=3, show_default=True, help="Repeats of that test; 0: none.")
@trees_option(200)
@dataset_option
@seed_option
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
    where: Where,
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
    from ecgscale.evaluate.audit import AuditRequest, audit_labels
    from ecgscale.evaluate.forests import ForestSettings
    from ecgscale.evaluate.surrogate.check import open_records
    from ecgscale.evaluate.written import evaluation_name, write_evaluation
    from ecgscale.store.presence import at_work

    request = AuditRequest(folds, ForestSettings(trees=trees, seed=seed), flip, flips)
    with at_work(root, "ecgscale audit"):
        published, data = open_records(root, target, dataset=dataset)
        with where.spread("cpu", progress) as (spread, _):
            result = audit_labels(data, request, progress, spread)
        name = evaluation_name("audit", data.target)
        facts = result.to_dict()
        path = write_evaluation(
            root, published.dataset_id, name, facts, {"records": result.table}, settings=asdict(request)
        )
    say(*audit_summary(result, top))
    say(f"written: {path}")
    return {**result.to_dict(top), "path": str(path)}


def audit_summary(result: AuditResult, top: int) -> list[str]:
    """The first records as lines for people."""
    lines = [f"{result.target}: {result.records} labels judged ({result.split})"]
    rows = [
        [row["record_id"], f"{row['quality']:.3f}", *(_cell(row[who]) for who in ("label", "network", "surrogate")),
         row["stands_alone"]]
        for row in result.table.slice(0, top).to_pylist()
    ]  # fmt: skip
    lines += aligned(["record", "quality", "label", "network", "surrogate", "alone"], rows)
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
    return [*lines, *(f"note: {remark}" for remark in result.remarks)]


def _cell(value: Any) -> str:
    return (" ".join(value) or "-") if isinstance(value, list) else f"{value:.1f}"
