"""Traits of a signal: what electrodes, amplifiers and headers do to it, whatever the network makes of it.

A network may be blind to a fault: one that was trained at 100 Hz sees no mains hum, and a small one may not mind which
arm an electrode is on. Its explanations then do not move, and what it says is none the better for it. Four numbers a
record show the usual faults for certain:

    amplitude   mV, standard deviation over time                                   a wrong gain or unit
    polarity    −1 … 1, correlation of the slopes of I and V6 (V5 without V6)       arm electrodes exchanged
    hum         mV, amplitude at 50 or 60 Hz above that of the neighbouring lines   mains
    frequency   Hz, mean of the power spectrum between 2 and 40 Hz                  a wrong sampling rate

The median over some leads counts. Spectra are means over seconds under a Hann window (Welch 1967, IEEE Trans. Audio
Electroacoust. 15:70). A number that cannot be had (no such lead, too short, sampled too slowly) is null.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive, RawBatch
from ecgscale.archive.shard import Shard
from ecgscale.archive.validate import OK, check_batch
from ecgscale.errors import EcgscaleError

TRAITS = ("trait_amplitude", "trait_polarity", "trait_hum", "trait_frequency")
"""Columns, float32, in the order of the table above."""

_LEADS = ("I", "II", "V2", "V5")
_MAINS_HZ = (50.0, 60.0)
_BAND_HZ = (2.0, 40.0)
# The window's main lobe ends two lines away; the neighbours have to lie beyond it.
_NEIGHBOURS = (-5, -4, 4, 5)


def traits_of_shard(archive: Archive, shard: Shard) -> pa.Table:
    """`TRAITS` of every record of a shard, in its order. ShardError when it cannot be read."""
    batches = [traits_of_batch(raw) for raw in archive.batches(shard, ())]
    schema = pa.schema([pa.field(name, pa.float32()) for name in TRAITS])
    return pa.concat_tables(batches) if batches else schema.empty_table()


def traits_of_batch(raw: RawBatch, status: Sequence[str] | None = None) -> pa.Table:
    """`TRAITS` of the records of a batch; null for those that cannot be used (`status` says so if it is known)."""
    status = check_batch(raw, set())[0] if status is None else status
    found = np.full((len(raw), len(TRAITS)), np.nan)
    for i, state in enumerate(status):
        if state == OK:
            signal = raw.signal(i)[:, raw.valid_start[i] : raw.valid_stop[i]]
            found[i] = traits(signal / raw.units_per_mv[i], raw.leads[i], float(raw.sampling_rate[i]))
    found = np.where(np.isfinite(found), found, np.nan).astype(np.float32)
    return pa.table({name: pa.array(found[:, k], from_pandas=True) for k, name in enumerate(TRAITS)})


def traits(signal: NDArray, leads: tuple[str, ...], rate: float) -> NDArray[np.float64]:
    """(4,) of one record, (n_leads, samples) in mV at `rate` Hz; NaN for what cannot be had."""
    at = {lead: i for i, lead in enumerate(leads)}
    chosen = [at[lead] for lead in _LEADS if lead in at] or list(range(min(len(leads), len(_LEADS))))
    some = signal[chosen].astype(np.float64)
    found = np.full(len(TRAITS), np.nan)
    found[0] = np.median(some.std(axis=1))
    chest = at.get("V6", at.get("V5"))
    if "I" in at and chest is not None:
        found[1] = _correlation(np.diff(signal[at["I"]].astype(np.float64)), np.diff(signal[chest].astype(np.float64)))
    found[2:] = _spectral(some, rate)
    return found


def with_traits(rows: pa.Table, found: pa.Table) -> pa.Table:
    """Explanations of a shard with the traits of the same shard alongside; EcgscaleError when they do not fit."""
    if rows.num_rows != found.num_rows:
        raise EcgscaleError(
            f"{found.num_rows} records have traits and {rows.num_rows} are explained; they are not of the same shard"
        )
    for name in TRAITS:
        rows = rows.append_column(name, found[name])
    return rows


def _correlation(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt(np.dot(one, one) * np.dot(other, other)))
    return float(np.dot(one, other)) / size if size else np.nan


def _spectral(signal: NDArray[np.float64], rate: float) -> tuple[float, float]:
    """(hum in mV, mean frequency in Hz) of (n_leads, samples)."""
    second = round(rate)
    seconds = signal.shape[1] // second if second >= 2 * _BAND_HZ[0] else 0
    if not seconds:
        return np.nan, np.nan
    pieces = signal[:, : seconds * second].reshape(len(signal), seconds, second)
    window = np.hanning(second + 1)[:second]
    lines = np.fft.rfft((pieces - pieces.mean(axis=-1, keepdims=True)) * window)
    power = (np.abs(lines) ** 2).mean(axis=1)
    hertz = np.arange(power.shape[1]) * rate / second
    band = (hertz >= _BAND_HZ[0]) & (hertz <= _BAND_HZ[1])
    total = power[:, band].sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = (power[:, band] * hertz[band]).sum(axis=1) / total
    hums = [_line(power, round(mains * second / rate)) for mains in _MAINS_HZ]
    amplitude = 2 * np.sqrt(np.maximum(np.fmax(*hums), 0.0)) / window.sum()
    return _median(amplitude), _median(means)


def _median(values: NDArray[np.float64]) -> float:
    """Of the leads that have a value."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else np.nan


def _line(power: NDArray[np.float64], at: int) -> NDArray[np.float64]:
    """(n_leads,) power at a line above its neighbours; NaN where the spectrum does not reach that far."""
    if at + max(_NEIGHBOURS) >= power.shape[1]:
        return np.full(len(power), np.nan)
    around = power[:, [at + step for step in _NEIGHBOURS]].mean(axis=1)
    return np.asarray(power[:, at - 1 : at + 2].max(axis=1) - around)
