"""A contract for a network that has none: what its weights and answers tell; what they cannot tell is asked for.

`init_encoder` makes an encoder directory from a class and a checkpoint (`ecgscale encoder init`), `save_encoder` from a
network in memory. Each guess stands in encoder.toml beside the reason for it.
"""

from __future__ import annotations

import inspect
import tempfile
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ecgscale.archive.reader import Archive
from ecgscale.encoders.code import file_beside, reached
from ecgscale.encoders.inputs import arranged
from ecgscale.encoders.likeness import Form, Likeness, likeness, usual_form
from ecgscale.encoders.listening import tensors_of
from ecgscale.encoders.network import load_network
from ecgscale.encoders.propose import propose_taps, with_taps
from ecgscale.encoders.spec import SPEC_FILE, EncoderSpec, InputSpec, spec_toml
from ecgscale.encoders.taps import Encoder
from ecgscale.encoders.timing import TapFact, measure_taps
from ecgscale.errors import EncoderError, UsageError
from ecgscale.io.objects import put_whole
from ecgscale.io.places import Place, local_copy, place
from ecgscale.leads import CANONICAL_LEADS, canonical_lead
from ecgscale.words import counted

LEADS_OF = {12: CANONICAL_LEADS, 8: ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")}
"""Leads that a network of so many input channels usually sees."""
_BATCH = 4
_SECONDS = 10.0
_LENGTHS = (5000, 4096, 2500, 1000, 1024, 2048, 2250, 250, 4000, 8192)


@dataclass(frozen=True)
class Asked:
    """What a person knows of the network; None and empty: to be found out."""

    leads: Sequence[str] | None = None
    sampling_rate: float | None = None
    length: int | None = None
    names: Sequence[str] = ()
    kind: str | None = None
    scale: str | None = None
    element: str | None = None
    layers: Sequence[str] | None = None
    name: str | None = None
    input: Mapping[str, Any] = field(default_factory=dict)  # other keys of [input]


@dataclass(frozen=True)
class Made:
    """An encoder directory: its contract, the measured taps, each guess with its reason, and what to hesitate at."""

    directory: Place
    encoder_id: str
    spec: EncoderSpec
    taps: tuple[TapFact, ...]
    guesses: dict[str, str]  # by key of encoder.toml
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "encoder": str(self.directory),
            "encoder_id": self.encoder_id,
            "contract": self.spec.model_dump(mode="json", exclude_none=True),
            "taps": [tap.as_dict() for tap in self.taps],
            "guesses": self.guesses,
            "warnings": list(self.warnings),
        }


def init_encoder(
    directory: str | Path,
    factory: str,
    weights: str | Path,
    arguments: Mapping[str, Any],
    asked: Asked,
    like: Archive | None = None,
    weights_key: str | None = None,
    overwrite: bool = False,
) -> Made:
    """Make the encoder directory of a network from its class, by import path, and its checkpoint.

    A module that lies beside the checkpoint is copied along. EncoderError says what cannot be found out, and which
    option says it; `UsageError` that there is an encoder already.
    """
    source = local_copy(weights)
    if not source.is_file():
        raise EncoderError(f"no weights at {weights}")
    content: dict[str, Any] = {"factory": factory, "weights": source.name, "arguments": dict(arguments)}
    if weights_key is not None:
        content["weights_key"] = weights_key
    with tempfile.TemporaryDirectory() as scratch:
        staged = Path(scratch)
        (staged / source.name).write_bytes(source.read_bytes())
        guesses = {}
        module = factory.partition(":")[0]
        if (file := file_beside(source.parent, module)) is not None:
            for name, text in reached(module, source.parent / file.relative_to(source.parent)):
                (staged / name).parent.mkdir(parents=True, exist_ok=True)
                (staged / name).write_bytes(text)
            guesses["factory"] = "its module lay beside the checkpoint and was copied here: what counts is the copy"
        content["name"] = asked.name or place(directory).name or "encoder"
        return _make(staged, place(directory), content, asked, like, guesses, overwrite)


def save_encoder(
    net: nn.Module,
    directory: str | Path,
    *,
    leads: Sequence[str],
    sampling_rate: float,
    length: int,
    names: Sequence[str],
    kind: str = "multilabel",
    scale: str | None = None,
    layers: Sequence[str] | None = None,
    arguments: Mapping[str, Any] | None = None,
    factory: str | None = None,
    name: str | None = None,
    input: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Made:
    """Save a network in memory as the encoder directory `directory`: weights, contract, and the file of its class.

    arguments: of its class, those that make the same network; input: other keys of [input]. layers: proposed when None.
    The class is imported from where it was; one of a notebook has its source written beside, where Python still has it.
    EncoderError when what is saved does not give the same bits, or is no network that can be explained.
    """
    was_training = net.training
    net.eval()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            staged = Path(scratch)
            state = {key: value.detach().cpu().contiguous().clone() for key, value in net.state_dict().items()}
            save_file(state, staged / "weights.safetensors")
            found, guesses = (factory, {}) if factory else _factory_of(type(net), staged)
            content = {"factory": found, "weights": "weights.safetensors", "arguments": dict(arguments or {})}
            content["name"] = name or place(directory).name or "encoder"
            asked = Asked(leads, sampling_rate, length, names, kind, scale, layers=layers, input=dict(input or {}))
            return _make(staged, place(directory), content, asked, None, guesses, overwrite, net)
    finally:
        net.train(was_training)


_HEAD = """import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


"""
"""Before the source of a class from a notebook: the names that networks are written with."""


def _factory_of(kind: type[nn.Module], staged: Path) -> tuple[str, dict[str, str]]:
    if kind.__module__ != "__main__" and "<locals>" not in kind.__qualname__:
        return f"{kind.__module__}:{kind.__qualname__}", {}
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError) as error:
        raise EncoderError(
            f"{kind.__qualname__} was made here, and Python has no source of it: put the class into a file net.py, "
            "import it from there, and save again"
        ) from error
    (staged / "net.py").write_text(_HEAD + textwrap.dedent(source), encoding="utf-8")
    return f"net:{kind.__name__}", {"factory": "made in a notebook: its source was written to net.py here"}


def _make(
    staged: Path,
    directory: Place,
    content: dict[str, Any],
    asked: Asked,
    like: Archive | None,
    guesses: dict[str, str],
    overwrite: bool,
    net: nn.Module | None = None,
) -> Made:
    """Find out what is not asked, write the contract into `staged`, load it as anybody would, and put it in place."""
    if not overwrite and (directory / SPEC_FILE).exists():
        raise UsageError(f"{directory} is an encoder already; give another directory, or --overwrite")
    blank = {
        "input": {"leads": ["I"], "sampling_rate": 1.0, "length": 1},
        "output": {"kind": "multilabel", "names": ["?"]},
    }
    drawn = EncoderSpec.model_validate({**content, **blank})

    def make() -> nn.Module:
        return load_network(staged, drawn)[0].eval()

    module = make()
    form = usual_form(like) if like is not None else None
    found = _Found(module, drawn.factory, asked, form, guesses)
    content["input"] = {**asked.input, **found.input()}
    content["output"] = found.output(content["input"])
    spec = EncoderSpec.model_validate(content)
    if like is not None and not {"millivolt", "normalisation"} & asked.input.keys():
        spec = _in_units(make, spec, like, guesses)
    if asked.layers is not None:
        spec = with_taps(spec, asked.layers)
    else:
        proposal = propose_taps(make, spec)
        spec, guesses["layers"] = proposal.spec, proposal.why
    if spec.taps:
        guesses["taps"] = "measured with impulses: how they keep time"
    (staged / SPEC_FILE).write_text(commented(spec, guesses), encoding="utf-8")
    encoder = Encoder.load(staged, batch=_BATCH)
    if net is not None:
        _require_same(net, make(), spec)
    warnings = [*encoder.notes]
    if like is not None:
        warnings += likeness(make, spec, like).warnings
    names = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda name: name == SPEC_FILE):
        put_whole(directory / name, (staged / name).read_bytes())
    taps = measure_taps(encoder)
    warnings += [f"{tap.wrong}. `ecgscale fit` refuses it as it is" for tap in taps if tap.wrong]
    return Made(directory, encoder.encoder_id, spec, taps, guesses, tuple(warnings))


def _require_same(net: nn.Module, loaded: nn.Module, spec: EncoderSpec) -> None:
    x = _noise(spec.input.seen_at_once, len(spec.input.leads))
    device = next((one.device for one in net.parameters()), torch.device("cpu"))
    with torch.inference_mode():
        x = arranged(x, spec.input.layout)
        one, other = tensors_of(net(x.to(device))), tensors_of(loaded(x))
    close = torch.equal if device.type == "cpu" else torch.allclose
    if one.keys() != other.keys() or not all(close(one[key].cpu(), other[key]) for key in one):
        raise EncoderError(
            f"{spec.factory} with the arguments ({', '.join(spec.arguments) or 'none'}) and these weights gives other "
            "outputs than the network: pass the arguments that it was made with, and keep no state beside its weights"
        )


def _noise(length: int, n_leads: int) -> torch.Tensor:
    """(4, leads, length): noise of 0.1, 1, 10 and 100 mV; what a sigmoid ends stays within 0 and 1."""
    x = torch.randn((_BATCH, n_leads, length), generator=torch.Generator().manual_seed(0))
    return x * torch.tensor([0.1, 1.0, 10.0, 100.0])[:, None, None]


@dataclass
class _Found:
    """What running a network tells of its input and output; reasons go to `guesses`."""

    module: nn.Module
    factory: str
    asked: Asked
    form: Form | None
    guesses: dict[str, str]

    def input(self) -> dict[str, Any]:
        leads = self._leads()
        rate = self.asked.sampling_rate or (self.form.sampling_rate if self.form else None)
        if rate is None:
            raise EncoderError("no weights tell at which sampling rate a network was trained: give --rate, or --like")
        if not self.asked.sampling_rate:
            self.guesses["sampling_rate"] = "that of the archive; weights do not tell. Was the network trained at it?"
        return {"leads": list(leads), "sampling_rate": float(rate), "length": self._length(len(leads), rate)}

    def _run(self, x: torch.Tensor) -> Any:
        return self.module(arranged(x, self.asked.input.get("layout", "bct")))

    def _leads(self) -> Sequence[str]:
        channels = next((m.in_channels for m in self.module.modules() if isinstance(m, nn.Conv1d)), None)
        if self.asked.leads:
            return [canonical_lead(lead) for lead in self.asked.leads]
        if self.form and channels in (None, len(self.form.leads)):
            self.guesses["leads"] = "those of the archive, in its order; weights do not tell an order"
            return self.form.leads
        if channels in LEADS_OF:
            self.guesses["leads"] = f"its first convolution takes {channels} channels, usually these in this order"
            return LEADS_OF[channels]
        said = f"its first convolution takes {channels} channels" if channels else "it has no convolution to tell"
        raise EncoderError(f"which leads does {self.factory} see ({said})? Give --leads, as I,II,V1, in its order")

    def _length(self, n_leads: int, rate: float) -> int:
        if self.asked.length:
            return self.asked.length
        usual = round((self.form.seconds if self.form else _SECONDS) * rate)
        errors: dict[int, str] = {}
        runs: list[int] = []
        for length in dict.fromkeys((usual, *_LENGTHS)):
            try:
                with torch.inference_mode():
                    self._run(torch.zeros((_BATCH, n_leads, length)))
                runs.append(length)
            except Exception as error:  # anything may go wrong in somebody else's network
                errors[length] = str(error).partition("\n")[0]
            if len(runs) == 3 or (runs and errors):
                break
        if not runs:
            raise EncoderError(
                f"{self.factory} runs on none of {', '.join(map(str, errors))} samples of {counted(n_leads, 'lead')} "
                f"({errors[usual]}): give --length, and see [arguments]"
            )
        whose = "of the archive's recordings" if self.form else f"of {_SECONDS:g} s"
        self.guesses["length"] = (
            f"it runs on any; that {whose}" if runs[0] == usual else "the first of usual lengths that it runs on"
        )
        return runs[0]

    def output(self, signal: Mapping[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            returned = self._run(_noise(InputSpec.model_validate(signal).seen_at_once, len(signal["leads"])))
        flat = {path: one[:, None] if one.ndim == 1 else one for path, one in tensors_of(returned).items()}
        usable = {path: one for path, one in flat.items() if one.ndim == 2 and len(one) == _BATCH}
        if self.asked.names:
            usable = {path: one for path, one in usable.items() if one.shape[1] == len(self.asked.names)}
        if self.asked.element is not None:
            usable = {path: one for path, one in usable.items() if path == self.asked.element}
        if len(usable) != 1:
            shapes = ", ".join(f"{path or 'a tensor'} {tuple(one.shape)}" for path, one in flat.items()) or "no tensor"
            raise EncoderError(
                f"{self.factory} returns {shapes} for {_BATCH} records; "
                + ("which is the prediction? Give --element" if usable else "none is a prediction, (records, outputs)")
                + (f" (--names has {len(self.asked.names)})" if self.asked.names else "")
            )
        [(path, values)] = usable.items()
        n = values.shape[1]
        found: dict[str, Any] = {"names": list(self.asked.names) or [f"out{i}" for i in range(n)]}
        if not self.asked.names:
            self.guesses["names"] = f"it gives {counted(n, 'number')}; name them"
        if path:
            found["element"] = path
            self.guesses["element"] = "the one that has the shape of a prediction"
        return {**found, **self._kind(values)}

    def _kind(self, values: torch.Tensor) -> dict[str, str]:
        within = bool(((values >= 0) & (values <= 1)).all())
        shares = (
            within and values.shape[1] > 1 and bool(torch.allclose(values.sum(1), torch.ones(len(values)), atol=1e-4))
        )
        kind = self.asked.kind or ("multiclass" if shares else "multilabel")
        if not self.asked.kind:
            self.guesses["kind"] = (
                "its outputs add up to 1"
                if shares
                else 'a guess: "multiclass" if just one of them is true of a recording'
            )
        scale = self.asked.scale or ("value" if kind == "regression" else "probability" if within else "logit")
        if not self.asked.scale and kind != "regression":
            self.guesses["scale"] = (
                "all outputs lie within 0 and 1, whatever goes in"
                if within
                else "outputs leave 0 to 1: no sigmoid at its end"
            )
        return {"kind": kind, "scale": scale}


def _in_units(make: Callable[[], nn.Module], spec: EncoderSpec, like: Archive, guesses: dict[str, str]) -> EncoderSpec:
    """The contract with the units and the normalisation that the network's batch norms remember."""
    tried: list[tuple[Likeness, EncoderSpec]] = []
    for change in ({}, {"normalisation": "zscore-lead"}, {"millivolt": 1000.0}, {"millivolt": 0.001}):
        signal = {**spec.input.model_dump(exclude_defaults=True), **change}
        tried.append((likeness(make, found := _with_input(spec, signal), like), found))
    if tried[0][0].off is None:
        guesses["millivolt"] = "not checked: there is no trained batch norm, which would remember the size of its input"
        return spec
    best, found = min(tried, key=lambda one: abs(one[0].off or 0.0) + (one[1].input != spec.input) * 0.2)
    plain = tried[0][0].off or 0.0
    said = f"batch norms remember an input of this size (10^{best.off:+.1f} of its variance"
    said += f"; 10^{plain:+.1f} if left as it is)" if found.input != spec.input else ")"
    guesses["normalisation" if found.input.normalisation != "none" else "millivolt"] = said
    return found


def _with_input(spec: EncoderSpec, signal: Mapping[str, Any]) -> EncoderSpec:
    return EncoderSpec.model_validate({**spec.model_dump(exclude_defaults=True), "input": dict(signal)})


def commented(spec: EncoderSpec, guesses: Mapping[str, str]) -> str:
    """encoder.toml with each guess above what was guessed."""
    lines: list[str] = []
    said: set[str] = set()
    for line in spec_toml(spec).splitlines():
        key = "taps" if line.startswith("[taps") else line.partition(" = ")[0]
        if key in guesses and key not in said:
            said.add(key)
            lines.append(f"# {guesses[key]}")
        lines.append(line)
    return "\n".join(lines) + "\n"
