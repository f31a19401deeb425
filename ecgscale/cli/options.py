"""What several commands share: lists of numbers, sizes in bytes, and where work runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.config import RunConfig, byte_size
from ecgscale.errors import UsageError
from ecgscale.io.places import place
from ecgscale.progress import Progress

if TYPE_CHECKING:
    from ecgscale.passes.spread import Spread
    from ecgscale.passes.workers import OpenPool


class IntegerList(click.ParamType):
    """ "1,2,5" or "1-7,9" → (1, 2, …)."""

    name = "N,N,…"

    def convert(
        self, value: str | tuple[int, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Parse, or fail with what was expected."""
        if isinstance(value, tuple):
            return value
        numbers: list[int] = []
        for part in value.split(","):
            match = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
            if not match:
                self.fail(f"{value!r} is not a list of numbers such as 1,2,5 or 1-7,9", param, ctx)
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                self.fail(f"{value!r}: a range goes upwards, as {last}-{first}", param, ctx)
            numbers.extend(range(first, last + 1))
        return tuple(dict.fromkeys(numbers))


class ByteSize(click.ParamType):
    """ "8GiB", "500M", "1073741824" → bytes."""

    name = "SIZE"

    def convert(self, value: str | int, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or fail with what was expected."""
        if isinstance(value, int):
            return value
        try:
            return byte_size(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class PlaceType(click.ParamType):
    """A path, or s3://BUCKET/PREFIX."""

    name = "PATH"

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The place, or why there is none of that name."""
        try:
            return place(value)
        except UsageError as error:
            self.fail(str(error), param, ctx)


class CommandOfK(click.Command):
    """A command that has --clusters, for those who type --k."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with the hint that click cannot give: no letter of --k says which option is meant."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name.lower() in ("-k", "--k"):
                message = f"{error.message} Did you mean '--clusters'?"
                raise click.NoSuchOption(error.option_name, message, ctx=ctx) from error
            raise


INTEGERS = IntegerList()
PLACE = PlaceType()
BYTES = ByteSize()


def runtime_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --runtime, --workers and --gpus-per-worker; the body takes them as keywords of these names."""
    options = (
        click.option(
            "--runtime",
            type=click.Choice(["local", "ray"]),
            default="local",
            show_default=True,
            help="ray joins the cluster of RAY_ADDRESS, or starts a private one.",
        ),
        click.option("--workers", type=click.IntRange(min=1), help="Processes or Ray actors. Default: 1."),
        click.option(
            "--gpus-per-worker",
            type=click.FloatRange(min=0),
            help="Of Ray actors; a fraction shares a GPU. Default: 1 with --device cuda, else 0.",
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def pool_of(
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
    device: str,
    progress: Progress,
) -> tuple[OpenPool, str]:
    """The pool that these options mean, and the device its workers use ("auto" on Ray: CPUs unless GPUs are given)."""
    from ecgscale.runtime.choose import choose_runtime

    if runtime == "ray" or (workers or 1) > 1:
        gpus = gpus_per_worker if gpus_per_worker is not None else float(device == "cuda")
        device = "cuda" if gpus > 0 or device == "cuda" else "cpu"
        return choose_runtime(runtime, workers, gpus=gpus, progress=progress), device
    return choose_runtime("local", 1), device


@contextmanager
def spread_of(
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
    device: str,
    progress: Progress,
) -> Iterator[tuple[Spread, str]]:
    """Where the tasks of an evaluation are done, and the device of whoever does them; workers end with the block."""
    from ecgscale.passes.spread import Spread

    pool, device = pool_of(runtime, workers, gpus_per_worker, device, progress)
    with Spread(pool, device) as spread:
        yield spread, device


@dataclass(frozen=True)
class Placement:
    """Where the work of a configuration runs: a pool, and the device of who computes."""

    runtime: Literal["local", "ray"]
    workers: int
    device: str
    pool: OpenPool

    def facts(self) -> dict[str, Any]:
        """For the run record."""
        return {"name": self.runtime, "workers": self.workers, "device": self.device}


def placement_of(config: RunConfig, progress: Progress) -> Placement:
    """What `[runtime]` means here.

    In a job that was submitted to a Ray cluster, what the section leaves open is that cluster, and as many workers as
    it has room for when the job starts; anywhere else it is this process.
    """
    from ecgscale.runtime.ray_pool import under_ray_job, workers_that_fit

    where = config.runtime
    runtime, workers = where.name, where.workers
    if under_ray_job():
        if "name" not in where.model_fields_set:
            runtime = "ray"
        if runtime == "ray" and "workers" not in where.model_fields_set:
            gpus = where.gpus_per_worker
            workers = workers_that_fit(gpus if gpus is not None else float(config.device == "cuda"))
    pool, device = pool_of(runtime, workers, where.gpus_per_worker, config.device, progress)
    return Placement(runtime, workers, device, pool)
