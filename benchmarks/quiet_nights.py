"""The time of a night with nothing new, by the number of shards that are there already.

Archives and datasets are made up: every shard is one small file under another name, and commit records and the manifest
are written by the functions that always write them. A quiet night lists, compares, judges that nothing came, and reads
neither a shard nor a data file; both are seen to.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.inputs import Network, fit_model, write_archive, write_encoder
from benchmarks.timing import rounded, seconds
from ecgscale.archive.reader import Archive
from ecgscale.config import load_config
from ecgscale.io.objects import open_objects
from ecgscale.io.places import is_remote, place, upload
from ecgscale.io.settings import s3
from ecgscale.nightly.gates.reference import RowsWithTraits
from ecgscale.nightly.night import run_night
from ecgscale.passes.explain.explain import explain_archive
from ecgscale.passes.watch import RunWatch
from ecgscale.store.commit import commit_output, read_commit
from ecgscale.store.dataset import dataset_store, find_dataset
from ecgscale.store.manifest import ArchiveFacts, ShardEntry, compose, plan_digest, publish
from ecgscale.store.provenance import run_facts

REPEATS = 3
RECORDS = 2
WRITERS = 16
CONFIG = """
root = "{where}/results"
device = "cpu"
[archive]
path = "{where}/archive"
[encoder]
path = "{where}/encoder"
[fit]
clusters = 4
"""


@dataclass(frozen=True)
class QuietSize:
    """Numbers of shards, on a disk and in an object store."""

    on_disk: tuple[int, ...]
    in_store: tuple[int, ...]


def quiet_nights(size: QuietSize, network: Network, say: Callable[[str], None]) -> dict[str, Any]:
    """Seconds of a quiet night at each size; ratios of the largest to the smallest."""
    with tempfile.TemporaryDirectory(prefix="ecgscale-benchmark-") as scratch:
        made = _one_shard(Path(scratch) / "made", network)
        curves = {"disk": _curve(made, [(n, str(Path(scratch) / str(n))) for n in size.on_disk], "disk", say)}
        if size.in_store:
            with _object_store(Path(scratch)) as bucket:
                if bucket is None:
                    say("no SeaweedFS here: quiet nights in an object store are left out")
                else:
                    curves["object store"] = _curve(
                        made, [(n, f"{bucket}/{n}") for n in size.in_store], "object store", say
                    )
    ratios = {}
    for name, curve in curves.items():
        least, most = curve[0], curve[-1]
        times = rounded(most["seconds"] / least["seconds"])
        ratios[f"quiet_night_{most['shards']}_vs_{least['shards']}_{name.replace(' ', '_')}"] = times
    return {"ratios": ratios, "details": curves}


def _one_shard(folder: Path, network: Network) -> Path:
    """An archive of one small shard, an encoder, and its published explanations."""
    write_archive(folder / "archive", RECORDS, network, RECORDS)
    write_encoder(folder / "encoder", network, folder / "archive", calibrate_on=RECORDS)
    model = fit_model(folder / "archive", folder / "encoder", folder / "results", 4, RECORDS)
    explain_archive(Archive.open(folder / "archive"), model, folder / "results", device="cpu")
    return folder


def _curve(made: Path, places: list[tuple[int, str]], kind: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    curve = []
    for shards, where in places:
        _multiply(made, where, shards)
        config = made / "nightly.toml"
        config.write_text(CONFIG.format(where=where))
        loaded = load_config(config)

        def night(loaded: Any = loaded, shards: int = shards) -> None:
            result = run_night(loaded, watch=RunWatch())
            assert (result.explained.computed, result.explained.published) == (0, False)
            assert result.explained.shards == shards

        with _no_shard_is_opened():
            night()  # draws the reference period from data files, once
            with patch.object(RowsWithTraits, "__call__", _refuse):
                spent = float(np.median([seconds(night) for _ in range(REPEATS)]))
        curve.append({"shards": shards, "seconds": rounded(spent)})
        say(f"nothing new, {shards:,} shards, {kind}: {spent:.2f} s")
        if not is_remote(where):
            shutil.rmtree(where)
    return curve


def _multiply(made: Path, where: str, shards: int) -> None:
    """The one shard under so many names, each committed, all of them published."""
    for name, last in (("results/models", "model.json"), ("results/encoders", None), ("encoder", None)):
        if is_remote(where):
            upload(made / name, f"{where}/{name}", last)
        else:
            shutil.copytree(made / name, Path(where) / name)
    published = find_dataset(made / "results")
    assert published.manifest is not None
    [entry] = published.manifest.content.shards
    one = read_commit(published.store, entry.commit)
    output = published.store.read(entry.file)
    assert one is not None
    assert output is not None
    shard = (made / "archive" / entry.key).read_bytes()
    archive = open_objects(f"{where}/archive")
    archive.put("_archive.json", (made / "archive" / "_archive.json").read_bytes())
    store, run = dataset_store(place(f"{where}/results"), published.manifest.content.dataset_id), run_facts()

    def put(number: int) -> ShardEntry:
        key = f"part-{number:05d}.parquet"
        archive.put(key, shard)
        stat = archive.stat(key)
        assert stat is not None
        source = one.source.model_copy(update={"key": key, "size": stat.size, "stamp": stat.version})
        ids = [f"{number}-{row}" for row in range(RECORDS)]
        return ShardEntry.of(
            commit_output(store, source, output, record_ids=ids, quarantined={}, rows=RECORDS, run=run)
        )

    # Nothing that is made up here has to survive a crash.
    with patch.object(os, "fsync", lambda descriptor: None), ThreadPoolExecutor(WRITERS) as writers:
        entries = list(writers.map(put, range(shards)))
    identity = published.manifest.content.identity
    where_it_is = ArchiveFacts(archive_id=identity.archive_id, path=f"{where}/archive")
    publish(store, compose(identity, where_it_is, plan_digest(entries), entries, (), ()), 0, run)


def _refuse(*_arguments: Any) -> Any:
    raise AssertionError("something was read in a quiet night")


@contextmanager
def _no_shard_is_opened() -> Iterator[None]:
    with patch.object(Archive, "footer", _refuse), patch.object(Archive, "batches", _refuse):
        yield


@contextmanager
def _object_store(folder: Path) -> Iterator[str | None]:
    """A bucket of a SeaweedFS server that runs for so long; None where there is none."""
    if not (Path(sys.executable).parent / "weed").exists():
        yield None
        return
    from tests.servers import OWNER, seaweed

    with seaweed(folder / "seaweed") as server:
        variables = {
            "AWS_ENDPOINT_URL": server.endpoint,
            "AWS_ACCESS_KEY_ID": OWNER[0],
            "AWS_SECRET_ACCESS_KEY": OWNER[1],
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with patch.dict(os.environ, variables):
            s3().mkdir("quiet")
            yield "s3://quiet"
