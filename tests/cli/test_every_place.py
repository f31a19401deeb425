"""Every command that takes a place takes one in an object store, and one with blanks and umlauts in its name.

Which commands and which of their options are places is asked of the commands themselves: a new one has to be tried
here, or to be named among `ALONE` with the reason.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from ecgscale.cli import main
from ecgscale.cli.options import PlaceType
from ecgscale.io.places import is_remote, place, upload
from ecgscale.io.settings import VARIABLE
from jobs.evaluate import evaluate
from jobs.explain_archive import explain_archive
from jobs.fit_clusters import fit_clusters
from jobs.ingest import ingest
from jobs.nightly import nightly
from jobs.reproduce import reproduce
from tests.archive.sources.formats.exports import edf, levels
from tests.cli.test_help import LEAVES
from tests.worlds.commands.small_root import write_small_root
from tests.worlds.formula.recordings import CANONICAL_LEADS, wave, write_code15, write_ptbxl, write_wfdb
from tests.worlds.once import built_once

JOBS = {
    ("jobs", name): command
    for name, command in {
        "ingest": ingest,
        "fit_clusters": fit_clusters,
        "explain_archive": explain_archive,
        "nightly": nightly,
        "evaluate": evaluate,
        "reproduce": reproduce,
    }.items()
}
COMMANDS = {**LEAVES, **JOBS}

ALONE = {
    ("demo", "directory"): "trains for a minute; it is `run` with a configuration of its own",
    ("fit", "scratch"): "a folder of this machine",
    ("jobs reproduce", "ptbxl"): "trains and fits for minutes; its places are those of a configuration",
    ("jobs reproduce", "code15"): "the same",
    ("jobs reproduce", "out"): "the same",
    ("jobs reproduce", "encoder"): "the same",
}
"""Places that are not tried here, and why."""

ODD = "Ärzte Ordner #1 +%41"

CONFIG = """
root = "root"
batch = 8
device = "cpu"
[archive]
path = "archive"
[encoder]
path = "encoder"
[fit]
clusters = 4
records = 40
max_epochs = 1
[surrogate]
target = "superclasses"
"""
FED = """
root = "root"
[archive]
path = "fed"
source = "wfdb"
src = "wfdb"
[encoder]
path = "encoder"
"""
LAYOUT = """
[signal]
file = "all.npy"
axes = ["record", "lead", "sample"]
leads = ["I", "II", "V1"]
units_per_mv = 1000
sampling_rate = 250
"""

WORDS = """
simulate {base}/made --records 4 --shard-records 2 --seconds 2 --rate 100
ingest ptbxl {base}/ptbxl {base}/ptbxl.archive --pseudonymise {key}
ingest code15 {base}/code15 {base}/code15.archive --pseudonymise {key}
ingest wfdb {base}/wfdb {base}/wfdb.archive --table {base}/labels.csv --id name --pseudonymise {key}
ingest formats {base}/devices {base}/devices.archive --pseudonymise {key}
ingest table {base}/arrays {base}/arrays.archive --layout {base}/layout.toml --pseudonymise {key}
inspect {base}/archive
train {base}/archive --target sex --out {base}/trained --epochs 1 --rate 100 --length 256 --blocks 4x256,4x64,4x16
encoder init {base}/made-of --weights {base}/encoder/weights.safetensors --like {base}/archive {resnet}
encoder check {base}/encoder --like {base}/archive
fit {base}/archive --encoder {base}/encoder --out {base}/root --clusters 3 --records 20 --max-epochs 1 --device cpu
explain {base}/archive --model {base}/root/models/{model} --out {base}/root --batch 8 --device cpu
plot {base}/root {record} --archive {base}/archive -o {base}/ecg.png
report {base}/root --archive {base}/archive -o {base}/report --records 2
figures {base}/root --archive {base}/archive -o {base}/figures --records 1
probe {base}/root --archive {base}/archive --sample 0.02 --only gradcam --device cpu
figures {base}/root --archive {base}/archive -o {base}/study --reader-study 2
surrogate {base}/root --archive {base}/archive --folds patients:2 --bootstrap 10 --trees 2
localise {base}/root --archive {base}/archive --records 4
uncertainty {base}/root --everyone --bootstrap 10
temporal {base}/root --target sex --bootstrap 10 --trees 2
audit {base}/root --folds patients:2 --flips 1 --trees 2
compare {base}/root {base}/root --bootstrap 10
sweep {base}/root --archive {base}/archive --only softmax -o {base}/sweep.svg {quick}
sweep {base}/archive --encoder {base}/encoder --out {base}/swept --only softmax {quick}
plan {base}/c.toml --model {base}/root/models/{model} --rate 10
nightly {base}/c.toml --model {base}/root/models/{model}
status {base}/root --archive {base}/archive
quarantine {base}/root
2 release {base}/root part-00000.parquet --reason why
2 reject {base}/root part-00000.parquet --reason why
verify {base}/root --archive {base}/archive --sample 0.01
jobs ingest --config {base}/fed.toml
jobs evaluate --config {base}/c.toml
jobs explain_archive --config {base}/c.toml --model {base}/root/models/{model}
jobs nightly --config {base}/c.toml --model {base}/root/models/{model}
jobs fit_clusters --config {base}/c.toml
run {base}/c.toml
refit {base}/c.toml --fit-only
promote {base}/root {dataset} --reason why
0,2 rollback {base}/root 1 --reason why --dataset {dataset}
retry-failed {base}/root
gc {base}/root --dry-run
0,1 forget {base}/root {patient} --archive {base}/archive --encoder {base}/encoder --dry-run
2 forget {base}/root nobody --archive {base}/archive --key {key} --dry-run
"""
"""Every command, in this order, with the exit codes that are right where 0 is not."""


@dataclass(frozen=True)
class World:
    """A small root, its archive and encoder, sources and configurations below `base`."""

    base: str
    key: Path
    names: dict[str, str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, "every place", fill)


def fill(folder: Path) -> None:
    write_small_root(folder)
    write_ptbxl(folder / "ptbxl")
    write_code15(folder / "code15")
    write_wfdb(folder / "wfdb" / "Tag 1", "a", wave(0, 12, 300), CANONICAL_LEADS)
    (folder / "labels.csv").write_text("name,AF\na,1\n")
    (folder / "devices").mkdir()
    edf(folder / "devices" / "Ä 1.edf", levels())
    (folder / "arrays").mkdir()
    np.save(folder / "arrays" / "all.npy", np.stack([wave(i, 3, 300) for i in range(4)]))
    (folder / "layout.toml").write_text(LAYOUT)
    (folder / "c.toml").write_text(CONFIG)
    (folder / "fed.toml").write_text(FED)


@pytest.fixture(params=["disk", "s3"])
def world(request: pytest.FixtureRequest, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    key = tmp_path / "Schlüssel 1.key"
    key.touch(0o600)
    key.write_bytes(secrets.token_bytes(32))
    if request.param == "disk":
        base = f"{tmp_path}/{ODD}"
        shutil.copytree(small, base)
    else:
        base = f"{request.getfixturevalue('s3_root')}/{ODD}"
        upload(small, base)
    [model] = [path.name for path in (small / "root" / "models").iterdir()]
    [dataset] = [path.name for path in (small / "root" / "explanations").iterdir() if not path.name.startswith("_")]
    return World(base, key, {"model": model, "dataset": dataset, "record": "sim1-0000001", "patient": "sim1-p000001"})


@pytest.fixture(params=["nothing", "file", "folders", "files", "bucket", "prefix", "dead"])
def wrong(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Nothing is where it should be: nothing at all, files for folders, empty folders, no bucket, an empty one, a store
    that does not answer."""
    base = f"{tmp_path}/{ODD}"
    key = tmp_path / "no.key"
    names = ("root", "archive", "encoder", "ptbxl", "code15", "wfdb", "c.toml", "fed.toml")
    if request.param == "file":
        Path(base).write_text("not a folder")
    elif request.param == "folders":
        for name in names:
            (Path(base) / name).mkdir(parents=True)
    elif request.param == "files":
        Path(base).mkdir()
        for name in names:
            (Path(base) / name).write_text("nothing")
    elif request.param in ("bucket", "prefix"):
        s3_root = request.getfixturevalue("s3_root")
        base = f"{s3_root if request.param == 'prefix' else 's3://no-such-bucket'}/{ODD}"
    elif request.param == "dead":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "testing")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        monkeypatch.setenv(VARIABLE, '{"attempts": 1}')
        base = f"s3://bucket/{ODD}"
    return World(base, key, {"model": "k4-0", "dataset": "0" * 16, "record": "1", "patient": "1"})


def calls(world: World) -> Iterator[tuple[tuple[str, ...], list[str], set[int]]]:
    """Each command, its arguments and the exit codes that are right."""
    resnet = "--factory ecgscale.encoders.resnet1d:ResNet1d --length 256 --argument input_dim=[12,256]"
    resnet += " --argument blocks_dim=[[8,256],[12,64],[16,16]] --argument n_classes=5 --argument kernel_size=5"
    quick = "--clusters 2 --base 2 --train-records 20 --seeds 1 --records 60 --max-epochs 1 --trees 2 --device cpu"
    for line in WORDS.strip().splitlines():
        words = line.replace("{quick}", quick).replace("{resnet}", resnet).split()
        codes = {int(code) for code in words.pop(0).split(",")} if words[0][0].isdigit() else {0}
        path = next(path for path in (tuple(words[:1]), tuple(words[:2])) if path in COMMANDS)
        filled = [word.format(base=world.base, key=world.key, **world.names) for word in words[len(path) :]]
        yield path, filled, codes


def places_of(command: click.Command) -> set[str]:
    return {str(parameter.name) for parameter in command.params if isinstance(parameter.type, PlaceType)}


def test_places_have_one_type() -> None:
    """What click calls a path would make one slash of the two in s3://."""
    for path, command in COMMANDS.items():
        for parameter in command.params:
            assert not isinstance(parameter.type, click.Path | click.File), (path, parameter.name)


def test_every_command_takes_a_place_anywhere(world: World) -> None:
    tried = set()
    for path, words, codes in calls(world):
        command = COMMANDS[path]
        # Below the group, as when typed: a command keeps the options for help of the first context that asks for them.
        group = click.Context(main, **main.context_settings)
        with command.make_context("ecgscale", list(words), parent=group, resilient_parsing=True) as context:
            given = {name for name in places_of(command) if context.params.get(name)}
        tried |= {(" ".join(path), name) for name in given}
        result = CliRunner().invoke(command, words, parent=group)
        said = f"{' '.join(path)} {' '.join(words)}\n{result.output}"
        assert result.exception is None or isinstance(result.exception, SystemExit), (said, result.exc_info)
        assert result.exit_code in codes, said
        assert "Traceback" not in result.output, said
    everything = {(" ".join(path), name) for path, command in COMMANDS.items() for name in places_of(command)}
    assert everything - tried == set(ALONE)
    written = ("made", "trained/encoder.toml", "ecg.png", "report/index.html", "study.key.csv", "sweep.svg")
    assert [name for name in written if not place(f"{world.base}/{name}").exists()] == []
    if is_remote(world.base):
        # Nothing of it was taken for a folder of that name here.
        assert not Path("s3:").exists()


def test_a_wrong_place_is_told_in_a_line_by_every_command(wrong: World) -> None:
    for path, words, _ in calls(wrong):
        if path[-1] in ("simulate", "demo"):
            continue  # make what is not there
        if "--pseudonymise" in words:
            del words[words.index("--pseudonymise") :]
        result = CliRunner().invoke(COMMANDS[path], words)
        said = f"{' '.join(path)} {' '.join(words)}\n{result.output}"
        assert isinstance(result.exception, SystemExit), (said, result.exc_info)
        assert result.exit_code in (1, 2), said
        lines = [line for line in result.stderr.splitlines() if line.lower().startswith("error: ")]
        assert len(lines) == 1, said
