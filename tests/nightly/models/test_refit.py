"""A new cluster model: ids and names of what persists, everything else as the fit made it, and nothing served by it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ecgscale.nightly.models.refit as refit_pass
from ecgscale.archive.reader import Archive
from ecgscale.clusters.matching import PERSISTS, match_clusters
from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import UsageError
from ecgscale.nightly.models.comparison import Sample, compare, read_comparison
from ecgscale.nightly.models.promote import under_old_ids
from ecgscale.nightly.models.refit import Refit, refit
from ecgscale.passes.explain.explain import explain_archive
from ecgscale.passes.run.pipeline import PipelineResult, published_model, run_pipeline
from ecgscale.report.subject import read_names
from ecgscale.store.dataset import dataset_store, find_dataset, serve, served
from ecgscale.store.holds import hold
from ecgscale.store.provenance import run_facts
from ecgscale.store.root import dataset_ids
from tests.worlds.commands.explaining import Watching
from tests.worlds.commands.refitted import ServedWorld, name_clusters, served_world, source_of
from tests.worlds.commands.simulated import simulated
from tests.worlds.formula.small_networks import write_small_encoder

NAMES = {k: f"name {k}" for k in range(6)}


@pytest.fixture(scope="module")
def served_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[ServedWorld, PipelineResult]:
    """A served world that nobody changes."""
    return served_world(tmp_path_factory.mktemp("served") / "world")


@pytest.fixture
def world(served_once: tuple[ServedWorld, PipelineResult], tmp_path: Path) -> ServedWorld:
    """A copy of it."""
    shutil.copytree(served_once[0].folder, tmp_path / "world")
    return ServedWorld(tmp_path / "world", served_once[0].results)


@pytest.fixture(scope="module")
def refitted(
    served_once: tuple[ServedWorld, PipelineResult], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ServedWorld, Refit]:
    """The archive has grown by two shards, and a refit is done."""
    folder = tmp_path_factory.mktemp("refitted") / "world"
    shutil.copytree(served_once[0].folder, folder)
    world = ServedWorld(folder, served_once[0].results)
    name_clusters(published_model(world.config()), NAMES)
    world.grow(5)
    return world, refit(world.config())


def test_ids_and_names_of_persisting_clusters_stay(refitted: tuple[ServedWorld, Refit]) -> None:
    _, done = refitted
    assert done.comparison is not None
    assert done.model.directory is not None
    assert done.model.model_id != done.old.model_id
    kept = {pair.old: pair.new for pair in done.comparison.persisting}
    assert len(kept) >= 3
    assert all(old == new for old, new in kept.items())
    distance = np.linalg.norm(done.old.centroids[:, None] - done.model.centroids[None], axis=2)
    for pair in done.comparison.persisting:
        assert distance[pair.old].argmin() == pair.new
        assert pair.distance == pytest.approx(distance[pair.old, pair.new], rel=1e-5)
        assert pair.relative is not None
        assert pair.relative < PERSISTS
    assert {*kept.values(), *(born.id for born in done.comparison.births)} == set(range(6))
    assert read_names(done.model.directory, 6) == {k: NAMES[k] for k in kept.values()}
    assert done.names == read_names(done.model.directory, 6)
    assert read_comparison(done.model.directory) == done.comparison
    assert done.model.info["refit_of"]["model_id"] == done.old.model_id
    assert done.model.info["refit_of"]["clusters"] == [k if k in kept else None for k in range(6)]
    assert (done.model.directory / "seen.tsv").exists()


def test_the_comparison_is_of_one_sample(refitted: tuple[ServedWorld, Refit]) -> None:
    _, done = refitted
    found = done.comparison
    assert found is not None
    assert (found.sample.records, found.sample.seed) == (80, 0)
    assert found.sample.timesteps > 10_000
    share_old = sum(p.share_old for p in found.persisting) + sum(d.share for d in found.deaths)
    share_new = sum(p.share_new for p in found.persisting) + sum(b.share for b in found.births)
    assert (share_old, share_new) == (pytest.approx(1), pytest.approx(1))
    assert 0 < found.ari <= 1
    assert 0 < found.old.explained_variance < 1
    assert (found.old.records, found.new.records) == (48, 80)
    assert all(pair.kept is not None and 0 <= pair.kept <= 1 for pair in found.persisting)


def test_the_new_dataset_lies_beside_and_nothing_else_is_served(
    served_once: tuple[ServedWorld, PipelineResult], refitted: tuple[ServedWorld, Refit]
) -> None:
    world, done = refitted
    before = served_once[1].explained.dataset_id
    assert done.served_id == before != done.dataset_id
    assert dataset_ids(world.root) == sorted([before, done.dataset_id])
    pointer = served(world.root)
    assert pointer is not None
    # Publishing served it; from now on it is so by decision, and publishing the new one changes nothing.
    assert (pointer.number, pointer.dataset_id, pointer.decided) == (2, before, True)
    assert find_dataset(world.root).dataset_id == before
    assert published_model(world.config()).name == done.old.model_id
    assert done.explained is not None
    assert (done.explained.records, done.explained.computed) == (80, 5)
    # The night goes on with the old model and its dataset.
    night = run_pipeline_with_served(world)
    assert (night, len(find_dataset(world.root).files())) == (before, 5)


def run_pipeline_with_served(world: ServedWorld) -> str:
    config = world.config()
    model = published_model(config)
    archive = Archive.open(config.archive.path)
    return explain_archive(archive, model, config.root, entropy="timestep", batch=16, device="cpu").dataset_id


def test_explanations_are_those_of_the_fit_up_to_the_ids(refitted: tuple[ServedWorld, Refit], tmp_path: Path) -> None:
    world, done = refitted
    lineage = done.model.info["refit_of"]
    models = world.root / "models"
    fit = ClusterModel.load(models / lineage["fit"])
    order = lineage["order"]
    assert np.array_equal(done.model.centroids, fit.centroids[order])
    assert np.array_equal(done.model.counts, fit.counts[order])
    assert (done.model.tau, done.model.gamma) == (fit.tau, fit.gamma)
    assert done.model.info["reference"]["proportions"] == [fit.info["reference"]["proportions"][k] for k in order]
    archive = Archive.open(world.config().archive.path)
    other = explain_archive(archive, models / lineage["fit"], world.root, entropy="timestep", batch=16)
    rows, expected = world.rows(done.dataset_id), world.rows(other.dataset_id)
    assert rows.keys() == expected.keys()
    for record, row in rows.items():
        fitted = expected[record]
        assert row["proportions"] == [fitted["proportions"][k] for k in order]
        assert row["distortion"] == fitted["distortion"]
        cuts = [(s["start"], s["stop"], order[s["cluster"]]) for s in row["segments"]]
        assert cuts == [(s["start"], s["stop"], s["cluster"]) for s in fitted["segments"]]
        # Sums over clusters in another order may differ in the last bit.
        assert np.allclose(row["entropy"], fitted["entropy"], rtol=0, atol=2e-6)
        assert np.allclose(row["soft_proportions"], [fitted["soft_proportions"][k] for k in order], rtol=0, atol=2e-6)
        assert row["prediction"] == fitted["prediction"]


def test_the_same_command_again_changes_nothing(
    refitted: tuple[ServedWorld, Refit], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, done = refitted

    def compared_again(*_: object, **__: object) -> None:
        raise AssertionError("the sample was drawn for a model that is there")

    monkeypatch.setattr(refit_pass, "common_sample", compared_again)
    again = refit(world.config())
    assert again.model.model_id == done.model.model_id
    assert again.comparison == done.comparison
    assert again.explained is not None
    assert (again.explained.computed, again.explained.published) == (0, False)
    only = refit(world.config(), fit_only=True)
    assert (only.model.model_id, only.explained, only.dataset_id) == (done.model.model_id, None, done.dataset_id)
    named = refit(world.config(), model_id=done.model.model_id)
    assert named.explained is not None
    assert (named.dataset_id, named.explained.computed) == (done.dataset_id, 0)


def test_an_archive_that_has_not_grown_is_no_new_model(world: ServedWorld) -> None:
    before = sorted(path.name for path in (world.root / "models").iterdir())
    done = refit(world.config())
    assert not done.changed
    assert (done.model.model_id, done.dataset_id, done.explained) == (done.old.model_id, done.served_id, None)
    assert served(world.root) is None
    assert sorted(path.name for path in (world.root / "models").iterdir()) == before
    # The same of a refit that was promoted.
    world.grow(4)
    changed = refit(world.config())
    assert changed.changed
    serve(world.root, changed.dataset_id, "looked at", run_facts())
    after = refit(world.config())
    assert not after.changed
    assert after.model.model_id == changed.model.model_id


def test_a_dataset_is_finished_with_the_model_it_was_begun_with(world: ServedWorld) -> None:
    world.grow(4)

    def stop(shard: str) -> None:
        if shard == "part-00002.parquet":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        refit(world.config(), Watching(stop))
    [begun] = [name for name in dataset_ids(world.root) if name != find_dataset(world.root).dataset_id]
    world.grow(5)
    watch = Watching()
    done = refit(world.config(), watch)
    assert done.dataset_id == begun
    assert any("going on with model" in line for line in watch.said)
    assert done.explained is not None
    assert (done.explained.records, done.explained.computed) == (80, 3)
    assert done.model.info["fitted_on"]["records"] == 64
    # Once it is published, the same command means the archive as it is now.
    later = refit(world.config())
    assert later.model.model_id != done.model.model_id
    assert later.model.info["fitted_on"]["records"] == 80


def test_other_numbers_of_clusters_and_back(world: ServedWorld) -> None:
    config = world.config()
    six = refit(world.config(clusters=6, seed=1))
    assert six.changed
    name_clusters(published_model(config), NAMES)
    eight = refit(world.config(clusters=8))
    assert eight.comparison is not None
    assert (eight.old.n_clusters, eight.model.n_clusters) == (6, 8)
    kept = {pair.old: pair.new for pair in eight.comparison.persisting}
    assert kept
    assert all(old == new for old, new in kept.items())
    born = [one.id for one in eight.comparison.births]
    assert sorted([*kept.values(), *born]) == list(range(8))
    assert {6, 7} <= set(born)
    assert read_names(published_model(config), 6) == NAMES
    serve(config.root, eight.dataset_id, "finer", run_facts())
    back = refit(world.config(clusters=6))
    assert back.comparison is not None
    assert (back.old.n_clusters, back.model.n_clusters) == (8, 6)
    assert len(back.comparison.persisting) + len(back.comparison.deaths) == 8
    for pair in back.comparison.persisting:
        assert pair.new < 6
        assert pair.new == pair.old or pair.old >= 6
    named = [pair for pair in back.comparison.persisting if pair.old in kept.values()]
    assert [back.names[pair.new] for pair in named] == [NAMES[pair.old] for pair in named]
    assert len(world.rows(back.dataset_id)) == len(world.rows(eight.dataset_id)) == 48


def test_shards_held_back_from_what_is_served_are_held_back_here(world: ServedWorld) -> None:
    served_id = find_dataset(world.root).dataset_id
    entry = world.shards()["part-00001.parquet"]
    store = dataset_store(world.root, served_id)
    hold(store, source_of(entry), entry.commit, ["the feed of that night was upside down"], run_facts())
    world.grow(4)
    done = refit(world.config())
    assert done.explained is not None
    assert [shard.key for shard in done.explained.held] == ["part-00001.parquet"]
    assert sorted(world.shards(done.dataset_id)) == [f"part-0000{i}.parquet" for i in (0, 2, 3)]


def test_names_given_since_are_carried_and_own_ones_stay(world: ServedWorld) -> None:
    world.grow(5)
    done = refit(world.config(), fit_only=True)
    assert done.comparison is not None
    assert done.model.directory is not None
    first, second, *_ = [pair.new for pair in done.comparison.persisting]
    name_clusters(done.model.directory, {first: "looked at again"})
    name_clusters(published_model(world.config()), NAMES)
    names = refit(world.config(), fit_only=True).names
    assert names[first] == "looked at again"
    assert names[second] == NAMES[second]
    assert all(born.id not in names for born in done.comparison.births)


@pytest.mark.parametrize("what", ["network", "nothing served", "another archive", "no refit", "names"])
def test_what_cannot_be_refitted_is_told_before_any_work(
    world: ServedWorld, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def worked(*_: object, **__: object) -> None:
        raise AssertionError("there was work")

    monkeypatch.setattr(refit_pass, "fit_archive", worked)
    message = {
        "network": "another network .* than that of the served model",
        "nothing served": "so no model is frozen",
        "another archive": "is of another archive",
        "no refit": "is no refit, but what is served has model",
        "names": r"names\.json",
    }[what]
    config, model_id = world.config(), None
    if what == "network":
        write_small_encoder(world.folder / "other", seed=5)
        config = world.config(encoder="other")
    elif what == "nothing served":
        shutil.rmtree(Path(config.root) / "explanations")
    elif what == "another archive":
        other = simulated(tmp_path / "archive2", 16, 16, seed=9)
        served_id = find_dataset(config.root).dataset_id
        config = config.model_copy(update={"archive": config.archive.model_copy(update={"path": other})})
        run_pipeline(config)
        serve(config.root, served_id, "the first one", run_facts())
    elif what == "no refit":
        model_id = published_model(config).name
    else:
        (published_model(config) / "names.json").write_text("[]")
    with pytest.raises(UsageError, match=message):
        refit(config, model_id=model_id)


def test_constructed_births_and_deaths_in_the_comparison(refitted: tuple[ServedWorld, Refit]) -> None:
    _, done = refitted
    old = done.old
    fit = ClusterModel.load(done.model.directory.parent / done.model.info["refit_of"]["fit"])  # type: ignore[union-attr]
    centroids = old.centroids[[5, 4, 3, 2, 1, 0]].copy()
    centroids[2] = -old.centroids[3]
    nearly_empty = {**fit.info["diagnostics"], "nearly_empty": [2]}
    fit = replace(fit, centroids=centroids, info={**fit.info, "diagnostics": nearly_empty})
    matching = match_clusters(old.centroids, fit.centroids, fit.counts)
    model = under_old_ids(fit, matching, old)
    assert (matching.births, matching.deaths) == ((3,), (3,))
    assert model.info["diagnostics"]["nearly_empty"] == [3]
    features = np.concatenate([old.centroids, old.centroids[:3]])
    sample = Sample(records=1, timesteps=len(features), seed=0)
    found = compare(old, model, matching, features, sample, PERSISTS)
    assert [pair.kept for pair in found.persisting] == [1.0] * 5
    assert [pair.relative for pair in found.persisting] == [0.0] * 5
    [born], [dead] = found.births, found.deaths
    assert (born.id, born.share, dead.id, dead.share) == (3, 0.0, 3, pytest.approx(1 / 9))
    assert dead.nearest != 3
    assert found.old.explained_variance == pytest.approx(1.0)
    assert found.new.explained_variance < 1
    assert 0 < found.ari < 1


def test_a_fresh_start_is_another_fit(world: ServedWorld) -> None:
    # On the same archive, what is served is such a fit already.
    assert not refit(world.config(), fit_only=True, fresh=True).changed
    world.grow(5)
    on, fresh = (refit(world.config(), fit_only=True, fresh=fresh) for fresh in (False, True))
    assert on.comparison is not None
    assert fresh.comparison is not None
    assert on.model.model_id != fresh.model.model_id
    assert on.model.info["start"] == {"model_id": on.old.model_id, "digest": on.old.digest}
    assert "start" not in fresh.model.info
    assert len(on.comparison.persisting) >= len(fresh.comparison.persisting)
    assert on.comparison.ari > fresh.comparison.ari
