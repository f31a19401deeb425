"""The encoder directory: `encoder.toml` as a typed, frozen contract, and the digest that names the encoder."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from ecgscale.archive_config import Section
from ecgscale.encoders.code import (
    PROGRAMS,
    code_of,
    companions,
    file_beside,
    is_program,
    is_standard,
    objection,
    program_of,
)
from ecgscale.encoders.inputs import RARE, FilterSpec, InputSpec, Positive, WindowSpec
from ecgscale.encoders.shapes import ALL, Tap, TapSpec
from ecgscale.errors import EncoderError, did_you_mean, sentences_of
from ecgscale.io.numbered import canonical_digest
from ecgscale.io.objects import put_whole
from ecgscale.io.places import local_copy, place
from ecgscale.io.toml import to_toml

SPEC_FILE = "encoder.toml"
LONGEST = 2**20
"""Bytes of an encoder.toml that are read at most."""
DEEPEST = 32
"""Tables and lists inside each other."""


class OutputSpec(Section):
    """`[output]`: what `prediction` holds. A regression gives `value` (its own unit, e.g. years), whatever is named.

    element: which one, of a network that returns several: its number in a tuple, or its key in a dict
    """

    kind: Literal["multilabel", "multiclass", "regression"]
    scale: Literal["logit", "probability", "value"]
    names: tuple[str, ...] = Field(min_length=1)
    element: str | None = None

    @field_validator("element", mode="before")
    @classmethod
    def _number(cls, element: Any) -> Any:
        return str(element) if type(element) is int else element

    @model_validator(mode="before")
    @classmethod
    def _default_scale(cls, section: Any) -> Any:
        if not isinstance(section, dict):
            return section
        if section.get("kind") == "regression":
            return {**section, "scale": "value"}
        return {"scale": "logit", **section}

    @model_validator(mode="after")
    def _fits(self) -> OutputSpec:
        if self.kind != "regression" and self.scale == "value":
            raise ValueError(f"scale 'value' does not suit {self.kind!r}: it is for 'regression' alone")
        if len(set(self.names)) < len(self.names):
            raise ValueError(f"an output is named twice: {', '.join(self.names)}")
        return self


class EncoderSpec(Section):
    """All of `encoder.toml`."""

    name: str = Field(min_length=1)
    factory: str
    weights: str
    weights_key: str | None = None
    layers: tuple[str, ...] = ()  # none: `encoder check` proposes some
    depth_scales: tuple[Positive, ...] = ()  # 1.0 each where none are given
    arguments: dict[str, Any] = Field(default_factory=dict)
    input: InputSpec
    output: OutputSpec
    taps: dict[str, TapSpec] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _program(cls, content: Any) -> Any:
        """A program's file says what it is."""
        if isinstance(content, dict) and "factory" not in content and isinstance(content.get("weights"), str):
            return {**content, "factory": program_of(content["weights"])}
        return content

    @property
    def imports(self) -> tuple[str, ...]:
        """What is imported to run it: the factory, and the user's own preprocessing."""
        return (self.factory, self.input.preprocess) if self.input.preprocess else (self.factory,)

    def code(self, directory: Path | None = None) -> dict[str, str] | None:
        """The code of all that is imported (`encoders.code.code_of`); None when some of it is not to be found."""
        found: dict[str, str] = {}
        for path in self.imports:
            code = code_of(path, directory)
            if code is None:
                return None
            found |= code
        return found

    @field_validator("factory")
    @classmethod
    def _importable(cls, factory: str) -> str:
        if factory in PROGRAMS:
            return factory
        if not re.fullmatch(r"\w+(\.\w+)*:\w+(\.\w+)*", factory):
            programs = ", ".join(PROGRAMS)
            raise ValueError(
                f"{factory!r} is not of the form 'package.module:callable'; for a program it is one of {programs}"
            )
        if is_standard(factory.partition(":")[0]):
            raise ValueError(
                f"{factory!r} is of Python's standard library, and no network comes from there; name a class of "
                "torch.nn.Module, or a function of your own module that makes one"
            )
        return factory

    @field_validator("weights")
    @classmethod
    def _alongside(cls, weights: str) -> str:
        _require_beside(weights)
        if why := objection(weights):
            raise ValueError(why)
        return weights

    @field_validator("training")
    @classmethod
    def _seen_alongside(cls, training: dict[str, Any]) -> dict[str, Any]:
        if seen := training.get("seen"):
            if not isinstance(seen, str):
                raise ValueError(f"seen is {seen!r}; expected the name of a file beside {SPEC_FILE}")
            _require_beside(seen)
        return training

    @model_validator(mode="before")
    @classmethod
    def _plain_scales(cls, content: Any) -> Any:
        if (
            isinstance(content, dict)
            and "depth_scales" not in content
            and isinstance(content.get("layers"), list | tuple)
        ):
            return {**content, "depth_scales": (1.0,) * len(content["layers"])}
        return content

    @model_validator(mode="after")
    def _consistent(self) -> EncoderSpec:
        if len(self.depth_scales) != len(self.layers):
            raise ValueError(
                f"{len(self.depth_scales)} depth_scales for {len(self.layers)} layers; write one each (1.0 is plain)"
            )
        if len(set(self.layers)) < len(self.layers):
            raise ValueError(f"a layer is tapped twice: {', '.join(self.layers)}")
        if self.factory not in PROGRAMS and is_program(self.weights):
            raise ValueError(f"{self.weights!r} is a program, which needs no class: leave the factory out")
        if self.factory in PROGRAMS and (self.arguments or self.weights_key):
            raise ValueError(f"factory {self.factory!r} is a program, which takes no [arguments] and no weights_key")
        for name in self.taps:
            if self.layers and name != ALL and name not in self.layers:
                raise ValueError(
                    f"[taps] tells of {name!r}, which is not among layers.{did_you_mean(name, self.layers)} "
                    f"Known are {', '.join(self.layers)}, and {ALL!r} for all of them"
                )
        return self

    def tap(self, layer: str) -> Tap:
        """How to read what `layer` returns."""
        return Tap.of(layer, self.taps)


def _require_beside(name: str) -> None:
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or not name.strip() or "\0" in name:
        raise ValueError(f"{name!r} is not beside {SPEC_FILE}; copy the file there and give its name")


def file_of(directory: Path, name: str) -> Path:
    """The file of that name in an encoder directory, whether it is there or not.

    EncoderError when it leaves the directory, also by a link, or is no plain file: what it points to would be copied
    below ROOT with the encoder.
    """
    path = directory / name
    try:
        outside = not path.resolve().is_relative_to(directory.resolve())
        odd = path.exists() and not path.is_file()
    except (OSError, RuntimeError, ValueError) as error:
        raise EncoderError(f"{path} cannot be read: {error}") from error
    if outside:
        raise EncoderError(f"{path} leads out of the encoder's folder, to {path.resolve()}; copy that file into it")
    if odd:
        raise EncoderError(f"{path} is no file")
    return path


def load_spec(directory: str | Path) -> EncoderSpec:
    """Read and check `directory`/encoder.toml; EncoderError names the file, the key and the nearest right one."""
    path = local_copy(directory) / SPEC_FILE
    try:
        with path.open("rb") as file:
            data = file.read(LONGEST + 1)
        if len(data) > LONGEST:
            raise EncoderError(f"{path} is longer than {LONGEST >> 20} MiB; a contract has some KiB")
        content = tomllib.loads(data.decode("utf-8"))
        _require_shallow(content)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise EncoderError(
            f"no {SPEC_FILE} in {directory}: an encoder is a directory with {SPEC_FILE} and its weights "
            "(`ecgscale train` makes one)"
        ) from error
    except OSError as error:
        raise EncoderError(f"{path} cannot be read: {error.strerror}") from error
    except RecursionError:
        raise EncoderError(f"{path} is nested too deeply, more than {DEEPEST} levels") from None
    except ValueError as error:
        raise EncoderError(f"{path} is not TOML: {error}") from error
    try:
        spec = EncoderSpec.model_validate(content)
    except ValidationError as error:
        raise EncoderError(f"{path}: {sentences_of(error, _keys)}") from error
    spec.input.read_from(path.parent)
    return spec


def _require_shallow(content: Any) -> None:
    """Raise RecursionError for tables and lists that are nested deeper than anything that means something."""
    level = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return
    raise RecursionError


def _keys(section: list[str]) -> list[str]:
    models: dict[str, type[BaseModel]] = {"input": InputSpec, "output": OutputSpec, "taps": TapSpec}
    models |= {"input.filters": FilterSpec, "input.windows": WindowSpec}
    path = ".".join(part for part in section if not part.isdecimal())
    return list((models.get(path) or (models[section[0]] if section else EncoderSpec)).model_fields)


@dataclass(frozen=True)
class EncoderParts:
    """What an encoder is: digests (SHA-256, hex) of contract and weights, of both in one, and the user's own code.

    code: see `encoders.code`; empty for networks of ecgscale, None when it is not to be found here
    """

    contract: str
    weights: str
    files: str
    code: Mapping[str, str] | None

    @property
    def digest(self) -> str:
        """The identity of the encoder. Networks of ecgscale are those of its version: their code is not part of it."""
        if not self.code:
            return self.files
        return hashlib.sha256(f"{self.files}\0{canonical_digest(dict(self.code))}".encode()).hexdigest()

    def facts(self) -> dict[str, Any]:
        """As model.json keeps them."""
        return asdict(self)


def contract_digest(spec: EncoderSpec) -> str:
    """SHA-256 (hex) of a contract, however its file is written."""
    return hashlib.sha256(_canonical_contract(spec)).hexdigest()


def _canonical_contract(spec: EncoderSpec) -> bytes:
    # Without defaults, so that an option added later leaves the identity of today's encoders alone.
    facts = spec.model_dump(mode="json", exclude_defaults=True)
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def encoder_parts(directory: str | Path) -> EncoderParts:
    """The parts of the encoder in `directory`. No code is run. EncoderError when contract or weights cannot be read."""
    spec = load_spec(directory)
    contract = _canonical_contract(spec)
    both, alone = hashlib.sha256(contract + b"\0"), hashlib.sha256()
    directory = local_copy(directory)
    for number, name in enumerate(_weights_files(directory, spec)):
        path = file_of(directory, name)
        # Weights of a single file are that file's bytes.
        head = f"\0{name}\0{path.stat().st_size}\0".encode() if number else b""
        both.update(head)
        alone.update(head)
        try:
            with path.open("rb") as weights:
                while chunk := weights.read(1 << 20):
                    both.update(chunk)
                    alone.update(chunk)
        except OSError as error:
            raise EncoderError(f"the weights {path} cannot be read: {error.strerror}") from error
    code = spec.code(directory)
    return EncoderParts(hashlib.sha256(contract).hexdigest(), alone.hexdigest(), both.hexdigest(), code)


def _weights_files(directory: Path, spec: EncoderSpec) -> list[str]:
    file_of(directory, spec.weights)
    return [spec.weights, *companions(directory, spec.factory, spec.weights)]


def encoder_digest(directory: str | Path) -> str:
    """SHA-256 (hex) over the canonical contract, the bytes of the weights and the user's code."""
    return encoder_parts(directory).digest


def changes(parts: EncoderParts, expected: str, before: Mapping[str, Any]) -> Iterator[str]:
    """What differs between an encoder and that of digest `expected`, whose parts were `before`, if they were kept.

    Nothing for equal ones. Before parts were kept, the digest was that of contract and weights alone.
    """
    if parts.digest == expected or (not before and parts.files == expected):
        return
    if not before:
        yield f"{SPEC_FILE} or the weights"
        return
    if before.get("contract") != parts.contract:
        yield SPEC_FILE
    if before.get("weights") != parts.weights:
        yield "the weights"
    old, new = before.get("code") or {}, parts.code
    if new is None:
        yield "the network's code, which is not to be found here"
    elif old != new:
        names = sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
        yield f"the network's code ({', '.join(names[:5])}{' …' if len(names) > 5 else ''})"


def encoder_id(name: str, digest: str) -> str:
    """A short name for folders and tables: the encoder's name as a slug, and 12 digits of its digest."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:48] or "encoder"
    return f"{slug}-{digest[:12]}"


def encoder_files(directory: str | Path) -> list[Path]:
    """The files that make up the encoder (contract, weights, the list of seen records, code that lies beside them):
    what to copy elsewhere."""
    directory = local_copy(directory)
    spec = load_spec(directory)
    seen = [str(spec.training["seen"])] if spec.training.get("seen") else []
    beside = [path for path in spec.imports if file_beside(directory, path.partition(":")[0]) is not None]
    code = sorted({name for path in beside for name in code_of(path, directory) or ()})
    return [file_of(directory, name) for name in (SPEC_FILE, *_weights_files(directory, spec), *seen, *code)]


def write_spec(directory: str | Path, spec: EncoderSpec) -> None:
    """Write `directory`/encoder.toml in one piece; the directory is an encoder from that moment on."""
    put_whole(place(directory) / SPEC_FILE, spec_toml(spec).encode())


def spec_toml(spec: EncoderSpec) -> str:
    """A contract as encoder.toml has it: keys that few networks need where they say something."""
    content = spec.model_dump(mode="json", exclude_none=True)
    asked = spec.input.model_dump(exclude_defaults=True)
    content["input"] = {key: value for key, value in content["input"].items() if key in asked or key not in RARE}
    return to_toml(content)
