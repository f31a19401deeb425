"""The source of a network that is the user's own: part of what an encoder is, though it does not lie in its directory.

From the module of the factory, imports are followed through the tree that it lies in (its own package, or the modules
beside it), without running any of it. Of a package that was installed, its name and version and the module of the
factory stand for the rest. Networks of ecgscale are named by its own versions and have no code here.

Modules in the encoder's directory itself come before all others, and are that encoder's alone: they are imported below
a name that is made of the directory and of what the files hold. So two encoders may have a net.py each, in one process,
and one that was changed is imported anew.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from ecgscale.errors import EncoderError

OURS = "ecgscale"

PROGRAMS = {
    "torchscript": (".torchscript.pt", ".torchscript", ".ts"),
    "torch.export": (".pt2",),
    "onnx": (".onnx",),
}
"""What a `factory` may be where the weights are a program, which needs no code; endings that say so themselves."""

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar", ".safetensors.index.json")
"""Of weights: safetensors, what torch.save writes under various names, and the list of several safetensors."""

_REMEDIES = [
    ((".h5", ".hdf5", ".keras"), "; Keras wrote it? Convert the network to ONNX (docs/networks.md) and name that file"),
    (
        (".pkl", ".pickle", ".joblib", ".npz", ".npy", ".mat"),
        "; save the weights alone in Python: torch.save(model.state_dict(), 'weights.pt')",
    ),
]


def program_of(weights: str) -> str:
    """Which program a file is by its name; ValueError where the name does not say so."""
    for factory, endings in PROGRAMS.items():
        if weights.endswith(endings):
            return factory
    raise ValueError(
        "factory is missing: package.module:Class of the network; for a file that is a network itself, "
        + " or ".join(f'"{factory}"' for factory in PROGRAMS)
    )


def is_program(weights: str) -> bool:
    """Whether a file is a program by its name; without that it may be one."""
    return weights.endswith(tuple(ending for endings in PROGRAMS.values() for ending in endings))


def objection(weights: str) -> str:
    """Why a file cannot be weights, by its name; empty where it may be."""
    if weights.endswith(SUFFIXES) or is_program(weights):
        return ""
    suffix = Path(weights).suffix.lower()
    remedy = next((remedy for suffixes, remedy in _REMEDIES if suffix in suffixes), "")
    return f"{weights!r} is neither .safetensors nor .pt nor .pth nor .ckpt, nor .ts nor .pt2 nor .onnx{remedy}"


def companions(directory: Path, factory: str, weights: str) -> list[str]:
    """Names of the files that belong to the file of weights: an ONNX model's external data, the parts of an index of
    safetensors, and the config.json of a `from_pretrained` folder. Those that are there, sorted."""
    file = directory / weights
    found = []
    if factory == "onnx":
        found = [f"{weights}.data", f"{weights}_data"]
    if weights.endswith(".index.json") and file.is_file():
        try:
            parts = json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()
            found = [str(Path(weights).with_name(part)) for part in set(parts)]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise EncoderError(f"{file} is no index of safetensors: {type(error).__name__}: {error}") from error
    if factory.endswith(".from_pretrained"):
        found.append(str(Path(weights).with_name("config.json")))
    return sorted(name for name in found if (directory / name).is_file())


Code = Mapping[str, str]
"""What stands for the code: files by their path from the folder that Python finds the package in, and distributions,
each with its SHA-256 (hex) or its version. Empty for networks of ecgscale; None where the code cannot be found."""

_known: dict[str, tuple[object, dict[str, str]]] = {}


def code_of(factory: str, directory: Path | None = None) -> dict[str, str] | None:
    """The code of a factory, as it is on the disk, or as it was when this process imported it.

    directory: the encoder's own, as a local folder. None when there is no source to be found: the module is not
    installed here, or was typed into a notebook.
    """
    name = factory.partition(":")[0]
    if name.partition(".")[0] == OURS or factory in PROGRAMS:
        return {}
    if directory is not None and (own := file_beside(directory, name)) is not None:
        return dict(_reached(name, own))
    loaded = sys.modules.get(name)
    # A reload, and a module that was removed and imported again, have another spec.
    spec = getattr(loaded, "__spec__", None)
    if spec is not None and name in _known and _known[name][0] is spec:
        return dict(_known[name][1])
    file = _file_of(name, loaded)
    if file is None:
        return None
    found = _installed(name, file) if lies_installed(file) else dict(_reached(name, file))
    if spec is not None:
        _known[name] = spec, found
    return dict(found)


def _file_of(name: str, loaded: ModuleType | None) -> Path | None:
    """The file of a module: where it was loaded from, else where Python would find it, the working directory last."""
    if loaded is not None:
        file = getattr(loaded, "__file__", None)
        return Path(file) if file and Path(file).is_file() else None
    top, _, rest = name.partition(".")
    try:
        # Of the first name alone: to find what is below it, Python would run the package. `pip install -e` brings
        # finders of its own, so that sys.path does not say where a package is.
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    found: list[Path | None] = []
    if spec is not None and rest:
        found = [_module_file(Path(folder), rest) for folder in spec.submodule_search_locations or ()]
    elif spec is not None and spec.has_location and spec.origin is not None:
        found = [Path(spec.origin)]
    return next((file for file in (*found, _module_file(Path("."), name)) if file is not None and file.is_file()), None)


def _module_file(folder: Path, name: str) -> Path | None:
    stem = folder.joinpath(*name.split("."))
    return next((file for file in (stem / "__init__.py", stem.with_name(f"{stem.name}.py")) if file.is_file()), None)


def _installed(name: str, file: Path) -> dict[str, str]:
    versions = {one: importlib.metadata.version(one) for one in distributions_of(name.partition(".")[0])}
    return {name: _sha256(file.read_bytes()), **versions}


def reached(name: str, file: Path) -> list[tuple[str, bytes]]:
    """The file and all that it imports from the same tree, packages' `__init__` among them, sorted: paths from the
    top of that tree, with what they hold."""
    depth = len(name.split(".")) + (file.name == "__init__.py")
    folder = file.absolute().parents[depth - 1]
    files: dict[str, bytes] = {}
    waiting = [name]
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        if parts[0] == OURS:
            continue
        for stop in range(1, len(parts) + 1):
            within = ".".join(parts[:stop])
            path = file if within == name else _module_file(folder, within)
            if path is None:
                continue
            key = path.absolute().relative_to(folder).as_posix()
            if key not in files:
                files[key] = path.read_bytes()
                waiting += _imported(files[key], within, path.name == "__init__.py")
    return sorted(files.items())


def _imported(source: bytes, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a source imports anywhere in it; `from a import b` may mean the module a.b."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.split(".") if is_package else module.split(".")[:-1]
            start = above[: len(above) - (node.level - 1)] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def _reached(name: str, file: Path) -> list[tuple[str, str]]:
    return [(key, _sha256(data)) for key, data in reached(name, file)]


def file_beside(directory: Path, module: str) -> Path | None:
    """The file of a module in an encoder's directory; None where there is none."""
    if module in PROGRAMS:
        return None
    return _module_file(directory, module)


_PRIVATE = "_encoder_"


def import_beside(directory: Path, module: str) -> ModuleType | None:
    """Import a module that lies in an encoder's directory, for that encoder alone; None where none lies there."""
    directory = directory.absolute()
    file = file_beside(directory, module)
    if file is None:
        return None
    known = repr((str(directory), sorted(_reached(module, directory / file.relative_to(directory))))).encode()
    root = f"{_PRIVATE}{_sha256(known)[:16]}"
    if not any(isinstance(finder, _Beside) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Beside())
    if root not in sys.modules:
        package = ModuleType(root)
        package.__path__ = [str(directory)]
        sys.modules[root] = package
    importlib.invalidate_caches()
    return importlib.import_module(f"{root}.{module}")


class _Beside(MetaPathFinder):
    """Finds modules below the private names, for which Python's own finders would write .pyc files."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(_PRIVATE) or path is None:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.loader.path)
            spec.cached = None
        return spec


class _Loader(SourceFileLoader):
    """Compiles what the file holds now, and lets it import what lies beside it by the plain names, also later."""

    def get_code(self, fullname: str) -> Any:
        return self.source_to_code(self.get_data(self.path), self.path)

    def exec_module(self, module: ModuleType) -> None:
        root = module.__name__.partition(".")[0]
        own = {**vars(builtins), "__import__": partial(_import, root)}
        vars(module)["__builtins__"] = own
        super().exec_module(module)


def _import(root: str, name: str, *context: Any, **named: Any) -> Any:
    """`__import__` of modules in an encoder's directory: what lies there comes first."""
    level = named.get("level", context[3] if len(context) > 3 else 0)
    names = named.get("fromlist", context[2] if len(context) > 2 else ())
    top = name.partition(".")[0]
    folder = Path(sys.modules[root].__path__[0])
    own = _module_file(folder, top) or _module_file(folder, name) or next((folder / top).glob("*.py"), None)
    if level or own is None:
        return builtins.__import__(name, *context, **named)
    if names:
        return builtins.__import__(f"{root}.{name}", *context, **named)
    importlib.import_module(f"{root}.{name}")
    return sys.modules[f"{root}.{top}"]


def is_standard(module: str) -> bool:
    """Whether a module is of Python itself."""
    top = module.partition(".")[0]
    return top in sys.stdlib_module_names or top in sys.builtin_module_names


def lies_installed(file: Path) -> bool:
    """Whether a file lies where packages are installed, and not in a tree of the user's own."""
    resolved = file.resolve()
    return any(part in ("site-packages", "dist-packages") for part in resolved.parts) or any(
        resolved.is_relative_to(Path(sysconfig.get_paths()[name]).resolve()) for name in ("purelib", "platlib")
    )


def distributions_of(package: str) -> list[str]:
    """Names of the distributions that installed a top-level package, sorted."""
    return sorted(set(importlib.metadata.packages_distributions().get(package, [])))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
