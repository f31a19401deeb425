"""A small dataset made by hand, for tests of publishing and opening."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ecgscale.io.objects import ObjectStore
from ecgscale.store.commit import Commit, Source, commit_output
from ecgscale.store.dataset import dataset_store
from ecgscale.store.manifest import (
    ArchiveFacts,
    Content,
    DatasetFacts,
    Manifest,
    SetAside,
    ShardEntry,
    compose,
    plan_digest,
    publish,
)
from ecgscale.store.provenance import run_facts

RUN = run_facts()


def facts(model_id: str = "model-a") -> DatasetFacts:
    return DatasetFacts(
        archive_id="archive",
        encoder_id="encoder",
        encoder_digest="e",
        model_id=model_id,
        model_digest="m",
        settings={"entropy": "none"},
        results_version=1,
    )


def store_of(root: Path, identity: DatasetFacts | None = None) -> ObjectStore:
    return dataset_store(root, (identity or facts()).dataset_id)


def commit_shard(store: ObjectStore, number: int, ids: Sequence[str | None], stamp: str = "mtime_ns=1") -> Commit:
    key = f"part-{number:05d}.parquet"
    sink = io.BytesIO()
    pq.write_table(pa.table({"record_id": pa.array(ids, pa.string()), "source_shard": [key] * len(ids)}), sink)
    source = Source(key=key, size=number, stamp=stamp, rows=len(ids), content_digest="-".join(map(str, ids)))
    return commit_output(store, source, sink.getvalue(), record_ids=ids, quarantined={}, rows=len(ids), run=RUN)


def content_of(commits: Sequence[Commit], set_aside: Sequence[SetAside] = (), model_id: str = "model-a") -> Content:
    archive = ArchiveFacts(archive_id="archive", path="/archive")
    digest = plan_digest([*(commit.source for commit in commits), *set_aside])
    return compose(facts(model_id), archive, digest, map(ShardEntry.of, commits), set_aside)


def publish_shards(root: Path, shards: Sequence[Sequence[str]], base: int = 0, model_id: str = "model-a") -> Manifest:
    store = store_of(root, facts(model_id))
    commits = [commit_shard(store, number, ids) for number, ids in enumerate(shards)]
    manifest = publish(store, content_of(commits, model_id=model_id), base, RUN)
    assert manifest is not None
    return manifest
