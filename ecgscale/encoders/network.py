"""A network from its contract: made by its factory, filled with its weights.

An encoder directory is code, since its `factory` may be any module that can be imported here: use those that you trust
as you would trust a program. What is refused, before it is called, is what no network comes from: Python's standard
library, and functions that load or run what a file says.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecgscale.encoders.code import PROGRAMS, distributions_of, import_beside, is_standard, lies_installed
from ecgscale.encoders.foreign import Program, program, shuffle
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, file_of
from ecgscale.encoders.weights import load_weights
from ecgscale.errors import EncoderError, did_you_mean
from ecgscale.io.places import local_copy
from ecgscale.words import named, one_line

_LOADERS = re.compile(r"(^|_)(un)?(load|loads|pickle|hub|eval|exec|system|run|compile)(_|$)")
"""In names of functions that come with a package: they open files that can hold code, or run it."""

_OURS = "torch", "ecgscale"
"""Packages whose classes make networks and whose functions do not."""


def load_network(directory: str | Path, spec: EncoderSpec) -> tuple[nn.Module, tuple[str, ...]]:
    """The network of the encoder in `directory` with its weights, and what to know of how those were found.

    EncoderError as below, and where the weights do not fit.
    """
    directory = local_copy(directory)
    if (whole := _whole(spec, directory)) is not None:
        return whole, ()
    module = build_module(spec, directory)
    return module, load_weights(module, directory, spec).notes


def _whole(spec: EncoderSpec, directory: Path) -> nn.Module | None:
    """A network that comes with its weights: a program, or a `from_pretrained` folder; None of any other."""
    file = file_of(directory, spec.weights)
    if spec.factory in PROGRAMS:
        return program(spec.factory, file)
    folder = file.parent
    if not spec.factory.endswith(".from_pretrained") or not (folder / "config.json").is_file():
        return None
    if ".safetensors" not in file.suffixes:
        raise EncoderError(
            f"{file} is a pickle, which from_pretrained may run; save it again where you trust it, as safetensors: "
            f"{spec.factory.partition(':')[2]}({folder.name!r}).save_pretrained('new')"
        )
    with working_directory_importable(), _offline():
        make = find_factory(spec.factory, directory)
        local = _takes(make, "local_files_only") and "local_files_only" not in spec.arguments
        with _told(spec):
            return _pretrained(make, folder, {**spec.arguments, **({"local_files_only": True} if local else {})})


def _pretrained(make: Callable[..., Any], directory: Path, arguments: dict[str, Any]) -> nn.Module:
    """What a `from_pretrained` makes of the local folder `directory`, all of its weights from there; EncoderError else.

    It is called twice with other random numbers: a weight that differs is none of the folder's.
    """
    if arguments.get("trust_remote_code"):
        raise EncoderError(
            "trust_remote_code runs code of the folder under a name of its own; put that code beside encoder.toml, and "
            'name its class: factory = "modeling_x:XModel.from_pretrained"'
        )
    made = []
    for seed in (0, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            made.append(make(str(directory), **arguments))
    first, second = (module.state_dict() for module in made)
    drawn = [name for name, value in first.items() if not torch.equal(value, second[name])]
    if drawn:
        raise EncoderError(
            f"{directory} lacks weights that this class has, and draws at random: {named(drawn, 8)}. Name the class "
            "that was saved"
        )
    module: nn.Module = made[0]
    return module


def _takes(function: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(function).parameters
    return name in parameters or any(one.kind == one.VAR_KEYWORD for one in parameters.values())


@contextmanager
def _offline() -> Iterator[None]:
    """Keep packages that ask a hub for files from doing so."""
    names = "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def build_module(spec: EncoderSpec, directory: Path | None = None) -> nn.Module:
    """Import `spec.factory` and call it with `[arguments]`: weights as it draws them.

    It is looked for in the encoder's (local) directory, on Python's path, then in the working directory. What comes
    with its weights has those in a random order, each tensor's among themselves.
    """
    if directory is not None and (whole := _whole(spec, directory)) is not None:
        seed = int(torch.randint(2**31, ()))
        if isinstance(whole, Program):
            whole.shuffle(seed)
        else:
            shuffle([*whole.parameters(), *whole.buffers()], seed)
        return whole
    with working_directory_importable():
        found = find_factory(spec.factory, directory)
        _require_arguments(spec, found)
        with _told(spec), torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
            module = found(**spec.arguments)
    if not isinstance(module, nn.Module):
        raise EncoderError(f"factory {spec.factory!r} gives a {type(module).__name__}; a torch.nn.Module was expected")
    return module


@contextmanager
def _told(spec: EncoderSpec) -> Iterator[None]:
    """Make an EncoderError of whatever goes wrong in somebody else's constructor; the cause is chained."""
    try:
        yield
    except (KeyboardInterrupt, GeneratorExit, EncoderError):
        raise
    except BaseException as error:
        given = ", ".join(spec.arguments) or "none"
        raise EncoderError(
            f"factory {spec.factory!r} refuses its [arguments] ({given}): {_said(error, True)}{_then(error)}"
        ) from error


def _require_arguments(spec: EncoderSpec, found: Callable[..., Any]) -> None:
    """Raise EncoderError with the signature when [arguments] are not what the factory takes."""
    try:
        parameters = inspect.signature(found).parameters.values()
    except (TypeError, ValueError):
        return
    by_name = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    missing = [one.name for one in by_name if one.default is one.empty and one.name not in spec.arguments]
    takes_any = any(one.kind == one.VAR_KEYWORD for one in parameters)
    known = [one.name for one in by_name]
    unknown = [] if takes_any else [name for name in spec.arguments if name not in known]
    if missing or unknown:
        signature = ", ".join(
            one.name if one.default is one.empty else f"{one.name}={one.default!r}" for one in by_name
        )
        wrong = [f"{', '.join(missing)} missing"] if missing else []
        wrong += [f"{name} unknown.{did_you_mean(name, known)}" for name in unknown]
        raise EncoderError(
            f"factory {spec.factory!r} refuses its [arguments] ({', '.join(spec.arguments) or 'none'}): "
            f"{'; '.join(wrong)}. It takes ({one_line(signature)[:500]})"
        )


def find_factory(factory: str, directory: Path | None = None) -> Any:
    """What the import path names: a class of torch.nn.Module, or a function that may make one. It is not called.

    EncoderError when it cannot be imported, or is something else.
    """
    found = _found(factory, "factory", directory)
    if why := _objection(found):
        raise EncoderError(_refusal(factory, why))
    return found


@functools.lru_cache(maxsize=8)
def find_function(path: str, directory: Path | None = None) -> Callable[[NDArray[np.float64], float], Any]:
    """The user's own function of a signal that `[input]` `preprocess` names. It is not called.

    EncoderError when it cannot be imported, or is something else.
    """
    with working_directory_importable():
        found: Any = _found(path, "preprocess", directory)
    plain = inspect.unwrap(found) if callable(found) else found
    name, home = str(getattr(plain, "__name__", "")), str(getattr(plain, "__module__", ""))
    if isinstance(found, type) or not callable(found):
        why = f"it is a {type(found).__name__}, no function"
    elif is_standard(home) or home.partition(".")[0] in _OURS:
        why = f"{home}.{name} preprocesses no ECG"
    elif _is_installed(sys.modules.get(home)) and _LOADERS.search(name):
        why = f"{home}.{name} loads or runs what a file may say"
    else:
        return found
    raise EncoderError(
        f"preprocess {path!r} was not called: {why}. Name a function of your own module, of a signal (leads, samples) "
        "and its sampling rate, that gives a signal of the same shape"
    )


def _found(path: str, key: str, directory: Path | None) -> Any:
    """What an import path names, below no module of Python's standard library."""
    module_name, _, attribute = path.partition(":")
    if is_standard(module_name):
        raise EncoderError(_refusal(path, f"{module_name} is of Python's standard library"))
    found: Any = _imported(path, module_name, key, directory)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            raise EncoderError(
                f"{key} {path!r}: {module_name} has no {part!r}.{did_you_mean(part, public)} "
                f"It has {', '.join(public[:40])}"
            )
        found = getattr(found, part)
        if isinstance(found, ModuleType) and is_standard(found.__name__):
            raise EncoderError(_refusal(path, f"{found.__name__} is of Python's standard library"))
    return found


def _refusal(factory: str, why: str) -> str:
    return (
        f"factory {factory!r} was not called: {why}. Name a class of torch.nn.Module, or a function of your own "
        "module that makes one"
    )


def _objection(found: Any) -> str:
    """Why no network comes from it; empty when one may."""
    while isinstance(found, functools.partial):
        found = found.func
    found = inspect.unwrap(found) if callable(found) else found
    if isinstance(found, type):
        return "" if issubclass(found, nn.Module) else f"{found.__name__} is no class of torch.nn.Module"
    if not (inspect.isfunction(found) or inspect.ismethod(found)):
        return f"it is a {type(found).__name__}, neither a class nor a function"
    home, name = str(found.__module__), str(found.__name__)
    owner = getattr(found, "__self__", None)
    of_module = isinstance(owner, type) and issubclass(owner, nn.Module)
    if is_standard(home):
        return f"{name} is of {home}, in Python's standard library"
    top = home.partition(".")[0]
    if top in _OURS:
        return "" if of_module and not _LOADERS.search(name) else f"{home}.{name} makes no network of its own"
    if _is_installed(sys.modules.get(home)):
        if _LOADERS.search(name):
            return f"{home}.{name} loads or runs what a file may say"
        if not of_module and not _rests_on_torch(top):
            return f"{top} is a package that does not rest on torch"
    return ""


def _is_installed(module: ModuleType | None) -> bool:
    """Whether a module lies where packages are installed, and not in a tree of the user's own."""
    file = getattr(module, "__file__", None)
    return file is not None and lies_installed(Path(file))


def _rests_on_torch(package: str) -> bool:
    required = [line for name in distributions_of(package) for line in importlib.metadata.requires(name) or []]
    return any(re.match(r"(torch|pytorch)[a-z-]*\b", line) for line in required)


def _imported(path: str, module_name: str, key: str, directory: Path | None) -> Any:
    try:
        beside = import_beside(directory, module_name) if directory is not None else None
        return beside or importlib.import_module(module_name)
    except (KeyboardInterrupt, EncoderError):
        raise
    except ImportError as error:
        absent = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        raise EncoderError(
            f"{key} {path!r} cannot be imported: {_said(error)}. "
            + (
                f"Put the file that has it beside {SPEC_FILE}, install its package, put it on PYTHONPATH, or run from "
                "the directory that holds it"
                if absent
                else remedy(error) or f"{module_name} itself was found"
            )
        ) from error
    except BaseException as error:  # anything may go wrong in somebody else's module; the cause is chained
        raise EncoderError(
            f"{key} {path!r} cannot be imported: {module_name} fails with {_said(error, True)}{_then(error)}"
        ) from error


def _said(error: BaseException, kind: bool = False) -> str:
    """What an error says, in one line."""
    text = one_line(" ".join(str(error).split()))[:500]
    return f"{type(error).__name__}: {text}" if kind else text or type(error).__name__


def _then(error: BaseException) -> str:
    return f". {found}" if (found := remedy(error)) else ""


_DEVICE = re.compile(r"(?i)\bcuda\b|NVIDIA driver|same device")
_OFFLINE = re.compile(
    r"(?i)URLError|HTTPError|ConnectionError|ConnectError|gaierror|LocalEntryNotFound|OfflineMode|proxy"
)


def remedy(error: BaseException) -> str:
    """What to do about an error of somebody else's code, as a sentence without its stop; empty where nobody knows."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(_DEVICE.search(str(one)) for one in chain):
        return (
            "Take .cuda() and device='cuda' out of its code: ecgscale moves the network to the device, and what "
            "forward makes goes to that of its input (device=x.device)"
        )
    if any(_OFFLINE.search(" ".join(kind.__name__ for kind in type(one).__mro__)) for one in chain):
        return (
            "It downloads, which a factory must not: the weights are those of `weights`. Switch that off under "
            "[arguments] (pretrained = false, or as it calls it)"
        )
    missing = next((one.name for one in chain if isinstance(one, ModuleNotFoundError) and one.name), "")
    if missing:
        return f"It imports {missing}, which is not here: install it, or put the file beside {SPEC_FILE}"
    if isinstance(error, SystemExit):
        return "It is a program, not only a class: put what it runs under if __name__ == '__main__'"
    return ""


@contextmanager
def working_directory_importable() -> Iterator[None]:
    """Let modules of the working directory be found, after all others."""
    here = os.getcwd()
    added = here not in sys.path
    if added:
        sys.path.append(here)
    try:
        yield
    finally:
        if added:
            sys.path.remove(here)
