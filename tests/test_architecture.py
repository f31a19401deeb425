"""The shape of the code, held to what README.md says of it: who may import whom, how long a file may be, what is named
how, and what has no place in a repository."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "ecgscale"

LAYERS = ("store", "archive", "encoders", "clusters", "explain", "passes", "evaluate", "report", "nightly")
"""Each imports only those before it, and the root modules."""
ROOTS = ("errors", "progress", "config", "gate_settings", "leads", "storage", "places", "words")
EDGES = ("cli", "jobs")
"""What users start: may import everything, and nothing imports it."""
RUNTIME = "runtime"
"""Runs passes and shows how they go: imports up to them, and is imported at the edges alone."""

LONGEST_FILE = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}

SOURCES = sorted(PACKAGE.rglob("*.py")) + sorted((REPOSITORY / "jobs").glob("*.py"))
PYTHON_FILES = [
    *SOURCES,
    *sorted((REPOSITORY / "tests").rglob("*.py")),
    *sorted((REPOSITORY / "benchmarks").rglob("*.py")),
]


def name_of(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def part_of(path: Path) -> str:
    """The package or root module that a file belongs to: "archive", "errors", "jobs"; "" for the facade."""
    first, *rest = path.relative_to(REPOSITORY).parts
    if first != "ecgscale":
        return first
    return rest[0].removesuffix(".py").replace("__init__", "")


def imported_modules(path: Path) -> Iterator[str]:
    """Dotted names of everything a file imports, wherever in it; `from ecgscale import x` counts as ecgscale.x."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}, line {node.lineno}: relative import; write the whole name"
            module = str(node.module)
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "ecgscale" else (module,)


def imported_parts(path: Path) -> set[str]:
    """The parts of this package that a file imports, its own left out."""
    names = (module.split(".") for module in imported_modules(path))
    return {parts[1] for parts in names if parts[0] == "ecgscale" and len(parts) > 1} - {part_of(path)}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_go_one_way(path: Path) -> None:
    part, imported = part_of(path), imported_parts(path)
    if part in EDGES:
        return
    allowed = set(ROOTS)
    if part in LAYERS:
        allowed |= set(LAYERS[: LAYERS.index(part)])
    elif part == "":
        allowed = set(LAYERS) | set(ROOTS)  # the facade; see the test of what importing it loads
    elif part == RUNTIME:
        allowed |= set(LAYERS[: LAYERS.index("passes") + 1])
    else:
        assert part in ROOTS, f"{name_of(path)}: {part!r} has no place in the order {', '.join(LAYERS)}"
    assert not imported - allowed, f"{name_of(path)} imports {', '.join(sorted(imported - allowed))}"


@pytest.mark.parametrize("path", [path for path in SOURCES if part_of(path) == "clusters"], ids=name_of)
def test_clusters_never_see_an_ecg(path: Path) -> None:
    assert not imported_parts(path) & {"archive", "encoders"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_ray_is_imported_in_the_runtime_alone(path: Path) -> None:
    if part_of(path) != RUNTIME:
        assert not [module for module in imported_modules(path) if module.split(".")[0] == "ray"]


@pytest.mark.parametrize("path", [path for path in SOURCES if part_of(path) not in (RUNTIME, *EDGES)], ids=name_of)
def test_the_runtime_is_imported_at_the_edges_alone(path: Path) -> None:
    assert RUNTIME not in imported_parts(path)


def test_importing_the_facade_loads_nothing_of_the_package() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    eager = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name if isinstance(node, ast.Import) else str(node.module) for node in eager for alias in node.names]
    assert not [name for name in names if name.split(".")[0] not in ("__future__", "importlib", "typing")]


@pytest.mark.parametrize("path", PYTHON_FILES, ids=name_of)
def test_files_are_short_and_named_after_what_they_hold(path: Path) -> None:
    length = len(path.read_text(encoding="utf-8").splitlines())
    assert length <= LONGEST_FILE, f"{name_of(path)} has {length} lines: it wants to be two files"
    vague = VAGUE_NAMES & {path.stem, *path.relative_to(REPOSITORY).parts}
    assert not vague, f"{name_of(path)}: {', '.join(vague)} says nothing about what is in it"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_modules_say_what_they_are_about(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{name_of(path)} has no docstring"


def tracked_texts() -> Iterator[tuple[str, str]]:
    """Name and text of every tracked file that is text."""
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("no git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        path = REPOSITORY / name
        if path.is_file() and b"\0" not in (data := path.read_bytes())[:8192]:
            yield name, data.decode("utf-8", errors="replace")


# Written in pieces, so that this file does not hold what it looks for.
MACHINE_PATHS = (r"(?<![.\w])/" + "work/", "/" + "home/" + r"(?!ray/)\w", "/" + "Users/" + r"\w", "/" + "opt/" + "pypi")
REGISTRIES = ("py" + r"pi\.org", "python" + "hosted", "arti" + "factory", "/" + r"simple/?\b", "index" + "-url")


def test_nothing_of_one_machine_is_tracked() -> None:
    found = [
        f"{name}, line {number}: {line.strip()[:100]}"
        for name, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search("|".join((*MACHINE_PATHS, *REGISTRIES)), line)
    ]
    assert not found, "paths of a machine or hosts of a registry:\n" + "\n".join(found)
