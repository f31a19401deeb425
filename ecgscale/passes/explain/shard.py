"""One input shard → one output file, committed: what a worker does, wherever it runs.

Reading, decoding and preprocessing of the next batches happen in a thread while the network works on this one. The
output is built whole in memory, its rows are counted against the input's, and only then is anything written.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.archive.reader import Archive, RawBatch, Shard
from ecgscale.archive.schema import carried_columns
from ecgscale.archive.shard import require_unchanged
from ecgscale.archive.validate import OK
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.preprocess import Prepared, prepare_batch
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import ArchiveError, ShardError
from ecgscale.explain.facts import Facts, explain_batch, load_encoder
from ecgscale.explain.schema import (
    OUTPUT_SCHEMA_VERSION,
    RESULTS_VERSION,
    ExplainSettings,
    output_rows,
    output_schema,
    to_parquet,
)
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.passes.explain.plan import Pending, order_of
from ecgscale.passes.stream import prefetch
from ecgscale.passes.watch import TOTAL
from ecgscale.passes.workers import device_kind
from ecgscale.progress import UNSEEN, Stage, Stopwatch
from ecgscale.store.commit import Commit, Source, commit_output, find_commit, hash_record_id
from ecgscale.store.provenance import RunFacts, run_facts

NO_ID = "missing_record_id"


class ShardExplainer:
    """Explains shards of one archive with one encoder, one cluster model and one choice of settings."""

    def __init__(self, archive: Archive, encoder: Encoder, model: ClusterModel, settings: ExplainSettings) -> None:
        self.archive = archive
        self.encoder = encoder
        self.model = model
        self.settings = settings
        self.cropped = 0
        """Records, of all shards that were committed so far, that are longer than the network sees."""

    def commit(
        self, pending: Pending, store: ObjectStore, run: RunFacts, stage: Stage, watch: Stopwatch | None = None
    ) -> Commit:
        """Compute and commit one shard; returns the commit record that holds.

        `watch` learns where the seconds went: the stages of `ecgscale.passes.watch`.
        The file has the carried columns of its shard, in its types, whatever other shards have.
        Raises `ShardError`, with nothing committed, when the shard breaks off, changes meanwhile, or has columns that
        cannot be carried.
        """
        watch = watch or Stopwatch()
        with watch.time(TOTAL):
            return self._commit(pending, store, run, stage, watch)

    def _commit(self, pending: Pending, store: ObjectStore, run: RunFacts, stage: Stage, watch: Stopwatch) -> Commit:
        source = pending.source
        digests: dict[int, int] = {}
        table = self._rows(pending.shard, stage, watch, digests)
        require_unchanged(pending.shard)
        if table.num_rows != source.rows:
            raise ShardError(f"{pending.shard.path}: its footer says {source.rows} records, {table.num_rows} were read")
        statuses = table["status"].to_pylist()
        quarantined = Counter(status for status in statuses if status != OK)
        self.cropped += pc.sum(pc.greater(table["cropped"], 0)).as_py() or 0
        ids = zip(table["record_id"].to_pylist(), statuses, strict=True)
        with watch.time("write"):
            return commit_output(
                store,
                source,
                to_parquet(table.to_batches(), table.schema, self.metadata(source)),
                record_ids=[record_id for record_id, status in ids if status != NO_ID],
                quarantined=dict(quarantined),
                rows=table.num_rows,
                run=run,
                order=order_of(pending, store, digests),
            )

    def probe(self, shard: Shard, first: int, last: int) -> int:
        """Compute rows first..last and keep nothing, the others of their batches left out; how many there were."""
        rows = 0
        for raw in self.archive.batches(shard, (), batch_records=self.settings.batch):
            if raw.first_row >= last:
                break  # reading on could be what kills
            asked = [first <= raw.first_row + i < last for i in range(len(raw))]
            if any(asked):
                prepared = self._prepare(raw, set(), np.flatnonzero(asked).tolist())
                explain_batch(prepared, self.encoder, self.model, self.settings.include_padding)
                rows += sum(asked)
        return rows

    def rows_of(self, shard: Shard, batches: Set[int]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Output rows of the batches of these numbers, counted from 0, as a commit of the whole shard has them; each
        with the number of its first row. Raises as `commit` does."""
        seen: set[str] = set()
        raws = self.archive.batches(shard, batch_records=self.settings.batch)
        for number, raw in enumerate(raws):
            if number in batches:
                prepared = self._prepare(raw, seen)
                facts = explain_batch(prepared, self.encoder, self.model, self.settings.include_padding)
                yield raw.first_row, self._output(shard, raw, prepared, facts)
            else:
                # Of two equal ids the first counts, wherever it stands.
                seen.update(record_id for record_id in raw.record_ids if record_id and record_id.strip())
            if number >= max(batches, default=-1):
                return

    def metadata(self, source: Source) -> dict[str, object]:
        """What an output file says of itself: everything its bytes depend on, nothing else."""
        spec = self.encoder.spec
        return {
            "schema_version": OUTPUT_SCHEMA_VERSION,
            "results_version": RESULTS_VERSION,
            "source_shard": source.key,
            "source_content_digest": source.content_digest,
            "encoder_id": self.encoder.encoder_id,
            "encoder_digest": self.encoder.digest,
            "model_id": self.model.model_id,
            "model_digest": self.model.digest,
            "settings": self.settings.to_dict(),
            "output": spec.output.model_dump(mode="json"),
        }

    def _rows(self, shard: Shard, stage: Stage, watch: Stopwatch, digests: dict[int, int]) -> pa.Table:
        """All output rows; fills in the digests of what was read, by the hashes of record ids."""
        rows = []
        with closing(prefetch(self._prepared(shard, watch, digests))) as batches:
            for raw, prepared in batches:
                facts = explain_batch(prepared, self.encoder, self.model, self.settings.include_padding, watch)
                with watch.time("write"):
                    rows.append(self._output(shard, raw, prepared, facts))
                stage.advance(len(raw))
        schema = rows[0].schema if rows else self._schema_of(self.archive.columns_of(shard))
        return pa.Table.from_batches(rows, schema=schema)

    def _schema_of(self, columns: pa.Schema) -> pa.Schema:
        return output_schema(len(self.model.centroids), carried_columns(columns))

    def _output(self, shard: Shard, raw: RawBatch, prepared: Prepared, facts: Facts) -> pa.RecordBatch:
        with_entropy = self.settings.entropy == "timestep"
        try:
            schema = self._schema_of(raw.table.schema)
            return output_rows(raw, prepared, facts, self.encoder.spec.input, schema, with_entropy)
        except (ArchiveError, pa.ArrowException) as error:
            raise ShardError(f"{shard.path}: {error}") from error

    def _prepared(self, shard: Shard, watch: Stopwatch, digests: dict[int, int]) -> Iterator[tuple[RawBatch, Prepared]]:
        seen: set[str] = set()
        raws = self.archive.batches(shard, batch_records=self.settings.batch)
        for raw in watch.each("read", raws):
            with watch.time("prepare"):
                prepared = self._prepare(raw, seen)
                digests.update(row_digests(raw, digests))
            yield raw, prepared

    def _prepare(self, raw: RawBatch, seen: set[str], rows: Sequence[int] | None = None) -> Prepared:
        gaps_ms = self.settings.fill_gaps
        return prepare_batch(raw, self.encoder.spec.input, self.encoder.hop, seen, rows, gaps_ms)


def row_digests(raw: RawBatch, known: Mapping[int, int]) -> dict[int, int]:
    """64-bit digests of what the archive says of each record (signal and columns), by the hash of its id.

    Of equal ids the first counts, those that are `known` already included. What is null says nothing, so that a column
    that is added changes no row that has nothing in it.
    """
    found: dict[int, int] = {}
    for i, row in enumerate(raw.table.to_pylist()):
        record_id = raw.record_ids[i]
        if record_id is None or (name := hash_record_id(record_id)) in known or name in found:
            continue
        facts = sorted((column, value) for column, value in row.items() if value is not None)
        hasher = hashlib.blake2b(repr(facts).encode(), digest_size=8)
        hasher.update(np.ascontiguousarray(raw.values[raw.offsets[i] : raw.offsets[i + 1]]).tobytes())
        found[name] = int.from_bytes(hasher.digest(), "little")
    return found


@dataclass(frozen=True)
class Committed:
    """A shard's commit record, whether this worker computed it, and then how many of its records are longer than the
    network sees, and its seconds by stage."""

    commit: Commit
    computed: bool
    cropped: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)


class ExplainWorker:
    """Explains shards of one archive for one dataset."""

    def __init__(self, explainer: ShardExplainer, store: ObjectStore, run: RunFacts) -> None:
        self._explainer, self._store, self._run = explainer, store, run
        self.device = device_kind(explainer.encoder.device)
        self.stage = UNSEEN

    def commit(self, pending: Pending) -> Committed:
        """Commit one shard. Another run or attempt may have been faster: then its commit record is the answer."""
        source = pending.source
        standing = find_commit(self._store, source.key, source.size, source.stamp)
        if standing is not None:
            return Committed(standing, False)
        watch, before = Stopwatch(), self._explainer.cropped
        commit = self._explainer.commit(pending, self._store, self._run, self.stage, watch)
        return Committed(commit, True, self._explainer.cropped - before, watch.seconds)

    def probe(self, pending: Pending, first: int, last: int) -> int:
        """Compute rows first..last of a shard without committing anything: does it survive? The rows computed."""
        return self._explainer.probe(pending.shard, first, last)


def explain_worker(
    archive: str, store: str, model: str, settings: ExplainSettings, device: str, run_id: str
) -> ExplainWorker:
    """A worker that opens everything itself, and loads the network."""
    loaded = ClusterModel.load(model)
    encoder = load_encoder(loaded, device, settings.batch)
    explainer = ShardExplainer(Archive.open(archive), encoder, loaded, settings)
    run = run_facts(str(encoder.device)).model_copy(update={"run_id": run_id})
    return ExplainWorker(explainer, open_objects(store), run)
