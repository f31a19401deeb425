"""Serving another dataset of a ROOT, and what it inherits from the one before it.

Serving another is looked at, decided by somebody, recorded with the reason. What would be lost by it is found out
first: shards that are served now and not in the other dataset. Serving an earlier dataset again is the way back.

Inherited is what is the same in both: decisions on the content of a shard, the nights that the gates remember, names of
clusters that persist, and their ids. A fit's clusters under the ids of an earlier model are recorded in model.json:

    "refit_of": {"model_id": …, "digest": …, "clusters": [0, 1, null, 3], "fit": …, "order": [2, 0, 3, 1], "request": …}

`clusters` says of each cluster which of the earlier model it is (null: a birth), `order` which it was in the fit.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ecgscale.clusters.matching import PERSISTS, Matching
from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import UsageError
from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import ObjectStore, open_objects
from ecgscale.io.places import Place, place
from ecgscale.nightly.gates.gatekeeper import NIGHTS
from ecgscale.report.subject import NAMES_FILE, read_names
from ecgscale.store.dataset import DATASET_FILE, Pointer, dataset_store, find_dataset, newest_pointer, serve, served
from ecgscale.store.holds import Hold, hold_name, holds, standing_holds
from ecgscale.store.manifest import DatasetFacts, Manifest, ShardEntry, newest_number, read_manifest
from ecgscale.store.presence import announced
from ecgscale.store.provenance import run_facts
from ecgscale.store.root import dataset_ids
from ecgscale.words import counted, named


@dataclass(frozen=True)
class Promotion:
    """What is served now and what was before (None: nothing), by which pointer, and whether anything changed.

    lacking: shards that were served before and are not, or with older content, in what is served now
    kept_out: those of them that are held back or rejected there: no night brings them, a decision does
    """

    pointer: Pointer
    now: Manifest
    before: Manifest | None
    changed: bool
    lacking: tuple[str, ...]
    kept_out: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **self.pointer.model_dump(include={"dataset_id", "reason", "promoted_by", "promoted_at"}),
            "model_id": self.now.content.identity.model_id,
            "before": self.before.content.dataset_id if self.before else None,
            "changed": self.changed,
            "lacking": list(self.lacking),
            "kept_out": list(self.kept_out),
            "pointer": self.pointer.number,
        }


@announced("ecgscale promote", existing=True)
def promote(root: str | Path, dataset_id: str, reason: str, incomplete: bool = False) -> Promotion:
    """Let `dataset_id` be what is served below `root`, from the next opening on.

    Raises `UsageError` for a dataset that is not there, was never published, has lost its model, publishes shards that
    are held back in what is served, or lacks shards of it (unless `incomplete`); `PublishError` when somebody else
    promoted meanwhile.
    """
    root = place(root)
    if not reason.strip():
        raise UsageError("give a --reason: whoever asks why numbers changed will find it beside the data")
    # The number first: whoever decides after this is found out.
    base, pointer = newest_pointer(root), served(root)
    now = _published(root, dataset_id)
    if pointer is not None:
        store = dataset_store(root, pointer.dataset_id)
        before = read_manifest(store, newest_number(store))
    else:
        before = find_dataset(root).manifest
    if pointer is not None and pointer.dataset_id == dataset_id:
        return Promotion(pointer, now, before, False, ())
    model = root / "models" / now.content.identity.model_id
    if not (model / "model.json").exists():
        raise UsageError(f"{model} is gone: no night could go on with dataset {dataset_id}. Restore it")
    ClusterModel.load(model)  # says what was changed
    lacking: list[str] = []
    kept_out: dict[str, Hold] = {}
    if before is not None and before.content.dataset_id != dataset_id:
        _inherit(root, before, now)
        lacking = lacking_shards(before, now)
        kept_out = _kept_out(root, now, lacking)
        if lacking and not incomplete:
            raise UsageError(
                f"dataset {dataset_id} lacks {_named(lacking)} of what is served, or has older content of them.\n"
                f"{_described('served', before)}\n{_described('to be served', now)}\n"
                + "\n".join(_what_to_do(root, before, now, lacking, kept_out))
            )
    made = serve(root, dataset_id, reason.strip(), run_facts(), base)
    changed = before is None or before.content.dataset_id != dataset_id
    return Promotion(made, now, before, changed, tuple(lacking), tuple(kept_out))


def _kept_out(root: Place, now: Manifest, lacking: list[str]) -> dict[str, Hold]:
    """Those of the shards that are held back or rejected in the dataset, each with why, in their order.

    Held there is what the newest manifest says, and what was decided since.
    """
    standing = standing_holds(now, holds(dataset_store(root, now.content.dataset_id)).values())
    back = {hold.source.key: hold for hold in standing if hold.state != "released"}
    return {key: back[key] for key in lacking if key in back}


def _what_to_do(
    root: Place, before: Manifest, now: Manifest, lacking: list[str], kept_out: dict[str, Hold]
) -> Iterator[str]:
    """What brings the shards that are lacking, a line each; a fill brings no shard that somebody keeps out."""
    fill = f"`{_fill_command(root, before, now)}`"
    for state, how in (("rejected", "rejected there"), ("held", "held back there")):
        keys = [key for key, hold in kept_out.items() if hold.state == state]
        if keys:
            yield (
                f"{_named(keys)} of them {'is' if len(keys) == 1 else 'are'} {how} ({kept_out[keys[0]].why}), and no "
                f"run brings what is kept out. If it belongs in: `ecgscale release {root} {keys[0]} --dataset "
                f"{now.content.dataset_id} --reason TEXT`, then {fill}. If not: promote with --incomplete"
            )
    if len(lacking) > len(kept_out):
        yield (
            f"{fill} explains what the archive has of {'the others' if kept_out else 'them'}. With --incomplete it is "
            "served as it is, and the next nightly run explains them"
        )


def lacking_shards(before: Manifest, now: Manifest) -> list[str]:
    """Keys of shards published in `before` that `now` lacks, or publishes in a version that `before` had earlier."""
    there = {entry.key: entry.content_digest for entry in now.content.shards}
    earlier = {version.identity: version.sequence for version in before.content.past}

    def older(entry: ShardEntry) -> bool:
        if before.version == 1:
            # Which remembers no earlier versions; the clocks of those who published have to do.
            return now.created < before.created and there[entry.key] != entry.content_digest
        return earlier.get((entry.key, there[entry.key]), entry.sequence) < entry.sequence

    return [entry.key for entry in before.content.shards if entry.key not in there or older(entry)]


def _published(root: Place, dataset_id: str) -> Manifest:
    if dataset_id not in dataset_ids(root):
        # Says which there are, and the nearest.
        find_dataset(root, dataset_id)
    store = dataset_store(root, dataset_id)
    manifest = read_manifest(store, newest_number(store))
    if manifest is None:
        facts = read_json_object(store, DATASET_FILE, DatasetFacts)
        with_model = f" with model {facts.model_id}" if facts else ""
        raise UsageError(
            f"dataset {dataset_id}{with_model} was never published, so there is nothing to serve. Type the command "
            "that began it again (ecgscale refit, or ecgscale explain); it goes on where it stopped"
        )
    return manifest


def _inherit(root: Place, before: Manifest, now: Manifest) -> None:
    """Bring what people decided since the dataset was filled, and refuse to serve what they hold back."""
    if before.content.identity.archive_id != now.content.identity.archive_id:
        return
    earlier, later = (dataset_store(root, m.content.dataset_id) for m in (before, now))
    inherit_holds(earlier, later)
    inherit_nights(earlier, later)
    models = root / "models"
    old, new = (models / m.content.identity.model_id for m in (before, now))
    if (old / "model.json").exists():
        one, other = ClusterModel.load(old), ClusterModel.load(new)
        if is_refit_of(other, one):
            inherit_names(one, other)
    standing = {identity for identity, hold in holds(later).items() if hold.state != "released"}
    held = sorted(e.key for e in now.content.shards if e.identity in standing)
    if held:
        raise UsageError(
            f"dataset {now.content.dataset_id} publishes {_named(held)} that are held back from what is served "
            f"(ecgscale status {root}). `{_fill_command(root, before, now)}` leaves them out; "
            "`ecgscale release` lets them in"
        )


def _fill_command(root: Place, before: Manifest, now: Manifest) -> str:
    identity, archive = now.content.identity, now.content.archive
    model = ClusterModel.load(root / "models" / identity.model_id)
    lineage = model.info.get(LINEAGE)
    if lineage and lineage["model_id"] == before.content.identity.model_id:
        return f"ecgscale refit CONFIG.toml --model {identity.model_id}"
    if archive.archive_id == before.content.archive.archive_id:
        archive = before.content.archive
    words = ["ecgscale", "explain", archive.path, "--model", str(model.directory), "--out", str(root)]
    # Only those that the dataset has: they decide its id.
    settings = identity.settings
    words += [word for name in ("batch", "entropy") if name in settings for word in (f"--{name}", str(settings[name]))]
    if "include_padding" in settings:
        words.append("--include-padding" if settings["include_padding"] else "--exclude-padding")
    if settings.get("fill_gaps"):
        words += ["--fill-gaps", str(settings["fill_gaps"])]
    return shlex.join(words)


def _described(what: str, manifest: Manifest) -> str:
    content = manifest.content
    return (
        f"  {what}: {content.dataset_id}, model {content.identity.model_id}, manifest {manifest.number} of "
        f"{manifest.created[:16]}: {counted(content.totals.records, 'record')} in "
        f"{counted(content.totals.shards, 'shard')}, {len(content.held)} held, {len(content.set_aside)} set aside"
    )


def _named(keys: list[str]) -> str:
    return f"{counted(len(keys), 'shard')} ({named(keys)})"


LINEAGE = "refit_of"
REFIT_VERSION = 1
"""Raised when the same fit and the same old model would give other ids; part of the new model's id."""


def under_old_ids(fit: ClusterModel, matching: Matching, old: ClusterModel, asked: str = "") -> ClusterModel:
    """The model `fit` with its clusters in the order of `matching`, not saved yet; nothing else changes.

    Its id is of the fit and of the model that it has its ids from; `asked`, a digest of the request, is kept with the
    lineage.
    """
    deciding = [REFIT_VERSION, PERSISTS, fit.model_id, fit.digest, old.model_id, old.digest]
    digest = hashlib.sha256(json.dumps(deciding).encode()).hexdigest()
    order = [int(k) for k in matching.order]
    shares, empty = fit.info["reference"]["proportions"], fit.info["diagnostics"]["nearly_empty"]
    lineage = {"model_id": old.model_id, "digest": old.digest, "clusters": list(matching.origin)}
    info: dict[str, Any] = {
        **fit.info,
        "model_id": f"k{fit.n_clusters}-{digest[:12]}" + ("-torn" if fit.model_id.endswith("-torn") else ""),
        "reference": {**fit.info["reference"], "proportions": [shares[k] for k in order]},
        "diagnostics": {**fit.info["diagnostics"], "nearly_empty": sorted(order.index(k) for k in empty)},
        LINEAGE: {**lineage, "fit": fit.model_id, "order": order, "request": asked},
    }
    return replace(
        fit, centroids=fit.centroids[matching.order], counts=fit.counts[matching.order], info=info, directory=None
    )


def is_refit_of(later: ClusterModel, earlier: ClusterModel) -> bool:
    """Whether `later` has its ids from `earlier`."""
    lineage = later.info.get(LINEAGE)
    return lineage is not None and (lineage["model_id"], lineage["digest"]) == (earlier.model_id, earlier.digest)


def inherit_holds(earlier: ObjectStore, later: ObjectStore) -> None:
    """Hold back in `later` what is held back or was decided on in `earlier`.

    What was decided in `later` itself stands. Commit records are named by their source, so they have one name in both.
    """
    standing = holds(later)
    for identity, hold in holds(earlier).items():
        there = standing.get(identity)
        if there is None:
            later.put_if_absent(hold_name(hold.source), to_json(hold))
        elif hold.decisions and not there.decisions:
            later.put(hold_name(hold.source), to_json(hold))


def inherit_nights(earlier: ObjectStore, later: ObjectStore) -> None:
    """Let the gates of `later` know the nights of `earlier`: what came, and when.

    Without them they would have to learn their baselines anew, and judge nothing meanwhile.
    """
    for name in earlier.list_prefix(NIGHTS):
        night = earlier.read(name)
        if night is not None:
            later.put_if_absent(name, night)


def inherit_names(earlier: ClusterModel, later: ClusterModel) -> dict[int, str]:
    """Give persisting clusters of `later`, a refit of `earlier`, the names that they have there; all names of `later`.

    A cluster that was named in `later` keeps that name, and one that died takes its own with it.
    """
    assert later.directory is not None
    standing = read_names(later.directory, later.n_clusters)
    names = names_of_persisting(earlier, later) | standing
    if names != standing:
        open_objects(later.directory).put(NAMES_FILE, names_json(later.model_id, names).encode())
    return names


def names_of_persisting(earlier: ClusterModel, later: ClusterModel) -> dict[int, str]:
    """Names in `earlier` of clusters that `later`, a refit of it, has too, by their ids in `later`."""
    assert earlier.directory is not None
    names = read_names(earlier.directory, earlier.n_clusters)
    origin: list[int | None] = later.info[LINEAGE]["clusters"]
    return {new: names[old] for new, old in enumerate(origin) if old is not None and old in names}


def names_json(model_id: str, names: Mapping[int, str]) -> str:
    """The text of a names.json."""
    by_id = {str(cluster): name for cluster, name in sorted(names.items())}
    return json.dumps({"model_id": model_id, "names": by_id}, indent=2, ensure_ascii=False) + "\n"
