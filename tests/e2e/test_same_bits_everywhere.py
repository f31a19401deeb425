"""The same bits everywhere: centroids and files from one process, from pools of any size and kind, and with deaths."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import ecgscale.passes.fit.fit as fit_pass
from ecgscale.archive.reader import Archive
from ecgscale.passes.explain.explain import explain_archive
from ecgscale.passes.fit.fit import fit_archive
from ecgscale.passes.workers import OpenPool, in_process
from ecgscale.progress import SILENT, Progress
from ecgscale.runtime.processes import ProcessBackend
from ecgscale.runtime.ray_pool import RayBackend
from ecgscale.runtime.scheduler import Backend, Scheduler
from tests.runtime.interrupted import Accident, pool_on
from tests.runtime.ray_clusters import nodes
from tests.worlds.commands.explaining import Watching
from tests.worlds.commands.simulated import request, simulated
from tests.worlds.formula.small_networks import write_small_encoder

RECORDS, SHARD_RECORDS, CLUSTERS = 46, 6, (3, 5)
SETTINGS: dict[str, dict[str, Any]] = {
    "minibatch": {"max_epochs": 2},
    "lloyd": {"algorithm": "lloyd", "max_iterations": 8},
}


@dataclasses.dataclass(frozen=True)
class Everywhere:
    """An archive of 8 shards (the last one short), an encoder, and what one process makes of them."""

    archive: Path
    encoder: Path
    root: Path
    fitted: dict[str, dict[str, str]]
    files: dict[str, str]

    def fit(
        self, algorithm: str, root: Path, pool: OpenPool = in_process, progress: Progress = SILENT
    ) -> dict[str, str]:
        """Model id → digest of its facts, for both K."""
        wanted = request(clusters=CLUSTERS, batch=4, settings=SETTINGS[algorithm])
        models = fit_archive(Archive.open(self.archive), self.encoder, root, wanted, progress, pool)
        assert not any(model.already_there for model in models)
        return {one.model.model_id: f"{one.model.digest} {one.model.info['history']}" for one in models}

    def explain(self, root: Path, pool: OpenPool = in_process) -> dict[str, str]:
        """Name → digest of every output file; the names hold digests of the content, and are equal too."""
        model = self.root / "models" / min(self.fitted["minibatch"])
        result = explain_archive(
            Archive.open(self.archive), model, root, entropy="timestep", batch=4, device="cpu", pool=pool
        )
        assert (result.exit_code, result.shards, result.records) == (0, 8, RECORDS)
        # A worker that was killed may have committed its shard and not come to say so: then nobody computed it again.
        assert result.computed in (7, 8)
        return digests(Path(result.path))


def digests(dataset: Path) -> dict[str, str]:
    """Of what was put in place; a killed process may leave files that start with _tmp-, which nobody refers to."""
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(dataset.glob("data/part-*"))}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Everywhere:
    folder = tmp_path_factory.mktemp("everywhere")
    archive = simulated(folder / "archive", RECORDS, SHARD_RECORDS)
    here = Everywhere(archive, write_small_encoder(folder / "encoder", seed=3), folder / "root", {}, {})
    for algorithm in SETTINGS:
        here.fitted[algorithm] = here.fit(algorithm, here.root)
    here.files.update(here.explain(here.root))
    assert len(here.files) == 8
    return here


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """This process is connected to a cluster with room for eight workers."""
    with nodes({"num_cpus": 8}, connect=True):
        yield


def processes(workers: int) -> Callable[[], Backend]:
    return lambda: ProcessBackend(workers)


def actors(workers: int) -> Callable[[], Backend]:
    return lambda: RayBackend(workers)


def spilled(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Let a worker keep this share of the records in memory."""
    planned = fit_pass.plan_memory

    def less(*arguments: Any, **named: Any) -> Any:
        plan = planned(*arguments, **named)
        return dataclasses.replace(plan, cache_budget=int(plan.cache_resident * share))

    monkeypatch.setattr(fit_pass, "plan_memory", less)


@pytest.mark.parametrize(
    ("algorithm", "workers", "accident", "in_memory"),
    [
        ("minibatch", 2, Accident("assign", 5), None),
        ("minibatch", 8, Accident("fill"), 0.05),
        ("lloyd", 3, Accident("sample"), 0.2),
    ],
)
def test_fits_on_processes(
    world: Everywhere,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    workers: int,
    accident: Accident,
    in_memory: float | None,
) -> None:
    if in_memory is not None:
        spilled(monkeypatch, in_memory)
    assert world.fit(algorithm, tmp_path, pool_on(processes(workers), accident)) == world.fitted[algorithm]
    assert accident.deaths == 1


def test_a_fit_that_was_stopped_goes_on_somewhere_else(
    world: Everywhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(pool: Scheduler, but: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fit_pass, "Checkpoint", partial(fit_pass.Checkpoint, interval_s=0.0))
    with pytest.raises(KeyboardInterrupt):
        world.fit("minibatch", tmp_path, pool_on(processes(3), Accident("assign", 6, stop)))
    assert not (tmp_path / "models").exists()
    progress = Watching()
    assert world.fit("minibatch", tmp_path, pool_on(processes(2)), progress) == world.fitted["minibatch"]
    assert "going on from step 5" in progress.said


@pytest.mark.parametrize(("workers", "accident"), [(2, None), (3, Accident("commit")), (8, Accident("commit"))])
def test_files_from_processes(world: Everywhere, tmp_path: Path, workers: int, accident: Accident | None) -> None:
    assert world.explain(tmp_path, pool_on(processes(workers), accident)) == world.files
    assert accident is None or accident.deaths == 1


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(
    ("algorithm", "workers", "accident"),
    [
        ("lloyd", 1, None),
        ("lloyd", 2, Accident("assign", 2)),
        ("minibatch", 3, None),
        ("minibatch", 8, Accident("fill")),
    ],
)
def test_fits_on_actors(
    world: Everywhere, tmp_path: Path, algorithm: str, workers: int, accident: Accident | None
) -> None:
    assert world.fit(algorithm, tmp_path, pool_on(actors(workers), accident)) == world.fitted[algorithm]
    assert accident is None or accident.deaths == 1


@pytest.mark.usefixtures("ray_here")
@pytest.mark.parametrize(("workers", "accident"), [(3, Accident("commit")), (8, None)])
def test_files_from_actors(world: Everywhere, tmp_path: Path, workers: int, accident: Accident | None) -> None:
    assert world.explain(tmp_path, pool_on(actors(workers), accident)) == world.files
    assert accident is None or accident.deaths == 1
