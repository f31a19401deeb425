"""Do the cluster proportions say what the network says?

Two random forests see nothing of a record but its K proportions. One is fitted on the network's own decisions; how
often it decides as the network does, on records it was not fitted on, is the *agreement* (beside what always giving
the most frequent answer reaches). The other is fitted on the true labels; its accuracy and AUROC stand beside the
network's. After Boubekki et al. (arXiv 2509.15198, section on cluster proportions).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.encoders.spec import OutputSpec
from ecgscale.errors import UsageError
from ecgscale.evaluate.bootstrap import Scorer, Weights, interval, patient_weights
from ecgscale.evaluate.comparison import ExplainedRecords, classification_scorers, regression_scorers
from ecgscale.evaluate.holdout import choose, patients_of
from ecgscale.evaluate.seen import Seen
from ecgscale.evaluate.truth import read_truth

SCORES = (
    "agreement",
    "majority_agreement",
    "exact_match",
    "majority_exact_match",
    "accuracy",
    "network_accuracy",
    "auroc",
    "network_auroc",
    "r2",
    "mae_to_network",
    "mae",
    "network_mae",
    "mean_mae",
)


@dataclass(frozen=True)
class SurrogateResult:
    """Scores of the records held out; None where the kind of target has no such score.

    agreement, exact_match: the forest against the network's decisions, per label and for all labels of a record;
    majority_…: always the most frequent decision. accuracy, auroc: the forest fitted on labels against the labels;
    network_…: the network. For a regression r2 and mae_to_network: the forest against the network's values; mae: the
    forest fitted on labels against the labels; network_mae: the network; mean_mae: always the mean label.
    """

    target: str
    kind: str
    scores: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    records: int
    train_records: int
    labelled_records: int
    quarantined: int
    split: str
    seen_by_encoder: int | None
    """Of the records that score, how many had been seen; None where that is not known."""
    seen_by_clusters: int | None
    remarks: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """For `--json`: every score by its name, the 95 % intervals under `intervals`."""
        return {
            "target": self.target,
            "kind": self.kind,
            **self.scores,
            "intervals": {name: list(pair) if pair else None for name, pair in self.intervals.items()},
            "records": self.records,
            "train_records": self.train_records,
            "labelled_records": self.labelled_records,
            "quarantined": self.quarantined,
            "split": self.split,
            "seen_by_encoder": self.seen_by_encoder,
            "seen_by_clusters": self.seen_by_clusters,
            "remarks": list(self.remarks),
        }


def holdout_surrogate(
    explanations: pa.Table,
    target: str,
    output: OutputSpec,
    *,
    train_folds: Sequence[int] = (),
    test_folds: Sequence[int] = (),
    seen: Seen | None = None,
    seed: int = 0,
    n_bootstrap: int = 1000,
) -> SurrogateResult:
    """Fit the forests on one part of the explained records and score them on another.

    `explanations` has the columns record_id, patient_id, status, prediction, proportions, `target` and, for folds,
    fold; `output` is the encoder's. Unless `test_folds` say otherwise, records score that neither encoder nor K-means
    has `seen` (N,). Intervals are the central 95 % over `n_bootstrap` resamples of the patients scored. Raises
    `UsageError` for labels, folds or numbers of records that make no score.
    """
    usable = np.array([status == "ok" for status in explanations.column("status").to_pylist()], dtype=bool)
    explained = explanations.filter(pa.array(usable))
    truth = read_truth(explained, target, output)
    unseen = seen.neither if seen else None
    holdout = choose(explained, train_folds, test_folds, None if unseen is None else unseen[usable], seed)
    prediction = _matrix(explained, "prediction")
    if prediction.shape[1] != len(output.names):
        raise UsageError(
            f"predictions have {prediction.shape[1]} values, the encoder names {len(output.names)} outputs"
        )
    records = ExplainedRecords(_matrix(explained, "proportions"), prediction, truth, holdout, output, seed)
    compare = regression_scorers if output.kind == "regression" else classification_scorers
    scorers, remarks = compare(records)
    weights = patient_weights(patients_of(explained)[holdout.test].tolist(), n_bootstrap, seed)
    alike = np.ones((1, weights.shape[1]))
    quarantined = int((~usable).sum())
    if quarantined:
        remarks.append(f"{quarantined} quarantined records are left out")
    return SurrogateResult(
        target=target,
        kind=output.kind,
        scores={name: _one(scorers.get(name), alike) for name in SCORES},
        intervals={name: interval(scorer, weights) if scorer else None for name, scorer in scorers.items()},
        records=int(holdout.test.sum()),
        train_records=int(holdout.train.sum()),
        labelled_records=int((holdout.test & truth.known).sum()),
        quarantined=quarantined,
        split=holdout.told,
        seen_by_encoder=_count(seen.encoder if seen else None, usable, holdout.test),
        seen_by_clusters=_count(seen.clusters if seen else None, usable, holdout.test),
        remarks=(*holdout.remarks, *remarks),
    )


def _count(seen: NDArray[np.bool_] | None, usable: NDArray[np.bool_], test: NDArray[np.bool_]) -> int | None:
    return None if seen is None else int(seen[usable][test].sum())


def _one(scorer: Scorer | None, alike: Weights) -> float | None:
    value = float(scorer(alike)[0]) if scorer else float("nan")
    return value if np.isfinite(value) else None


def _matrix(table: pa.Table, column: str) -> NDArray[np.float32]:
    """A list column of equally long lists as (N, n)."""
    flat = table.column(column).combine_chunks().flatten().to_numpy(zero_copy_only=False)
    if not table.num_rows or len(flat) % table.num_rows:
        raise UsageError(f"{column}: {len(flat)} values for {table.num_rows} records; nothing to score")
    return np.asarray(flat, dtype=np.float32).reshape(table.num_rows, -1)
