"""Shards that were given up are remembered, listed and forgotten."""

from __future__ import annotations

from pathlib import Path

from ecgscale.io.objects import LocalObjects
from ecgscale.store.commit import Source
from ecgscale.store.failures import failures, forget, remember, remembered
from tests.worlds.published.shards import RUN


def source(number: int) -> Source:
    return Source(key=f"part-{number:05d}.parquet", size=1, stamp="s", rows=2, content_digest=f"digest {number}")


def test_failures_are_listed_and_forgotten(tmp_path: Path) -> None:
    store = LocalObjects(tmp_path)
    assert failures(store) == []
    for number in (2, 1):
        remember(store, source(number), f"reason {number}", RUN, "c0de")
    assert [failure.reason for failure in failures(store)] == ["reason 1", "reason 2"]
    assert remembered(store, source(1), "c0de") is not None
    forget(store, failures(store)[0])
    assert remembered(store, source(1), "c0de") is None
    assert [failure.reason for failure in failures(store)] == ["reason 2"]
    forget(store, failures(store)[0])
    assert failures(store) == []
