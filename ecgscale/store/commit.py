"""One input shard becomes one output file, exactly once.

The order is the protocol: the whole output is put under a name that holds the hash of its bytes, then the commit
record, named by the identity of the source, is created with put-if-absent. Whoever stops before the second step
leaves garbage that nothing refers to; whoever comes second finds the first one's record and takes it as its own.
Resuming is asking for commit records by name.

A commit record holds the shard's record ids as sorted 64-bit hashes, 8 bytes each, so doubles over millions of records
are found by sorting numbers, without opening a data file. Two different ids share a hash with probability n² / 2⁶⁵
(2e-7 for 2.3 million records), so whoever finds a shared hash looks at the ids themselves before saying anything.

It also says in which order what it holds came: the sequence number of its version of the shard, and those of rows that
stood, just as they are, in an earlier version of the same shard. What comes later of a record holds; a row that is sent
once more, because its neighbour was corrected, has not become newer by that.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from ecgscale.errors import PublishError
from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import ObjectStore, StoreError
from ecgscale.store.provenance import RunFacts, utc_now

COMMITS = "_commits"
DATA = "data"


Identity = tuple[str, str | None]
"""A version of a shard: its key and the digest of its content, None while nobody could read that."""


class FoundSource(BaseModel):
    """An input shard as a look at it found it; `rows` and `content_digest` are None where the footer cannot be read.

    `stamp` is what the source's store says of its version without reading it (a modification time, an ETag).
    """

    model_config = ConfigDict(frozen=True)

    key: str
    size: int
    stamp: str
    rows: int | None = None
    content_digest: str | None = None

    @property
    def identity(self) -> Identity:
        """What a version of a shard is known by."""
        return self.key, self.content_digest


class Source(FoundSource):
    """An input shard as it was when the plan was frozen; also what a record about one begins with."""

    rows: int
    content_digest: str

    @property
    def identity(self) -> tuple[str, str]:
        """Its key and the digest of its content."""
        return self.key, self.content_digest

    @property
    def source(self) -> Source:
        """These five fields alone."""
        return Source(**{name: getattr(self, name) for name in Source.model_fields})


class Output(BaseModel):
    """An output file: its key in the dataset, what is in it, and the hashes of its record ids.

    row_digests: of what the archive holds of each of these records, in the order of their hashes; "" where not known
    """

    model_config = ConfigDict(frozen=True)

    file: str
    size: int
    sha256: str
    rows: int
    quarantined: dict[str, int]
    record_ids: str
    row_digests: str = ""


class Commit(BaseModel):
    """The record that says: this source was explained, and the result is this file.

    sequence: number of this version of the shard, 0 where that is not known; row_sequences: those of its records, in
    the order of their hashes, "" where all are that of the version
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    source: Source
    output: Output
    committed_at: str
    run: RunFacts
    restamped_from: str | None = None
    sequence: int = 0
    row_sequences: str = ""

    @property
    def name(self) -> str:
        """The record's key in the dataset."""
        return commit_name(self.source.key, self.source.size, self.source.stamp)


def commit_name(key: str, size: int, stamp: str) -> str:
    """Key of the commit record of a source of this identity: `_commits/<stem>-<16 hex>.json`."""
    identity = hashlib.sha256(json.dumps([key, size, stamp]).encode()).hexdigest()
    return f"{COMMITS}/{stem_of_key(key)}-{identity[:16]}.json"


def stem_of_commit(name: str) -> str:
    """The source's stem in the name of a commit record."""
    return name.removeprefix(f"{COMMITS}/").rsplit("-", 1)[0]


def read_commit(store: ObjectStore, name: str) -> Commit | None:
    """The commit record of that name, or None; `StoreError` when it cannot be understood."""
    return read_json_object(store, name, Commit)


def find_commit(store: ObjectStore, key: str, size: int, stamp: str) -> Commit | None:
    """The commit of this source, with its output file still there in its full size; None when it is to be made."""
    commit = read_commit(store, commit_name(key, size, stamp))
    return commit if commit is not None and output_is_there(store, commit.output) else None


def output_is_there(store: ObjectStore, output: Output) -> bool:
    """Whether the output file exists with the size that its commit record gives."""
    found = store.stat(output.file)
    return found is not None and found.size == output.size


@dataclass(frozen=True)
class Order:
    """What is known of the order in which a shard and its rows came.

    sequence: of this version; digests: of its rows by the hashes of their record ids; earlier: commits of versions of
    the same shard that came before, or of this one in another dataset
    """

    sequence: int = 0
    digests: Mapping[int, int] = field(default_factory=dict)
    earlier: tuple[Commit, ...] = ()


UNORDERED = Order()


def commit_output(
    store: ObjectStore,
    source: Source,
    data: bytes,
    *,
    record_ids: Iterable[str | None],
    quarantined: dict[str, int],
    rows: int,
    run: RunFacts,
    order: Order = UNORDERED,
) -> Commit:
    """Put `data`, the whole output file of `source`, and its commit record; returns the record that holds.

    That is another's when another was faster: both name equal facts. Raises `StoreError` when the rows do not match:
    such an output is never committed.
    """
    if rows != source.rows:
        raise StoreError(f"shard {source.key}: {source.rows} records went in, {rows} came out; nothing was committed")
    sha256 = hashlib.sha256(data).hexdigest()
    hashes = hash_record_ids(record_ids)
    digests = [order.digests[number] for number in hashes.tolist()] if order.digests else []
    output = Output(
        file=f"{DATA}/{stem_of_key(source.key)}-{sha256[:16]}.parquet",
        size=len(data),
        sha256=sha256,
        rows=rows,
        quarantined=dict(sorted(quarantined.items())),
        record_ids=encode_hashes(hashes),
        row_digests=encode_hashes(np.array(digests, dtype="<u8")),
    )
    if not store.put_if_absent(output.file, data) and not output_is_there(store, output):
        store.put(output.file, data)
    rows_came = _row_sequences(output, order)
    commit = Commit(
        source=source,
        output=output,
        committed_at=utc_now(),
        run=run,
        sequence=order.sequence,
        row_sequences=rows_came,
    )
    return _create(store, commit)


def restamp(store: ObjectStore, source: Source, earlier: Commit, run: RunFacts) -> Commit:
    """Commit `source` with the output of `earlier`, a commit of the same key and content under another stamp."""
    facts = {"source": source, "committed_at": utc_now(), "run": run, "restamped_from": earlier.name}
    return _create(store, earlier.model_copy(update=facts))


def row_sequences(commit: Commit, sequence: int) -> NDArray[np.int64]:
    """When each record of a commit came, in the order of their hashes: shape (n,); `sequence`: of the whole version."""
    if not commit.row_sequences:
        return np.full(len(decode_hashes(commit.output.record_ids)), sequence, dtype=np.int64)
    return np.minimum(decode_hashes(commit.row_sequences).astype(np.int64), sequence)


def row_digests(commit: Commit) -> dict[int, int]:
    """Digests of what the archive holds of the records of a commit, by the hashes of their ids; empty if not known."""
    digests = decode_hashes(commit.output.row_digests).tolist()
    return dict(zip(decode_hashes(commit.output.record_ids).tolist(), digests, strict=True)) if digests else {}


def _row_sequences(output: Output, order: Order) -> str:
    """A row that stood in an earlier version of the shard as it is came when it first did."""
    hashes, digests = decode_hashes(output.record_ids), decode_hashes(output.row_digests)
    came = np.full(len(hashes), order.sequence, dtype=np.int64)
    for commit in order.earlier:
        known, theirs = decode_hashes(commit.output.record_ids), decode_hashes(commit.output.row_digests)
        if not len(theirs) or not len(digests) or not commit.sequence:
            continue
        at = np.minimum(np.searchsorted(known, hashes), len(known) - 1)
        same = (known[at] == hashes) & (theirs[at] == digests)
        came = np.where(same, np.minimum(came, row_sequences(commit, commit.sequence)[at]), came)
    return "" if (came == order.sequence).all() else encode_hashes(came.astype("<u8"))


def _create(store: ObjectStore, commit: Commit) -> Commit:
    if store.put_if_absent(commit.name, to_json(commit)):
        return commit
    standing = read_commit(store, commit.name)
    if standing is not None and output_is_there(store, standing.output):
        return standing
    # The standing record names a file that somebody removed: the only case in which a record is replaced.
    if standing is not None and standing.sequence and standing.source == commit.source:
        came = {"sequence": standing.sequence, "row_sequences": standing.row_sequences}
        commit = commit.model_copy(update=came)
    store.put(commit.name, to_json(commit))
    return commit


def stem_of_key(key: str) -> str:
    """The part of a source's key that names of data files and commit records start with."""
    return key.rsplit("/", 1)[-1].removesuffix(".parquet")


def hash_record_ids(record_ids: Iterable[str | None]) -> np.ndarray:
    """Sorted, distinct uint64 hashes (blake2b, 8 bytes, little-endian) of the ids that are not None: shape (n,)."""
    distinct = {record_id for record_id in record_ids if record_id is not None}
    digests = b"".join(map(_hash, distinct))
    return np.sort(np.frombuffer(digests, dtype="<u8"))


def hash_record_id(record_id: str) -> int:
    """The hash of one id."""
    return int.from_bytes(_hash(record_id), "little")


def _hash(record_id: str) -> bytes:
    return hashlib.blake2b(record_id.encode(), digest_size=8).digest()


def encode_hashes(hashes: np.ndarray) -> str:
    """Base64 of little-endian uint64, for JSON."""
    return base64.b64encode(hashes.astype("<u8").tobytes()).decode("ascii")


def decode_hashes(text: str) -> np.ndarray:
    """The inverse of `encode_hashes`: shape (n,), uint64."""
    return np.frombuffer(base64.b64decode(text), dtype="<u8")


def shared_hashes(shards: Sequence[np.ndarray]) -> list[tuple[int, tuple[int, ...]]]:
    """Hashes that occur in more than one of `shards`, each with the positions of those shards, ascending.

    Every array holds a hash at most once (see `hash_record_ids`).
    """
    if not shards:
        return []
    hashes = np.concatenate(shards)
    owners = np.repeat(np.arange(len(shards)), [len(shard) for shard in shards])
    order = np.argsort(hashes, kind="stable")
    hashes, owners = hashes[order], owners[order]
    doubled, first, count = np.unique(hashes, return_index=True, return_counts=True)
    found = np.flatnonzero(count > 1)
    return [(int(doubled[i]), tuple(owners[first[i] : first[i] + count[i]].tolist())) for i in found]


NAMED_DOUBLES = 5

Places = tuple[str, Sequence[tuple[str, int]]]
"""A record id, and the shards and rows where it stands."""


def refuse_doubles(doubled: Sequence[Places]) -> NoReturn:
    """Raise `PublishError` naming all places of the first five ids."""
    lines = [
        f"  record_id {record_id!r}: " + " and ".join(f"shard {key} row {row}" for key, row in places)
        for record_id, places in doubled[:NAMED_DOUBLES]
    ]
    if len(doubled) > NAMED_DOUBLES:
        lines.append(f"  … and {len(doubled) - NAMED_DOUBLES:,} more")
    many = "1 record id stands" if len(doubled) == 1 else f"{len(doubled):,} record ids stand"
    raise PublishError(
        f"{many} in more than one shard of the archive, so nothing was published:\n"
        + "\n".join(lines)
        + "\nEverything is committed. Make the ids unique in the archive (ingest it again, or remove the shard that "
        "came twice) and type the same command again: only what changed is computed. Or publish the shards one after "
        "the other, as a nightly run does: then the newer one holds."
    )
