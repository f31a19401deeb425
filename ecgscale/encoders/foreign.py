"""Networks that come as programs: TorchScript, `torch.export` and ONNX. No class of theirs is needed here.

A program is wrapped in a module whose children are its values, under their own names: each is handed what the program
computed there and passes it on. So whatever listens to modules by hooks listens to programs. Only what is listened to
is taken out of the program.

A program is code as a class is: loading TorchScript or an exported program may run what the file says (the latter is
unpickled), ONNX holds operators alone.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import fx, nn

from ecgscale.encoders.code import companions
from ecgscale.errors import EncoderError
from ecgscale.words import named, one_line


class Value(nn.Identity):
    """A value of a program, by its name."""


class Program(nn.Module):
    """A program with its values as modules. `batch` is the number of records that it takes, None for any."""

    batch: int | None = None

    def __init__(self, path: Path, kinds: dict[str, str]) -> None:
        super().__init__()
        self.path = path
        for name, kind in kinds.items():
            # Names may have dots, which add_module refuses; named_modules() gives them as they are.
            self._modules[name] = type(kind, (Value,), {})()

    def forward(self, *inputs: torch.Tensor) -> Any:
        wanted = [name for name, value in self.named_children() if value._forward_hooks or value._forward_pre_hooks]
        n = len(inputs[0])
        if self.batch is None or self.batch == n:
            return self.run(wanted, dict(self.named_children()), inputs)
        return self._in_parts(wanted, inputs, self.batch)

    def _in_parts(self, wanted: list[str], inputs: Sequence[torch.Tensor], size: int) -> Any:
        """So many records at a time as the program was exported for, the last of them filled up with zeros."""
        outputs, kept = [], {name: list[Any]() for name in wanted}
        keeping = {name: partial(_keep, parts) for name, parts in kept.items()}
        n = len(inputs[0])
        padded = [torch.cat([one, one.new_zeros((-n % size, *one.shape[1:]))]) for one in inputs]
        for start in range(0, n, size):
            filled = [one[start : start + size] for one in padded]
            outputs.append(self.run(wanted, keeping, filled))
        values = dict(self.named_children())
        for name, parts in kept.items():
            if parts:
                values[name](_joined(parts, size, n))
        return _joined(outputs, size, n)

    @abstractmethod
    def run(self, wanted: list[str], values: Any, inputs: Sequence[torch.Tensor]) -> Any:
        """What the program returns; `values[name]` is called with each value that is `wanted`."""

    @abstractmethod
    def shuffle(self, seed: int) -> None:
        """Put the weights into a random order, each tensor's among themselves."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(self.path)  # type: ignore[call-arg]


def _keep(parts: list[Any], value: Any) -> Any:
    # A copy: what comes later may write into it.
    parts.append(value.clone() if isinstance(value, torch.Tensor) else value)
    return value


def _joined(parts: list[Any], size: int, n: int) -> Any:
    """The first n records of what parts of `size` gave; what is not by record is that of the first part."""
    first = parts[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(parts)[:n] if first.ndim and len(first) == size else first
    if isinstance(first, tuple | list):
        return [_joined(list(part), size, n) for part in zip(*parts, strict=True)]
    if isinstance(first, dict):
        return {name: _joined([part[name] for part in parts], size, n) for name in first}
    return first


def shuffle(tensors: Sequence[torch.Tensor], seed: int) -> None:
    """Put each tensor into a random order, in place; those of one length alike, so that the statistics of a batch norm
    stay with each other."""
    with torch.no_grad():
        for tensor in tensors:
            if tensor.is_floating_point() and tensor.numel() > 1:
                order = torch.randperm(tensor.numel(), generator=_generator(seed, tensor.numel()))
                tensor.copy_(tensor.flatten()[order.to(tensor.device)].view_as(tensor))


def _generator(seed: int, size: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + size) % 2**63)


class _OfTorch(Program):
    """A program that is a module of torch itself."""

    def __init__(self, path: Path, kinds: dict[str, str], network: Any) -> None:
        super().__init__(path, kinds)
        # In a dict, so that its own modules, which nothing can listen to, are not those of this one.
        self._own = {"network": network}

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        self._own["network"]._apply(fn)
        return self

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        yield from self._own["network"].named_parameters()

    def shuffle(self, seed: int) -> None:
        network = self._own["network"]
        shuffle([*network.parameters(), *network.buffers()], seed)


class TorchScript(_OfTorch):
    """`torch.jit.save`d, traced or scripted. Values are submodules, by their names.

    Hooks do not run inside TorchScript. So the graph is rewritten: calls on the way to a submodule are put in place of
    what they call, until the submodule's own call is in the outermost graph and its result can be returned besides.
    """

    def __init__(self, path: Path) -> None:
        script = torch.jit.load(str(path), map_location="cpu")
        kinds = {name: getattr(part, "original_name", "Module") for name, part in script.named_modules() if name}
        super().__init__(path, kinds, script.eval())
        self._functions: dict[tuple[str, ...], Any] = {}

    def run(self, wanted: list[str], values: Any, inputs: Sequence[torch.Tensor]) -> Any:
        script = self._own["network"]
        # What is optimised after a few runs may give other bits than the first did.
        with torch.jit.optimized_execution(False):
            if not wanted:
                return script(*inputs)
            if tuple(wanted) not in self._functions:
                self._functions[tuple(wanted)] = _with_values(script, wanted)
            function, found = self._functions[tuple(wanted)]
            given = function(script._c, *inputs)
        for name, value in zip(found, given[1:], strict=True):
            values[name](value)
        return given[0]


def _with_values(script: Any, wanted: list[str]) -> tuple[Any, list[str]]:
    """A function that returns what the script returns, and then each submodule's value that is wanted, by name."""
    graph = script.graph.copy()
    this = next(iter(graph.inputs()))
    given: dict[str, list[Any]] = {}
    while calls := [
        (call, way) for call, way in _calls(graph, this) if any(one.startswith(f"{way}.") for one in wanted)
    ]:
        call, way = calls[0]
        part = script
        for name in way.split("."):
            part = getattr(part, name)
        graph.setInsertPoint(call)
        [result] = graph.insertGraph(part._c._get_method(call.s("name")).graph, list(call.inputs()))
        if way in wanted and _is_forward(call):
            given.setdefault(way, []).append(result)
        call.output().replaceAllUsesWith(result)
        graph.setInsertPoint(graph.return_node())
        call.destroy()
    for call, way in _calls(graph, this):
        if way in wanted and _is_forward(call):
            given.setdefault(way, []).append(call.output())
    outermost = {output.unique() for node in graph.nodes() for output in node.outputs()}
    # One use alone, and one that comes always: else the value is left out, as of a module that did not run.
    once = {way: values[0] for way, values in given.items() if len(values) == 1 and values[0].unique() in outermost}
    for value in once.values():
        graph.registerOutput(_kept(graph, value))
    graph.registerOutput(graph.insertConstant(True))  # a tuple also where nothing else is returned
    graph.makeMultiOutputIntoTuple()
    function = torch._C._create_function_from_graph("with_values", graph)
    return lambda *given: function(*given)[:-1], list(once)


def _leads_to(way: str, wanted: Sequence[str]) -> bool:
    return any(one.startswith(f"{way}.") for one in wanted)


def _is_forward(call: Any) -> bool:
    """A second call of one submodule is forward1 or forward__1 to tracing."""
    return re.fullmatch(r"forward(_*\d+)?", call.s("name")) is not None


def _calls(graph: Any, this: Any) -> Iterator[tuple[Any, str]]:
    """Calls of methods of submodules, with the submodule's name."""
    for call in graph.findAllNodes("prim::CallMethod"):
        value, names = next(iter(call.inputs())), []
        while value.node().kind() == "prim::GetAttr":
            names.append(value.node().s("name"))
            value = next(iter(value.node().inputs()))
        if value.unique() == this.unique():
            yield call, ".".join(reversed(names))


def _kept(graph: Any, value: Any) -> Any:
    """A copy of a tensor, or of those in a tuple, while the rest of the graph goes on with copies of that: what comes
    later and works in place spoils nothing, and gradients pass. Anything else is returned as it is."""
    last = value.node()

    def add(kind: str, inputs: list[Any], *types: Any) -> list[Any]:
        nonlocal last
        node = graph.create(kind, inputs, len(types))
        node.insertAfter(last)
        last = node
        outputs = list(node.outputs())
        for output, its in zip(outputs, types, strict=True):
            output.setType(its)
        return outputs

    def twice(tensor: Any) -> tuple[Any, Any]:
        if str(tensor.type()) != "Tensor":
            return tensor, tensor
        [first] = add("aten::clone", [tensor, *add("prim::Constant", [], torch._C.NoneType.get())], tensor.type())
        [second] = add("aten::clone", [first, *add("prim::Constant", [], torch._C.NoneType.get())], tensor.type())
        return first, second

    whole = value.type()
    if isinstance(whole, torch._C.TupleType):
        pairs = [twice(one) for one in add("prim::TupleUnpack", [value], *whole.elements())]
        [kept] = add("prim::TupleConstruct", [one for one, _ in pairs], whole)
        [after] = add("prim::TupleConstruct", [one for _, one in pairs], whole)
    else:
        kept, after = twice(value)
    if after is not value:
        value.replaceAllUsesAfterNodeWith(last, after)
    return kept


class Exported(_OfTorch):
    """`torch.export.save`d. Values are the nodes of its graph, by their names."""

    def __init__(self, path: Path) -> None:
        program = torch.export.load(str(path))
        graph: Any = program.module()
        kinds = {
            node.name: getattr(node.target, "__name__", str(node.target)).partition(".")[0]
            for node in graph.graph.nodes
            if node.op == "call_function" and _has_tensor(node.meta.get("val"))
        }
        super().__init__(path, kinds, graph)
        inputs = [node.meta.get("val") for node in graph.graph.nodes if node.op == "placeholder"]
        sizes = [one.shape[0] for one in inputs if isinstance(one, torch.Tensor) and one.ndim]
        self.batch = sizes[0] if sizes and isinstance(sizes[0], int) else None

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        device = fn(torch.zeros(1)).device
        for node in self._own["network"].graph.nodes:
            if "device" in node.kwargs:
                node.kwargs = {**node.kwargs, "device": device}
        return super()._apply(fn, recurse)

    def run(self, wanted: list[str], values: Any, inputs: Sequence[torch.Tensor]) -> Any:
        return _Run(self._own["network"], wanted, values).run(*inputs)


class _Run(fx.Interpreter):
    def __init__(self, graph: fx.GraphModule, wanted: Sequence[str], values: Any) -> None:
        super().__init__(graph)
        self.wanted, self.values = frozenset(wanted), values

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        return self.values[n.name](value) if n.name in self.wanted else value


def _has_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor) or (isinstance(value, tuple | list) and any(map(_has_tensor, value)))


class Onnx(Program):
    """An ONNX model, run by ONNX Runtime on the CPU. Values are those of its graph, by their names."""

    def __init__(self, path: Path) -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError as error:
            raise EncoderError(f"{path} needs {error.name}: pip install 'ecgscale[onnx]'") from error
        self._runtime = onnxruntime
        model = onnx.load(str(path), load_external_data=False)
        if not model.graph.output:
            raise ValueError("there is no graph in it")
        stored = model.graph.initializer
        elsewhere = {entry.value for one in stored for entry in one.external_data if entry.key == "location"}
        if odd := sorted(elsewhere - set(companions(path.parent, "onnx", path.name))):
            raise EncoderError(
                f"{path} keeps weights in {named(odd)}; an encoder has them in {path.name}.data: "
                f"onnx.save(model, {path.name!r}, save_as_external_data=True, location={path.name + '.data'!r})"
            )
        onnx.load_external_data_for_model(model, str(path.parent))
        constant = {one.name for one in stored}
        inputs = [one for one in model.graph.input if one.name not in constant]
        kinds = {
            name: node.op_type
            for node in model.graph.node
            if node.op_type not in ("Constant", "ConstantOfShape", "Shape")
            for name in node.output
            if name
        }
        super().__init__(path, kinds)
        self._model, self._sizes = model, [tuple(one.dims) for one in stored]
        types = [one.type.tensor_type for one in inputs]
        self._inputs = [
            (one.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
            for one, kind in zip(inputs, types, strict=True)
        ]
        self._outputs = [one.name for one in model.graph.output]
        self.batch = (types[0].shape.dim[0].dim_value if types and types[0].shape.dim else 0) or None
        self._sessions: dict[tuple[str, ...], Any] = {}

    def named_parameters(self, *_: Any, **__: Any) -> Iterator[tuple[str, nn.Parameter]]:
        # Their number, that is; the runtime has the values.
        yield from ((str(i), nn.Parameter(torch.empty(size, device="meta"))) for i, size in enumerate(self._sizes))

    def shuffle(self, seed: int) -> None:
        from onnx import numpy_helper

        for stored in self._model.graph.initializer:
            tensor = torch.from_numpy(numpy_helper.to_array(stored).copy())
            if tensor.is_floating_point():
                shuffle([tensor], seed)
                stored.CopyFrom(numpy_helper.from_array(tensor.numpy(), stored.name))
        self._sessions.clear()

    def run(self, wanted: list[str], values: Any, inputs: Sequence[torch.Tensor]) -> Any:
        x = inputs[0]
        if torch.is_grad_enabled() and x.requires_grad:
            raise EncoderError(f"{self.path} is ONNX, which has no gradients: Grad-CAM needs the network in torch")
        if torch.is_autocast_enabled(x.device.type):
            raise EncoderError(f"{self.path} is ONNX, whose arithmetic is its own: leave out the precision bfloat16")
        if len(inputs) != len(self._inputs):
            names = ", ".join(name for name, _ in self._inputs)
            raise EncoderError(f"{self.path} takes {len(self._inputs)} inputs ({names}); {len(inputs)} were given")
        more = tuple(name for name in wanted if name not in self._outputs)
        fed = {
            name: one.detach().cpu().numpy().astype(kind)
            for (name, kind), one in zip(self._inputs, inputs, strict=True)
        }
        asked = [*self._outputs, *more]
        given = dict(zip(asked, self._session(more).run(asked, fed), strict=True))
        for name in wanted:
            values[name](_tensor(given[name], x.device))
        outputs = {name: _tensor(given[name], x.device) for name in self._outputs}
        return outputs if len(outputs) > 1 else outputs[self._outputs[0]]

    def _session(self, more: tuple[str, ...]) -> Any:
        """A session that returns these values besides. Made by what is the same everywhere: no search for what is
        fastest on this machine, no sums in an order of their own."""
        if more not in self._sessions:
            model = type(self._model)()
            model.CopyFrom(self._model)
            for name in more:
                model.graph.output.add().name = name
            options = self._runtime.SessionOptions()
            options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
            options.graph_optimization_level = self._runtime.GraphOptimizationLevel.ORT_ENABLE_BASIC
            options.use_deterministic_compute = True
            options.log_severity_level = 3
            providers = ["CPUExecutionProvider"]
            self._sessions.clear()
            self._sessions[more] = self._runtime.InferenceSession(model.SerializeToString(), options, providers)
        return self._sessions[more]


def _tensor(value: Any, device: torch.device) -> Any:
    is_numbers = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    return torch.from_numpy(np.array(value)).to(device) if is_numbers else value


_KINDS: dict[str, Callable[[Path], Program]] = {"torchscript": TorchScript, "torch.export": Exported, "onnx": Onnx}


def program(factory: str, path: Path) -> Program:
    """The program in a file; EncoderError when it is none of that kind, or does not load."""
    if not path.is_file():
        raise EncoderError(f"no program at {path}; `weights` in encoder.toml names a file beside it")
    try:
        return _KINDS[factory](path)
    except (EncoderError, KeyboardInterrupt):
        raise
    except Exception as error:  # whatever a loader makes of bytes that are none of its kind
        text = one_line(" ".join(str(error).split()))[:300]
        raise EncoderError(f"{path} cannot be loaded as {factory}: {type(error).__name__}: {text}") from error
