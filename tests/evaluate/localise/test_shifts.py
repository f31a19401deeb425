"""The compiled kernels of circular shifts, against slow ones that read like their definition."""

from __future__ import annotations

import numpy as np
import pytest

from ecgscale.evaluate.localise.shifts import counts_by_record, draw_shifts, shifted_counts, shifted_matches
from ecgscale.evaluate.localise.timelines import PARTS, Ragged, Timelines

K, D = 3, 40


def some_lines(seed: int, n: int = 4) -> Timelines:
    rng = np.random.default_rng(seed)
    labels = np.repeat(rng.integers(0, K, (n, D // 4)), 4, axis=1).astype(np.int16)
    start, stop = rng.integers(0, 8, n), rng.integers(12, D, n)
    stop[-1] = start[-1]
    parts = rng.integers(-1, len(PARTS), (n, D)).astype(np.int8)
    inside = (np.arange(D) >= start[:, None]) & (np.arange(D) < stop[:, None])
    points = [np.sort(rng.random(rng.integers(0, 6)) * (b - a) / 100) for a, b in zip(start, stop, strict=True)]
    edges = [np.sort(rng.random(rng.integers(0, 6)) * (b - a) / 100) for a, b in zip(start, stop, strict=True)]
    return Timelines(labels, np.where(inside, parts, -1), start, stop, ragged(points), ragged(edges), 100.0)


def ragged(rows: list[np.ndarray]) -> Ragged:
    return Ragged.of(np.repeat(np.arange(len(rows)), [len(row) for row in rows]), np.concatenate(rows), len(rows))


@pytest.mark.parametrize("seed", range(3))
def test_counts_under_shifts(seed: int) -> None:
    lines, groups = some_lines(seed), np.array([0, 1, 0, 1])
    shifts = draw_shifts(lines.stop - lines.start, 5, seed)
    counts = shifted_counts(lines, shifts, groups, K)
    expected = np.zeros_like(counts)
    for s, row in enumerate(shifts):
        for n in range(len(lines)):
            own = slice(lines.start[n], lines.stop[n])
            for label, part in zip(np.roll(lines.labels[n, own], row[n]), lines.parts[n, own], strict=True):
                if part >= 0:
                    expected[s, groups[n], label, part] += 1
    np.testing.assert_array_equal(counts, expected)
    np.testing.assert_array_equal(counts_by_record(lines, K).sum(0), counts[0].sum(0))


def test_shifts_leave_the_first_row_alone_and_move_every_other() -> None:
    shifts = draw_shifts(np.array([100, 2, 1, 0]), 50, 0)
    assert not shifts[0].any()
    assert shifts[1:, 0].min() >= 1
    assert shifts[1:, 0].max() <= 99
    assert (shifts[1:, 1] == 1).all()
    assert not shifts[:, 2:].any()


def most_pairs(points: np.ndarray, edges: np.ndarray, tolerance: float) -> int:
    """The largest one-to-one matching, by trying everything (Kuhn's augmenting paths)."""
    partner: dict[int, int] = {}

    def place(i: int, tried: set[int]) -> bool:
        for j in range(len(edges)):
            if abs(points[i] - edges[j]) <= tolerance and j not in tried:
                tried.add(j)
                if j not in partner or place(partner[j], tried):
                    partner[j] = i
                    return True
        return False

    return sum(place(i, set()) for i in range(len(points)))


@pytest.mark.parametrize("seed", range(6))
def test_as_many_pairs_as_there_can_be(seed: int) -> None:
    lines = some_lines(seed)
    spans = (lines.stop - lines.start) / lines.rate
    shifts = draw_shifts(lines.stop - lines.start, 4, seed) / lines.rate
    tolerances = (0.01, 0.04)
    groups = np.arange(len(lines))
    found = shifted_matches(lines.boundaries, lines.edges, spans, shifts, groups, tolerances)
    for s, row in enumerate(shifts):
        for n in range(len(lines)):
            at, end = lines.boundaries.offsets[n], lines.boundaries.offsets[n + 1]
            moved = np.sort((lines.boundaries.values[at:end] + row[n]) % max(spans[n], 1e-9))
            edges = lines.edges.values[lines.edges.offsets[n] : lines.edges.offsets[n + 1]]
            for i, tolerance in enumerate(tolerances):
                assert found[s, n, i] == most_pairs(moved, edges, tolerance + 1e-9)
