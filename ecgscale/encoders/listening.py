"""Hearing what a network computes on its way: modules by hooks, any other value by its torch.fx node; and finding one
tensor in what comes: an element of a tuple, a key of a dict."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from ecgscale.encoders.shapes import NODE, split_layer
from ecgscale.encoders.spec import EncoderSpec
from ecgscale.errors import EncoderError, did_you_mean
from ecgscale.words import counted, named

Keep = Callable[[str, Sequence[str], Any], Any]
"""Is given a layer, the path to what is tapped of its output, and the output; returns what the network goes on with."""


def listen(module: nn.Module, layers: Iterable[str], keep: Keep, who: str) -> nn.Module:
    """The network that has to be run so that `keep` hears each of these layers: `module`, or its torch.fx graph.

    EncoderError names what there is for a layer that is not there, and says so where torch.fx cannot trace `who`.
    """
    modules = dict(module.named_modules())
    modules.pop("", None)
    split = {layer: split_layer(layer) for layer in layers}
    for name in (name for name, _ in split.values() if not name.startswith(NODE)):
        if name not in modules:
            raise EncoderError(
                f"the network has no layer {name!r}.{did_you_mean(name, modules)} "
                f"It has {_few(modules)} (`ecgscale encoder check --all` shows their shapes)"
            )
    if any(name.startswith(NODE) for name, _ in split.values()):
        return _Traced(module, split, keep, who)
    for layer, (name, path) in split.items():
        modules[name].register_forward_hook(partial(_hook, keep, layer, path))
    return module


def _few(names: Collection[str]) -> str:
    """All of a few names; of many the outermost, and how many there are besides."""
    outer = [name for name in names if "." not in name] if len(names) > 20 else list(names)
    inner = len(names) - len(outer)
    return named(outer, 20) + (f" and {inner:,} inside them" if inner else "")


def _hook(keep: Keep, layer: str, path: Sequence[str], _module: nn.Module, _inputs: Any, output: Any) -> Any:
    return keep(layer, path, output)


class _Tracer(fx.Tracer):
    """Keeps what each module gave, by its name, one a use."""

    def __init__(self) -> None:
        super().__init__(param_shapes_constant=True)
        self.given: dict[str, list[Any]] = {}

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        output = super().call_module(m, forward, args, kwargs)
        self.given.setdefault(self.path_of_module(m), []).append(output)
        return output


def _traced(module: nn.Module, who: str) -> tuple[fx.GraphModule, _Tracer]:
    tracer = _Tracer()
    try:
        return fx.GraphModule(module, tracer.trace(module)), tracer
    except Exception as error:  # whatever its forward does with a value that is not there yet
        raise EncoderError(
            f"torch.fx cannot trace {who}, so it has no fx: nodes: {type(error).__name__}: {str(error)[:300]}. Tap "
            "modules by their names; a value that is none becomes one when your forward passes it through an "
            "nn.Identity() of the network"
        ) from error


class _Traced(nn.Module):
    """Runs the torch.fx graph of a module, the same operations in the same order, and lets `keep` hear some nodes."""

    def __init__(
        self, module: nn.Module, layers: Mapping[str, tuple[str, tuple[str, ...]]], keep: Keep, who: str
    ) -> None:
        super().__init__()
        self.graph, tracer = _traced(module, who)
        self.keep = keep
        self.wanted: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
        known = [node.name for node in self.graph.graph.nodes if node.op != "output"]
        for layer, (name, path) in layers.items():
            node = name.removeprefix(NODE)
            if not name.startswith(NODE):
                for given in tracer.given.get(name, ()):
                    place, rest = _node_of(given, path, layer)
                    self.wanted.setdefault(place, []).append((layer, rest))
            elif node in known:
                self.wanted.setdefault(node, []).append((layer, path))
            else:
                raise EncoderError(
                    f"the network has no torch.fx node {node!r}.{did_you_mean(node, known)} It has {_few(known)} "
                    "(`ecgscale encoder check --nodes` shows their shapes)"
                )

    def forward(self, x: torch.Tensor) -> Any:
        return _Run(self).run(x)


class _Run(fx.Interpreter):
    def __init__(self, traced: _Traced) -> None:
        super().__init__(traced.graph)
        self.traced = traced

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        for layer, path in self.traced.wanted.get(n.name, ()):
            value = self.traced.keep(layer, path, value)
        return value


def _node_of(given: Any, path: tuple[str, ...], layer: str) -> tuple[str, tuple[str, ...]]:
    """The node of what a module gave while it was traced, and what is left of the path to look up in its value."""
    while not isinstance(given, fx.Proxy):
        inner = elements_of(given)
        name, path = (path[0], path[1:]) if path else (next(iter(inner), ""), path)
        if name not in inner:
            raise EncoderError(f"layer {layer!r} returns {described(given)}; element {name or 0} is not there")
        given = inner[name]
    return given.node.name, path


def nodes_of(module: nn.Module, x: torch.Tensor, who: str) -> list[tuple[str, str, tuple[int, ...]]]:
    """The tensors that a network makes on its way: each torch.fx node, what makes it, and its shape, in their order."""
    found: list[tuple[str, str, tuple[int, ...]]] = []
    graph, _ = _traced(module, who)

    class Look(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, torch.Tensor) and n.op not in ("output", "placeholder", "get_attr"):
                made = n.target if isinstance(n.target, str) else getattr(n.target, "__name__", str(n.target))
                found.append((n.name, made, tuple(value.shape)))
            return value

    with torch.inference_mode():
        Look(graph).run(x)
    return found


def instead_of(name: str, module: nn.Module | None, times: int) -> str:
    """What to tap in the place of a layer that ran `times` times."""
    inner = [f"{name}.{child}" for child, _ in module.named_children()] if module is not None else []
    outer = name.rpartition(".")[0]
    if times > 1:
        around = f"the block around it, {outer!r}," if outer else "the block around it"
        return f"tap {around} that gathers what its uses give, one use by its torch.fx node, or give each a module"
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        kind = type(module).__name__
        return (
            f"an nn.{kind} holds modules and is never called itself: tap its items, {named(list(map(repr, inner)), 40)}"
        )
    if inner:
        return f"the network calls its parts and not it: tap one of them, {named(list(map(repr, inner)), 12)}"
    return "the network does not use it in this pass: tap another"


def elements_of(output: Any) -> dict[str, Any]:
    """What a container holds by the names that a path has for it; {} for what is none.

    Tuples and lists by number, named tuples by field too, dicts and the like by key, dataclasses by field.
    """
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if isinstance(output, tuple | list):
        return {str(number): value for number, value in enumerate(output)}
    if is_dataclass(output) and not isinstance(output, type):
        return {field.name: getattr(output, field.name) for field in fields(output)}
    return {}


def tensors_of(output: Any, path: str = "") -> dict[str, torch.Tensor]:
    """Every tensor in what was returned, by its path as `layers` has it: "" for a tensor alone, "hidden_states#3"."""
    if isinstance(output, torch.Tensor):
        return {path: output}
    found: dict[str, torch.Tensor] = {}
    for name, value in elements_of(output).items():
        found |= tensors_of(value, f"{path}#{name}" if path else name)
    return found


def element_of(output: Any, path: Sequence[str], who: str) -> torch.Tensor:
    """The tensor at `path` of what a network or a layer returned.

    EncoderError, which begins with `who`, lists what is there.
    Where the path ends at a tuple it is its first element, and the only tensor of a dict.
    """
    found = output
    for name in path:
        inner = {"0": found} if isinstance(found, torch.Tensor) else elements_of(found)
        values = list(inner.values())
        if name in getattr(found, "_fields", ()):
            found = getattr(found, name)
        elif name in inner:
            found = inner[name]
        elif name.isdecimal() and int(name) < len(values):
            found = values[int(name)]
        else:
            raise EncoderError(f"{who} {described(found)}; element {name} is not there.{did_you_mean(name, inner)}")
    while not isinstance(found, torch.Tensor):
        inner = elements_of(found)
        tensors = {name: value for name, value in inner.items() if isinstance(value, torch.Tensor)}
        if isinstance(found, tuple | list) and found and isinstance(found[0], torch.Tensor | tuple | list):
            found = found[0]
        elif len(tensors) == 1:
            found = next(iter(tensors.values()))
        else:
            choice = f"; choose by #, as in #{next(iter(tensors))}" if tensors else ", and no tensor among them"
            raise EncoderError(f"{who} {described(found)}{choice}")
    return found


def exchanged(output: Any, old: torch.Tensor, new: torch.Tensor) -> Any:
    """The same container with `new` in the place of `old`, wherever in it."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        copied: Any = copy.copy(output)
        for key, value in output.items():
            copied[key] = exchanged(value, old, new)
        return copied
    if isinstance(output, tuple | list):
        parts = [exchanged(value, old, new) for value in output]
        return type(output)(*parts) if hasattr(output, "_fields") else type(output)(parts)
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, **{name: exchanged(value, old, new) for name, value in elements_of(output).items()})
    return output


def described(output: Any) -> str:
    """ "2 elements: 0 (4, 16, 64), 1 (4, 2)": a container and the shapes in it; of anything else, what it is."""
    inner = elements_of(output)
    if not inner:
        return f"1 element ({_shape(output)})"
    return f"{counted(len(inner), 'element')}: " + named(
        [f"{name} {_shape(value)}" for name, value in inner.items()], 12
    )


def _shape(value: Any) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else type(value).__name__


def prediction_of(output: Any, spec: EncoderSpec, n: int) -> torch.Tensor:
    """What a network returned for n records as (n, n_outputs).

    `[output] element` says which of several it is; without it, it is the only one of that shape. EncoderError where
    none is, or several are.
    """
    names, path = spec.output.names, spec.output.element
    who = f"{spec.factory} returns"

    def shaped(value: Any) -> torch.Tensor | None:
        if isinstance(value, torch.Tensor) and value.ndim == 1:
            value = value[:, None]
        return value if isinstance(value, torch.Tensor) and tuple(value.shape) == (n, len(names)) else None

    if path is not None:
        output = element_of(output, path.split("#"), who)
    candidates = {name: found for name, value in elements_of(output).items() if (found := shaped(value)) is not None}
    if len(candidates) > 1:
        choice = " or ".join(f'element = "{name}"' for name in candidates)
        raise EncoderError(
            f"{who} {described(output)}; {len(candidates)} of them have the shape of a prediction, "
            f"({n}, {len(names)}). [output] of encoder.toml settles which it is: {choice}"
        )
    found = shaped(output) if isinstance(output, torch.Tensor) else next(iter(candidates.values()), None)
    if found is not None:
        return found
    first = output if isinstance(output, torch.Tensor) else next(iter(elements_of(output).values()), output)
    if not isinstance(first, torch.Tensor):
        raise EncoderError(f"{who} {described(output)}; a tensor, or a tuple or dict of tensors, was expected")
    shape = tuple(first[:, None].shape if first.ndim == 1 else first.shape)
    raise EncoderError(
        f"{spec.factory} predicts shape {shape} for {n} records; [output] names {len(names)}: {', '.join(names)}"
        + ("" if first is output else f". It returns {described(output)}; [output] element names one of them")
    )
