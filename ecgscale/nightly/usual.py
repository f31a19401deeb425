"""What is usual on a weekday: so many records, give or take.

Counts vary in two ways: by chance, as counts do, and because no two weeks are alike. Both are estimated on the
logarithm, from all weekdays together, each about its own median.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

import numpy as np
from scipy.stats import nbinom, poisson, t

LEAST_HISTORY_DAYS = 28
LEAST_NIGHTS_A_WEEKDAY = 3
"""Nothing is usual before this much is known."""

_LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class Usual:
    """The usual number of records of a weekday, its median.

    spread: standard deviation of log(1 + records) about the median of the weekday
    nights: how many nights the median is of; freedom: degrees of freedom of the spread
    """

    records: float
    spread: float
    nights: int
    freedom: int

    @classmethod
    def of(cls, counts: Mapping[date, int], weekday: int) -> Usual | None:
        """From records by date of past nights; None when they are too few to call anything usual."""
        if not counts or (max(counts) - min(counts)).days + 1 < LEAST_HISTORY_DAYS:
            return None
        days: dict[int, list[float]] = {}
        for day, came in counts.items():
            days.setdefault(day.weekday(), []).append(float(np.log1p(came)))
        mine = days.get(weekday, [])
        if len(mine) < LEAST_NIGHTS_A_WEEKDAY:
            return None
        distances = np.abs(np.concatenate([np.array(logs) - np.median(logs) for logs in days.values()]))
        # The larger of a robust spread and of one that sees what is rare but regular; never under that of counting.
        spread = max(1.4826 * float(np.median(distances)), float(np.quantile(distances, 0.95)) / 1.96, _LEAST_SPREAD)
        records = float(np.expm1(np.median(mine)))
        return cls(records, max(spread, (1 + records) ** -0.5), len(mine), max(len(counts) - len(days), 1))

    def p(self, records: int) -> float:
        """Probability of so few records, or of so many, on such a weekday: the larger of two.

        Student's t on the logarithm, which knows how little is known of the spread, and the tail of a negative binomial
        of the same spread, which knows that counts under ten are skewed. Both count the median's own error in.
        """
        error = self.spread * np.sqrt(1 + np.pi / (2 * self.nights))
        by_spread = t.sf(abs(np.log1p(records) - np.log1p(self.records)) / error, self.freedom)
        return float(max(by_spread, self._counted(records, error)))

    def _counted(self, records: int, error: float) -> float:
        mean = max(self.records, 0.5)
        few = records < mean
        beyond = error**2 - 1 / mean
        if beyond <= 0:
            return float(poisson.cdf(records, mean) if few else poisson.sf(records - 1, mean))
        size = 1 / beyond
        share = size / (size + mean)
        return float(nbinom.cdf(records, size, share) if few else nbinom.sf(records - 1, size, share))
