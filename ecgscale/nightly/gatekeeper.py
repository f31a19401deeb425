"""The gates at work: what they look at is read from the store, and what they found is kept there.

ROOT/explanations/<dataset_id>/_nights/<start>-<run_id>.json   a night: what came, what the gates said
ROOT/explanations/<dataset_id>/_reference.parquet              sound records, drawn from what was published first
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from ecgscale.nightly.evidence import COLUMNS, FreshShard, Night
from ecgscale.nightly.findings import GateReport
from ecgscale.nightly.gate_settings import GateSettings
from ecgscale.nightly.gates import judge
from ecgscale.nightly.reference import Reference
from ecgscale.places import arrow_place
from ecgscale.store.commit import Commit, read_json_object, to_json
from ecgscale.store.manifest import Manifest, ShardEntry
from ecgscale.store.objects import ObjectStore

NIGHTS = "_nights"
REFERENCE = "_reference.parquet"
READERS = 8


class NightRecord(BaseModel):
    """One night as later ones see it: what came in which shards, and what the gates said."""

    model_config = ConfigDict(frozen=True)

    version: int = 1
    started: str
    run_id: str
    night: dict[str, Any]
    shards: tuple[str, ...]
    report: dict[str, Any]

    @property
    def key(self) -> str:
        """Name of the record: sorted by time."""
        return f"{NIGHTS}/{self.started.replace(':', '').replace('+0000', 'Z')}-{self.run_id}.json"


@dataclass
class Gatekeeper:
    """Judges the shards of one night; called by the explain pass with the commits that are new to the dataset."""

    store: ObjectStore
    settings: GateSettings
    output_names: Sequence[str]
    model_id: str
    now: datetime
    run_id: str
    seed: int = 0
    report: GateReport | None = None
    night: Night | None = None
    shards: tuple[str, ...] = ()

    def __call__(self, fresh: Sequence[Commit], newest: Manifest | None) -> Mapping[str, Sequence[str]]:
        """Keys of the shards to hold back, each with the sentences of the gates that failed."""
        tonight = self._read([(c.source.key, c.output.file, self.now.date().isoformat()) for c in fresh])
        past = night_records(self.store)
        nights = [Night(**record.night) for record in past]
        trailing = list(self._trailing(past, newest)) if newest else []
        reference = self._reference(newest)
        self.report = judge(tonight, trailing, nights, reference, self.settings, self.now, self.output_names)
        self.night, self.shards = Night.of(tonight, self.now), tuple(shard.key for shard in tonight)
        return {
            key: [finding.message for finding in self.report.alarms if key in finding.shards]
            for key in self.report.held
        }

    def judge_nothing(self, newest: Manifest | None) -> None:
        """Judge a night in which nothing came: that too can be a fault."""
        if self.report is None:
            self([], newest)

    def write(self) -> NightRecord:
        """Keep the night; called once everything else is done, so that a night that is repeated counts once."""
        assert self.report is not None
        assert self.night is not None
        record = NightRecord(
            started=self.now.isoformat(timespec="seconds"),
            run_id=self.run_id,
            night=self.night.to_dict(),
            shards=self.shards,
            report=self.report.to_dict(),
        )
        self.store.put(record.key, to_json(record))
        return record

    def _trailing(self, past: Sequence[NightRecord], newest: Manifest) -> Iterator[FreshShard]:
        """Published shards of the nights before, newest night first, as many as the windows can hold."""
        published = {entry.key: entry for entry in newest.content.shards}
        wanted: list[tuple[str, str, str]] = []
        rows, nights = 0, 0
        for record in reversed(past):
            there = [published[key] for key in record.shards if key in published]
            if nights >= self.settings.windows[-1] or rows >= self.settings.window_records:
                break
            wanted += [(entry.key, entry.file, str(record.night["date"])) for entry in there]
            rows += sum(entry.published_rows for entry in there)
            nights += bool(there)
        return iter(self._read(wanted))

    def _reference(self, newest: Manifest | None) -> Reference | None:
        """The reference of the dataset; made once, from what was published before the first night."""
        data = self.store.read(REFERENCE)
        if data is not None:
            return Reference.from_bytes(data)
        if newest is None:
            return None
        tables = (self._table(entry.file) for entry in spread(newest.content.shards))
        reference = Reference.of(tables, self.model_id, self.output_names, self.seed)
        self.store.put_if_absent(REFERENCE, reference.to_parquet_bytes())
        return reference

    def _read(self, wanted: Sequence[tuple[str, str, str]]) -> list[FreshShard]:
        with ThreadPoolExecutor(READERS) as readers:
            tables = list(readers.map(self._table, (file for _, file, _ in wanted)))
        return [FreshShard(key, table, night) for (key, _, night), table in zip(wanted, tables, strict=True)]

    def _table(self, file: str) -> pa.Table:
        path, system = arrow_place(self.store.location(file))
        with pq.ParquetFile(path, filesystem=system) as opened:
            there = [name for name in COLUMNS if name in opened.schema_arrow.names]
            return opened.read(columns=there, use_threads=False)


MOST_REFERENCE_SHARDS = 64


def spread(entries: Sequence[ShardEntry]) -> Sequence[ShardEntry]:
    """At most so many shards, evenly over all of them: a reference needs thousands of records, not all."""
    step = -(-len(entries) // MOST_REFERENCE_SHARDS) or 1
    return entries[::step]


def night_records(store: ObjectStore) -> list[NightRecord]:
    """All nights that are kept, oldest first."""
    found = [read_json_object(store, name, NightRecord) for name in store.list_prefix(NIGHTS)]
    return sorted((record for record in found if record is not None), key=lambda record: record.started)
