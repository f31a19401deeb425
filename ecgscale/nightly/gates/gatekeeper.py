"""The gates at work: what they look at is read from the store, and what they found is kept there.

ROOT/explanations/<dataset_id>/_nights/<start>-<run_id>.json   a night: what came, what the gates said
ROOT/explanations/<dataset_id>/_reference.parquet              sound records, drawn from what was published first

The quality gates of a night: may what was explained tonight be published?

    judge(tonight, trailing, nights, reference, settings, now, output_names) → GateReport

A pure function of tables: whoever runs the night reads and stores them. `findings` are what it says, `evidence` what it
looks at, `gate_settings` the thresholds; `quarantine`, `volume` (with freshness) and `drift` are the gates.
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

from ecgscale.archive.reader import Archive
from ecgscale.config import GateSettings
from ecgscale.errors import UsageError
from ecgscale.io.objects import ObjectStore
from ecgscale.io.places import arrow_place
from ecgscale.nightly.gates.drift import find_drift
from ecgscale.nightly.gates.evidence import COLUMNS, Evidence, FreshShard, Night
from ecgscale.nightly.gates.findings import GateReport
from ecgscale.nightly.gates.quarantine import check_quarantine
from ecgscale.nightly.gates.reference import Reference, ShardTraits
from ecgscale.nightly.gates.volume import check_freshness, check_volume
from ecgscale.progress import SILENT, Progress
from ecgscale.store.commit import Commit, output_is_there, read_commit, read_json_object, to_json
from ecgscale.store.holds import holds
from ecgscale.store.manifest import Manifest, ShardEntry
from ecgscale.words import counted


def judge(
    tonight: Sequence[FreshShard],
    trailing: Sequence[FreshShard],
    nights: Sequence[Night],
    reference: Reference | None,
    settings: GateSettings,
    now: datetime,
    output_names: Sequence[str],
) -> GateReport:
    """All gates over one night.

    tonight: the shards that would be published; may be none
    trailing: published shards of earlier nights, back to the longest window or `window_records` rows; what was held or
        rejected does not belong here
    nights: past nights, this one left out; those of today's UTC date are earlier runs of the same day
    reference: of the same dataset; without one, drift is not looked for
    now: when the night started, with its time zone
    output_names: of the network, in the order of `prediction`

    Raises UsageError for a `now` without a time zone, EcgscaleError for a reference of another dataset.
    """
    if now.tzinfo is None:
        raise UsageError("the time of the night has no time zone; give it in UTC")
    evidence = Evidence.of(tonight, trailing, settings.windows[-1], settings.window_records)
    return GateReport.of(
        [
            *check_quarantine(evidence, settings),
            *check_freshness(tonight, nights, settings, now),
            *check_volume(tonight, nights, settings, now),
            *find_drift(evidence, reference, settings, output_names),
        ]
    )


NIGHTS = "_nights"
REFERENCE = "_reference.parquet"
READERS = 8


class NightRecord(BaseModel):
    """One night as later ones see it: what came in which shards, and what the gates said.

    commits: names of the commit records of these shards
    done: whether the night came to its end. It is written when it is judged, before anything is published: one that was
    killed in between is judged again, as it was, by the night that goes on with it.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    started: str
    run_id: str
    night: dict[str, Any]
    shards: tuple[str, ...]
    report: dict[str, Any]
    commits: tuple[str, ...] = ()
    done: bool = True

    @property
    def key(self) -> str:
        """Name of the record: sorted by time."""
        return f"{NIGHTS}/{self.started.replace(':', '').replace('+0000', 'Z')}-{self.run_id}.json"


@dataclass(frozen=True)
class Wanted:
    """One shard's explanations: its key and content, their file, and the ISO date of the night they came in."""

    key: str
    content_digest: str
    file: str
    night: str


@dataclass
class Gatekeeper:
    """Judges the shards of one night; called by the explain pass with the commits that are new to the dataset.

    What a night that was killed had judged belongs to this one: what came, and what is to be told, is not lost with it.
    """

    store: ObjectStore
    settings: GateSettings
    output_names: Sequence[str]
    model_id: str
    now: datetime
    run_id: str
    archive: Archive | None = None
    progress: Progress = SILENT
    seed: int = 0
    report: GateReport | None = None
    night: Night | None = None
    commits: tuple[Commit, ...] = ()

    def __call__(self, fresh: Sequence[Commit], newest: Manifest | None) -> Mapping[str, Sequence[str]]:
        """Keys of the shards to hold back, each with what the gates found: dated, since it is read on other days."""
        records = night_records(self.store)
        past = [record for record in records if record.done]
        self.commits = tuple(sorted([*self._cut_short(records, fresh, newest), *fresh], key=lambda c: c.source.key))
        date = self.now.date().isoformat()
        tonight = self._read([Wanted(c.source.key, c.source.content_digest, c.output.file, date) for c in self.commits])
        nights = [Night(**record.night) for record in past]
        # Where nothing came there is nothing to compare, and no data is read.
        trailing = list(self._trailing(past, newest)) if newest and tonight else []
        reference = self._reference(newest) if tonight else None
        self.report = judge(tonight, trailing, nights, reference, self.settings, self.now, self.output_names)
        self.night = Night.of(tonight, self.now)
        if tonight:
            self._put(done=False)
        new = {commit.source.key for commit in fresh}
        return {
            key: [finding.found for finding in self.report.alarms if key in finding.shards]
            for key in self.report.held
            if key in new
        }

    def judge_nothing(self, newest: Manifest | None) -> None:
        """Judge a night in which nothing came: that too can be a fault."""
        if self.report is None:
            self([], newest)

    def write(self) -> NightRecord:
        """Keep the night; called once everything else is done, so that a night that is repeated counts once."""
        record = self._put(done=True)
        for other in night_records(self.store):
            if not other.done:
                self.store.delete(other.key)
        return record

    def _put(self, done: bool) -> NightRecord:
        assert self.report is not None
        assert self.night is not None
        record = NightRecord(
            started=self.now.isoformat(timespec="seconds"),
            run_id=self.run_id,
            night=self.night.to_dict(),
            shards=tuple(commit.source.key for commit in self.commits),
            report=self.report.to_dict(),
            commits=tuple(commit.name for commit in self.commits),
            done=done,
        )
        self.store.put(record.key, to_json(record))
        return record

    def _cut_short(
        self, records: Sequence[NightRecord], fresh: Sequence[Commit], newest: Manifest | None
    ) -> Iterator[Commit]:
        """What nights that were killed had judged, as far as it is published or held by now."""
        kept = {name for record in records if record.done for name in record.commits}
        left = {name for record in records if not record.done for name in record.commits} - kept
        if not left:
            return
        new = {commit.source.key for commit in fresh}
        published = {entry.commit for entry in newest.content.shards} if newest else set()
        held = {identity for identity, hold in holds(self.store).items() if hold.state == "held"}
        for name in sorted(left):
            commit = read_commit(self.store, name)
            if commit is None or commit.source.key in new or not output_is_there(self.store, commit.output):
                continue
            if name in published or (commit.source.key, commit.source.content_digest) in held:
                yield commit

    def _trailing(self, past: Sequence[NightRecord], newest: Manifest) -> Iterator[FreshShard]:
        """Published shards of the nights before, newest night first, as many as the windows can hold."""
        published = {entry.key: entry for entry in newest.content.shards}
        wanted: list[Wanted] = []
        rows, nights = 0, 0
        for record in reversed(past):
            there = [published[key] for key in record.shards if key in published]
            if nights >= self.settings.windows[-1] or rows >= self.settings.window_records:
                break
            wanted += [Wanted(e.key, e.content_digest, e.file, str(record.night["date"])) for e in there]
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
        chosen = spread(newest.content.shards)
        records = counted(sum(entry.published_rows for entry in chosen), "record")
        self.progress.say(
            f"reference: later nights are compared with {records} of {counted(len(chosen), 'shard')} published so far"
        )
        tables = (self._table(Wanted(e.key, e.content_digest, e.file, "")) for e in chosen)
        reference = Reference.of(tables, self.model_id, self.output_names, self.seed)
        self.store.put_if_absent(REFERENCE, reference.to_parquet_bytes())
        return reference

    def _read(self, wanted: Sequence[Wanted]) -> list[FreshShard]:
        with ThreadPoolExecutor(READERS) as readers:
            tables = list(readers.map(self._table, wanted))
        return [FreshShard(one.key, table, one.night) for one, table in zip(wanted, tables, strict=True)]

    def _table(self, one: Wanted) -> pa.Table:
        path, system = arrow_place(self.store.location(one.file))
        with pq.ParquetFile(path, filesystem=system) as opened:
            there = [name for name in COLUMNS if name in opened.schema_arrow.names]
            rows = opened.read(columns=there, use_threads=False)
        return ShardTraits(self.store, self.archive).beside(one.key, one.content_digest, rows)


MOST_REFERENCE_ROWS = 40_000


def spread(entries: Sequence[ShardEntry]) -> Sequence[ShardEntry]:
    """Shards of about so many records, evenly over all of them: a reference needs thousands of records, not all."""
    rows = sum(entry.published_rows for entry in entries)
    step = max(1, min(round(rows / MOST_REFERENCE_ROWS), len(entries)))
    return entries[::step]


def night_records(store: ObjectStore) -> list[NightRecord]:
    """All nights that are kept, oldest first."""
    with ThreadPoolExecutor(READERS) as readers:
        names = list(store.list_prefix(NIGHTS))
        found = list(readers.map(lambda name: read_json_object(store, name, NightRecord), names))
    return sorted((record for record in found if record is not None), key=lambda record: record.started)
