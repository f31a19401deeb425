"""Every command teaches: help with an example, its options explained, and a clear refusal of what it does not know."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner, Result

from ecgscale.cli import COMMANDS, SECTIONS, main


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def invoke_as(name: str, *arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments), prog_name=name)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command and subcommand with the words that name it."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands(main))
LEAVES = {path: command for path, command in ALL.items() if not isinstance(command, click.Group)}
named = pytest.mark.parametrize("path", LEAVES, ids=" ".join)


def test_the_commands_are_those_of_the_page() -> None:
    assert {path[0] for path in ALL} == set(COMMANDS)
    listed = invoke("--help").stdout
    assert all(f"  {name}" in listed for name in COMMANDS)
    assert "Exit codes: 0 done, 1 failed, 2 bad usage" in listed


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help_has_an_example(path: tuple[str, ...]) -> None:
    result = invoke(*path, "--help")
    assert result.exit_code == 0
    assert invoke(*path, "-h").stdout == result.stdout
    text = result.stdout.split("Usage:")[1].split("\n", 1)[1]
    example = "ecgscale " + " ".join(path) + " "
    shows = any(line.strip().startswith(example) or f"  {example}" in line for line in text.splitlines())
    assert shows or (isinstance(ALL[path], click.Group) and "[input]" in text), f"no example in\n{result.stdout}"


@named
def test_every_option_is_explained(path: tuple[str, ...]) -> None:
    options = [parameter for parameter in LEAVES[path].params if isinstance(parameter, click.Option)]
    unexplained = [
        option.opts[-1]
        for option in options
        if not option.help and not (option.show_default or isinstance(option.type, click.Choice))
    ]
    assert not unexplained
    assert "--json" in {name for option in options for name in option.opts}


@named
def test_an_unknown_option_is_bad_usage(path: tuple[str, ...]) -> None:
    result = invoke(*path, "--no-such-option")
    assert result.exit_code == 2
    assert "No such option" in result.stderr
    assert "--no-such-option" in result.stderr


@named
def test_nothing_at_all_is_bad_usage_or_work(path: tuple[str, ...]) -> None:
    needed = [p for p in LEAVES[path].params if isinstance(p, click.Argument) and p.required]
    if needed:
        result = invoke(*path)
        assert result.exit_code == 2
        assert "Missing argument" in result.stderr


def test_an_unknown_command_is_bad_usage_and_the_nearest_is_named() -> None:
    result = invoke("explian", "archive")
    assert result.exit_code == 2
    assert "No such command 'explian'. Did you mean 'explain'?" in result.stderr
    far = invoke("frobnicate")
    assert far.exit_code == 2
    assert "No such command 'frobnicate'.\n" in far.stderr
    assert "Try 'ecgscale --help'" in invoke_as("ecgscale", "frobnicate").stderr


@pytest.mark.parametrize("group", [(), *(path for path in ALL if isinstance(ALL[path], click.Group))], ids=" ".join)
def test_each_command_is_told_in_one_line(group: tuple[str, ...]) -> None:
    """On a terminal of 100 columns nothing is cut off."""
    lines = CliRunner().invoke(main, [*group, "--help"], terminal_width=98).stdout.splitlines()
    listed = {path[-1]: [line for line in lines if line.startswith(f"  {path[-1]} ")] for path in ALL}
    for path in ALL:
        if path[:-1] == group:
            [line] = listed[path[-1]]
            assert len(line) <= 98
            assert not line.endswith("..."), line
            assert len(line.split(maxsplit=1)) == 2, line


def test_commands_are_listed_by_what_they_are_for() -> None:
    listed = invoke("--help").stdout
    places = [listed.index(f"{title}:\n") for title in SECTIONS]
    assert places == sorted(places)


def test_version() -> None:
    result = invoke("--version")
    assert result.exit_code == 0
    assert version("ecgscale") in result.stdout
