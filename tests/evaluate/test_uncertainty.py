"""Entropy that is made to go with errors, or not to, and what is said where nothing can be measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgscale.errors import UsageError
from ecgscale.evaluate.questions import Questions
from ecgscale.evaluate.uncertainty import FEWEST, Uncertainty, measure_uncertainty, uncertainty_published
from ecgscale.evaluate.written import read_evaluations
from tests.worlds.published.heart_root import publish_heart

N = 400
RNG = np.random.default_rng(0)
ENTROPY = RNG.random(N)
AGE = np.where(np.arange(N) < 4, np.nan, RNG.integers(30, 60, N))


def multilabel(errs: np.ndarray) -> Questions:
    """Two labels; those of records that `errs` names are told wrongly, and with more doubt."""
    y = RNG.integers(0, 2, (N, 2))
    sure = np.where(errs, 0.6, 0.95)[:, None]
    says = np.where((y > 0) != errs[:, None], sure, 1 - sure)
    return Questions("multilabel", ("a", "b"), (says > 0.5).astype(np.int64), says, np.ones(N, bool), y)


def measure(questions: Questions, entropy: np.ndarray = ENTROPY, age: np.ndarray | None = AGE) -> Uncertainty:
    return measure_uncertainty(questions, entropy, [f"p{i // 2}" for i in range(len(entropy))], age, n_bootstrap=50)


def test_entropy_that_goes_with_errors() -> None:
    found = measure(multilabel(RNG.random(N) < ENTROPY))
    facts = found.to_dict()
    assert facts["records"] == N
    assert facts["patients"] == N // 2
    assert facts["rho"] > 0.3
    assert facts["intervals"]["rho"][0] > 0.2
    assert facts["auroc"] > 0.7
    assert facts["rho_within_age"] == pytest.approx(facts["rho"], abs=0.1)
    assert facts["rho_own"] == pytest.approx(1.0)
    assert facts["rho_difference"] == pytest.approx(facts["rho"] - 1.0)
    # The network's own doubt says all there is to say: nothing is left when it is held fixed.
    assert facts["rho_given_own"] is None
    assert facts["brier_high_less_low"] > 0.1
    by_name = {(s.kind, s.name): s for s in found.strata}
    assert (by_name["entropy", "high"].scores["error"] or 0) > 0.6 > (by_name["entropy", "low"].scores["error"] or 1)
    assert {name for kind, name in by_name if kind == "age"} == {"30–39", "40–49", "50–59"}
    assert by_name["class", "a"].records > 100
    assert "4 records have no age" in " ".join(found.remarks)


def test_entropy_that_knows_nothing() -> None:
    facts = measure(multilabel(RNG.random(N) < 0.3)).to_dict()
    low, high = facts["intervals"]["rho"]
    assert low < 0 < high
    assert facts["rho"] == pytest.approx(0, abs=0.15)


def test_every_stratum_is_in_the_table() -> None:
    found = measure(multilabel(RNG.random(N) < ENTROPY))
    rows = found.table().to_pylist()
    assert {(row["kind"], row["stratum"]) for row in rows} == {(s.kind, s.name) for s in found.strata}
    assert set(found.curves.column("stratum").to_pylist()) == {"all", "low", "middle", "high"}


def test_a_regression_has_errors_and_no_calibration() -> None:
    y = RNG.normal(50, 10, N)
    says = y + RNG.normal(0, 1, N) * (0.1 + ENTROPY)
    found = measure(Questions("regression", ("age",), says, says, np.ones(N, bool), y))
    facts = found.to_dict()
    assert facts["rho"] > 0.2
    assert "ece" not in facts
    assert {s.kind for s in found.strata} == {"all", "age"}
    assert found.curves.num_rows == 0


def test_small_strata_are_counted_and_not_scored() -> None:
    few = FEWEST + 2
    q = multilabel(RNG.random(N) < 0.5)
    part = Questions("multilabel", q.names, q.network[:few], q.says[:few], q.known[:few], q.y[:few])
    found = measure_uncertainty(part, ENTROPY[:few], [str(i) for i in range(few)], None, n_bootstrap=20)
    assert found.strata[0].scores["error"] is not None
    assert all(not s.scores for s in found.strata if s.records < FEWEST)
    assert "no age" in found.remarks[0]
    assert "no scores for fewer than" in found.remarks[-1]


def test_published(tmp_path: Path) -> None:
    heart = publish_heart(tmp_path, records=60, quarantined=2)
    done = uncertainty_published(heart.root, n_bootstrap=20)
    written = read_evaluations(heart.root, heart.dataset_id)["uncertainty-superclasses"]
    assert written.facts["records"] == 58
    assert written.facts["measured_on"] == "all"
    assert written.facts["error"] == done.result.strata[0].scores["error"]
    assert written.table("strata").num_rows > 20
    assert any("not known" in remark for remark in done.facts["remarks"])
    assert "2 quarantined records are left out" in done.facts["remarks"]
    with pytest.raises(UsageError, match=r"no label column 'rythm'.*'rhythm'"):
        uncertainty_published(heart.root, "rythm")
    with pytest.raises(UsageError, match="does not hold what the network tells"):
        uncertainty_published(heart.root, "age")


def test_too_few_labels(tmp_path: Path) -> None:
    heart = publish_heart(tmp_path, records=10)
    with pytest.raises(UsageError, match="20 are needed"):
        uncertainty_published(heart.root)
