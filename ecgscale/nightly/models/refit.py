"""A new cluster model for an archive that has grown, with the ids and names of the clusters that persist.

    fit as [fit] says, from the served centroids → match with the served model → ids of persisting clusters stay
    → compare → explain all of the archive alongside what is served

K-means has many ends that are equally good: begun anew on a few more records, it shares half of its clusters with what
it found before. Begun at the served centroids, it moves them to where the data are now, explains as much, and what
persists can be known from what does not.

Nothing that is served changes: the new dataset waits for `ecgscale promote`. Typing the same command again goes on
where it stopped, also when the archive has grown since: a dataset is finished with the model that it was begun with.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from ecgscale.archive.reader import Archive
from ecgscale.clusters.matching import PERSISTS, match_clusters
from ecgscale.clusters.model import ClusterModel
from ecgscale.config import RunConfig
from ecgscale.encoders.seen import SEEN_FILE
from ecgscale.encoders.spec import changes, encoder_parts
from ecgscale.errors import ModelError, PublishError, UsageError
from ecgscale.explain.facts import encoder_digest_of, encoder_parts_of, load_encoder
from ecgscale.io.places import Place
from ecgscale.nightly.models.comparison import COMPARISON_FILE, Comparison, common_sample, compare, read_comparison
from ecgscale.nightly.models.promote import (
    LINEAGE,
    inherit_holds,
    inherit_names,
    inherit_nights,
    is_refit_of,
    names_json,
    names_of_persisting,
    under_old_ids,
)
from ecgscale.passes.explain.explain import ExplainResult, Policy, identify
from ecgscale.passes.fit.fit import FittedModel, fit_archive, fit_of
from ecgscale.passes.fit.request import FitRequest
from ecgscale.passes.run.pipeline import explain_config, explain_settings, fit_request, served_manifest
from ecgscale.passes.watch import RunWatch
from ecgscale.passes.workers import OpenPool, driver_device, in_process
from ecgscale.progress import SILENT, Progress
from ecgscale.report.subject import NAMES_FILE, read_names
from ecgscale.store.dataset import DATASET_FILE, dataset_store, find_dataset, newest_pointer, serve, served
from ecgscale.store.manifest import Manifest, newest_number
from ecgscale.store.presence import at_work
from ecgscale.store.provenance import RunFacts, run_facts
from ecgscale.words import named


@dataclass(frozen=True)
class Refit:
    """What a refit ended with.

    old: the model that is served; model: the new one, or the old one where a new fit is the same (`comparison` is None)
    names: of the clusters of `model`; dataset_id: of its explanations, there or not; served_id: of what is served
    explained: what was explained with it; None where only the fit was asked for, or nothing is new
    """

    old: ClusterModel
    model: ClusterModel
    comparison: Comparison | None
    names: Mapping[int, str]
    dataset_id: str
    served_id: str
    explained: ExplainResult | None

    @property
    def changed(self) -> bool:
        """Whether there is a new model."""
        return self.comparison is not None


def refit(
    config: RunConfig,
    progress: Progress = SILENT,
    pool: OpenPool = in_process,
    device: str | None = None,
    watch: RunWatch | None = None,
    fit_only: bool = False,
    fresh: bool = False,
    model_id: str | None = None,
) -> Refit:
    """Fit the clusters of `config` again, keep the ids of those that persist, and explain the archive with them.

    `fit_only` stops before explaining; `fresh` begins with k-means++ and not at the served centroids; `model_id`, of an
    earlier refit, goes on with that one instead of fitting.
    Raises UsageError before any work when nothing of the archive is served below the configuration's root, or what is
    served was made with another network. Shards held back from what is served are held back here too.
    """
    with at_work(config.root, "ecgscale refit"):
        manifest = served_manifest(config)
        _require_served(config, manifest)
        old = ClusterModel.load(config.root / "models" / manifest.content.identity.model_id)
        assert old.directory is not None
        _require_same_network(config, old)
        # A damaged names.json is found before hours of work.
        names = read_names(old.directory, old.n_clusters)
        archive, device = Archive.open(config.archive.path), device or config.device
        task = _Task(config, archive, old, fit_request(config, device), fresh, progress, pool)
        model, comparison = task.named(model_id) if model_id else task.made(fit_only)
        served_id = manifest.content.dataset_id
        if comparison is None:
            return Refit(old, old, None, names, served_id, served_id, None)
        watch = watch or RunWatch()
        _keep_served(config.root, served_id, run_facts().model_copy(update={"run_id": watch.run_id}))
        dataset_id = identify(archive, model, explain_settings(config, model)).dataset_id
        result = Refit(old, model, comparison, inherit_names(old, model), dataset_id, served_id, None)
        if fit_only:
            return result
        earlier, later = (dataset_store(config.root, name) for name in (served_id, dataset_id))
        inherit_holds(earlier, later)
        inherit_nights(earlier, later)
        assert model.directory is not None
        # A record that was sent twice over the years is no mistake here: the newer one holds, as it did night by night.
        admit_all = Policy(admission=lambda fresh, newest: {})
        return replace(
            result, explained=explain_config(config, model.directory, progress, pool, device, watch, admit_all)
        )


@dataclass(frozen=True)
class _Task:
    """The fit, and the model made of it."""

    config: RunConfig
    archive: Archive
    old: ClusterModel
    request: FitRequest
    fresh: bool
    progress: Progress
    pool: OpenPool

    def named(self, model_id: str) -> tuple[ClusterModel, Comparison]:
        """An earlier refit; UsageError for a model that is none of what is served."""
        model = ClusterModel.load(self._models / model_id)
        if not is_refit_of(model, self.old):
            lineage = model.info.get(LINEAGE)
            what = f"a refit of {lineage['model_id']}" if lineage else "no refit"
            raise UsageError(
                f"{model_id} is {what}, but what is served has model {self.old.model_id}. `ecgscale explain` explains"
                " with any model; without --model, a new one is fitted"
            )
        return model, read_comparison(self._models / model_id)

    def made(self, fit_only: bool) -> tuple[ClusterModel, Comparison | None]:
        """The model of this task: one whose explanations were begun, or a new fit. The old one and None where that is
        fitted so already, on what the archive holds now."""
        begun = None if fit_only else self._begun()
        if begun is not None:
            self.progress.say(f"going on with model {begun.model_id}, whose explanations were begun")
            return begun, read_comparison(self._models / begun.model_id)
        encoder, root = self.config.encoder.path, self.config.root
        begun_anew = "start" not in self.old.info
        if (begun_anew or not self.fresh) and fit_of(self.old, self.archive, encoder, self.request) == "now":
            return self.old, None
        start = None if self.fresh else self.old
        [fit] = fit_archive(self.archive, encoder, root, self.request, self.progress, self.pool, start)
        for warning in fit.warnings:
            self.progress.say(f"note: {warning}")
        return self._under_old_ids(fit)

    @property
    def _models(self) -> Place:
        return self.config.root / "models"

    def _begun(self) -> ClusterModel | None:
        """A refit of the same model, asked for in the same way, of which a dataset was begun and never published."""
        for directory in sorted(self._models.iterdir(), key=str):
            if directory.name.startswith("_") or not (directory / "model.json").exists():
                continue
            try:
                model = ClusterModel.load(directory)
            except ModelError as error:
                self.progress.say(f"note: {error}")
                continue
            if not is_refit_of(model, self.old) or model.info[LINEAGE]["request"] != self._asked():
                continue
            identity = identify(self.archive, model, explain_settings(self.config, model))
            store = dataset_store(self.config.root, identity.dataset_id)
            if store.stat(DATASET_FILE) is not None and newest_number(store) == 0:
                return model
        return None

    def _under_old_ids(self, fit: FittedModel) -> tuple[ClusterModel, Comparison]:
        """The fit's clusters under the ids of the old model, saved with the comparison of both, or found."""
        matching = match_clusters(self.old.centroids, fit.model.centroids, fit.model.counts)
        model = under_old_ids(fit.model, matching, self.old, self._asked())
        directory = self._models / model.model_id
        if (directory / "model.json").exists():
            return ClusterModel.load(directory), read_comparison(directory)
        # A sample takes seconds on any device.
        encoder = load_encoder(self.old, driver_device(self.pool, self.request.device), self.config.batch)
        seed = self.request.settings.seed
        features, sample = common_sample(self.archive, encoder, model, seed, self.progress)
        comparison = compare(self.old, model, matching, features, sample, PERSISTS)
        sidecars = {COMPARISON_FILE: comparison.model_dump_json(indent=2) + "\n"}
        seen, names = fit.directory / SEEN_FILE, names_of_persisting(self.old, model)
        if seen.exists():
            sidecars[SEEN_FILE] = seen.read_text(encoding="utf-8")
        if names:
            sidecars[NAMES_FILE] = names_json(model.model_id, names)
        return ClusterModel.load(model.save(self._models, sidecars)), comparison

    def _asked(self) -> str:
        """Digest of what was asked for, whatever the archive holds and wherever it runs."""
        asked = asdict(replace(self.request, device="auto", memory=None, scratch=None))
        del asked["allow_nondeterministic"]  # decides whether there is a fit, and nothing of it
        return hashlib.sha256(json.dumps([asked, self.fresh], sort_keys=True).encode()).hexdigest()[:16]


def _keep_served(root: Place, dataset_id: str, run: RunFacts) -> None:
    """Make sure that a pointer says what is served, so that publishing another dataset changes nothing."""
    base = newest_pointer(root)
    if served(root) is None:
        try:
            serve(root, dataset_id, "was served when a new cluster model was fitted", run, base)
        except PublishError:
            if served(root) is None:
                raise


def _require_served(config: RunConfig, manifest: Manifest) -> None:
    default = find_dataset(config.root).dataset_id
    if default != manifest.content.dataset_id:
        raise UsageError(
            f"{config.root} serves dataset {default}, which is of another archive than {config.archive.path}; a refit"
            " would never be the one that is served. Give each archive a root of its own"
        )


def _require_same_network(config: RunConfig, old: ClusterModel) -> None:
    parts, expected = encoder_parts(config.encoder.path), encoder_digest_of(old)
    changed = list(changes(parts, expected, encoder_parts_of(old)))
    if changed:
        raise UsageError(
            f"{config.encoder.path} is another network (digest {parts.digest[:12]}) than that of the served model"
            f" {old.model_id} ({expected[:12]}): {named(changed)} changed. Clusters of two networks cannot be matched:"
            " explain with the new network below a root of its own"
        )
