"""Published rows against the same rows computed again: to the last bit, and within tolerances where bits may differ.

On equal hardware and software all bits are equal. Another processor, a GPU or another version of a library rounds
differently in the last digits; then timesteps on the border of two clusters may change sides, and numbers move a
little. `TOLERANCES` say how much of that is nothing.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.digest import ContentDigest
from ecgscale.explain.schema import FACT_COLUMNS

TOLERANCES = {
    "prediction": 1e-3,
    "proportions": 0.01,
    "soft_proportions": 1e-3,
    "mean_entropy": 1e-3,
    "distortion": 1e-3,
    "segments": 0.01,
    "entropy": 0.01,
}
"""Largest difference of a number: relative beyond 1 for predictions and distortion; for `segments` the share of
timesteps with another cluster. Other columns have to be equal. Convolutions of another library move the numbers of 96
simulated records by less than 1e-5, and one timestep in 4,000 to another cluster."""
HALF_PRECISION = 10.0
"""How much more is nothing where the forward pass is in bfloat16."""
_RELATIVE = ("prediction", "distortion")


def different_columns(published: pa.Table, computed: pa.Table) -> dict[str, NDArray[np.bool_]]:
    """Columns that differ, with bool (n,): the rows that do, by a single bit. Those that only one of them has are left
    out (the archive may carry others by now), unless they are facts."""
    found = {}
    for name in computed.column_names:
        if name not in published.column_names:
            if name in FACT_COLUMNS:
                found[name] = np.ones(computed.num_rows, dtype=bool)
            continue
        one, other = published.select([name]), computed.select([name])
        if _digest(one) != _digest(other):
            rows = range(computed.num_rows)
            found[name] = np.array([_digest(one.slice(i, 1)) != _digest(other.slice(i, 1)) for i in rows], bool)
    return found


def _digest(column: pa.Table) -> str:
    digest = ContentDigest(column.schema.remove_metadata())
    digest.update(column)
    return digest.hexdigest()


def beyond_tolerance(name: str, published: pa.Table, computed: pa.Table, factor: float = 1.0) -> NDArray[np.bool_]:
    """bool (n,): rows whose column `name` differs by more than `factor` times its tolerance."""
    n = computed.num_rows
    if name not in TOLERANCES or name not in published.column_names:
        return np.ones(n, dtype=bool)
    limit = factor * TOLERANCES[name]
    pairs = zip(published[name].to_pylist(), computed[name].to_pylist(), strict=True)
    measure = _moved if name == "segments" else _relative if name in _RELATIVE else _apart
    return np.array([not measure(one, other) <= limit for one, other in pairs], dtype=bool)


def _apart(one: object, other: object) -> float:
    """The largest difference of two numbers or lists; infinite where one is null or of another length."""
    if one is None or other is None:
        return np.inf
    a, b = np.atleast_1d(np.asarray(one, float)), np.atleast_1d(np.asarray(other, float))
    return float(np.abs(a - b).max(initial=0.0)) if a.shape == b.shape else np.inf


def _relative(one: object, other: object) -> float:
    """The largest difference, as a part of the larger number beyond 1."""
    if one is None or other is None:
        return np.inf
    a, b = np.atleast_1d(np.asarray(one, float)), np.atleast_1d(np.asarray(other, float))
    return float((np.abs(a - b) / np.maximum(1.0, np.abs(b))).max(initial=0.0)) if a.shape == b.shape else np.inf


def _moved(one: list[dict] | None, other: list[dict] | None) -> float:
    """Share of timesteps that two lists of segments give to different clusters; infinite where their spans differ."""
    if not one or not other:
        return np.inf
    (a, first_a), (b, first_b) = _labels(one), _labels(other)
    return float((a != b).mean()) if len(a) == len(b) and first_a == first_b else np.inf


def _labels(segments: list[dict]) -> tuple[NDArray[np.int64], int]:
    clusters = np.array([segment["cluster"] for segment in segments])
    return np.repeat(clusters, [max(s["stop"] - s["start"], 0) for s in segments]), int(segments[0]["start"])
