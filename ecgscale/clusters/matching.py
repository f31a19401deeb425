"""Which cluster of a new fit is which of an old one: ids are kept where that is beyond doubt.

    d_ij = ‖old_i − new_j‖     s_i = min over h ≠ i of ‖old_i − old_h‖     old i may persist as new j if d_ij < s_i / 2

Within half the way to its neighbour, the triangle inequality leaves no choice: ‖new_j − old_h‖ ≥ s_i − d_ij > d_ij for
every other old centroid h, so i is the old cluster nearest to j, and no new centroid may be two old ones. Of several
new centroids within the half (a cluster that split), the optimal matching takes the nearest, so matched clusters are
each other's nearest. What is left is a birth among the new, a death among the old. The measure is the old model's own
spacing, so that it does not change with the scale of the features or with K.

The matching does not depend on the order in which the new fit happens to have its clusters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

PERSISTS = 0.5
"""Share of the way from an old centroid to its nearest old neighbour within which a new centroid is the same cluster.
At more than a half, one new centroid could be two old ones."""


@dataclass(frozen=True)
class Matching:
    """A new fit's clusters under the ids that they get.

    order: (K_new,) number that the cluster of each id had in the new fit
    origin: id in the old model of the cluster of each new id; None for a birth
    deaths: ids of the old model that none of the new clusters is
    distance: (K_old, K_new) Euclidean, from old centroids to new ones by their new ids
    spacing: (K_old,) from an old centroid to its nearest old neighbour; infinite where it has none
    """

    order: NDArray[np.int64]
    origin: tuple[int | None, ...]
    deaths: tuple[int, ...]
    distance: NDArray[np.float64]
    spacing: NDArray[np.float64]

    @property
    def persisting(self) -> dict[int, int]:
        """Old id to new id; they are equal but for an old id that a smaller new model has not."""
        return dict(sorted((old, new) for new, old in enumerate(self.origin) if old is not None))

    @property
    def births(self) -> tuple[int, ...]:
        """New ids of clusters that the old model did not have."""
        return tuple(new for new, old in enumerate(self.origin) if old is None)

    def relative(self, old: int, new: int) -> float | None:
        """Their distance as a share of the old centroid's spacing; None where the old model has it twice."""
        distance, spacing = float(self.distance[old, new]), float(self.spacing[old])
        return distance / spacing if spacing > 0 else (0.0 if distance == 0 else None)


def match_clusters(
    old_KC: NDArray[np.floating], new_KC: NDArray[np.floating], new_counts: NDArray[np.integer]
) -> Matching:
    """Give clusters of a new fit (K_new, C) the ids of the old model's (K_old, C) that they are; K may differ.

    `new_counts` (K_new,) orders births, largest first. A birth gets an id that the old model did not have, if there is
    one below K_new, else that of a dead cluster. A persisting cluster whose id is not below K_new gets one in the same
    way, before the births.
    """
    old, new = old_KC.astype(np.float64), new_KC.astype(np.float64)
    canonical = sorted(range(len(new)), key=lambda k: (-int(new_counts[k]), tuple(new[k])))
    squared = square_distances(old, new[canonical])
    between = square_distances(old, old)
    np.fill_diagonal(between, np.inf)
    spacing = np.sqrt(between.min(axis=1, initial=np.inf))
    allowed = (squared < (PERSISTS * spacing[:, None]) ** 2) | (squared == 0)
    # A pair that is not allowed costs more than all allowed ones together: as many as can persist, at the least cost.
    forbidden = 1.0 + squared[allowed].sum()
    rows, columns = linear_sum_assignment(np.where(allowed, squared, forbidden))
    kept = {int(i): int(j) for i, j in zip(rows, columns, strict=True) if allowed[i, j]}
    ids = _numbered(kept, len(old), len(new))
    at = [ids[j] for j in range(len(new))]
    order = np.empty(len(new), np.int64)
    order[at] = canonical
    came_from = {ids[j]: i for i, j in kept.items()}
    return Matching(
        order,
        tuple(came_from.get(new_id) for new_id in range(len(new))),
        tuple(i for i in range(len(old)) if i not in kept),
        np.sqrt(square_distances(old, new[order])),
        spacing,
    )


def square_distances(one: NDArray[np.floating], other: NDArray[np.floating]) -> NDArray[np.float64]:
    """(n, m) squared Euclidean distances between the rows of (n, C) and (m, C); 0 for equal rows, exactly."""
    rows = one.astype(np.float64)
    return np.stack([((rows - row) ** 2).sum(axis=1) for row in other.astype(np.float64)], axis=1)


def _numbered(kept: Mapping[int, int], n_old: int, n_new: int) -> Sequence[int]:
    """The id of each new cluster, given which old ones persist as which (old → new)."""
    ids = {new: old for old, new in kept.items() if old < n_new}
    free = sorted(set(range(n_new)) - set(ids.values()), key=lambda i: (i < n_old, i))
    moved = [new for old, new in sorted(kept.items()) if old >= n_new]
    born = [new for new in range(n_new) if new not in kept.values()]
    ids |= dict(zip([*moved, *born], free, strict=True))
    return [ids[new] for new in range(n_new)]


def match_by_time(together: NDArray[np.integer]) -> dict[int, int]:
    """Which cluster of one partition is which of another, from (K, K′) the time that each pair has in common.

    One to one, so that as much time as can be is in matched pairs; two that never meet are no pair.
    """
    rows, columns = linear_sum_assignment(together, maximize=True)
    return {int(i): int(j) for i, j in zip(rows, columns, strict=True) if together[i, j] > 0}
