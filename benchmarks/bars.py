"""What each ratio means, and the bar it is held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Bar:
    """A ratio's meaning; `limit` None where nothing was promised."""

    ratio: str
    meaning: str
    limit: float | None = None
    side: Literal["least", "most"] = "least"

    def met(self, value: float) -> bool | None:
        """Whether `value` keeps the bar; None without one."""
        if self.limit is None:
            return None
        return value >= self.limit if self.side == "least" else value <= self.limit

    def summary(self) -> str:
        """`≥ 120`, `≤ 0.03`, or a dash."""
        return "–" if self.limit is None else f"{'≥' if self.side == 'least' else '≤'} {self.limit:g}"


BARS = (
    Bar("iteration_vs_dense", "dense torch, two einsums over features in memory, over ours", 120),
    Bar("iteration_vs_dense_with_materialise", "the same with materialising the features, over ours", 240),
    Bar("iteration_vs_dense_rows", "the fastest dense torch found (features transposed beforehand), over ours"),
    Bar("iteration_vs_sklearn", "scikit-learn `MiniBatchKMeans.partial_fit` without its second pass, over ours"),
    Bar("iteration_vs_faiss", "`faiss.Kmeans`, one iteration on all points, over ours"),
    Bar("iteration_vs_dask_ml", "dask-ml, one Lloyd iteration on threads, over ours"),
    Bar(
        "explain_vs_bare_forward",
        "records a second of `explain`, whole, over those of the bare network",
        0.92,
    ),
    Bar("explain_vs_script", "records a second of `explain` over those of a script of the usual libraries", 2),
    Bar("explain_share_of_forward", "labels, entropy, proportions and segments, over the forward pass", 0.03, "most"),
    Bar("fit_mb_per_record", "MB of memory that a fit takes for each further record it keeps (float32)", 0.35, "most"),
    Bar("fit_peak_vs_archive_size", "peak of a fit on the same number of records from an archive eight times as large"),
    Bar("explain_peak_vs_archive_size", "peak of `explain` over an archive eight times as large"),
    Bar("four_k_vs_largest", "fitting K = 5, 10, 20 and 50 at once, over fitting K = 50 alone", 1.3, "most"),
    Bar("two_workers_vs_one", "records a second of `explain` on two processes over those on one, a thread each"),
    Bar("ray_vs_local_1", "records a second on one Ray actor over those on one process, both warm"),
    Bar("ray_vs_local_2", "records a second on two Ray actors over those on two processes, all warm", 0.95),
    Bar("dispatch_shards_per_s", "shards a second that the driver hands to Ray actors that do nothing", 1000),
    Bar("dispatch_driver_mb", "MB by which the driver grows over the second half of 10,000 such shards", 1, "most"),
    Bar("reduction_ms", "a step of a fit for 1,000 partial sums of K = 20, C = 772, added up by 8 actors", 50, "most"),
)


def bar_of(ratio: str) -> Bar:
    """The bar of a ratio; one without a limit when it is not listed."""
    return next((bar for bar in BARS if bar.ratio == ratio), Bar(ratio, ""))
