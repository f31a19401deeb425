"""One file of a manifest: its bytes, what it says of itself, its rows, and the commit record behind it."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscale.archive.validate import OK
from ecgscale.explain.schema import OUTPUT_SCHEMA_VERSION, output_schema
from ecgscale.io.objects import ObjectStore
from ecgscale.io.parquet import UNREADABLE, damage, open_parquet_file
from ecgscale.nightly.verify.rows import COLUMNS, Problems, Rows, check_rows, place_of
from ecgscale.passes.explain.resolve import PATIENT_CONFLICT
from ecgscale.passes.explain.shard import NO_ID
from ecgscale.store.columns import Columns, goes_into
from ecgscale.store.commit import Commit, Source, commit_name, decode_hashes, hash_record_ids, output_is_there
from ecgscale.store.manifest import DatasetFacts, ShardEntry


@dataclass(frozen=True)
class FileIds:
    """Sorted hashes of record ids: of explained rows, and of all rows that have an id."""

    explained: NDArray[np.uint64]
    known: NDArray[np.uint64]


def check_file(
    entry: ShardEntry,
    data: bytes,
    identity: DatasetFacts,
    n_clusters: int | None,
    problems: Problems,
    columns: Columns | None = None,
) -> FileIds | None:
    """Tell what is wrong with a file of these bytes; the ids in it, or None when it cannot be read to its end.

    columns: what the manifest says that all files go into
    n_clusters: K of the model; None where that is not known: then as many as the file itself has columns for
    """
    if len(data) != entry.file_size:
        problems.add("size", entry.file, f"{len(data):,} bytes; the manifest says {entry.file_size:,}")
    elif (found := hashlib.sha256(data).hexdigest()) != entry.sha256:
        problems.add("sha256", entry.file, f"sha256 is {found[:16]}…; the manifest says {entry.sha256[:16]}…")
    try:
        with open_parquet_file(pa.BufferReader(data)) as file:
            _check_columns(entry, file.schema_arrow, columns, problems)
            return _check_content(entry, file, identity, n_clusters, problems)
    except UNREADABLE as error:
        problems.add("unreadable", entry.file, f"not a whole Parquet file: {damage(error)}")
        return None


def _check_columns(entry: ShardEntry, schema: pa.Schema, columns: Columns | None, problems: Problems) -> None:
    if columns is None:
        return
    wide = columns.arrow_schema
    for field in schema:
        if not goes_into(field, wide):
            known = wide.field(field.name).type if field.name in wide.names else "not there"
            problems.add("schema", entry.file, f"column {field.name} is {field.type}; in the manifest it is {known}")


def _check_content(
    entry: ShardEntry, file: pq.ParquetFile, identity: DatasetFacts, n_clusters: int | None, problems: Problems
) -> FileIds | None:
    _check_metadata(entry, file.metadata.metadata or {}, identity, problems)
    if file.metadata.num_rows != entry.published_rows:
        gone = f" less {entry.superseded} superseded" if entry.superseded else ""
        plan = f"the plan has {entry.rows:,} records of {entry.key}{gone}"
        problems.add("rows", entry.file, f"{file.metadata.num_rows:,} rows; {plan}")
    schema = file.schema_arrow
    if n_clusters is None:
        kind = schema.field("proportions").type if "proportions" in schema.names else pa.null()
        n_clusters = kind.list_size if pa.types.is_fixed_size_list(kind) else 0
    sound = True
    for field in output_schema(n_clusters):
        found = schema.field(field.name).type if field.name in schema.names else "not there"
        if found != field.type:
            problems.add("schema", entry.file, f"column {field.name} is {found}; expected {field.type}")
            sound = False
    if not sound:
        return None
    ids: list[str | None] = []
    statuses: list[str | None] = []
    with_entropy = identity.settings.get("entropy") == "timestep"
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=list(COLUMNS))
        check_rows(Rows(table, entry.file, len(ids), problems), entry.key, n_clusters, with_entropy)
        ids += table["record_id"].to_pylist()
        statuses += table["status"].to_pylist()
    quarantined = Counter(str(status) for status in statuses if status != OK)
    if dict(quarantined) != entry.quarantined:
        says = f"quarantined are {dict(quarantined)}; the manifest says {entry.quarantined}"
        problems.add("quarantined", entry.file, says)
    return _ids_of(entry, ids, statuses, problems)


def _check_metadata(entry: ShardEntry, found: dict[bytes, bytes], identity: DatasetFacts, problems: Problems) -> None:
    expected = {
        "schema_version": str(OUTPUT_SCHEMA_VERSION),
        "results_version": str(identity.results_version),
        "source_shard": entry.key,
        "source_content_digest": entry.content_digest,
        "encoder_id": identity.encoder_id,
        "encoder_digest": identity.encoder_digest,
        "model_id": identity.model_id,
        "model_digest": identity.model_digest,
        "settings": json.dumps(identity.settings, sort_keys=True),
    }
    for name, value in expected.items():
        there = found.get(f"ecgscale.{name}".encode())
        if there != value.encode():
            says = None if there is None else there.decode()
            problems.add("identity", entry.file, f"its metadata say {name} {says!r}; expected {value!r}")


def _ids_of(
    entry: ShardEntry, ids: Sequence[str | None], statuses: Sequence[str | None], problems: Problems
) -> FileIds:
    explained = pa.array([name for name, status in zip(ids, statuses, strict=True) if status == OK], pa.string())
    hashes = hash_record_ids(explained.to_pylist())
    if len(hashes) != len(explained):
        rows = [row for row, status in enumerate(statuses) if status == OK]
        counts = pc.value_counts(explained)
        for name in counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist():
            places = [row for row in rows if ids[row] == name]
            problems.add("doubled", place_of(entry.file, places[-1], name), f"explained in rows {places} of one file")
    known = hash_record_ids(name for name, status in zip(ids, statuses, strict=True) if status != NO_ID)
    return FileIds(hashes, known)


def check_commit(
    store: ObjectStore, entry: ShardEntry, commit: Commit | None, ids: FileIds | None, problems: Problems
) -> None:
    """Tell where the commit record and the manifest's entry, or the file's ids, do not agree."""
    if commit is None:
        problems.add("commit", entry.commit, f"the commit record of {entry.key} is gone")
        return
    if entry.commit != commit_name(entry.key, entry.size, entry.stamp):
        problems.add("commit", entry.commit, f"its name is not that of {entry.key} with stamp {entry.stamp}")
    for name in Source.model_fields:
        found, expected = getattr(commit.source, name), getattr(entry, name)
        if found != expected:
            problems.add("commit", entry.commit, f"names a source with {name} {found!r}; published is {expected!r}")
    output = commit.output
    if is_whole(entry, commit):
        if (output.size, output.sha256, output.rows) != (entry.file_size, entry.sha256, entry.rows):
            problems.add("commit", entry.commit, f"tells another size, hash or number of rows of {entry.file}")
    elif not (entry.superseded or PATIENT_CONFLICT in entry.quarantined):
        problems.add("commit", entry.commit, f"names {output.file}, but {entry.file} is published")
    elif not output_is_there(store, output):
        problems.add("missing_file", output.file, f"the whole output of {entry.key}, of which {entry.file} is a part")
    if ids is not None:
        _check_hashes(entry, commit, ids, problems)


def is_whole(entry: ShardEntry, commit: Commit) -> bool:
    """Whether the published file is the very one that the commit record names, with all rows of the shard."""
    return entry.file == commit.output.file


def _check_hashes(entry: ShardEntry, commit: Commit, ids: FileIds, problems: Problems) -> None:
    try:
        committed = decode_hashes(commit.output.record_ids)
    except ValueError as error:
        problems.add("record_ids", entry.commit, f"its hashes of record ids cannot be read: {error}")
        return
    foreign = int((~np.isin(ids.known, committed)).sum())
    absent = len(committed) - (len(ids.known) - foreign) if is_whole(entry, commit) else 0
    if foreign or absent:
        strangers = f"{foreign} record ids are not among those of {entry.commit}"
        problems.add("record_ids", entry.file, f"{strangers}, {absent} of those are not in the file")
