"""What a surrogate check found, as numbers by name and as a table of records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class SurrogateResult:
    """Scores of the headline group (`scores`, `intervals`), and everything else beside them, None where it cannot be
    computed.

    `per_label`: the same for each label; `groups`: for each group of records by what had seen them; `folds`: mean, SD
    and number over the parts; `differences`: paired, with intervals; `baselines` as `baselines.compare` tells them;
    `importance` as `importance.Importance.result`. `out_of_fold` has a row for every record scored.
    """

    target: str
    kind: str
    names: tuple[str, ...]
    scores: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    per_label: dict[str, dict[str, float | None]]
    groups: dict[str, dict[str, Any]]
    headline: str
    folds: dict[str, Any]
    differences: dict[str, dict[str, Any]]
    baselines: dict[str, dict[str, Any]]
    importance: list[dict[str, Any]]
    thresholds: dict[str, float]
    records: int
    train_records: int
    labelled_records: int
    quarantined: int
    split: str
    seen_by_encoder: int | None
    """Of the records in the headline, how many had been seen; None where that is not known."""
    seen_by_clusters: int | None
    remarks: tuple[str, ...]
    out_of_fold: pa.Table = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: every score by its name, and the rest."""
        return {
            "target": self.target,
            "kind": self.kind,
            **self.scores,
            "records": self.records,
            "train_records": self.train_records,
            "labelled_records": self.labelled_records,
            "quarantined": self.quarantined,
            "split": self.split,
            "headline": self.headline,
            "seen_by_encoder": self.seen_by_encoder,
            "seen_by_clusters": self.seen_by_clusters,
            "names": list(self.names),
            "thresholds": self.thresholds,
            "intervals": {name: list(pair) if pair else None for name, pair in self.intervals.items()},
            "per_label": self.per_label,
            "groups": self.groups,
            "folds": self.folds,
            "differences": self.differences,
            "baselines": self.baselines,
            "importance": self.importance,
            "remarks": list(self.remarks),
        }
