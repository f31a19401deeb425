"""Correlations and groups: the numbers, and nothing where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ecgscale.report.relations import (
    age_groups,
    class_groups,
    correlations,
    entropy_by,
    error_by_entropy,
    group_means,
    label_variables,
    output_variables,
)
from ecgscale.report.subject import Subject, open_subject
from tests.worlds.published.page_root import K, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return open_subject(publish_by_hand(tmp_path_factory.mktemp("published"), records=200).root)


def test_correlations_are_pearsons() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((50, 4)).astype(np.float32)
    x[:, 3] = 0.25
    y = x[:, 0] + rng.normal(0, 0.2, 50)
    y[7] = np.nan
    found = correlations(x, {"y": y, "few": np.where(np.arange(50) < 3, y, np.nan), "same": np.ones(50)})
    kept = np.arange(50) != 7
    expected = [np.corrcoef(x[kept, k], y[kept])[0, 1] for k in range(3)]
    np.testing.assert_allclose(found.r[0, :3], expected, atol=1e-6)
    assert np.isnan(found.r[0, 3]), "a cluster that never changes"
    assert np.isnan(found.r[1:]).all(), "too few, or all alike"
    assert found.records == (49, 3, 50)


def test_clusters_that_follow_classes_are_found(published: Subject) -> None:
    found = correlations(published.rows.proportions, label_variables(published))
    assert found.variables == (*published.classes, "age", "male")
    assert found.r[:5, :5].argmax(axis=1).tolist() == [0, 1, 2, 3, 4]
    of_outputs = correlations(published.rows.proportions, output_variables(published))
    assert of_outputs.r.shape == (5, K)


def test_group_means_leave_empty_groups_open(published: Subject) -> None:
    groups = {**class_groups(published), "nobody": np.zeros(len(published.rows), dtype=bool)}
    means = group_means(published.rows.proportions, groups)
    assert np.isnan(means[-1]).all()
    np.testing.assert_allclose(means[:-1].sum(axis=1), 1, atol=1e-5)


def test_entropy_groups_and_decades(published: Subject) -> None:
    decades = age_groups(published)
    assert sum(members.sum() for members in decades.values()) == len(published.rows)
    for group in entropy_by(published.rows.mean_entropy, decades):
        assert group.records >= 5
        assert list(group.quantiles) == sorted(group.quantiles)
    everyone = np.ones(len(published.rows), dtype=bool)
    bins = error_by_entropy(published, everyone)
    assert sum(n for _, n, _ in bins) == len(published.rows)
    assert error_by_entropy(published, ~everyone) == []


def test_a_regression_has_thirds_for_classes(tmp_path: Path) -> None:
    values = open_subject(publish_by_hand(tmp_path, records=60, kind="regression").root)
    groups = class_groups(values)
    assert len(groups) == 3
    assert sum(members.sum() for members in groups.values()) >= len(values.rows)
    assert all(name.startswith(("age", "4", "5", "6", "7")) for name in groups)
