"""The factory of an encoder: found by its import path, judged before it is called, called with `[arguments]`.

An encoder directory is code, since its `factory` may be any module that can be imported here: use those that you trust
as you would trust a program. What is refused is what no network comes from: Python's standard library, and functions
that load or run what a file says.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ecgscale.encoders.code import distributions_of, is_standard, lies_installed
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.errors import EncoderError, did_you_mean

_LOADERS = re.compile(r"(^|_)(un)?(load|loads|pickle|hub|eval|exec|system|run|compile)(_|$)")
"""In names of functions that come with a package: they open files that can hold code, or run it."""

_OURS = "torch", "ecgscale"
"""Packages whose classes make networks and whose functions do not."""


def build_module(spec: EncoderSpec) -> nn.Module:
    """Import `spec.factory` (python path, then the working directory) and call it with `[arguments]`."""
    with working_directory_importable():
        found = find_factory(spec.factory)
        try:
            with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
                module = found(**spec.arguments)
        except Exception as error:  # anything may go wrong in somebody else's constructor; the cause is chained
            given = ", ".join(spec.arguments) or "none"
            raise EncoderError(
                f"factory {spec.factory!r} refuses its [arguments] ({given}): {type(error).__name__}: {error}"
            ) from error
    if not isinstance(module, nn.Module):
        raise EncoderError(f"factory {spec.factory!r} gives a {type(module).__name__}; a torch.nn.Module was expected")
    return module


def find_factory(factory: str) -> Any:
    """What the import path names: a class of torch.nn.Module, or a function that may make one. It is not called.

    EncoderError when it cannot be imported, or is something else.
    """
    module_name, _, attribute = factory.partition(":")
    if is_standard(module_name):
        raise EncoderError(_refusal(factory, f"{module_name} is of Python's standard library"))
    found: Any = _imported(factory, module_name)
    for part in attribute.split("."):
        if not hasattr(found, part):
            public = [name for name in dir(found) if not name.startswith("_")]
            raise EncoderError(
                f"factory {factory!r}: {module_name} has no {part!r}.{did_you_mean(part, public)} "
                f"It has {', '.join(public[:40])}"
            )
        found = getattr(found, part)
        if isinstance(found, ModuleType) and is_standard(found.__name__):
            raise EncoderError(_refusal(factory, f"{found.__name__} is of Python's standard library"))
    if why := _objection(found):
        raise EncoderError(_refusal(factory, why))
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


def _imported(factory: str, module_name: str) -> Any:
    try:
        return importlib.import_module(module_name)
    except ImportError as error:
        raise EncoderError(
            f"factory {factory!r} cannot be imported: {error}. Install its package, put it on PYTHONPATH, or run from "
            "the directory that holds it"
        ) from error
    except (Exception, SystemExit) as error:  # anything may go wrong in somebody else's module; the cause is chained
        raise EncoderError(
            f"factory {factory!r} cannot be imported: {module_name} fails with {type(error).__name__}: {error}"
        ) from error


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
