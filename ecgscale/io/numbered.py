"""Objects that hold JSON, and series of them: FOLDER/<n>.json, numbered from 1, each created once and never changed.

JSON that people, pages and other programs may have changed is read within bounds, or refused in one sentence.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from ecgscale.errors import first_problem
from ecgscale.io.objects import ObjectStore, StoreError, open_objects
from ecgscale.io.places import Place

DIGITS = 8
_Model = TypeVar("_Model", bound=BaseModel)


def to_json(model: BaseModel, indent: int | None = 1) -> bytes:
    """A model as JSON in the order of its fields: equal models give equal bytes."""
    return (model.model_dump_json(indent=indent) + "\n").encode()


def read_json_object(store: ObjectStore, key: str, model: type[_Model]) -> _Model | None:
    """The object `key` as a `model`, or None when there is none; `StoreError` when it is something else."""
    data = store.read(key)
    if data is None:
        return None
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        raise StoreError(
            f"{store.location(key)} is not what ecgscale writes ({first_problem(error, 'the whole object')}); it was "
            "changed by something else, or written by a later version. Restore it, or move it away to have it made "
            "again."
        ) from error


LONGEST = 64 * 2**20
"""Bytes that are read at most, where nothing else is said."""


class DocumentError(ValueError):
    """A file that is no JSON of a sensible size; the message says why, without the file's name."""


def read_document(folder: Place, name: str, most: int = LONGEST) -> Any:
    """What the JSON file `name` in `folder` holds; at most `most` bytes are read.

    Raises FileNotFoundError when there is none, `DocumentError` for a longer file and for one that is no JSON,
    `StoreError` for one that cannot be read.
    """
    store = open_objects(folder)
    found = store.stat(name)
    if found is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", name)
    if found.size > most:
        raise DocumentError(f"it has {found.size:,} bytes, and at most {most:,} are read")
    data = store.read(name)
    if data is None:
        raise FileNotFoundError(errno.ENOENT, "no such file", name)
    return parsed(data)


def parsed(data: bytes) -> Any:
    """The value of a JSON text in UTF-8. Numbers are finite: NaN and Infinity are no JSON, and 1e999 is no number."""
    try:
        return json.loads(data.decode("utf-8"), parse_constant=_refused, parse_float=_finite)
    except DocumentError:
        raise
    except RecursionError:
        raise DocumentError("it is nested too deeply") from None
    except ValueError as error:
        raise DocumentError(f"it is no JSON: {error}") from error


def _refused(constant: str) -> float:
    raise DocumentError(f"it holds {constant}, which is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DocumentError(f"the number {text[:40]} is too large")
    return value


def canonical_digest(content: Any) -> str:
    """SHA-256 (hex) of a value as JSON has it, whatever the order of its keys; ValueError for NaN and infinity."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class Numbered(Generic[_Model]):
    """A series of objects below one folder of a store. The newest one holds; of two who create the next, one wins."""

    def __init__(self, folder: str, model: type[_Model], indent: int | None = 1) -> None:
        self.folder, self._model, self._indent = folder, model, indent

    def key(self, number: int) -> str:
        """Key of object `number`, from 1."""
        return f"{self.folder}/{number:0{DIGITS}d}.json"

    def newest(self, store: ObjectStore) -> int:
        """Number of the newest object, 0 when there is none.

        A listing says where to start; the objects themselves, asked for by name, say where the end is.
        """
        number = max(self._listed(store), default=0)
        while store.stat(self.key(number + 1)) is not None:
            number += 1
        return number

    def numbers(self, store: ObjectStore) -> list[int]:
        """Numbers of the objects that are there, ascending; the last is the newest."""
        newest = self.newest(store)
        return sorted(self._listed(store) | ({newest} if newest else set()))

    def read(self, store: ObjectStore, number: int) -> _Model | None:
        """Object `number`, or None; `StoreError` when it cannot be understood."""
        return read_json_object(store, self.key(number), self._model)

    def create(self, store: ObjectStore, number: int, model: _Model) -> bool:
        """Create object `number`; False when somebody else was faster."""
        return store.put_if_absent(self.key(number), to_json(model, self._indent))

    def _listed(self, store: ObjectStore) -> set[int]:
        stems = (key.rsplit("/", 1)[-1].removesuffix(".json") for key in store.list_prefix(self.folder))
        return {int(stem) for stem in stems if stem.isdigit()}
