"""The worker of the explain pass: reads, computes and commits whole shards, wherever it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ecgscale.archive.reader import Archive
from ecgscale.clusters.model import ClusterModel
from ecgscale.explain.facts import load_encoder
from ecgscale.explain.schema import ExplainSettings
from ecgscale.io.places import place
from ecgscale.passes.explain.plan import Pending
from ecgscale.passes.explain.shard import ShardExplainer
from ecgscale.passes.workers import device_kind
from ecgscale.progress import SILENT, Stopwatch
from ecgscale.store.commit import Commit, find_commit
from ecgscale.store.dataset import dataset_store
from ecgscale.store.provenance import run_facts


@dataclass(frozen=True)
class Committed:
    """A shard's commit record, whether this worker computed it, and then its seconds by stage."""

    commit: Commit
    computed: bool
    seconds: Mapping[str, float] = field(default_factory=dict)


class ExplainWorker:
    """Explains shards of one archive for one dataset; loads the network once."""

    def __init__(
        self,
        archive: str,
        root: str,
        dataset_id: str,
        model: str,
        settings: ExplainSettings,
        device: str,
        run_id: str,
    ) -> None:
        self._store = dataset_store(place(root), dataset_id)
        self._model = ClusterModel.load(model)
        encoder = load_encoder(self._model, device, settings.batch)
        self._explainer = ShardExplainer(Archive.open(archive), encoder, self._model, settings)
        self.device = device_kind(encoder.device)
        self._facts = run_facts(str(encoder.device)).model_copy(update={"run_id": run_id})

    def commit(self, pending: Pending) -> Committed:
        """Commit one shard. Another run or attempt may have been faster: then its commit record is the answer."""
        source = pending.source
        standing = find_commit(self._store, source.key, source.size, source.stamp)
        if standing is not None:
            return Committed(standing, False)
        watch = Stopwatch()
        with SILENT.stage("explain", source.rows, "records") as stage:
            commit = self._explainer.commit(pending, self._store, self._facts, stage, watch)
        return Committed(commit, True, watch.seconds)

    def probe(self, pending: Pending, first: int, last: int) -> int:
        """Compute rows first..last of a shard without committing anything: does it survive? The rows computed."""
        return self._explainer.probe(pending.shard, first, last)
