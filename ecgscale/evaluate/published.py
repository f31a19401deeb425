"""The only opener of what was published below a ROOT: a dataset, and everything that it came from.

Evaluations ask it for columns of the explained records, the encoder's contract, the cluster model, what both had seen,
and the archive with the recordings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.encoders.spec import EncoderSpec, load_spec
from ecgscale.errors import ArchiveError, UsageError
from ecgscale.evaluate.questions import label_columns
from ecgscale.evaluate.seen import Seen, what_was_seen
from ecgscale.explain.facts import require_contract
from ecgscale.io.objects import StoreError
from ecgscale.io.parquet import parquet_errors
from ecgscale.io.places import place
from ecgscale.passes.stream import StreamSettings
from ecgscale.store.columns import goes_into, schemas_of
from ecgscale.store.dataset import ExplainedDataset, find_dataset, open_explanations
from ecgscale.store.manifest import Manifest

USABLE = pc.field("status") == "ok"
"""Records that were explained; the others are quarantined, and no evaluation can look at them."""

NEIGHBOURS = 32
"""Records that are drawn together: they lie in one row group, so that a choice does not read the whole archive."""


@dataclass(frozen=True)
class Published:
    """One published dataset below `root`; encoder, clusters and rows are read when they are first asked for."""

    root: Path
    found: ExplainedDataset

    @property
    def dataset_id(self) -> str:
        """The dataset's name below ROOT/explanations."""
        return self.found.dataset_id

    @property
    def manifest(self) -> Manifest:
        """Its newest manifest."""
        assert self.found.manifest is not None
        return self.found.manifest

    @property
    def encoder_dir(self) -> Path:
        """The encoder as it was used."""
        return self.root / "encoders" / self.manifest.content.identity.encoder_id

    @cached_property
    def spec(self) -> EncoderSpec:
        """The encoder's contract; its outputs stand in `spec.output`. `ModelError` when it was changed."""
        require_contract(self.model, self.encoder_dir)
        return load_spec(self.encoder_dir)

    @cached_property
    def model(self) -> ClusterModel:
        """The cluster model."""
        return ClusterModel.load(self.root / "models" / self.manifest.content.identity.model_id)

    @cached_property
    def stream(self) -> StreamSettings:
        """How recordings became activations."""
        return StreamSettings.of({**self.model.info, **self.manifest.content.identity.settings})

    @cached_property
    def explanations(self) -> pyarrow.dataset.FileSystemDataset:
        """All rows, quarantined ones among them. `StoreError` when a file has other columns than the manifest says."""
        self._require_columns()
        return open_explanations(self.root, self.dataset_id)

    def _require_columns(self) -> None:
        """A name that was changed in a footer would make its column one that the file has not: all null."""
        columns, files = self.manifest.content.columns, self.manifest.files
        if columns is None:
            return
        known = columns.arrow_schema
        for file, schema in zip(files, schemas_of([self.found.store.location(file) for file in files]), strict=True):
            strange = [field for field in schema if not goes_into(field, known)]
            if strange:
                raise StoreError(
                    f"{self.found.store.location(file)} is damaged: it has a column {strange[0].name!r} of type "
                    f"{strange[0].type}, which its manifest does not know. `ecgscale verify` says what else is"
                )

    @property
    def schema(self) -> pa.Schema:
        """The columns that there are."""
        return self.explanations.schema

    def table(
        self, columns: Sequence[str], if_there: Sequence[str] = (), wanted: pc.Expression | None = USABLE
    ) -> pa.Table:
        """These columns, each once, and of `if_there` those that the dataset has, of the `wanted` rows (None: all)."""
        names = dict.fromkeys([*columns, *(name for name in if_there if name in self.schema.names)])
        with parquet_errors(f"an explanation file of {self.dataset_id}"):
            rows = self.explanations.to_table(columns=list(names), filter=wanted)
        self._require_all(rows, wanted)
        return rows

    def _require_all(self, rows: pa.Table, wanted: pc.Expression | None) -> None:
        """Filters believe the statistics in a file's footer: a changed one would leave rows out without a word."""
        totals = self.manifest.content.totals
        explained = totals.records - (sum(totals.quarantined.values()) if wanted is USABLE else 0)
        if (wanted is None or wanted is USABLE) and rows.num_rows != explained:
            raise StoreError(
                f"{self.dataset_id}: {rows.num_rows:,} rows were read, its manifest counts {explained:,}; "
                "`ecgscale verify` says which file is damaged"
            )

    def target(self, asked: str | None) -> str:
        """`target_of` this dataset."""
        return target_of(self.spec, self.schema, asked)

    def seen(self, table: pa.Table) -> Seen:
        """What encoder and clusters had seen of the rows of `table` (record_id, patient_id)."""
        records, patients = (table.column(name).to_pylist() for name in ("record_id", "patient_id"))
        return what_was_seen(self.manifest, self.spec, self.encoder_dir, self.model, list(map(str, records)), patients)

    def archive(self, moved_to: str | Path | None = None) -> tuple[Archive | None, str]:
        """`open_source` of this dataset."""
        return open_source(self.manifest, moved_to)

    def left_out(self) -> list[str]:
        """A remark on the quarantined records; none where there are none."""
        quarantined = self.explanations.count_rows(filter=~USABLE)
        return [f"{quarantined} quarantined records are left out"] if quarantined else []


def open_published(root: str | Path, dataset: str | None = None) -> Published:
    """The dataset of that id below `root`, or the one that is served; `UsageError` when nothing is published."""
    return Published(place(root), find_dataset(root, dataset))


def target_of(spec: EncoderSpec, schema: pa.Schema, asked: str | None) -> str:
    """`asked`, or the column that the encoder was trained on; `UsageError` listing label columns when it says none."""
    target = asked or spec.training.get("target")
    if not target:
        there = ", ".join(label_columns(schema)) or "none"
        raise UsageError(f"{spec.name} does not say what it was trained on; give --target, one of: {there}")
    return str(target)


def open_source(manifest: Manifest, moved_to: str | Path | None) -> tuple[Archive | None, str]:
    """(the archive that was explained, "") or (None, why it cannot be opened).

    Raises `ArchiveError` or `UsageError` when `moved_to` is given and is no archive, or another one.
    """
    facts = manifest.content.archive
    try:
        archive = Archive.open(moved_to if moved_to is not None else facts.path)
    except ArchiveError as error:
        if moved_to is not None:
            raise
        return None, f"{error} (it was explained there). If it moved, say where it is now: --archive"
    if archive.archive_id == facts.archive_id:
        return archive, ""
    other = (
        f"{archive.path} is archive {archive.archive_id}; explained was {facts.archive_id}. "
        "Give the one that was explained (--archive), or explain this one."
    )
    if moved_to is not None:
        raise UsageError(other)
    return None, other


def draw_records(n_there: int, n: int | None, seed: int) -> NDArray[np.int64]:
    """Sorted numbers of `n` of `n_there` records (all for None), drawn as stretches of NEIGHBOURS."""
    if n is None or n >= n_there:
        return np.arange(n_there)
    starts = np.arange(0, n_there, NEIGHBOURS)
    drawn = np.random.default_rng([seed, 7]).permutation(starts)[:, None] + np.arange(NEIGHBOURS)
    return np.sort(drawn[drawn < n_there][:n])


def by_shard(explanations: pa.Table) -> dict[str, list[str]]:
    """Shard key → record ids of these explained records."""
    found: dict[str, list[str]] = defaultdict(list)
    shards, names = (explanations.column(name).to_pylist() for name in ("source_shard", "record_id"))
    for shard, name in zip(shards, names, strict=True):
        found[shard].append(name)
    return dict(found)
