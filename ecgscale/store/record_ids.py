"""Record ids as sorted 64-bit hashes: small enough to stand in a commit record, exact enough to find doubles.

A shard's ids become 8 bytes each, so doubles over millions of records are found by sorting numbers, without opening a
data file. Two different ids share a hash with probability n² / 2⁶⁵ (2e-7 for 2.3 million records), so whoever finds a
shared hash looks at the ids themselves before saying anything.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np


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
