"""Job configurations: wrong keys name the right one, paths are relative to the file, equal content has one digest."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from ecgscale.config import RunConfig, load_config
from ecgscale.errors import UsageError
from ecgscale.io.settings import StoreError, s3
from ecgscale.passes.run.pipeline import fit_request, train_settings
from ecgscale.words import byte_size

REPOSITORY = Path(__file__).resolve().parent.parent
SHIPPED = sorted((REPOSITORY / "configs").glob("*.toml"))

LEAST = """
root = "results"
[archive]
path = "archive"
[encoder]
path = "encoder"
"""


def write(folder: Path, text: str = LEAST) -> Path:
    path = folder / "job.toml"
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_config(write(folder, text))
    sentence = str(caught.value)
    assert sentence.startswith(str(folder / "job.toml"))
    return sentence


def test_two_sections_are_enough(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    assert (config.root, config.archive.path) == (tmp_path / "results", tmp_path / "archive")
    assert (config.fit.clusters, config.fit.folds, config.batch, config.surrogate) == (20, None, 32, None)
    with pytest.raises(Exception, match="frozen"):
        config.batch = 4


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_configurations_that_come_along_load(path: Path) -> None:
    config = load_config(path)
    assert config.archive.src is not None
    assert fit_request(config, "cpu").settings.seed == config.fit.seed
    if config.train is not None:
        assert train_settings(config.train, config.device).target == config.train.target
    else:
        assert path.name == "nightly-s3.toml"  # the one that brings its encoder along
    assert f"ecgscale run configs/{path.name}" in path.read_text()


def test_there_are_some() -> None:
    assert {path.name for path in SHIPPED} >= {"ptbxl.toml", "code15.toml"}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ('roots = "x"', "unknown key roots; known are root, archive"),
        ("[fit]\ncluster = 5", "unknown key fit.cluster; known are clusters"),
        ("[fitt]\nclusters = 5", "unknown key fitt"),
        ('[train]\ntarget = "age"\nvalidation_fold = [8]', "Did you mean 'validation_folds'?"),
        ('[surrogate]\ntargets = "age"', "Did you mean 'target'?"),
    ],
)
def test_an_unknown_key_names_the_nearest_right_one(tmp_path: Path, wrong: str, sentence: str) -> None:
    section, top = (wrong, "") if wrong.startswith("[") else ("", wrong)
    message = refused(tmp_path, f"{top}\n{LEAST}\n{section}")
    assert sentence in message
    assert "Did you mean" in message


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ("[fit]\nclusters = 1", "fit.clusters: expected 2 or more (it is 1)"),
        ('[fit]\nalgorithm = "elkan"', "fit.algorithm"),
        ("[fit]\ntau = nan", "fit.tau: expected a finite number"),
        ("[fit]\ntau = 0.0", "fit.tau: expected more than 0 (it is 0.0)"),
        ('[fit]\nclusters = "x"', "fit.clusters: expected a whole number (it is 'x')"),
        ("[fit]\nfolds = 3", "fit.folds: expected a list in brackets, as [1, 2, 3] (it is 3)"),
        ('[nightly]\ndeadline = "5:30"', """nightly.deadline: expected HH:MM, as "05:30" (it is '5:30')"""),
        ("[nightly]\ndeadline = 5", 'nightly.deadline: expected HH:MM, as "05:30" (it is 5)'),
        ("[surrogate]\ntarget = 5", "surrogate.target: expected a text in quotes (it is 5)"),
        ("[fit]\ngamma = 3", "fit.gamma"),
        ('[explain]\nentropy = "sample"', "'none' or 'timestep'"),
        ('[train]\nepochs = "many"\ntarget = "age"', "train.epochs"),
        ("[train]\nepochs = 3", "train.target is missing"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(tmp_path: Path, changes: str, sentence: str) -> None:
    assert sentence in refused(tmp_path, LEAST + changes)


def test_an_address_with_a_password_is_not_repeated(tmp_path: Path) -> None:
    sentence = refused(tmp_path, LEAST + '[storage]\nendpoint = "https://me:secret@store"')
    assert "storage.endpoint: expected an address such as" in sentence
    assert "secret" not in sentence


def test_all_errors_are_told_at_once(tmp_path: Path) -> None:
    sentence = refused(tmp_path, 'colour = 1\n[archive]\npath = "a"\n[encoder]\n[fit]\nclusters = 0')
    assert all(key in sentence for key in ("root is missing", "encoder.path is missing", "colour", "fit.clusters"))


def test_a_source_without_a_folder_is_told(tmp_path: Path) -> None:
    text = LEAST.replace('path = "archive"', 'path = "archive"\nsource = "ptbxl"')
    assert "archive.source is 'ptbxl', so archive.src has to name its folder" in refused(tmp_path, text)
    simulated = text.replace("ptbxl", "simulate")
    assert load_config(write(tmp_path, simulated)).archive.src is None


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"No such file.*such as configs/ptbxl\.toml"):
        load_config(tmp_path / "nowhere.toml")
    assert (REPOSITORY / "configs" / "ptbxl.toml").is_file()
    with pytest.raises(UsageError, match="Is a directory"):
        load_config(tmp_path)
    assert "is not TOML" in refused(tmp_path, "root = results")
    (tmp_path / "job.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="is not TOML"):
        load_config(tmp_path / "job.toml")


def test_paths_are_relative_to_the_file_wherever_one_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = LEAST.replace('path = "archive"', 'path = "/data/archive"\nsource = "code15"\nsrc = "../src"')
    (tmp_path / "configs").mkdir()
    path = write(tmp_path / "configs", text)
    absolute = load_config(path)
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/job.toml") == absolute
    assert absolute.archive.path == Path("/data/archive")
    assert absolute.archive.src == tmp_path / "configs" / ".." / "src"
    assert absolute.encoder.path == tmp_path / "configs" / "encoder"


def test_a_configuration_in_a_bucket(s3_root: str, tmp_path: Path) -> None:
    text = LEAST.replace('"encoder"', f'"{tmp_path}/encoder"')
    s3().pipe_file(f"{s3_root}/job.toml", text.encode())
    config = load_config(f"{s3_root}/job.toml")
    assert (str(config.root), str(config.archive.path)) == (f"{s3_root}/results", f"{s3_root}/archive")
    assert config.encoder.path == tmp_path / "encoder"
    with pytest.raises(StoreError, match=r"cannot read s3://.*/nowhere\.toml"):
        load_config(f"{s3_root}/nowhere.toml")


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    def digest(text: str) -> str:
        return load_config(write(tmp_path, text)).digest

    same = (
        '# by hand\n[encoder]\npath = "./encoder"\n[archive]\npath = "archive"\nrecords = 1000\n[fit]\nclusters = 20\n'
    )
    assert digest(LEAST) == digest(f'root = "results"\n{same}')
    assert digest(LEAST) != digest(f"{LEAST}\n[fit]\nseed = 1")
    assert len(digest(LEAST)) == 64


def test_the_model_covers_what_the_page_prints() -> None:
    page = (REPOSITORY / "docs" / "running.md").read_text()
    [block] = [b for b in page.split("```toml")[1:] if "[surrogate]" in b]
    content: dict[str, Any] = tomllib.loads(block.split("```")[0])
    config = RunConfig.model_validate(content)
    assert config.fit.folds == (1, 2, 3, 4, 5, 6, 7, 8)
    assert set(RunConfig.model_fields) - set(content) <= {"runtime", "storage", "nightly", "gates"}


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GiB", 8 * 2**30), ("500M", 500 * 2**20), ("1.5 kb", 1536), ("1073741824", 2**30), ("2t", 2**41)],
)
def test_sizes(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "GiB", "eight GiB", "8GiGB", "8X", "nan", "inf", "8 8 G"])
def test_what_is_no_size(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a size such as 8GiB"):
        byte_size(text)
    assert "memory:" in refused(tmp_path, f'memory = "{text}"\n{LEAST}')
