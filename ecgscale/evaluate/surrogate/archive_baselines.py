"""Baselines of a published dataset that need its archive again: from its signals, and from its network.

From signals, what a forest can make of recordings without any network: principal components of the raw signal, and the
heart rate with the amplitudes of every lead. Signals are read as the encoder would see them (its leads, rate and
millivolts), so that both start from the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from ecgscale.archive.reader import Archive, chosen_batches
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.preprocess import Prepared, prepare_batch
from ecgscale.errors import ArchiveError, ShardError
from ecgscale.evaluate.published import Published, by_shard, draw_records
from ecgscale.evaluate.surrogate.scores import Baseline
from ecgscale.evaluate.surrogate.surrogate import ExplainedRecords
from ecgscale.explain.facts import require_encoder
from ecgscale.passes.features import network_features
from ecgscale.progress import SILENT, Progress

WORDS = {
    "pooled": "mean activations of the tapped blocks: the ceiling",
    "random_timesteps": "proportions under timesteps drawn at random",
    "random_centroids": "proportions under Gaussian centroids",
    "random_weights": "proportions of the network with random weights",
}

FEWEST_FITTED = 20


def archive_baselines(
    published: Published,
    data: ExplainedRecords,
    archive: Path | None = None,
    *,
    with_network: bool = False,
    records: int = 2000,
    seed: int = 0,
    device: str = "auto",
    progress: Progress = SILENT,
) -> dict[str, Baseline]:
    """Baselines of a seeded sample of at most so many records; none, and a word about it, where the archive is gone."""
    opened, note = published.archive(archive)
    if opened is None:
        progress.say(f"no baselines from signals: {note}")
        return {}
    table = data.table
    rows = draw_records(table.num_rows, records, seed)
    wanted = by_shard(table.take(pa.array(rows)))
    ids = [str(record) for record in table.column("record_id").to_pylist()]
    found = signal_baselines(opened, published.spec.input, ids, wanted, seed, published.stream.gaps_ms, progress)
    if with_network:
        progress.say(f"{len(rows)} records go through the network again, and through one with random weights")
        found |= _from_network(published, data, opened, ids, wanted, seed, device, progress)
    return found


def _from_network(
    published: Published,
    data: ExplainedRecords,
    archive: Archive,
    ids: list[str],
    wanted: dict[str, list[str]],
    seed: int,
    device: str,
    progress: Progress,
) -> dict[str, Baseline]:
    """Those of `passes.network_features`; centroids come from records that K-means had seen, if there are enough."""
    require_encoder(published.model)
    chosen = [record for records in wanted.values() for record in records]
    seen = data.seen.clusters if data.seen else None
    known = {ids[i] for i in np.flatnonzero(seen)} if seen is not None else set()
    fitting = [record for record in chosen if record in known]
    made = network_features(
        archive,
        published.encoder_dir,
        wanted,
        fitting if len(fitting) >= FEWEST_FITTED else chosen,
        published.model.n_clusters,
        seed=seed,
        device=device,
        settings=published.stream,
        progress=progress,
    )
    number = {record: i for i, record in enumerate(ids)}
    found = {}
    for features in made:
        at = np.array([number[record] for record in features.record_ids])
        for name, values in features.by_name.items():
            found[name] = _baseline(WORDS[name], values, at, len(ids))
    return found


RAW_RATE = 50.0
COMPONENTS = 50
SLOWEST_S, FASTEST_S = 2.0, 0.3
"""Beats further apart or nearer than this are not looked for (30 to 200 a minute)."""

_SMOOTH_S = 0.12


def signal_baselines(
    archive: Archive,
    spec: InputSpec,
    record_ids: Sequence[str],
    wanted: Mapping[str, Sequence[str]],
    seed: int = 0,
    gaps_ms: float = 0.0,
    progress: Progress = SILENT,
) -> dict[str, Baseline]:
    """Two baselines of N records, "signal" and "rate_and_amplitudes", read for those `wanted` (shard key → record ids).

    Principal components are those of all records chosen; they know no labels. Records of shards that cannot be
    read have no features.
    """
    number = {record: i for i, record in enumerate(record_ids)}
    raw, simple, rows = [], [], []
    with progress.stage("signals", sum(map(len, wanted.values())), "records") as stage:
        for at, prepared in _prepared(archive, spec, wanted, number, gaps_ms, progress):
            raw.append(downsampled(prepared.x, spec.sampling_rate))
            simple.append(rate_and_amplitudes(prepared, spec.sampling_rate))
            rows.append(at)
            stage.advance(len(at))
    if not rows:
        return {}
    at = np.concatenate(rows)
    signals, n_components = np.concatenate(raw), min(COMPONENTS, len(at))
    parts = PCA(n_components, svd_solver="randomized", random_state=seed).fit_transform(signals).astype(np.float32)
    words = f"{n_components} principal components of the signal at {RAW_RATE:.0f} Hz"
    rate = "heart rate, its regularity, and for each lead 1 % and 99 % quantile and SD of the voltage"
    return {
        "signal": _baseline(words, parts, at, len(record_ids)),
        "rate_and_amplitudes": _baseline(rate, np.concatenate(simple), at, len(record_ids)),
    }


def downsampled(x: NDArray[np.float32], rate: float) -> NDArray[np.float32]:
    """(N, leads, D) → (N, leads · D') block means at about RAW_RATE."""
    step = max(round(rate / RAW_RATE), 1)
    kept = x[..., : x.shape[-1] // step * step]
    return kept.reshape(*x.shape[:2], -1, step).mean(axis=-1).reshape(len(x), -1)


def rate_and_amplitudes(prepared: Prepared, rate: float) -> NDArray[np.float32]:
    """(N, 2 + 3 · leads): beats a minute, how regular they are (0 to 1), and three amplitudes in mV a lead.

    The rate is the lag at which the signal's activity, the smoothed size of its slope over all leads, resembles itself
    most; regularity is that autocorrelation. No beat is searched for, so there is none to miss.
    """
    x = prepared.x.astype(np.float64)
    time = np.arange(x.shape[-1])
    valid = (time >= prepared.valid_start[:, None]) & (time < prepared.valid_stop[:, None])
    bpm, regularity = heart_rate(x, valid, rate)
    inside = np.where(valid[:, None], x, np.nan)
    low, high = np.nanquantile(inside, [0.01, 0.99], axis=-1)
    return np.column_stack([bpm, regularity, low, high, np.nanstd(inside, axis=-1)]).astype(np.float32)


def heart_rate(
    x: NDArray[np.float64], valid: NDArray[np.bool_], rate: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) beats a minute and (N,) autocorrelation there, from signals (N, leads, D) and valid timesteps (N, D)."""
    slope = np.abs(np.diff(x, axis=-1, prepend=x[..., :1])).sum(axis=1)
    slope[:, 1:] *= valid[:, 1:] & valid[:, :-1]  # the step into the padding is no activity
    width = max(int(_SMOOTH_S * rate), 1)
    total = np.cumsum(np.pad(slope, ((0, 0), (width, 0))), axis=1)
    activity = (total[:, width:] - total[:, :-width]) / width
    mean = (activity * valid).sum(axis=1, keepdims=True) / np.maximum(valid.sum(axis=1, keepdims=True), 1)
    centred = (activity - mean) * valid
    n = 2 * x.shape[-1]
    spectrum = np.abs(np.fft.rfft(centred, n)) ** 2
    overlap = np.fft.irfft(np.abs(np.fft.rfft(valid.astype(np.float64), n)) ** 2, n)
    correlation = np.fft.irfft(spectrum, n) / np.maximum(overlap, 1)
    lags = slice(max(int(FASTEST_S * rate), 1), min(int(SLOWEST_S * rate) + 1, x.shape[-1]))
    there = np.where(overlap[:, lags] > rate * FASTEST_S, correlation[:, lags], -np.inf)
    power = np.maximum(correlation[:, 0], 1e-12)
    # Of nearly equal peaks the first: a rhythm resembles itself after two beats as well.
    best = there.max(axis=1, keepdims=True)
    peak = (there >= np.roll(there, 1, axis=1)) & (there >= np.roll(there, -1, axis=1)) & (there >= 0.8 * best)
    first = np.where(peak.any(axis=1), peak.argmax(axis=1), there.argmax(axis=1))
    value = np.take_along_axis(there, first[:, None], axis=1)[:, 0]
    return 60.0 * rate / (lags.start + first), np.clip(np.where(np.isfinite(value), value, 0) / power, 0, 1)


def _prepared(
    archive: Archive,
    spec: InputSpec,
    wanted: Mapping[str, Sequence[str]],
    number: dict[str, int],
    gaps_ms: float,
    progress: Progress,
) -> Iterator[tuple[NDArray[np.int64], Prepared]]:
    """Usable records, a row group at a time: their numbers, and their signals as the encoder sees them."""
    for key, names in wanted.items():
        try:
            for raw, rows in chosen_batches(archive, {key: names}):
                prepared = prepare_batch(raw, spec, hop=1, rows=rows, gaps_ms=gaps_ms)
                kept = np.asarray(rows)[prepared.usable[rows]]
                if len(kept):
                    yield np.array([number[str(raw.record_ids[i])] for i in kept]), _some(prepared, kept)
        except (ShardError, ArchiveError) as error:
            progress.say(f"no signals from: {error}")


def _some(prepared: Prepared, rows: NDArray[np.int64]) -> Prepared:
    kept: dict[str, Any] = {
        name: values[rows] if isinstance(values, np.ndarray) else [values[i] for i in rows]
        for name, values in vars(prepared).items()
    }
    return Prepared(**kept)


def _baseline(words: str, values: NDArray[np.float32], at: NDArray[np.int64], n: int) -> Baseline:
    """`values` (n known, F) of the records numbered `at` among n."""
    x, has = np.zeros((n, values.shape[1]), np.float32), np.zeros(n, dtype=bool)
    x[at], has[at] = values, True
    return Baseline(words, x, has)
