"""Published against obtained: the table that a reproduction ends with, as Markdown and as facts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecgscale.evaluate.reproduction import Outcome
from ecgscale.evaluate.written import plain

PUBLISHED = {
    "agreement": "94.9 ± 0.5 %",
    "accuracy": "88.2 %",
    "network_accuracy": "88.4 %",
    "auroc": "79.6 % (or below)",
    "network_auroc": "81.4 % (or below)",
    "auroc_thresholded": "79.6 % (or above)",
    "network_auroc_thresholded": "81.4 % (or above)",
}
"""PTB-XL superclasses, ten-fold (Boubekki et al., arXiv 2509.15198). Whether its AUROCs come from scores or from
decisions is not said; decisions are likely, since scores give networks on PTB-XL some 0.9."""

ROWS = {
    "agreement": "forest agrees with the network, per label",
    "majority_agreement": "always the most frequent answer",
    "exact_match": "forest agrees in every label",
    "kappa": "Cohen's κ with the network",
    "accuracy": "accuracy by the labels, forest",
    "network_accuracy": "accuracy by the labels, network",
    "majority_accuracy": "accuracy of the most frequent label",
    "auroc": "AUROC from scores, forest",
    "network_auroc": "AUROC from scores, network",
    "auroc_thresholded": "AUROC from decisions, forest",
    "network_auroc_thresholded": "AUROC from decisions, network",
    "average_precision": "average precision, forest",
    "network_average_precision": "average precision, network",
    "r2": "forest's R² to the network's ages",
    "mae_to_network": "forest's mean absolute error to them (years)",
    "mae": "mean absolute error by the labels, forest",
    "network_mae": "mean absolute error by the labels, network",
    "mean_mae": "mean absolute error of the mean label",
}
_YEARS = {"mae_to_network", "mae", "network_mae", "mean_mae"}
_PLAIN = {"kappa", "r2"}


def table_lines(outcomes: Sequence[Outcome], title: str) -> list[str]:
    """The table in Markdown, and what each column is."""
    heads = ["", "published", *(f"protocol {outcome.protocol}" for outcome in outcomes)]
    lines = [f"# {title}", "", _row(heads), _row(["---", *("---:" for _ in heads[1:])])]
    published = PUBLISHED if all(outcome.protocol != "age" for outcome in outcomes) else {}
    for score, told in ROWS.items():
        cells = [_cell(outcome, score) for outcome in outcomes]
        if any(cells):
            lines.append(_row([told, published.get(score, ""), *cells]))
    lines.append(_row(["records that score", "", *(str(outcome.records) for outcome in outcomes)]))
    lines.append("")
    for outcome in outcomes:
        how = "mean ± SD over runs" if len(outcome.runs) > 1 else "one run: mean ± SD over its parts, or 95 % interval"
        lines.append(f"- Protocol {outcome.protocol}: {outcome.told}. Runs: {', '.join(outcome.runs)} ({how}).")
        for name, run in outcome.runs.items():
            lines += [f"  - {name}: {remark}" for remark in run["remarks"]]
    return lines


def facts_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """For `--json` and reproduction.json."""
    return {
        outcome.protocol: {
            "told": outcome.told,
            "records": outcome.records,
            "scores": {
                score: {"value": found[0], "sd": found[1], "interval": found[2]}
                for score in ROWS
                if (found := outcome.value(score)) is not None
            },
            "runs": plain(outcome.runs),
        }
        for outcome in outcomes
    }


def write_table(out: Path, outcomes: Sequence[Outcome], title: str) -> Path:
    """Write out/reproduction.md."""
    path = out / "reproduction.md"
    path.write_text("\n".join(table_lines(outcomes, title)) + "\n", encoding="utf-8")
    return path


def _cell(outcome: Outcome, score: str) -> str:
    found = outcome.value(score)
    if found is None:
        return ""
    value, sd, pair = found

    def number(x: float) -> str:
        return f"{x:.2f}" if score in _YEARS | _PLAIN else f"{100 * x:.1f}"

    unit = "" if score in _YEARS | _PLAIN else " %"
    if sd is not None:
        return f"{number(value)} ± {number(sd)}{unit}"
    return f"{number(value)}{unit}" + (f" [{number(pair[0])}, {number(pair[1])}]" if pair else "")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
