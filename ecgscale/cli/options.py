"""What several commands share: kinds of values, options made of the configuration, and where work runs."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ecgscale.archive_config import PlaceField
from ecgscale.cli.command import command, say
from ecgscale.config import RunConfig, RuntimeConfig, load_config
from ecgscale.errors import UsageError
from ecgscale.io.places import is_remote, place
from ecgscale.progress import Progress
from ecgscale.words import byte_size, counted, cropped_line

if TYPE_CHECKING:
    from ecgscale.passes.explain.explain import ExplainResult
    from ecgscale.passes.spread import Spread
    from ecgscale.passes.workers import OpenPool
    from ecgscale.runtime.run_record import RunRecord

F = TypeVar("F", bound=Callable[..., Any])


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


class FolderType(PlaceType):
    """A folder of this machine that is there."""

    def convert(self, value: str | Path, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The folder, or why it is none."""
        found = super().convert(value, param, ctx)
        if is_remote(found):
            self.fail(f"{found}: has to be a folder of this machine", param, ctx)
        if not found.is_dir():
            self.fail(f"{found}: no such folder", param, ctx)
        return found


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


class LeadMap(click.ParamType):
    """ "ECG1=II,ECG2=V5" → {"ECG1": "II", "ECG2": "V5"}."""

    name = "NAME=LEAD,…"

    def convert(
        self, value: str | dict[str, str], param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        """Parse, or fail with what was expected."""
        from ecgscale.leads import read_lead_map

        if isinstance(value, dict):
            return value
        try:
            return read_lead_map(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


INTEGERS = IntegerList()
LEAD_MAP = LeadMap()
PLACE = PlaceType()
FOLDER = FolderType()
BYTES = ByteSize()


def option_of(model: type[BaseModel], field: str, name: str | None = None, **given: Any) -> Callable[[F], F]:
    """The option `name` (--field-with-hyphens by default) of a field of a configuration.

    Type, bounds, choices, default and description are the field's; what is `given` is said to click instead.
    """
    info = model.model_fields[field]
    attributes: dict[str, Any] = {"help": info.description, "type": _type_of(info)}
    if info.is_required():
        attributes["required"] = True
    elif attributes["type"] is click.BOOL:
        attributes |= {"type": None, "is_flag": True}
    elif get_origin(info.annotation) is tuple and get_args(info.annotation)[0] in (str, PlaceField):
        attributes["multiple"] = True
    elif info.default is not None:
        default = float(info.default) if info.annotation is float else info.default
        attributes |= {"default": default, "show_default": default != ()}
    return click.option(name or f"--{field.replace('_', '-')}", **{**attributes, **given})


def options_of(model: type[BaseModel], *fields: str) -> Callable[[F], F]:
    """The options of several fields, in this order."""

    def decorate(function: F) -> F:
        for field in reversed(fields):
            function = option_of(model, field)(function)
        return function

    return decorate


def _type_of(info: FieldInfo) -> click.ParamType:
    """What click has to take for a field: without None, which is an option left out."""
    kinds = [kind for kind in get_args(info.annotation) if kind is not NoneType]
    kind = kinds[0] if NoneType in get_args(info.annotation) else info.annotation
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if get_origin(kind) is tuple:
        return INTEGERS if get_args(kind)[0] is int else click.STRING
    names = ("gt", "ge", "lt", "le")
    bounds = {name: getattr(rule, name) for rule in info.metadata for name in names if hasattr(rule, name)}
    low, high = bounds.get("ge", bounds.get("gt")), bounds.get("le", bounds.get("lt"))
    if kind is int:
        return click.IntRange(low + ("gt" in bounds), high) if low is not None else click.INT
    if kind is float and bounds:
        return click.FloatRange(low, high, min_open="gt" in bounds, max_open="lt" in bounds)
    plain: dict[Any, click.ParamType] = {bool: click.BOOL, float: click.FLOAT, Path: PLACE}
    return plain.get(kind, click.STRING)


recompute_option = click.option(
    "--allow-recompute", is_flag=True, help="Compute published records again where their source has changed."
)
withdrawal_option = click.option(
    "--allow-withdrawal", is_flag=True, help="Withdraw many published records whose shards are gone from the archive."
)
dataset_option = click.option("--dataset", metavar="ID", help="Which explanations; by default those that are served.")
archive_option = click.option("--archive", type=PLACE, help="Where the archive is now, if it moved.")
target_option = click.option(
    "--target", metavar="COLUMN", help="Label column; by default the one the encoder was trained on."
)
rotation_option = click.option(
    "--folds", metavar="fold|patients:N", help="Cross-validate by the archive's folds, or by patient."
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)
bootstrap_option = click.option(
    "--bootstrap",
    "n_bootstrap",
    type=click.IntRange(10),
    default=1000,
    show_default=True,
    help="Resamples of patients.",
)
device_option = option_of(RunConfig, "device")


def trees_option(default: int) -> Callable[[F], F]:
    """--trees of a command's forests."""
    return click.option("--trees", type=click.IntRange(1), default=default, show_default=True, help="Of each forest.")


@dataclass(frozen=True)
class Placement:
    """Where work runs: a pool, and the device of who computes."""

    runtime: Literal["local", "ray"]
    workers: int
    device: str
    pool: OpenPool

    def facts(self) -> dict[str, Any]:
        """For the run record."""
        return {"name": self.runtime, "workers": self.workers, "device": self.device}


@dataclass(frozen=True)
class Where:
    """--runtime, --workers and --gpus-per-worker, as they were typed or stand in a configuration."""

    runtime: Literal["local", "ray"]
    workers: int | None
    gpus_per_worker: float | None

    def placement(self, device: str, progress: Progress) -> Placement:
        """The pool that they mean, and the device its workers use ("auto" on Ray: CPUs unless GPUs are given)."""
        from ecgscale.runtime.scheduler import choose_runtime

        workers, gpus = self.workers or 1, self.gpus_per_worker
        if self.runtime == "local" and workers == 1:
            return Placement("local", 1, device, choose_runtime("local", 1))
        gpus = gpus if gpus is not None else float(device == "cuda")
        device = "cuda" if gpus > 0 or device == "cuda" else "cpu"
        pool = choose_runtime(self.runtime, self.workers, gpus=gpus, progress=progress)
        return Placement(self.runtime, workers, device, pool)

    @contextmanager
    def spread(self, device: str, progress: Progress) -> Iterator[tuple[Spread, str]]:
        """Where the tasks of an evaluation are done, and the device of whoever does them; workers end with it."""
        from ecgscale.passes.spread import Spread

        place = self.placement(device, progress)
        with Spread(place.pool, place.device) as spread:
            yield spread, place.device


def runtime_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --runtime, --workers and --gpus-per-worker; the body takes them together, as `where`."""

    @option_of(RuntimeConfig, "name", "--runtime")
    @option_of(RuntimeConfig, "workers", default=None, show_default=False)
    @option_of(RuntimeConfig, "gpus_per_worker")
    @functools.wraps(function)
    def wrapped(
        *args: Any, runtime: Literal["local", "ray"], workers: int | None, gpus_per_worker: float | None, **options: Any
    ) -> Any:
        return function(*args, where=Where(runtime, workers, gpus_per_worker), **options)

    return wrapped


def placement_of(config: RunConfig, progress: Progress) -> Placement:
    """What `[runtime]` means here.

    In a job that was submitted to a Ray cluster, what the section leaves open is that cluster, and as many workers as
    it has room for when the job starts; anywhere else it is this process.
    """
    from ecgscale.runtime.ray_pool import under_ray_job, workers_that_fit

    where = config.runtime
    runtime, workers, gpus = where.name, where.workers, where.gpus_per_worker
    if under_ray_job():
        if "name" not in where.model_fields_set:
            runtime = "ray"
        if runtime == "ray" and "workers" not in where.model_fields_set:
            workers = workers_that_fit(gpus if gpus is not None else float(config.device == "cuda"))
    return Where(runtime, workers, gpus).placement(config.device, progress)


@dataclass(frozen=True)
class Job:
    """The job of a configuration on its way: where it runs, and the record that it leaves below ROOT."""

    config: RunConfig
    where: Placement
    progress: Progress
    record: RunRecord

    def explained(self, result: ExplainResult) -> dict[str, Any]:
        """Record and say what an explain pass did; the facts of the job."""
        self.record.add(result.exit_code, explained=result.to_dict())
        return {**say_explained(result), "exit_code": int(result.exit_code)}


@contextmanager
def job_of(config: RunConfig, name: str, progress: Progress) -> Iterator[Job]:
    """Do the work of the block where `[runtime]` says; the record is written when it ends, however it ends."""
    from ecgscale.runtime.run_record import run_record

    where = placement_of(config, progress)
    with run_record(config.root, name, where.facts(), progress) as record:
        yield Job(config, where, progress, record)


def say_explained(result: ExplainResult) -> dict[str, Any]:
    """Print how many records were explained, and where they are; all facts."""
    facts = result.to_dict()
    say(f"{counted(facts['records'], 'record')} explained, {facts['quarantined']} quarantined: {facts['path']}")
    if result.cropped:
        say(cropped_line(result.cropped, result.network_seconds))
    return facts


RAY_COPIES = "working_dir_files"
"""The folder of a node in which Ray unpacks what `--working-dir` sent."""

config_option = click.option(
    "--config",
    "config_path",
    required=True,
    type=PLACE,
    help="The file that `ecgscale run` takes. Relative paths in it are relative to the file.",
)
model_option = click.option("--model", type=PLACE, help="Explain with this model: ROOT/models/ID.")


def job(function: Callable[..., dict[str, Any]]) -> Callable[..., None]:
    """Make a job of a function that takes a `Job` (and its own options) and returns facts.

    Put it below `config_option`. Exit codes, SIGTERM and `--json` are those of any command.
    """

    @command
    def body(progress: Progress, config_path: Path, **options: Any) -> dict[str, Any]:
        config = load_config(config_path)
        _require_lasting(config, config_path)
        with job_of(config, f"jobs/{function.__name__}", progress) as done:
            facts = function(done, **options)
        return {**facts, "run": str(config.root / done.record.key)}

    body.__name__, body.__doc__ = function.__name__, function.__doc__
    return body


def _require_lasting(config: RunConfig, config_path: Path) -> None:
    """Raise UsageError for a path within the copy of the working directory that Ray makes for a job and throws away."""
    for name, path in (("root", config.root), ("archive", config.archive.path), ("encoder", config.encoder.path)):
        if not is_remote(path) and RAY_COPIES in path.resolve().parts:
            raise UsageError(
                f"{config_path}: {name} would lie in {path.resolve()}, which Ray throws away. In a submitted job, give"
                " absolute paths on storage that all nodes share, or name a configuration that lies there"
            )
