"""What the documentation prints works, and what the code has is in the documentation."""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import botocore.exceptions
import click
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from pydantic import BaseModel

from ecgscale.archive.schema import CORE_COLUMNS, DIGEST_KEY, RESERVED_COLUMNS, VERSION_KEY
from ecgscale.archive.validate import RECORD_STATUS
from ecgscale.cli import COMMANDS, main
from ecgscale.cli import SECTIONS as COMMAND_SECTIONS
from ecgscale.config import (
    ArchiveConfig,
    EncoderConfig,
    ExplainConfig,
    FitConfig,
    RunConfig,
    SurrogateConfig,
    TrainConfig,
)
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.spec import EncoderSpec, OutputSpec
from ecgscale.errors import ExitCode
from ecgscale.explain.schema import output_schema
from ecgscale.io.parquet import DATA_BYTES_KEY
from ecgscale.io.settings import CARRIED, VARIABLE, StorageSettings
from ecgscale.store import open_explanations
from tests.e2e.documents import DEMO, PAGES, REPOSITORY, Reader, blocks_of, real_data
from tests.s3 import new_bucket
from tests.worlds.few_recordings import few_recordings

SECTIONS = (RunConfig, ArchiveConfig, TrainConfig, EncoderConfig, FitConfig, ExplainConfig, SurrogateConfig)


# docs/analytics.md is run, and its answers checked, by test_analytics.py.
@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "analytics.md"], ids=lambda page: page.name)
def test_what_a_page_prints_works(
    page: Path, demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    shutil.copytree(demo_folder, tmp_path / DEMO)  # a page may add to it
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(VARIABLE, "{}")  # what a page's [storage] says ends with the page
    if "s3://hospital" in page.read_text(encoding="utf-8"):
        new_bucket(request.getfixturevalue("s3_endpoint"), monkeypatch, "hospital")
    real = real_data()
    reader = Reader(few_recordings(real, tmp_path / "real") if real else None)
    for block in blocks_of(page):
        reader.run(block)


def text_of(name: str) -> str:
    return (REPOSITORY / name).read_text(encoding="utf-8")


def assert_named(names: Iterator[str] | list[str] | tuple[str, ...], page: str) -> None:
    """Every name stands in the page as code."""
    message = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text_of(page), flags=re.DOTALL)))
    absent = sorted(set(names) - message)
    assert not absent, f"{page} does not name {', '.join(absent)}"


def test_the_data_format_names_every_column_and_status(demo_folder: Path) -> None:
    page = "docs/data-format.md"
    assert_named(CORE_COLUMNS, page)
    assert_named(sorted(RESERVED_COLUMNS), page)
    assert_named(output_schema(20).names, page)
    assert_named(RECORD_STATUS, page)
    assert_named([key.decode() for key in (DATA_BYTES_KEY, DIGEST_KEY, VERSION_KEY)], page)
    model = next((demo_folder / "results" / "models").glob("*/model.json"))
    assert_named(list(json.loads(model.read_text(encoding="utf-8"))), page)
    explained = pq.read_schema(open_explanations(demo_folder / "results").files[0])
    assert_named([key.decode() for key in explained.metadata if key.startswith(b"ecgscale.")], page)


def test_operations_say_what_to_do_about_every_status_and_exit_code() -> None:
    assert_named([status for status in RECORD_STATUS if status != "ok"], "docs/operations.md")
    headings = re.findall(r"^#+ (.*)", text_of("docs/operations.md"), re.MULTILINE)
    for code in ExitCode:
        assert any(heading.startswith(f"{code.value}: ") for heading in headings), code


def code_texts() -> str:
    """Every source file, with literals that stand side by side in one piece; and what botocore says."""
    sources = [path.read_text(encoding="utf-8") for path in sorted((REPOSITORY / "ecgscale").rglob("*.py"))]
    sources.append(inspect.getsource(botocore.exceptions))
    joined = re.sub(r"""["']\s*\n\s*(\+ )?\(?f?["']""", "", "\n".join(sources))
    return joined.replace("{VARIABLE}", VARIABLE)


@pytest.mark.parametrize(
    ("page", "heading"),
    [
        ("docs/operations.md", "Exit codes: what happened, what to do"),
        ("docs/storage.md", "What it says when it does not work"),
    ],
)
def test_the_runbook_quotes_what_is_printed(page: str, heading: str) -> None:
    """What a table's first column has as code stands in the code: "…" is what varies."""
    section = re.split(r"^## ", text_of(page).split(f"## {heading}\n")[1], flags=re.MULTILINE)[0]
    rows = [line.split(" | ")[0] for line in section.splitlines() if re.match(r"\| .*`", line)]
    assert len(rows) > 5
    printed = code_texts()
    message = [part.strip(" ;,") for code in re.findall(r"`([^`]+)`", " ".join(rows)) for part in code.split("…")]
    assert [part for part in message if part not in printed] == []


def fields_of(model: type[BaseModel]) -> list[str]:
    return list(model.model_fields)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_running_shows_every_key_of_a_configuration(section: type[BaseModel]) -> None:
    shown = text_of("docs/running.md")
    for key in fields_of(section):
        assert re.search(rf"^(# )?{key} = |^\[{key}\]", shown, re.MULTILINE), f"docs/running.md does not show {key}"


def test_storage_names_every_setting_and_variable() -> None:
    assert_named([*fields_of(StorageSettings), *CARRIED], "docs/storage.md")


def test_encoders_name_every_key_of_the_contract() -> None:
    sections = [f"[{section}]" for section in ("arguments", "input", "output", "training")]
    plain = [key for key in fields_of(EncoderSpec) if f"[{key}]" not in sections]
    assert_named([*plain, *sections, *fields_of(InputSpec), *fields_of(OutputSpec)], "docs/encoders.md")


def leaf_commands() -> Iterator[tuple[str, ...]]:
    """("fit",), ("ingest", "ptbxl"), …"""
    context = click.Context(main)
    for name in COMMANDS:
        command = main.get_command(context, name)
        yield from ((name, inner) for inner in command.commands) if isinstance(command, click.Group) else ((name,),)


@pytest.mark.parametrize("words", leaf_commands(), ids=" ".join)
def test_every_command_teaches_with_an_example(words: tuple[str, ...]) -> None:
    result = CliRunner().invoke(main, [*words, "--help"], prog_name="program")
    assert result.exit_code == 0
    assert f"ecgscale {' '.join(words)}" in result.output
    assert "--json" in result.output


def test_the_readme_has_every_command_and_every_package() -> None:
    readme = text_of("README.md")
    rows = {row.split()[2].strip("`"): row for row in readme.splitlines() if row.startswith("| `ecgscale ")}
    assert list(rows) == list(COMMANDS)
    for commands in COMMAND_SECTIONS.values():
        for name, (_, message) in commands.items():
            assert rows[name].endswith(f" | {message} |"), (
                f"README.md says something else of {name} than --help: {message}"
            )
    tree = readme.split("```text")[1].split("```")[0]
    packages = {path.parent.name for path in (REPOSITORY / "ecgscale").glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == packages
    modules = {path.name for path in (REPOSITORY / "ecgscale").glob("*.py")} - {"__init__.py"}
    assert set(re.findall(r"\w+\.py", tree)) == modules


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?:", target):
            file, _, anchor = target.partition("#")
            linked = page.parent / file if file else page
            assert linked.exists(), f"{page.name} links to {target}"
            headings = re.findall(r"^#+ (.*)", linked.read_text(encoding="utf-8"), re.MULTILINE) if anchor else []
            slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert not anchor or anchor in slugs, f"{page.name} links to {target}"
