"""Explained recordings to make nights of: sound ones, the same ones with a fault each, and some that are unusable.

Recordings are simulated, a small network is trained on them and K-means fitted on it, and everything is explained by
the pass that a night runs; nothing is made up after the signal. Faults are those that happen to signals: a wrong gain,
arm electrodes on the wrong arms, hum of the mains, a wrong sampling rate in the header.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from ecgscale.archive.reader import Archive
from ecgscale.archive.synthetic.signal import twelve_leads
from ecgscale.archive.synthetic.simulation import EXTRA_FIELDS, simulate_records
from ecgscale.archive.traits import TRAITS, traits_of_shard, with_traits
from ecgscale.archive.writer import ArchiveWriter
from ecgscale.clusters.kmeans import FitSettings
from ecgscale.encoders.optimise import LoopSettings
from ecgscale.encoders.spec import load_spec
from ecgscale.encoders.train import TrainSettings, train_encoder
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.nightly.gates.evidence import COLUMNS
from ecgscale.passes.explain.explain import explain_archive
from ecgscale.passes.fit.fit import fit_archive
from ecgscale.passes.fit.request import FitRequest
from ecgscale.store import open_explanations

RATE, LENGTH = 200.0, 1024
"""Fast enough to see 50 Hz; recordings of 5.12 s."""
BLOCKS = ((16, 1024), (24, 256), (32, 128), (48, 32), (64, 8))
HUM_MV = 0.1
"""Median amplitude of the hum at one electrode, in mV."""


@dataclass(frozen=True)
class PoolSize:
    """Recordings to fit network and K-means on, of the reference period, and to draw nights from."""

    fitted: int
    reference: int
    drawn: int
    epochs: int
    n_clusters: int = 20


@dataclass(frozen=True)
class Pool:
    """Explained rows. `faulty` are those of `sound`, row for row, with a fault; `unusable` are quarantined."""

    reference: pa.Table
    sound: pa.Table
    faulty: dict[str, pa.Table]
    unusable: pa.Table
    model_id: str
    output_names: tuple[str, ...]


Fault = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""(n, 12, samples) float64 in µV → the same with a fault."""


def gain_x10(signals: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Ten times as large: a header that says mV of values in 0.1 mV."""
    return signals * 10


def arms_reversed(signals: np.ndarray, _rng: np.random.Generator) -> np.ndarray:
    """Left and right arm electrodes exchanged: I is negated, II and III change places, and so do aVR and aVL."""
    leads = {lead: i for i, lead in enumerate(CANONICAL_LEADS)}
    out = signals.copy()
    out[:, leads["I"]] = -signals[:, leads["I"]]
    for one, other in (("II", "III"), ("aVR", "aVL")):
        out[:, leads[one]], out[:, leads[other]] = signals[:, leads[other]], signals[:, leads[one]]
    return out


def mains_hum(signals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """50 Hz from nearby wiring, of another strength and phase at each electrode, limb leads consistent."""
    n, _, samples = signals.shape
    at = 2 * np.pi * 50.0 * np.arange(samples) / RATE
    size = 1000 * HUM_MV * rng.lognormal(0, 0.3, (n, 8, 1))
    hum = size * np.sin(at + rng.uniform(0, 2 * np.pi, (n, 8, 1)))
    return signals + np.stack([twelve_leads(one) for one in hum])


SIGNAL_FAULTS: dict[str, Fault] = {"gain x10": gain_x10, "arms reversed": arms_reversed, "mains hum": mains_hum}
RATE_FAULTS = {"rate doubled": 2.0, "rate halved": 0.5, "rate 500 for 400": 1.25}
"""What the header says over what was recorded."""
FAULTS = (*SIGNAL_FAULTS, *RATE_FAULTS)


def make_pool(
    folder: Path, size: PoolSize, say: Callable[[str], None] = lambda _text: None, faults: Sequence[str] = FAULTS
) -> Pool:
    """Simulate, train, fit, explain; everything below `folder`."""
    first_drawn = size.fitted + size.reference
    _write(folder / "fitted", 0, size.fitted)
    fitted = Archive.open(folder / "fitted")
    settings = TrainSettings(
        target="superclasses",
        sampling_rate=RATE,
        length=LENGTH,
        blocks=BLOCKS,
        dropout=0.2,
        loop=LoopSettings(epochs=size.epochs, learning_rate=0.004),
        device="cpu",
    )
    trained = train_encoder(fitted, folder / "encoder", settings)
    say(f"network trained: {trained['metrics']['validation']}")
    request = FitRequest((size.n_clusters,), device="cpu", settings=FitSettings(max_epochs=8, n_init=1))
    model = fit_archive(fitted, folder / "encoder", folder / "root", request)[0]
    assert model.directory is not None
    explained = _Explained(folder, model.directory, say)
    unusable = max(20, size.drawn // 50)
    return Pool(
        reference=explained.rows("reference", size.fitted, size.reference),
        sound=explained.rows("sound", first_drawn, size.drawn),
        faulty={
            name: explained.rows(
                name, first_drawn, size.drawn, SIGNAL_FAULTS.get(name), RATE * RATE_FAULTS.get(name, 1.0)
            )
            for name in faults
        },
        unusable=explained.rows("unusable", first_drawn + size.drawn, unusable, lambda signals, _rng: 0 * signals),
        model_id=model.model.model_id,
        output_names=load_spec(folder / "encoder").output.names,
    )


@dataclass(frozen=True)
class _Explained:
    """Explains stretches of the simulated archive with one model."""

    folder: Path
    model: Path
    say: Callable[[str], None]

    def rows(self, name: str, start: int, records: int, fault: Fault | None = None, rate: float = RATE) -> pa.Table:
        """Explanations of recordings `start` and on, the fault in them, as the gates read them."""
        path = self.folder / name.replace(" ", "-").replace("/", "-")
        _write(path, start, records, fault, rate)
        archive = Archive.open(path)
        done = explain_archive(archive, self.model, self.folder / "root", device="cpu")
        table = open_explanations(self.folder / "root", done.dataset_id).to_table()
        if not set(TRAITS) <= set(table.column_names):
            table = with_traits(table, pa.concat_tables([traits_of_shard(archive, shard) for shard in archive.shards]))
        self.say(f"{name}: {records} recordings explained")
        return table.select([*(column for column in COLUMNS if column in table.column_names), "superclasses"])


def _write(path: Path, start: int, records: int, fault: Fault | None = None, rate: float = RATE) -> None:
    """Recordings `start` to `start + records` of one simulated archive as an archive of their own."""
    rng = np.random.default_rng(start)
    with ArchiveWriter(path, {"kind": "simulated"}, "int16", EXTRA_FIELDS) as writer:
        for first in range(start, start + records, 128):
            table = simulate_records(0, first, min(first + 128, start + records), rate=RATE, seconds=LENGTH / RATE)
            if fault is not None:
                table = _with_fault(table, fault, rng)
            if rate != RATE:
                at = table.schema.get_field_index("sampling_rate")
                said = pa.array(np.full(table.num_rows, rate, np.float32))
                table = table.set_column(at, table.schema.field(at), said)
            writer.append_table(table)


def _with_fault(table: pa.Table, fault: Fault, rng: np.random.Generator) -> pa.Table:
    at, field = table.schema.get_field_index("signal"), table.schema.field("signal")
    column = table["signal"].combine_chunks()
    signals = np.asarray(column.flatten().to_numpy()).reshape(table.num_rows, len(CANONICAL_LEADS), -1)
    changed = np.rint(fault(signals.astype(np.float64), rng)).clip(-32768, 32767).astype(np.int16)
    return table.set_column(
        at, field, pa.ListArray.from_arrays(column.offsets, pa.array(changed.ravel())).cast(field.type)
    )
