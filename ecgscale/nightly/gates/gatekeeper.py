"""The gates at work: what they look at is read from the store, and what they found is kept there.

ROOT/explanations/<dataset_id>/_nights/<start>-<run_id>.json   a night: what came, what the gates said
ROOT/explanations/<dataset_id>/_reference.parquet              sound records, drawn from what was published first

May what was explained tonight be published? `judge` says so, a pure function of tables; `Gatekeeper` reads and stores
them. `counts` (quarantine rate, volume, freshness) and `drift` are the gates, `evidence` what they look at and say.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

from ecgscale.archive.reader import Archive
from ecgscale.config import GateSettings
from ecgscale.errors import UsageError
from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import ObjectStore
from ecgscale.nightly.gates.counts import check_freshness, check_quarantine, check_volume
from ecgscale.nightly.gates.drift import find_drift
from ecgscale.nightly.gates.evidence import Evidence, FreshShard, GateReport, Night
from ecgscale.nightly.gates.reference import Reference, RowsWithTraits
from ecgscale.progress import SILENT, Progress
from ecgscale.store.commit import Commit, output_is_there, read_commit
from ecgscale.store.holds import holds
from ecgscale.store.manifest import Manifest, ShardEntry, newest_number, read_manifest
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


@dataclass
class Gatekeeper:
    """Judges the shards of one night; called by the explain pass with the commits that are new to the dataset.

    What a night that was killed had judged belongs to this one: what came, and what it found, is not lost with it.
    """

    store: ObjectStore
    settings: GateSettings
    output_names: Sequence[str]
    model_id: str
    now: datetime
    run_id: str
    archive: Archive | None = None
    progress: Progress = SILENT
    report: GateReport | None = None
    night: Night | None = None
    commits: tuple[Commit, ...] = ()
    nights: list[NightRecord] = field(default_factory=list)
    """Those that are kept, oldest first; with this one when it is written."""

    def __call__(self, fresh: Sequence[Commit], newest: Manifest | None) -> Mapping[str, Sequence[str]]:
        """Keys of the shards to hold back, each with what the gates found: dated, since it is read on other days."""
        self.nights = night_records(self.store)
        past = [record for record in self.nights if record.done]
        self.commits = tuple(sorted([*self._cut_short(self.nights, fresh, newest), *fresh], key=lambda c: c.source.key))
        date = self.now.date().isoformat()
        tonight = self._read([(ShardEntry.of(commit), date) for commit in self.commits])
        nights = [Night(**record.night) for record in past]
        # Where nothing came there is nothing to compare, and no data is read.
        trailing = self._trailing(past, newest) if newest and tonight else []
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

    def judge_nothing(self) -> None:
        """Judge a night in which nothing came: that too can be a fault."""
        if self.report is None:
            self([], read_manifest(self.store, newest_number(self.store)))

    def write(self) -> None:
        """Keep the night; called once everything else is done, so that a night that is repeated counts once."""
        record = self._put(done=True)
        for other in self.nights:
            if not other.done and other.key != record.key:
                self.store.delete(other.key)
        self.nights = [*(other for other in self.nights if other.done), record]

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
            if name in published or commit.source.identity in held:
                yield commit

    def _trailing(self, past: Sequence[NightRecord], newest: Manifest) -> list[FreshShard]:
        """Published shards of the nights before, newest night first, as many as the windows can hold."""
        published = {entry.key: entry for entry in newest.content.shards}
        wanted: list[tuple[ShardEntry, str]] = []
        rows, nights = 0, 0
        for record in reversed(past):
            there = [published[key] for key in record.shards if key in published]
            if nights >= self.settings.windows[-1] or rows >= self.settings.window_records:
                break
            wanted += [(entry, str(record.night["date"])) for entry in there]
            rows += sum(entry.published_rows for entry in there)
            nights += bool(there)
        return self._read(wanted)

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
        rows = RowsWithTraits(self.store, self.archive)
        reference = Reference.of(map(rows, chosen), self.model_id, self.output_names)
        self.store.put_if_absent(REFERENCE, reference.to_parquet_bytes())
        return reference

    def _read(self, wanted: Sequence[tuple[ShardEntry, str]]) -> list[FreshShard]:
        """The explanations of these shards; each with the date of the night in which it came."""
        with ThreadPoolExecutor(READERS) as readers:
            tables = list(readers.map(RowsWithTraits(self.store, self.archive), [entry for entry, _ in wanted]))
        return [FreshShard(entry.key, table, night) for (entry, night), table in zip(wanted, tables, strict=True)]


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
