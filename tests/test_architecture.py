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

from tests.conftest import SLOW

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "ecgscale"

LAYERS = ("io", "store", "archive", "encoders", "clusters", "explain", "passes", "evaluate", "report", "nightly")
"""Each imports only those before it, and the root modules."""
ROOTS = ("errors", "progress", "leads", "words", "tables", "archive_config")
"""Of these modules, `config` sees `io` besides; everybody sees them."""
EDGES = ("cli", "jobs")
"""What users start: may import everything, and nothing imports it."""
RUNTIME = "runtime"
"""Runs passes and shows how they go: imports up to them, and is imported at the edges alone."""

LONGEST_FILE = 400
LONGEST_FUNCTION = 80
MOST_MODULES = 254
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


def wrong_imports(path: Path) -> set[str]:
    """The parts that a file imports and that its place in the order does not allow."""
    part, imported = part_of(path), imported_parts(path)
    if part in EDGES:
        return set()
    allowed = {*ROOTS, "config"}
    if part in LAYERS:
        allowed |= set(LAYERS[: LAYERS.index(part)])
    elif part == "":
        allowed |= set(LAYERS)  # the facade; see the test of what importing it loads
    elif part == RUNTIME:
        allowed |= set(LAYERS[: LAYERS.index("passes") + 1])
    elif part in ("config", "archive_config"):
        allowed |= {"io"}
    else:
        assert part in ROOTS, f"{name_of(path)}: {part!r} has no place in the order {', '.join(LAYERS)}"
    return imported - allowed - ({"config"} if part == "io" else set())


def test_imports_go_one_way() -> None:
    wrong = {name_of(path): sorted(found) for path in SOURCES if (found := wrong_imports(path))}
    assert not wrong


def test_clusters_never_see_an_ecg() -> None:
    wrong = [
        name_of(path)
        for path in SOURCES
        if part_of(path) == "clusters" and imported_parts(path) & {"archive", "encoders"}
    ]
    assert not wrong


def test_ray_is_imported_in_the_runtime_alone() -> None:
    elsewhere = [path for path in SOURCES if part_of(path) != RUNTIME]
    wrong = [
        name_of(path) for path in elsewhere if "ray" in {module.split(".")[0] for module in imported_modules(path)}
    ]
    assert not wrong


def test_the_runtime_is_imported_at_the_edges_alone() -> None:
    inside = [path for path in SOURCES if part_of(path) not in (RUNTIME, *EDGES)]
    assert not [name_of(path) for path in inside if RUNTIME in imported_parts(path)]


def test_parquet_is_read_and_written_in_one_place() -> None:
    """Elsewhere somebody would forget the checksums."""
    by_hand = re.compile(r"\b(?:pq|parquet)\.(?:write_table|read_table|ParquetWriter|ParquetFile)\(|format=\"parquet\"")
    ours = [path for path in SOURCES if "/sources/" not in name_of(path) and name_of(path) != "ecgscale/io/parquet.py"]
    assert not [name_of(path) for path in ours if by_hand.search(path.read_text(encoding="utf-8"))]


def test_passes_never_ask_whether_there_is_a_pool() -> None:
    asked = re.compile(
        r"\bpool is (not )?None\b|\b(if|not|and|or) (self\.)?_?pool\b(?! is)|\bpool (or|and)\b|\bpool else\b"
    )
    found = [
        f"{name_of(path)}:{number}: {line.strip()}"
        for path in SOURCES
        if part_of(path) == "passes"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if asked.search(line) or re.search(r"OpenPool \| None", line)
    ]
    assert not found, "local work has a pool too: `in_process`"


def test_importing_the_facade_loads_nothing_of_the_package() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    eager = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name if isinstance(node, ast.Import) else str(node.module) for node in eager for alias in node.names]
    assert not [name for name in names if name.split(".")[0] not in ("__future__", "importlib", "typing")]


def test_files_are_short_and_named_after_what_they_hold() -> None:
    lengths = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PYTHON_FILES}
    assert not {name: length for name, length in lengths.items() if length > LONGEST_FILE}, "these want to be two files"
    vague = [name for name in lengths if VAGUE_NAMES & set(name.removesuffix(".py").split("/"))]
    assert not vague, "these names say nothing about what is in the files"


def test_functions_can_be_read_at_once() -> None:
    long = [
        f"{name_of(path)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= LONGEST_FUNCTION
    ]
    assert not long


def test_the_package_stays_small() -> None:
    modules = sorted(PACKAGE.rglob("*.py"))
    assert len(modules) <= MOST_MODULES, "merge files that are never read apart"


def test_modules_say_what_they_are_about() -> None:
    assert not [name_of(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))]


def test_words_reach_a_terminal_in_one_way() -> None:
    """`say` shows control characters as escapes; so do progress and what a worker logs, in ways of their own."""
    own = ("ecgscale/cli/command.py", "ecgscale/runtime/progress.py", "ecgscale/passes/run/train.py")
    printing = re.compile(r"(?<![.\w])(click\.s?echo|print|sys\.std(out|err)\.write)\(|\.to_csv\(")
    others = [path for path in SOURCES if name_of(path) not in own]
    assert not [name_of(path) for path in others if printing.search(path.read_text(encoding="utf-8"))]


def test_the_tiers_of_tests_name_what_is_there() -> None:
    assert [path for path in SLOW if not (REPOSITORY / "tests" / path).exists()] == []


def test_words_have_one_meaning_each() -> None:
    """The glossary of CONTRIBUTING.md can be read in a minute, and names nothing twice."""
    page = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8").split("\n## Words\n")[1].split("\n## ")[0]
    words = re.findall(r"^\| ([^|]+) \| ", page, re.MULTILINE)[2:]
    assert 30 < len(words) <= 40
    assert len(set(words)) == len(words)


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


PATHS = re.compile(r"(?<![\w/.-])(?:[a-z0-9_]+/)+[a-z0-9_]+\.py\b")
DOTTED = re.compile(r"\becgscale((?:\.[a-z0-9_]+)+)")


def documents() -> Iterator[tuple[str, str]]:
    """Name and text of every document for readers."""
    for path in (REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))):
        if path.is_file():
            yield name_of(path), path.read_text(encoding="utf-8")


def is_there(dotted: list[str]) -> bool:
    """Whether ecgscale.<dotted> is a package, a module, or a name in one.

    Of one word alone that is no module (a name of the facade, a key of a Parquet file) nothing is said.
    """
    place = PACKAGE
    for i, word in enumerate(dotted):
        if (place / word).is_dir():
            place /= word
            continue
        file = place / f"{word}.py"
        if file.is_file():
            return len(dotted) - i <= 2 and (i + 1 == len(dotted) or dotted[i + 1] in file.read_text(encoding="utf-8"))
        return i == 0 == len(dotted) - 1 or (i > 0 and word in (place / "__init__.py").read_text(encoding="utf-8"))
    return True


def test_modules_that_documents_name_are_there() -> None:
    wrong = []
    for name, text in documents():
        paths, dotted = set(PATHS.findall(text)), set(DOTTED.findall(text))
        wrong += [f"{name}: {path}" for path in paths if not any((at / path).is_file() for at in (REPOSITORY, PACKAGE))]
        wrong += [f"{name}: ecgscale{found}" for found in dotted if not is_there(found[1:].split("."))]
    assert not wrong


def test_each_path_of_the_walk_is_short() -> None:
    sections = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").split("\n## ")[1:]
    assert [section.split("\n")[0] for section in sections] == [
        f"The path of {what}" for what in ("a signal", "the centroids", "a commit", "a configuration")
    ]
    named = [re.findall(r"^\| `([\w/]+\.py)` \|", section, re.MULTILINE) for section in sections]
    assert all(1 < len(set(modules)) == len(modules) <= 10 for modules in named)
    assert not [module for modules in named for module in modules if not (PACKAGE / module).is_file()]


def test_the_readme_names_every_room() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    tree = readme.partition("## What is where")[2].partition("## ")[0]
    parts = {part_of(path) for path in SOURCES if part_of(path)}
    assert not sorted(part for part in parts if not re.search(rf"\b{part}(/|\.py)", tree))
    assert not [name for name in re.findall(r"\b(\w+)\.py\b", tree) if name not in parts]
