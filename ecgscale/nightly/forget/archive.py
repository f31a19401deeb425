"""Forgetting in the archive: shards are written again without the patient's rows, and what tells of them is mended.

A shard is put whole under its own name; one that held nobody else goes. Record ids of a patient are gathered from the
archive and from what was explained of it, since an earlier version of a shard may have held more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ecgscale.archive.intake.intake import LOG, IntakeLog
from ecgscale.archive.listing import ARCHIVE_JSON, archive_info, archive_json
from ecgscale.archive.reader import Archive
from ecgscale.archive.shard import (
    ROW_GROUP_RECORDS,
    Shard,
    ShardInMemory,
    open_parquet,
    record_tables,
    require_unchanged,
)
from ecgscale.errors import EcgscaleError
from ecgscale.io.objects import ObjectStore, open_objects, put_whole
from ecgscale.io.parquet import read_those_there
from ecgscale.io.places import Place
from ecgscale.nightly.forget.search import Traces, ids_in
from ecgscale.progress import Progress
from ecgscale.store.commit import DATA, Source

_IDS = ["record_id", "patient_id"]
READERS = 8


@dataclass(frozen=True)
class OwnRecords:
    """records: ids of a patient's records that are nobody else's; shared: of those that another patient has as well."""

    records: frozenset[str]
    shared: frozenset[str]


def finish_intake(archive: Place) -> None:
    """Put in place what an ingest was stopped in the middle of: nothing may wait that holds the patient."""
    log = IntakeLog(archive)
    for entry in log.unfinished():
        log.finish(entry)


def read_ids(archive: Archive, progress: Progress) -> dict[str, pa.Table]:
    """`record_id` and, where there is one, `patient_id` of all shards, by key, read side by side.

    Raises `ShardError` for a shard that cannot be read: whose records it holds, nobody knows.
    """

    def read(shard: Shard) -> pa.Table:
        with open_parquet(shard) as file:
            table = file.read(columns=[n for n in _IDS if n in file.schema_arrow.names], use_threads=False)
        stage.advance()
        return table

    with progress.stage("look", len(archive.shards), "shards") as stage, ThreadPoolExecutor(READERS) as readers:
        keys = [shard.key for shard in archive.shards]
        return dict(zip(keys, readers.map(read, archive.shards), strict=True))


def explained_ids(stores: Sequence[ObjectStore]) -> Iterator[pa.Table]:
    """The same of all data files of these datasets."""
    for store in stores:
        for key in store.list_prefix(DATA):
            if key.endswith(".parquet"):
                yield read_those_there(store.location(key), _IDS)


def own_records(tables: Sequence[pa.Table], patient: str, known: Iterable[str]) -> OwnRecords:
    """Ids of a patient's records in these tables of ids, `known` ones among them."""
    own, others = set(known), set()
    for table in tables:
        own |= {record for record, owner in ids_in(table) if record is not None and owner == patient}
    for table in tables:
        others |= {record for record, owner in ids_in(table) if owner not in (None, patient) and record in own}
    return OwnRecords(frozenset(own - others), frozenset(own & others))


def shards_with(archive: Archive, ids: Mapping[str, pa.Table], traces: Traces) -> dict[str, Source]:
    """The shards that hold rows of the patient, as they are, by key; EcgscaleError when they hold nobody else."""
    theirs = {key: traces.rows(table) for key, table in ids.items()}
    if theirs and all(rows.all() for rows in theirs.values()):
        raise EcgscaleError(f"{archive.path} holds nobody else: remove it, and what was explained of it, as a whole")
    return {key: _source(archive, archive.shard(key)) for key, rows in theirs.items() if rows.any()}


def rewrite_shard(archive: Archive, shard: Shard, traces: Traces) -> None:
    """Put a shard in place without the patient's rows; one without any other goes.

    Raises `ShardError` when it breaks off or is replaced meanwhile; then it is as it was.
    """
    with open_parquet(shard, whole=True) as file:
        schema = file.schema_arrow.remove_metadata()
        pending, built = schema.empty_table(), ShardInMemory(schema)
        for table in record_tables(file, shard, schema.names, ROW_GROUP_RECORDS):
            kept = table.cast(schema).filter(pa.array(~traces.rows(table)))
            pending = pa.concat_tables([pending, kept])
            # Whole row groups, as an ingest writes them.
            while pending.num_rows >= ROW_GROUP_RECORDS:
                built.write(pending.slice(0, ROW_GROUP_RECORDS))
                pending = pending.slice(ROW_GROUP_RECORDS)
        if pending.num_rows:
            built.write(pending)
    require_unchanged(shard)
    if built.rows:
        put_whole(archive.path / shard.key, built.close())
    else:
        open_objects(archive.path).delete(shard.key)


def source_of(archive: Archive, key: str) -> Source | None:
    """A shard as it is now; None when it is gone."""
    shard = next((shard for shard in archive.shards if shard.key == key), None)
    return None if shard is None else _source(archive, shard)


def _source(archive: Archive, shard: Shard) -> Source:
    footer = archive.footer(shard)
    digest = footer.content_digest
    return Source(key=shard.key, size=shard.size, stamp=shard.stamp, rows=footer.rows, content_digest=digest)


def mend_records(archive: Archive, records: int, traces: Traces) -> None:
    """Bring `_archive.json` and the log of what was ingested in line with the shards, which hold so many records."""
    store = open_objects(archive.path)
    info = archive_info(store.read(ARCHIVE_JSON) or b"{}", store.location(ARCHIVE_JSON))
    mended = _mended_info(info, traces) | {"records": records, "shards": len(archive.shards)}
    if mended != info:
        store.put(ARCHIVE_JSON, archive_json(mended))
    for key in store.list_prefix(LOG):
        if key.endswith(".json"):
            entry = json.loads(store.read(key) or b"{}")
            mended = _without_lines(entry, ("first_problems", "look"), traces)
            if mended.get("info"):
                mended["info"] = _mended_info(mended["info"], traces)
            mended = traces.redacted(mended)
            if mended != entry:
                store.put(key, (json.dumps(mended) + "\n").encode())


def _mended_info(info: Mapping[str, Any], traces: Traces) -> dict[str, Any]:
    source = _without_lines(info.get("source", {}), ("first_problems",), traces)
    return {**info, "source": traces.redacted(source)}


def _without_lines(facts: Mapping[str, Any], names: Sequence[str], traces: Traces) -> dict[str, Any]:
    """JSON whose lists of lines, of these names, lack those that tell of the patient."""
    lists = {name: [line for line in facts[name] if not traces.is_in(line)] for name in names if name in facts}
    return {**facts, **lists}
