"""The documentation as a program: its fenced blocks, found and run as a reader would run them.

A block's language says what becomes of it:

    sh       line by line: `ecgscale` commands are run, and `cp` of one file; make targets have to exist; installing is
             taken as done, and `export`ed settings of the storage are checked
    python   run, in one namespace a page; a block that begins with `# name.py` is written to that file instead
    sql      run by DuckDB, which sees the page's Python variables; rows are kept by the heading above
    toml     checked as a configuration, a contract or a layout; beginning with `# folder/name.toml`, written there too
    text     not run

A reader has data, hours and eyes that a test has not, so some things stand for others (`_stand_in`):

    path/to/NAME       the folder of real recordings where there is one; else the demo's archive takes the place of
                       what `ecgscale ingest` would write
    RECORD_ID          a recording that was explained
    DATASET            in SQL: the dataset that is served
    s3://hospital      a bucket of a server on loopback, where the test makes one
    ecgscale demo      a smaller one, which is there
    ecgscale train     with a network and a number of epochs that take seconds
    forests            of ten trees (`surrogate`, `sweep`, `temporal`, `audit`)
    ecgscale run configs/…    the configuration is checked, not run
"""

from __future__ import annotations

import glob
import json
import os
import re
import shlex
import shutil
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pytest
from click.testing import CliRunner

from ecgscale import open_explanations
from ecgscale.archive_config import Layout
from ecgscale.cli import main
from ecgscale.config import load_config
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.io.settings import VARIABLE, StorageSettings
from ecgscale.store import find_dataset

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
DEMO = "ecgscale-demo"

FOLDERS = {
    "path/to/ptb-xl": "ptbxl",
    "path/to/code15": "code15",
    "path/to/ludb": "ludb",
    "path/to/cinc": "cinc",
}
SMALL_NETWORK = shlex.split("--epochs 1 --rate 100 --length 1024 --blocks 8x1024,8x256,12x128,16x64,24x16")
FORESTERS = ("surrogate", "sweep", "temporal", "audit")
INSTALLING = ("python3 -m venv ", ".venv/bin/pip install ", ". .venv/bin/activate")


@dataclass(frozen=True)
class Block:
    """One fenced block: the page, the line it begins at, its language, what is in it, and the heading above."""

    page: Path
    line: int
    language: str
    text: str
    heading: str = ""

    @property
    def place(self) -> str:
        """For messages."""
        return f"{self.page.name}, line {self.line}"


def blocks_of(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    inside: list[str] | None = None
    language, first, heading = "", 0, ""
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = re.match(r"```(\w*)\s*$", line)
        if fence and inside is None:
            inside, language, first = [], fence[1], number
        elif fence and inside is not None:
            yield Block(page, first, language, "\n".join(inside) + "\n", heading)
            inside = None
        elif inside is not None:
            inside.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    assert inside is None, f"{page.name}, line {first}: a block that does not end"


def make_targets() -> set[str]:
    """Targets of the Makefile."""
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


@dataclass
class Reader:
    """Somebody who types a page from top to bottom, in the working directory, with the demo's folder in it."""

    real_data: Path | None
    variables: dict[str, Any] = field(default_factory=lambda: {"__name__": "__page__", "duckdb": duckdb})
    rows: defaultdict[str, list[list[tuple[Any, ...]]]] = field(default_factory=lambda: defaultdict(list))

    def run(self, block: Block) -> None:
        """Do what the block says; AssertionError with its place when that does not work."""
        run = {"sh": self._shell, "python": self._python, "sql": self._sql, "toml": self._toml}.get(block.language)
        assert run or block.language == "text", f"{block.place}: a block of {block.language or 'no language'}"
        try:
            if run:
                run(block)
        except Exception as error:
            raise AssertionError(f"{block.place}: {type(error).__name__}: {error}\n{block.text}") from error

    def _shell(self, block: Block) -> None:
        for line in block.text.replace("\\\n", " ").splitlines():
            if line.startswith("make "):
                assert line.split()[1] in make_targets(), f"no such target: {line}"
            elif line.startswith("ecgscale "):
                self._command(line)
            elif line.startswith("cp "):
                shutil.copyfile(*shlex.split(line)[1:])
            elif line.startswith("export "):
                _check_exported(line)
            else:
                assert line.startswith(INSTALLING) or not line.strip(), f"nobody knows how to run: {line}"

    def _command(self, line: str) -> None:
        typed, _, piped = line.partition(" | ")
        words = self._stand_in([path for word in shlex.split(typed)[1:] for path in _expanded(word)])
        if words is None:
            return
        result = CliRunner().invoke(main, words, prog_name="ecgscale")
        assert result.exit_code == 0, f"{line}\n{result.output}{result.exception!r}"
        if piped:
            assert piped == "tail -1", f"nobody knows how to pipe into {piped}"
            json.loads(result.stdout.splitlines()[-1])

    def _stand_in(self, words: list[str]) -> list[str] | None:
        """The words to run instead; None when something else was done in their place."""
        if words[0] == "ingest" and words[2] in FOLDERS:
            if self.real_data is None:
                shutil.copytree(Path(DEMO) / "archive", words[3])
                return None
            words[2] = str(self.real_data / FOLDERS[words[2]])
        if words == ["demo"]:
            assert Path(DEMO, "demo.toml").exists()
            return None
        if words[0] == "train":
            words += SMALL_NETWORK
        if words[0] in FORESTERS:
            words += ["--trees", "10"]
        if words[0] == "run" and words[1].startswith("configs/"):
            load_config(REPOSITORY / words[1])
            return None
        return [_any_record(words[1]) if word == "RECORD_ID" else word for word in words]

    def _python(self, block: Block) -> None:
        named = re.match(r"# (\w+\.py)\n", block.text)
        if named:
            Path(named[1]).write_text(block.text, encoding="utf-8")
        else:
            exec(compile(block.text, block.place, "exec"), self.variables)

    def _sql(self, block: Block) -> None:
        # Within the page's namespace, since that is where DuckDB looks for `explanations`.
        text = block.text
        self.variables["_sql"] = text.replace("DATASET", _served(f"{DEMO}/results")) if "DATASET" in text else text
        exec("_rows = duckdb.sql(_sql).fetchall()", self.variables)
        self.rows[block.heading].append(self.variables["_rows"])

    def _toml(self, block: Block) -> None:
        content = tomllib.loads(block.text)
        named = re.match(r"# (\S+/\S+\.toml)\n", block.text)
        if content.keys() <= EncoderSpec.model_fields.keys():
            EncoderSpec.model_validate(content if "name" in content else _whole_contract(content))
        elif "signal" in content:
            Layout.model_validate(content)
        else:
            Path("page.toml").write_text(block.text, encoding="utf-8")
            # Its [storage] would hold for everything that comes after, and names servers that are not there.
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv(VARIABLE, "{}")
                load_config("page.toml")
        if named:
            Path(named[1]).parent.mkdir(exist_ok=True)
            Path(named[1]).write_text(block.text, encoding="utf-8")


def _whole_contract(part: dict[str, Any]) -> dict[str, Any]:
    """An encoder.toml around the part of one that a page shows."""
    layers = part.get("layers") or [name for name in part.get("taps", {}) if name != "*"] or ["early"]
    whole: dict[str, Any] = {
        "name": "shown",
        "layers": layers,
        "depth_scales": [1.0] * len(layers),
        **({} if "weights" in part else {"factory": "mynet:MyNet", "weights": "weights.safetensors"}),
        "input": {"leads": ["I", "II", "V1"], "sampling_rate": 100.0, "length": 1000},
        "output": {"kind": "multilabel", "names": ["AF", "LBBB"]},
    }
    for name, value in part.items():
        whole[name] = {**whole[name], **value} if name in ("input", "output") else value
    return whole


def _expanded(word: str) -> list[str]:
    """What a shell makes of a word with a star."""
    return sorted(glob.glob(word)) or [word]


def _check_exported(line: str) -> None:
    """`export NAME=VALUE …`: of our own variable the value, of those of AWS the name, and that no secret is printed."""
    for word in shlex.split(line)[1:]:
        name, _, value = word.partition("=")
        if name == VARIABLE:
            StorageSettings.model_validate_json(value)
        else:
            assert re.fullmatch(r"AWS_[A-Z0-9_]+", name), f"nobody knows what {name} is for"
            assert "SECRET" not in name, f"{name} does not belong into a page"


def _served(root: str) -> str:
    return find_dataset(root).dataset_id


def _any_record(root: str) -> str:
    explained = open_explanations(root).to_table(columns=["record_id"], filter=pc.field("status") == "ok")
    return str(explained.column("record_id")[0])


def real_data() -> Path | None:
    """The folder of real recordings, if there is one."""
    folder = os.environ.get("ECGSCALE_TEST_DATA")
    return Path(folder).resolve() if folder and Path(folder).is_dir() else None
