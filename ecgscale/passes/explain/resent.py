"""The rows of shards that share record ids, and windows that a recording sent again no longer has, which give way."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from ecgscale.archive.validate import OK
from ecgscale.io.objects import ObjectStore
from ecgscale.io.parquet import read_those_there
from ecgscale.store.commit import Commit, decode_hashes, hash_record_id, row_sequences
from ecgscale.store.manifest import ShardEntry

_OF_A_ROW, _RECORDING = ("record_id", "patient_id", "status"), "recording_id"


@dataclass(frozen=True, order=True)
class Row:
    """One row that asks to be published, by when it came; `position` is that of its shard, `recording` whose window
    it is, if it is one."""

    came: int
    key: str
    position: int
    row: int
    patient_id: str | None
    status: str
    recording: str | None = None


def rows_of(
    store: ObjectStore, ordered: Sequence[tuple[ShardEntry, Commit]], suspects: Iterable[int]
) -> dict[str, list[Row]]:
    """Record ids of these shards, each with its first row in each of them, older rows first.

    Where a recording's windows go on in the shard beside one, those of that shard are among them.
    """
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    by_key = sorted(range(len(ordered)), key=lambda position: ordered[position][0].key)
    place = {position: i for i, position in enumerate(by_key)}
    to_read: deque[tuple[int, str | None, int]] = deque((position, None, 0) for position in suspects)
    seen = set()
    while to_read:
        position, expected, way = to_read.popleft()
        if position in seen:
            continue
        seen.add(position)
        entry, commit = ordered[position]
        table = _read(store, commit, [*_OF_A_ROW, _RECORDING])
        of = table.column(_RECORDING).to_pylist() if _RECORDING in table.column_names else [None] * table.num_rows
        if way and (not of or of[0 if way > 0 else -1] != expected):
            continue
        hashes, sequences = decode_hashes(commit.output.record_ids), row_sequences(commit, entry.sequence)
        came = dict(zip(hashes.tolist(), sequences.tolist(), strict=True))
        first: dict[str, Row] = {}
        columns = [table.column(name).to_pylist() for name in _OF_A_ROW]
        for row, (record_id, patient_id, status, recording) in enumerate(zip(*columns, of, strict=True)):
            if record_id and record_id.strip():
                number = came.get(hash_record_id(record_id), entry.sequence)
                first.setdefault(record_id, Row(number, entry.key, position, row, patient_id, status, recording))
        for record_id, found in first.items():
            rows[record_id].append(found)
        for recording, step in ((of[0], -1), (of[-1], 1)) if of else ():
            beside = place[position] + step
            goes_on = recording is not None and (not way or (step == way and recording == expected))
            if goes_on and 0 <= beside < len(by_key):
                to_read.append((by_key[beside], recording, step))
    return {record_id: sorted(found) for record_id, found in sorted(rows.items())}


def _read(store: ObjectStore, commit: Commit, columns: Sequence[str]) -> pa.Table:
    return read_those_there(store.location(commit.output.file), columns)


def windows_gone(rows: Mapping[str, Sequence[Row]]) -> Iterator[Row]:
    """Rows of windows that the newest version of their recording no longer has.

    rows: of each record id, those of all shards that share an id with another shard, older ones first. That a newer
    shard brings one of a recording's windows again, usable and of the same patient, says that it brings the recording
    again; then whatever came as early as the version that it replaces goes, and not what came in between or at once.
    """
    recordings: defaultdict[str, dict[str, Sequence[Row]]] = defaultdict(dict)
    for record_id, found in rows.items():
        if found[0].recording is not None:
            recordings[found[0].recording][record_id] = found
    for windows in recordings.values():
        again = [pair for found in windows.values() if (pair := _sent_again(found)) is not None]
        if not again:
            continue
        last = max((new for _, new in again), key=lambda row: (row.came, row.key))
        news = {last.position}
        if all(old.came < last.came for old, new in again if new.came == last.came):
            # One version may lie in two shards. Where the older one came at once with it, keys alone tell them apart.
            news |= {row.position for found in windows.values() for row in found if row.came == last.came}
        replaced = max((old.came, old.key) for old, new in again if new.position in news)
        for found in windows.values():
            if not any(row.position in news for row in found):
                yield from (row for row in found if _is_as_old(row, replaced, last.came))


def _sent_again(found: Sequence[Row]) -> tuple[Row, Row] | None:
    """The last two usable versions of a window, if they are of one patient."""
    usable = [row for row in found if row.status == OK]
    if len(usable) < 2:
        return None
    old, new = usable[-2:]
    same = old.patient_id is None or new.patient_id is None or old.patient_id == new.patient_id
    return (old, new) if same else None


def _is_as_old(row: Row, replaced: tuple[int, str], newest: int) -> bool:
    return (row.came, row.key) <= replaced or row.came <= replaced[0] < newest
