"""Record ids as sorted 64-bit hashes: small enough to stand in a commit record, exact enough to find doubles.

A shard's ids become 8 bytes each, so doubles over millions of records are found by sorting numbers, without opening a
data file. Two different ids share a hash with probability n² / 2⁶⁵ (2e-7 for 2.3 million records), so whoever finds a
shared hash looks at the ids themselves before saying anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from typing import NoReturn

import numpy as np

from ecgscale.errors import PublishError


def hash_record_ids(record_ids: Iterable[str | None]) -> np.ndarray:
    """Sorted, distinct uint64 hashes (blake2b, 8 bytes, little-endian) of the ids that are not None: shape (n,)."""
    distinct = {record_id for record_id in record_ids if record_id is not None}
    digests = b"".join(hashlib.blake2b(record_id.encode(), digest_size=8).digest() for record_id in distinct)
    return np.sort(np.frombuffer(digests, dtype="<u8"))


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
