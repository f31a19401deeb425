"""A random sample of records computed again from the archive, with the model and the encoder below ROOT.

Whole batches are drawn, and computed in the very composition that they had: a forward pass may choose its arithmetic by
the shape of a batch, and so every record of it is compared for the price of one pass.

On equal hardware and software all bits are equal to those that are published. Another processor, a GPU or another
version of a library rounds differently in the last digits; then timesteps on the border of two clusters may change
sides, and numbers move a little. `TOLERANCES` say how much of that is nothing.
"""

from __future__ import annotations

import math
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from ecgscale.archive.reader import Archive, Shard
from ecgscale.archive.shard import ContentDigest, check_content, require_unchanged
from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import EncoderError, ModelError, ShardError
from ecgscale.evaluate.published import open_source
from ecgscale.explain.facts import load_encoder
from ecgscale.explain.schema import FACT_COLUMNS, RESULTS_VERSION, ExplainSettings
from ecgscale.io.objects import ObjectStore, StoreError
from ecgscale.io.parquet import parse_parquet
from ecgscale.nightly.history import recorded_run
from ecgscale.nightly.verify.file import is_whole
from ecgscale.nightly.verify.rows import Problems, explained_rows, place_of
from ecgscale.passes.explain.shard import ShardExplainer
from ecgscale.progress import Progress
from ecgscale.store.commit import Commit, read_commit
from ecgscale.store.manifest import Manifest, ShardEntry
from ecgscale.store.provenance import RunFacts, package_version, versions

TOLERANCES = {
    "prediction": 1e-3,
    "proportions": 0.01,
    "soft_proportions": 1e-3,
    "mean_entropy": 1e-3,
    "distortion": 1e-3,
    "segments": 0.01,
    "entropy": 0.01,
}
"""Largest difference of a number: relative beyond 1 for predictions and distortion; for `segments` the share of
timesteps with another cluster. Other columns have to be equal. Convolutions of another library move the numbers of 96
simulated records by less than 1e-5, and one timestep in 4,000 to another cluster."""
HALF_PRECISION = 10.0
"""How much more is nothing where the forward pass is in bfloat16."""
_RELATIVE = ("prediction", "distortion")


def different_columns(published: pa.Table, computed: pa.Table) -> dict[str, NDArray[np.bool_]]:
    """Columns that differ, with bool (n,): the rows that do, by a single bit. Those that only one of them has are left
    out (the archive may carry others by now), unless they are facts."""
    found = {}
    for name in computed.column_names:
        if name not in published.column_names:
            if name in FACT_COLUMNS:
                found[name] = np.ones(computed.num_rows, dtype=bool)
            continue
        one, other = published.select([name]), computed.select([name])
        if _digest(one) != _digest(other):
            rows = range(computed.num_rows)
            found[name] = np.array([_digest(one.slice(i, 1)) != _digest(other.slice(i, 1)) for i in rows], bool)
    return found


def _digest(column: pa.Table) -> str:
    digest = ContentDigest(column.schema.remove_metadata())
    digest.update(column)
    return digest.hexdigest()


def beyond_tolerance(name: str, published: pa.Table, computed: pa.Table, factor: float = 1.0) -> NDArray[np.bool_]:
    """bool (n,): rows whose column `name` differs by more than `factor` times its tolerance."""
    n = computed.num_rows
    if name not in TOLERANCES or name not in published.column_names:
        return np.ones(n, dtype=bool)
    limit = factor * TOLERANCES[name]
    pairs = zip(published[name].to_pylist(), computed[name].to_pylist(), strict=True)
    measure = _moved if name == "segments" else partial(_apart, relative=name in _RELATIVE)
    return np.array([not measure(one, other) <= limit for one, other in pairs], dtype=bool)


def _apart(one: object, other: object, relative: bool = False) -> float:
    """The largest difference of two numbers or lists, `relative` to what exceeds 1; infinite where one is null or of
    another length."""
    if one is None or other is None:
        return np.inf
    a, b = np.atleast_1d(np.asarray(one, float)), np.atleast_1d(np.asarray(other, float))
    if a.shape != b.shape:
        return np.inf
    return float((np.abs(a - b) / (np.maximum(1.0, np.abs(b)) if relative else 1.0)).max(initial=0.0))


def _moved(one: list[dict] | None, other: list[dict] | None) -> float:
    """Share of timesteps that two lists of segments give to different clusters; infinite where their spans differ."""
    if not one or not other:
        return np.inf
    (a, first_a), (b, first_b) = _labels(one), _labels(other)
    return float((a != b).mean()) if len(a) == len(b) and first_a == first_b else np.inf


def _labels(segments: list[dict]) -> tuple[NDArray[np.int64], int]:
    clusters = np.array([segment["cluster"] for segment in segments])
    return np.repeat(clusters, [max(s["stop"] - s["start"], 0) for s in segments]), int(segments[0]["start"])


@dataclass(frozen=True)
class Recomputed:
    """How many records were computed again, how many of them gave the same bits, and why others could not be."""

    records: int = 0
    exactly: int = 0
    skipped: tuple[str, ...] = ()


class Recomputing:
    """Computes batches of a dataset again and compares them with what is published."""

    def __init__(
        self, root: ObjectStore, store: ObjectStore, manifest: Manifest, model: ClusterModel, problems: Problems
    ) -> None:
        self._root, self._store, self._manifest = root, store, manifest
        self._model, self._problems = model, problems
        self._explainers: dict[str, ShardExplainer] = {}
        self._versions: dict[str, bool] = {}
        self.records = self.exactly = 0

    def sample(self, share: float, seed: int, given: Archive | None, progress: Progress) -> Recomputed:
        """Compute a share of the records again, at least one batch, and tell which differ.

        given: the archive (None: where it was when it was explained). Records of shards that have changed since, or of
        an archive that cannot be opened, are left out, and named.
        """
        identity = self._manifest.content.identity
        if identity.results_version != RESULTS_VERSION:
            published = f"results version {identity.results_version} was published"
            return Recomputed(skipped=(f"{published}, this program computes {RESULTS_VERSION}",))
        archive, why = source_of(self._manifest, given)
        if archive is None:
            return Recomputed(skipped=(why,))
        self._archive, self._settings = archive, ExplainSettings(**identity.settings)
        drawn = _Drawn(archive, self._manifest, self._settings.batch)
        chosen = drawn.batches(share, seed)
        skipped: list[str] = []
        with progress.stage("recompute", sum(map(len, chosen.values())), "batches") as stage:
            for position, batches in chosen.items():
                entry = self._manifest.content.shards[position]
                stage.note(entry.key)
                try:
                    self._check(entry, archive.shard(entry.key), batches)
                except (ShardError, StoreError) as error:
                    skipped.append(str(error))
                except (ModelError, EncoderError) as error:
                    self._problems.add("model", f"models/{identity.model_id}", str(error))
                    break
                stage.advance(len(batches))
        return Recomputed(self.records, self.exactly, (*drawn.passed_over(), *skipped))

    def _explainer(self, run: RunFacts | None) -> ShardExplainer:
        """The network on the kind of device that this run explained on, as far as this machine has it."""
        cuda = run is not None and (run.device or "").startswith("cuda") and torch.cuda.is_available()
        device = "cuda" if cuda else "cpu"
        if device not in self._explainers:
            encoder = load_encoder(self._model, device, self._settings.batch)
            self._explainers[device] = ShardExplainer(self._archive, encoder, self._model, self._settings)
        return self._explainers[device]

    def _check(self, entry: ShardEntry, shard: Shard, batches: set[int]) -> None:
        """One shard. Raises `ShardError` when it cannot be read or is replaced meanwhile. A published file that is not
        whole is a problem already, and is passed over."""
        published, commit = self._published(entry), read_commit(self._store, entry.commit)
        if published is None or commit is None:
            return
        run = self._computed_by(commit)
        explainer = self._explainer(run)
        computed = list(explainer.rows_of(shard, batches))
        require_unchanged(shard)
        exact = run is not None and self._same_machine(run, str(explainer.encoder.device))
        for first_row, batch in computed:
            mine = pa.Table.from_batches([batch])
            if is_whole(entry, commit):
                rows = np.arange(first_row, first_row + mine.num_rows)
            else:
                kept, rows = _alike(mine, published)
                mine = mine.take(kept)
            self._compare(entry.file, rows, published.take(rows), mine, exact)

    def _published(self, entry: ShardEntry) -> pa.Table | None:
        data = self._store.read(entry.file)
        try:
            table = parse_parquet(data, entry.file) if data is not None else None
        except StoreError:
            return None
        return table if table is not None and table.num_rows == entry.published_rows else None

    def _computed_by(self, commit: Commit) -> RunFacts | None:
        """The run that computed the output; a re-stamped commit names the one before it."""
        seen = {commit.name}
        while commit.restamped_from is not None and commit.restamped_from not in seen:
            seen.add(commit.restamped_from)
            earlier = read_commit(self._store, commit.restamped_from)
            if earlier is None:
                return None
            commit = earlier
        return commit.run

    def _same_machine(self, run: RunFacts, device: str) -> bool:
        """Whether bits have to be equal: this host, this kind of device, and these libraries, as the run recorded."""
        here = (run.host, run.device, run.code_version) == (socket.gethostname(), device, package_version())
        if here and run.run_id not in self._versions:
            recorded = (recorded_run(self._root, run.run_id) or {}).get("versions", {})
            self._versions[run.run_id] = isinstance(recorded, Mapping) and versions().items() <= recorded.items()
        return here and self._versions[run.run_id]

    def _compare(self, file: str, rows: np.ndarray, published: pa.Table, mine: pa.Table, exact: bool) -> None:
        self.records += mine.num_rows
        differs = np.zeros(mine.num_rows, dtype=bool)
        factor = HALF_PRECISION if self._settings.dtype == "bfloat16" else 1.0
        how = "not to the last bit what this machine computes" if exact else "beyond the tolerance"
        for name, bits in different_columns(published, mine).items():
            differs |= bits
            at = np.flatnonzero(bits)
            for i in at if exact else at[beyond_tolerance(name, published.take(at), mine.take(at), factor)]:
                where = place_of(file, int(rows[i]), mine["record_id"][int(i)].as_py())
                self._problems.add("recomputed", where, f"{name} computed again from the archive differs: {how}")
        self.exactly += int((~differs).sum())


def source_of(manifest: Manifest, given: Archive | None) -> tuple[Archive | None, str]:
    """The archive that was explained, or why there is none."""
    explained = manifest.content.archive.archive_id
    if given is not None:
        other = f"{given.path} is archive {given.archive_id}; explained was {explained}"
        return (given, "") if given.archive_id == explained else (None, other)
    try:
        return open_source(manifest, None)
    except StoreError as error:
        return None, str(error)


class _Drawn:
    """Batches of shards that are still in the archive as they were."""

    def __init__(self, archive: Archive, manifest: Manifest, batch: int) -> None:
        self._there = {shard.key: shard for shard in archive.shards}
        self._archive, self._entries, self._batch = archive, manifest.content.shards, batch
        self._verdicts: dict[int, str] = {}

    def batches(self, share: float, seed: int) -> dict[int, set[int]]:
        """Position of an entry → numbers of its batches; as many as hold the share of all records, where they can be
        had."""
        counts = np.array([-(-entry.rows // self._batch) for entry in self._entries], dtype=np.int64)
        ends = np.cumsum(counts)
        wanted = max(1, math.ceil(share * sum(entry.rows for entry in self._entries) / self._batch))
        chosen: dict[int, set[int]] = {}
        for number in np.random.default_rng(seed).permutation(int(counts.sum())):
            position = int(np.searchsorted(ends, number, side="right"))
            if self._usable(position):
                chosen.setdefault(position, set()).add(int(number - (ends[position] - counts[position])))
                wanted -= 1
            if not wanted:
                break
        return dict(sorted(chosen.items()))

    def passed_over(self) -> list[str]:
        """Why shards were passed over, as sentences."""
        counts = Counter(reason for reason in self._verdicts.values() if reason)
        return [f"{n:,} shard{'s' * (n != 1)} {reason}" for reason, n in sorted(counts.items())]

    def _usable(self, position: int) -> bool:
        if position not in self._verdicts:
            self._verdicts[position] = self._verdict(self._entries[position])
        return not self._verdicts[position]

    def _verdict(self, entry: ShardEntry) -> str:
        """Why not; "" when it can be computed again. A new stamp with the old content is the same shard."""
        shard = self._there.get(entry.key)
        if shard is None:
            return "not in the archive any more"
        if (shard.size, shard.stamp) == (entry.size, entry.stamp):
            return ""
        try:
            same = self._archive.footer(shard).content_digest == entry.content_digest
        except ShardError:
            return "not readable in the archive any more"
        return "" if same else "changed in the archive since"


def _alike(mine: pa.Table, published: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Explained rows of both, by record id: rows that gave way to newer ones are not in the file any more."""
    at = {record_id: row for row, record_id in explained_rows(published)}
    pairs = [(row, at[record_id]) for row, record_id in explained_rows(mine) if record_id in at]
    return np.array([row for row, _ in pairs], np.int64), np.array([row for _, row in pairs], np.int64)


READERS = 4
"""Shards of the archive that are read side by side."""


def check_archive(archive: Archive, entries: Sequence[ShardEntry], problems: Problems, progress: Progress) -> int:
    """Tell of every published shard that says it holds what was explained, and does not; how many do hold it.

    A shard with another content is a newer one, and no problem: the next run explains it.
    """
    there = {shard.key: shard for shard in archive.shards}
    pairs = [(entry, there[entry.key]) for entry in entries if entry.key in there]

    def look(pair: tuple[ShardEntry, Shard]) -> str | bool:
        entry, shard = pair
        try:
            if archive.footer(shard).content_digest != entry.content_digest:
                if (shard.size, shard.stamp) != (entry.size, entry.stamp):
                    return False
                return f"{shard.path} has the size and the time that it was explained with, and another content"
            check_content(shard)
        except ShardError as error:
            return str(error)
        finally:
            stage.advance(entry.rows)
        return True

    held = 0
    records = sum(entry.rows for entry, _ in pairs)
    with progress.stage("archive", records, "records") as stage, ThreadPoolExecutor(READERS) as readers:
        for (entry, _), found in zip(pairs, readers.map(look, pairs), strict=True):
            if isinstance(found, str):
                problems.add("archive", entry.key, found)
            else:
                held += found
    return held
