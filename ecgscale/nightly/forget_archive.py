"""Forgetting in the archive: shards are written again without the patient's rows, and what tells of them is mended.

A shard is put whole under its own name; one that held nobody else goes. Record ids of a patient are gathered from the
archive and from what was explained of it, since an earlier version of a shard may have held more.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.archive.intake import ARCHIVE_JSON, LOG, STAGED, IntakeLog
from ecgscale.archive.reader import Archive
from ecgscale.archive.shard import Shard, open_parquet, record_tables, require_unchanged
from ecgscale.archive.shard_file import ROW_GROUP_RECORDS, ShardInMemory, put_whole
from ecgscale.errors import EcgscaleError
from ecgscale.nightly.traces_of_patient import Traces
from ecgscale.places import Place, arrow_place
from ecgscale.progress import Progress
from ecgscale.store.commit import DATA, Source
from ecgscale.store.objects import ObjectStore
from ecgscale.store.s3_objects import open_objects

_IDS = ["record_id", "patient_id"]
LEFTOVERS = ("_writing-", "_tmp-", f"{STAGED}/")
"""What killed writers leave in an archive."""


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


def own_records(
    archive: Archive, stores: Sequence[ObjectStore], patient: str, known: Iterable[str], progress: Progress
) -> OwnRecords:
    """Ids of a patient's records in the archive and in the data files of `stores`, `known` ones among them.

    Raises `ShardError` for a shard that cannot be read: whose records it holds, nobody knows.
    """
    tables = []
    with progress.stage("look", len(archive.shards), "shards") as stage:
        for shard in archive.shards:
            with open_parquet(shard) as file:
                columns = [name for name in _IDS if name in file.schema_arrow.names]
                tables.append(file.read(columns=columns, use_threads=False))
            stage.advance()
    for store in stores:
        tables += [ids_of(store, key) for key in store.list_prefix(DATA) if key.endswith(".parquet")]
    own, others = set(known), set()
    for table in tables:
        for record, owner in zip(*_columns(table), strict=True):
            if record is not None and owner == patient:
                own.add(record)
    for table in tables:
        for record, owner in zip(*_columns(table), strict=True):
            if record in own and owner is not None and owner != patient:
                others.add(record)
    return OwnRecords(frozenset(own - others), frozenset(own & others))


def ids_of(store: ObjectStore, key: str) -> pa.Table:
    """`record_id` and, where there is one, `patient_id` of a data file."""
    path, system = arrow_place(store.location(key))
    with pq.ParquetFile(path, filesystem=system) as file:
        return file.read(columns=[name for name in _IDS if name in file.schema_arrow.names], use_threads=False)


def _columns(table: pa.Table) -> tuple[list[str | None], list[str | None]]:
    patients = table["patient_id"].to_pylist() if "patient_id" in table.column_names else [None] * table.num_rows
    return table["record_id"].to_pylist(), patients


def shards_with(archive: Archive, traces: Traces) -> dict[str, Source]:
    """The shards that hold rows of the patient, as they are, by key."""
    found = {}
    for shard in archive.shards:
        with open_parquet(shard) as file:
            columns = [name for name in _IDS if name in file.schema_arrow.names]
            holds = traces.rows(file.read(columns=columns, use_threads=False)).any()
        if holds:
            found[shard.key] = _source(archive, shard)
    return found


def rewrite_shard(archive: Archive, shard: Shard, traces: Traces) -> None:
    """Put a shard in place without the patient's rows; one without any other goes.

    Raises `ShardError` when it breaks off or is replaced meanwhile; then it is as it was.
    """
    with open_parquet(shard, whole=True) as file:
        schema = file.schema_arrow.remove_metadata()
        names = schema.names
        pending: list[pa.Table] = []
        built = ShardInMemory(schema)
        for table in record_tables(file, shard, names, ROW_GROUP_RECORDS):
            kept = table.cast(schema).filter(pa.array(~traces.rows(table)))
            pending = _written(built, [*pending, kept])
        for table in pending:
            if table.num_rows:
                built.write(table)
    require_unchanged(shard)
    if built.rows:
        put_whole(archive.path / shard.key, built.close())
    else:
        open_objects(archive.path).delete(shard.key)


def _written(built: ShardInMemory, pending: Sequence[pa.Table]) -> list[pa.Table]:
    """Write whole row groups; the rest."""
    table = pa.concat_tables(pending)
    while table.num_rows >= ROW_GROUP_RECORDS:
        built.write(table.slice(0, ROW_GROUP_RECORDS))
        table = table.slice(ROW_GROUP_RECORDS)
    return [table]


def source_of(archive: Archive, key: str) -> Source | None:
    """A shard as it is now; None when it is gone."""
    shard = next((shard for shard in archive.shards if shard.key == key), None)
    return None if shard is None else _source(archive, shard)


def _source(archive: Archive, shard: Shard) -> Source:
    footer = archive.footer(shard)
    return Source(
        key=shard.key, size=shard.size, stamp=shard.stamp, rows=footer.rows, content_digest=footer.content_digest
    )


def mend_records(archive: Archive, traces: Traces) -> None:
    """Bring `_archive.json` and the log of what was ingested in line with the shards as they are now."""
    store = open_objects(archive.path)
    info = json.loads(store.read(ARCHIVE_JSON) or b"{}")
    mended = _mended_info(info, traces)
    mended |= {"records": sum(archive.footer(shard).rows for shard in archive.shards), "shards": len(archive.shards)}
    if mended != info:
        store.put(ARCHIVE_JSON, (json.dumps(mended, indent=2, ensure_ascii=False) + "\n").encode())
    for key in store.list_prefix(LOG):
        if key.endswith(".json"):
            entry = json.loads(store.read(key) or b"{}")
            mended = _mended_entry(entry, traces)
            if mended != entry:
                store.put(key, (json.dumps(mended) + "\n").encode())


def _mended_info(info: Mapping[str, Any], traces: Traces) -> dict[str, Any]:
    source = dict(info.get("source", {}))
    if "first_problems" in source:
        source["first_problems"] = _untouched(source["first_problems"], traces)
    return {**info, "source": traces.redacted(source)}


def _mended_entry(entry: Mapping[str, Any], traces: Traces) -> dict[str, Any]:
    mended = dict(entry)
    for name in ("first_problems", "look"):
        if name in mended:
            mended[name] = _untouched(mended[name], traces)
    if mended.get("info"):
        mended["info"] = _mended_info(mended["info"], traces)
    redacted: dict[str, Any] = traces.redacted(mended)
    return redacted


def _untouched(lines: Iterable[str], traces: Traces) -> list[str]:
    return [line for line in lines if not traces.is_in(line)]


def require_others(archive: Archive, affected: Mapping[str, Source], traces: Traces) -> None:
    """Raise EcgscaleError when the archive holds nobody else: then it goes as a whole."""
    if len(affected) < len(archive.shards):
        return
    for shard in archive.shards:
        with open_parquet(shard) as file:
            columns = [name for name in _IDS if name in file.schema_arrow.names]
            if not np.all(traces.rows(file.read(columns=columns, use_threads=False))):
                return
    raise EcgscaleError(f"{archive.path} holds nobody else: remove it, and what was explained of it, as a whole")
