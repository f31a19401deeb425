"""Peak memory of `ecgscale fit` and `ecgscale explain`, each run as a user runs it.

Both are flat in the size of the archive; a fit grows with the records whose activations it keeps, and with nothing
else. Counted are anonymous resident and shared memory of the process; pages of mapped files are not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.inputs import CODE, Network, write_archive, write_encoder
from benchmarks.peak import ECGSCALE, peak_bytes
from benchmarks.report import Result, main
from benchmarks.timing import rounded
from ecgscale.clusters.cache import bytes_per_record
from ecgscale.clusters.features import BlockLayout
from ecgscale.encoders.taps import Encoder
from ecgscale.explain.facts import encoder_layout

MB = 1e6


@dataclass(frozen=True)
class Size:
    """`archives`: their sizes; `kept`: records that fits on the largest one keep; shards of `shard_records`."""

    network: Network
    archives: tuple[int, ...]
    kept: tuple[int, ...]
    shard_records: int
    n_clusters: int = 20


FULL = Size(CODE, (128, 256, 512, 1024), (64, 256, 512, 1024), 64)
QUICK = Size(CODE, (64, 512), (64, 256, 512), 64)


def run(size: Size, say: Callable[[str], None]) -> Result:
    """Measure peaks; `fit_mb_per_record` is the slope of a straight line through the fits."""
    with tempfile.TemporaryDirectory(prefix="ecgscale-benchmark-") as scratch:
        folder = Path(scratch)
        archives = {
            n: write_archive(folder / f"archive{n}", n, size.network, size.shard_records) for n in size.archives
        }
        largest = archives[max(size.archives)]
        encoder = write_encoder(folder / "encoder", size.network, largest)
        layout = encoder_layout(Encoder.load(encoder))
        common = ("--encoder", str(encoder), "--clusters", str(size.n_clusters), "--max-epochs", 2, "--device", "cpu")

        def fit(archive: Path, kept: int, name: str) -> float:
            root = folder / name
            command = ["fit", archive, *common, "--records", kept, "--out", root]
            peak = peak_bytes([*ECGSCALE, *map(str, command)]) / MB
            say(f"fit on {kept} of {name}: {peak:.0f} MB")
            return rounded(peak)

        by_records = {kept: fit(largest, kept, f"kept{kept}") for kept in size.kept}
        least = min(size.kept)
        by_archive = {n: fit(path, least, f"fit{n}") for n, path in archives.items() if path != largest}
        by_archive[max(archives)] = by_records[least]
        [model] = (folder / f"kept{least}" / "models").iterdir()
        explained = {}
        for n, path in archives.items():
            out = folder / f"explain{n}"
            command = ["explain", path, "--model", model, "--out", out, "--device", "cpu"]
            explained[n] = rounded(peak_bytes([*ECGSCALE, *map(str, command)]) / MB)
            say(f"explain {n}: {explained[n]:.0f} MB")
    slope, fixed = np.polyfit(list(by_records), list(by_records.values()), 1)
    ratios = {
        "fit_mb_per_record": rounded(float(slope)),
        "fit_peak_vs_archive_size": _growth(by_archive),
        "explain_peak_vs_archive_size": _growth(explained),
    }
    details = {
        "fit_peak_mb_by_records_kept": by_records,
        "fit_peak_mb_by_archive_size": by_archive,
        "explain_peak_mb_by_archive_size": explained,
        "fit_fixed_mb": rounded(float(fixed)),
        "kept_for_archive_sizes": least,
        "bytes_per_record_by_layout": _by_layout(layout),
        "taps": [list(pair) for pair in zip(layout.channels, layout.lengths, strict=True)],
    }
    return Result("memory", ratios, details)


def _growth(peaks: dict[int, float]) -> float:
    """The peak on the largest archive over that on the smallest: 1 is flat."""
    return rounded(peaks[max(peaks)] / peaks[min(peaks)])


def _by_layout(layout: BlockLayout) -> dict[str, Any]:
    return {
        "float32": bytes_per_record(layout),
        "float16": bytes_per_record(layout, "float16"),
        "dense": layout.n_steps * layout.n_channels * 4,
    }


if __name__ == "__main__":
    main(lambda quick, say: run(QUICK if quick else FULL, say), __doc__)
