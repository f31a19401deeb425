"""Hashes of record ids: stable, sorted, and compared across shards without a scan."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ecgscale.store.commit import decode_hashes, encode_hashes, hash_record_ids, shared_hashes


def test_hashes_are_those_of_earlier_versions() -> None:
    assert hash_record_ids(["1", "zwei", None, "1"]).tolist() == [1606067403276999281, 8518482412311870710]


@given(st.lists(st.text(max_size=5)))
def test_hashes_survive_json(ids: list[str]) -> None:
    hashes = hash_record_ids(ids)
    assert len(hashes) == len(set(ids))
    assert (np.diff(hashes.astype(object)) > 0).all()
    np.testing.assert_array_equal(decode_hashes(encode_hashes(hashes)), hashes)


@given(st.lists(st.sets(st.integers(0, 20)), max_size=6))
def test_shared_are_those_in_two_shards_or_more(shards: list[set[int]]) -> None:
    found = shared_hashes([np.array(sorted(shard), dtype=np.uint64) for shard in shards])
    expected = {
        value: tuple(i for i, shard in enumerate(shards) if value in shard)
        for value in range(21)
        if sum(value in shard for shard in shards) > 1
    }
    assert dict(found) == expected
