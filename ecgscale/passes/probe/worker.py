"""The worker of the probe pass: one explained shard to one file of probed records, committed."""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive, RawBatch
from ecgscale.archive.validate import OK
from ecgscale.archive.waves import Waves, delineate, has_neurokit, merge_leads, on_axis, whole_steps
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.preprocess import Prepared, prepare_batch
from ecgscale.explain.facts import load_encoder
from ecgscale.explain.schema import to_parquet
from ecgscale.io.objects import open_objects
from ecgscale.passes.probe.batch import (
    PARTNERS,
    BatchProber,
    ProbedRecord,
    WaveProbe,
    has_dtaidistance,
    pairs_of,
    probe_waves,
)
from ecgscale.passes.probe.network import ProbeNetwork
from ecgscale.passes.probe.schema import EMPTY, PROBES_VERSION, SCHEMA, WAVES, ProbeSettings
from ecgscale.passes.stream import PLAIN, StreamSettings
from ecgscale.store.commit import Commit, Source, commit_output, find_commit
from ecgscale.store.provenance import run_facts


class ProbeWorker:
    """Probes the sampled records of explained shards; loads the network once."""

    def __init__(
        self,
        archive: str,
        store: str,
        model: str,
        settings: ProbeSettings,
        device: str,
        run_id: str | None = None,
        stream: StreamSettings = PLAIN,
    ) -> None:
        self._store = open_objects(store)
        self._archive, self._model, self._settings = Archive.open(archive), ClusterModel.load(model), settings
        # Loaded for its checks: the digest that the model was fitted with, the shapes of its layers.
        encoder = load_encoder(self._model, "cpu", settings.batch)
        self._hop, self._spec, self._stream = encoder.hop, encoder.spec, stream
        self.network = ProbeNetwork.load(self._model.encoder_path, device, settings.batch)
        self._prober = BatchProber(self.network, self._model, settings)
        facts = run_facts(str(self.network.device))
        self._facts = facts.model_copy(update={"run_id": run_id}) if run_id else facts
        self._marked = "fiducials" in self._archive.schema().names

    def commit(self, source: Source) -> Commit:
        """Probe and commit one shard; the standing commit where another run was faster.

        `ShardError` when it breaks off.
        """
        standing = find_commit(self._store, source.key, source.size, source.stamp)
        if standing is not None:
            return standing
        rows = list(self._rows(source.key))
        table = pa.Table.from_pylist(rows, SCHEMA)
        metadata = {
            "probes_version": PROBES_VERSION,
            "source_shard": source.key,
            "source_content_digest": source.content_digest,
            "model_digest": self._model.digest,
            "settings": self._settings.to_dict(),
        }
        return commit_output(
            self._store,
            source.model_copy(update={"rows": len(rows)}),
            to_parquet(table.to_batches(), SCHEMA, metadata),
            record_ids=[row["record_id"] for row in rows],
            quarantined=dict(Counter(row["status"] for row in rows if row["status"] != OK)),
            rows=len(rows),
            run=self._facts,
        )

    def _rows(self, key: str) -> Iterator[dict[str, Any]]:
        """Rows of the sampled records that can be explained, in the order of the shard."""
        before: deque[ProbedRecord] = deque(maxlen=PARTNERS)
        waiting: list[_Sampled] = []
        # Few of the records that are read together are sampled: they wait until a forward pass is full.
        for sampled in self._sampled(key):
            waiting.append(sampled)
            if len(waiting) == self._settings.batch:
                yield from self._batch(waiting, before)
                waiting = []
        if waiting:
            yield from self._batch(waiting, before)

    def _sampled(self, key: str) -> Iterator[_Sampled]:
        seen: set[str] = set()
        columns = ["fiducials"] if self._marked else []
        for raw in self._archive.batches(self._archive.shard(key), columns):
            wanted = [i for i, name in enumerate(raw.record_ids) if is_sampled(name, self._settings)]
            prepared = prepare_batch(raw, self._spec.input, self._hop, seen, wanted, self._stream.gaps_ms)
            at = np.flatnonzero(prepared.usable)
            if len(at):
                yield from self._with_waves(raw, prepared, at)

    def _with_waves(self, raw: RawBatch, prepared: Prepared, at: NDArray[np.int64]) -> Iterator[_Sampled]:
        waves = self._find(raw, at) if WAVES in self._settings.probes else None
        start, stop = prepared.spans(at, self._stream.include_padding)
        rate = self._spec.input.sampling_rate
        patients = raw.table.column("patient_id").to_pylist() if "patient_id" in raw.table.schema.names else None
        for number, i in enumerate(at.tolist()):
            steps, kinds = None, np.zeros(0, np.int8)
            if waves is not None:
                own = slice(int(waves.offsets[number]), int(waves.offsets[number + 1]))
                onset, offset = on_axis(waves, raw.sampling_rate[at], prepared.start_s[at], rate)
                steps, kinds = whole_steps(onset[own], offset[own]), waves.kind[own]
            patient = patients[i] if patients else None
            span = int(start[number]), int(stop[number])
            yield _Sampled(str(raw.record_ids[i]), patient, raw.shard, prepared.x[i].copy(), span, steps, kinds)

    def _find(self, raw: RawBatch, at: NDArray[np.int64]) -> Waves | None:
        """Waves of these rows, annotated or found by NeuroKit2; None where nothing can find or compare them."""
        if not has_dtaidistance():
            return None
        if self._marked:
            waves = merge_leads(raw.table.column("fiducials").take(pa.array(at)))
            if waves.counts.any():
                return waves
        return delineate(raw, at.tolist()).waves if has_neurokit() else None

    def _batch(self, records: list[_Sampled], before: deque[ProbedRecord]) -> Iterator[dict[str, Any]]:
        x = np.stack([record.x for record in records])
        start, stop = (np.array([record.span[i] for record in records], np.int32) for i in range(2))
        # Seeded by what stands in the batch, not by when it comes.
        names = "\n".join(record.record_id for record in records)
        seed = int(hashlib.sha256(names.encode()).hexdigest()[:8], 16)
        rows, plain = self._prober.rows(x, (start, stop), seed)
        blocks = [block.cpu().numpy() for block in plain.blocks]
        finite = np.isfinite(plain.prediction).all(axis=1)
        finite &= np.all([np.isfinite(block).all(axis=(1, 2)) for block in blocks], axis=0)
        rng = np.random.default_rng([self._settings.seed, seed, 1])
        for number, record in enumerate(records):
            facts = {
                "record_id": record.record_id,
                "patient_id": record.patient_id,
                "source_shard": record.shard,
                "valid_start": record.span[0],
                "valid_stop": record.span[1],
            }
            if not finite[number]:
                yield {**EMPTY, **facts, "status": "non_finite_output"}
                continue
            row = {**EMPTY, **facts, **rows[number], "status": OK}
            if record.steps is not None:
                own = ProbedRecord(record.record_id, self._waves(record, [block[number] for block in blocks], rng))
                row["pairs"] = pairs_of(own, list(before), self._spec.input.sampling_rate)
                before.append(own)
            yield row

    def _waves(
        self, record: _Sampled, blocks_CL: list[NDArray[np.float32]], rng: np.random.Generator
    ) -> tuple[WaveProbe, ...]:
        assert record.steps is not None
        shifts = rng.integers(1, max(record.span[1] - record.span[0], 2), self._settings.wave_shifts)
        layout, millivolt = self._model.layout, self._spec.input.millivolt
        return probe_waves(record.x, blocks_CL, layout, record.steps, record.kinds, record.span, shifts, millivolt)


@dataclass(frozen=True)
class _Sampled:
    """A record that waits for its forward pass: x (n_leads, D), and the timesteps and kinds of its waves."""

    record_id: str
    patient_id: str | None
    shard: str
    x: NDArray[np.float32]
    span: tuple[int, int]
    steps: tuple[NDArray[np.int64], NDArray[np.int64]] | None
    kinds: NDArray[np.int8]


def is_sampled(record_id: str | None, settings: ProbeSettings) -> bool:
    """Whether a record is in the sample: a matter of its id and the seed alone, not of how shards are laid out."""
    digest = hashlib.sha256(f"{settings.seed}:{record_id}".encode()).digest()
    return record_id is not None and int.from_bytes(digest[:8], "big") < settings.sample * 2**64
