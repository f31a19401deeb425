"""The last nights: what came, what the gates said."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ecgscale.evaluate.written import Evaluation
from ecgscale.report.blocks import Block, Remark, TableBlock
from ecgscale.report.tables import Cell, Row, Table, number

SHOWN = 30


def night_blocks(evaluation: Evaluation) -> list[Block]:
    """A table of the newest nights, newest first, and a sentence for every alarm among them."""
    nights = sorted(evaluation.facts["nights"], key=lambda night: night["started"], reverse=True)[:SHOWN]
    if not nights:
        return []
    table = Table(
        caption="What came in each night, and whether it looked like what was published before.",
        columns=("recordings", "quarantined", "gates", "shards held back"),
        rows=tuple(_row(night) for night in nights),
        corner="night (UTC)",
    )
    alarms = [(night, finding) for night in nights for finding in night["findings"] if finding["alarm"]]
    return [
        TableBlock(table),
        *(Remark(f"{night['started'][:10]}: {finding['message']}", warn=True) for night, finding in alarms),
    ]


def _row(night: Mapping[str, Any]) -> Row:
    alarms = sum(bool(finding["alarm"]) for finding in night["findings"])
    verdict = "passed" if night["passed"] else f"{alarms} alarm" + ("s" if alarms != 1 else "")
    counts = [number(night[name]) for name in ("records", "quarantined")]
    return Row(night["started"][:16].replace("T", " "), (*counts, Cell(verdict), number(len(night["held"]))))
