"""HDF5 files of recordings: one dataset with the tracings, and often one with ids; and arrays in NumPy, Parquet, CSV.

A file from somewhere may be torn, or claim anything. What it claims is held to its size before memory is taken for it,
links into other files are not followed, and whatever h5py raises while it is read is one error that names the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ecgscale.archive.schema import is_list
from ecgscale.archive.sources.tables import id_text, ids_of, read_csv
from ecgscale.errors import ArchiveError, EcgscaleError

SLAB_RECORDS = 128
_SLAB_BYTES = 2**26
TEXTS_S = 60.0
"""How long the ids of a file may take that are texts of any length."""
_MOST_COMPRESSED = 1100
"""Times that compression makes values smaller at most (deflate: 1032)."""


class BrokenPart(ArchiveError):
    """One file that is no whole HDF5 file, or not of the layout that it should have."""


@contextmanager
def reading(path: Path, stream: Any = None) -> Iterator[h5py.File]:
    """The file, open, read from `stream` where it is no local one; whatever goes wrong in the block is `BrokenPart`."""
    try:
        with h5py.File(stream or path, "r") as file:
            yield file
    except EcgscaleError:
        raise
    # h5py has an exception of every kind for what is damaged: OSError, KeyError, RuntimeError, ValueError, SystemError.
    except Exception as error:
        raise BrokenPart(f"{path} is not a whole HDF5 file ({error}); download it again") from error


def dataset_of(path: Path, file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset of this very file, no larger than it can be; `BrokenPart` saying what there is otherwise."""
    if name not in file:
        raise BrokenPart(f"{path} has no dataset {name}; it holds {_listed(file)}")
    if isinstance(file.get(name, getlink=True), h5py.ExternalLink):
        raise BrokenPart(f"{path}: {name} is a link into another file, which is not followed")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise BrokenPart(f"{path}: {name} is no dataset; the file holds {_listed(file)}")
    if found.external or found.is_virtual:
        raise BrokenPart(f"{path}: the values of {name} lie in another file, which is not followed")
    # Of a file that is read from a stream, the length of what is there.
    size = file.id.get_filesize()
    if found.shape is None or found.size * found.dtype.itemsize > _MOST_COMPRESSED * size:
        raise BrokenPart(
            f"{path}: {name} claims {found.shape} values of {found.dtype}, and the file has {size:,} bytes"
        )
    return found


def _listed(file: h5py.File) -> str:
    shapes = {name: getattr(file.get(name), "shape", "a group") for name in list(file)[:20]}
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items()) or "nothing"


def check_numbers(path: Path, dataset: h5py.Dataset) -> None:
    """`BrokenPart` unless the values of a dataset are real numbers."""
    if dataset.dtype.kind not in "iuf" or dataset.dtype.itemsize > 8:
        raise BrokenPart(f"{path}: {dataset.name.lstrip('/')} holds {dataset.dtype}, expected numbers")


def ids_in(path: Path, dataset: h5py.Dataset) -> list[str | None]:
    """Its ids, of shape (N,) or (N, 1), in the form of `id_text`; `BrokenPart` where they can be none."""
    if dataset.ndim not in (1, 2) or dataset.shape[1:] not in ((), (1,)):
        raise BrokenPart(f"{path}: {dataset.name.lstrip('/')} has shape {dataset.shape}, expected one id a record")
    if dataset.dtype.kind not in "iufSUO":
        raise BrokenPart(f"{path}: {dataset.name.lstrip('/')} holds {dataset.dtype}, expected numbers or texts")
    if dataset.dtype.kind == "O":
        return _texts_in(path, dataset)
    # Not as a list: a Python float has forgotten how few digits its type holds.
    return [id_text(value) for value in dataset[...].reshape(-1)]


_TEXTS = """
import json, sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    values = file[sys.argv[2]][...].reshape(-1).tolist()
    json.dump([value.hex() if isinstance(value, bytes) else None for value in values], sys.stdout)
"""


def _texts_in(path: Path, dataset: h5py.Dataset) -> list[str | None]:
    # HDF5 follows lengths from one text to the next, and of a damaged heap it never comes back, with the interpreter's
    # lock: a process of its own can be ended.
    name = dataset.name.lstrip("/")
    if not path.is_file():
        raise BrokenPart(f"{path}: {name} holds texts of any length, which are read from a local copy alone")
    try:
        child = [sys.executable, "-c", _TEXTS, str(path), name]
        done = subprocess.run(child, capture_output=True, timeout=TEXTS_S, check=True)
    except subprocess.TimeoutExpired as error:
        raise BrokenPart(f"{path}: the texts of {name} were not read within {TEXTS_S:g} s; it is damaged") from error
    except subprocess.CalledProcessError as error:
        why = error.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        raise BrokenPart(f"{path}: the texts of {name} cannot be read ({why or 'HDF5 crashed'})") from error
    return [None if text is None else id_text(bytes.fromhex(text)) for text in json.loads(done.stdout)]


def slabs(path: Path, dataset: h5py.Dataset, axis: int = 0) -> Iterator[tuple[int, NDArray[Any] | None, str]]:
    """First record, records (as the dataset has them, `axis` first) and "", a slab at a time.

    Where a slab cannot be read, its records come one by one, and of one that cannot be read there is None and why.
    """
    records = dataset.shape[axis]
    bytes_each = max(1, dataset.size // max(records, 1) * dataset.dtype.itemsize)
    step = max(1, min(SLAB_RECORDS, _SLAB_BYTES // bytes_each))
    for start in range(0, records, step):
        stop = min(start + step, records)
        try:
            yield start, _read(dataset, axis, start, stop), ""
            continue
        except (OSError, RuntimeError, ValueError):
            pass
        for row in range(start, stop):
            try:
                yield row, _read(dataset, axis, row, row + 1), ""
            except (OSError, RuntimeError, ValueError) as error:
                yield row, None, f"its samples in {path.name} cannot be read ({error})"


def _read(dataset: h5py.Dataset, axis: int, start: int, stop: int) -> NDArray[Any]:
    where = (slice(None),) * axis + (slice(start, stop),)
    return np.moveaxis(np.asarray(dataset[where]), axis, 0)


class Signals:
    """The records of one file, as the file has them; `values` is an HDF5 dataset, an array, a Parquet column, or
    (samples, leads) of each record, from a column a lead."""

    def __init__(
        self, path: Path, values: Any, axes: Sequence[str], n_leads: int, ids: list[str | None] | None
    ) -> None:
        self._path, self._values, self._axes, self._n_leads, self._ids = path, values, list(axes), n_leads, ids
        self._many = "record" in axes
        if isinstance(values, pa.ChunkedArray | _ByLead | list):
            self._n = len(values)
            return
        if len(values.shape) != len(axes):
            raise BrokenPart(f"{path} holds an array of shape {values.shape}; the layout says {', '.join(axes)}")
        found = values.shape[self._axes.index("lead")]
        if found != n_leads:
            raise BrokenPart(
                f"{path} has {found} leads (shape {values.shape}, {', '.join(axes)}); the layout names {n_leads}"
            )
        self._n = values.shape[self._axes.index("record")] if self._many else 1
        if ids is not None and len(ids) != self._n:
            raise BrokenPart(f"{path} has {len(ids):,} ids and {self._n:,} records")

    def __len__(self) -> int:
        return self._n

    def ids(self) -> list[str | None] | None:
        """One a record; None where the file has none."""
        return self._ids

    def read(self, number: int) -> tuple[NDArray[np.float32] | None, str]:
        """Record `number`, float32 of shape (leads, samples), and ""; or None, and why there is none."""
        try:
            if isinstance(self._values, pa.ChunkedArray):
                array = np.asarray(self._values[number].as_py() or [], dtype=np.float64)
                if array.size % self._n_leads:
                    return None, f"it has {array.size} samples, which {self._n_leads} leads cannot share"
                flat = (self._n_leads, -1) if self._axes[1] == "lead" else (-1, self._n_leads)
                array, axes = array.reshape(flat), self._axes[1:]
            elif isinstance(self._values, _ByLead | list):
                array, axes = self._values[number], ["sample", "lead"]
            else:
                axis = self._axes.index("record") if self._many else 0
                where = (slice(None),) * axis + (number,) if self._many else (...,)
                array, axes = np.asarray(self._values[where]), [one for one in self._axes if one != "record"]
            with np.errstate(over="ignore", invalid="ignore"):
                leads = array if axes[0] == "lead" else array.T
                return np.ascontiguousarray(leads, dtype=np.float32), ""
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            return None, f"its samples in {self._path.name} cannot be read ({str(error)[:100]})"


class _ByLead:
    """(samples, leads) of the record of each row, from a column of lists a lead."""

    def __init__(self, columns: Sequence[pa.ChunkedArray], leads: Sequence[str]) -> None:
        self._columns, self._leads = columns, leads

    def __len__(self) -> int:
        return len(self._columns[0])

    def __getitem__(self, number: int) -> NDArray[Any]:
        found = [np.asarray(column[number].as_py() or [], dtype=np.float64) for column in self._columns]
        lengths = dict(zip(self._leads, map(len, found), strict=True))
        if len(set(lengths.values())) > 1:
            raise ValueError(f"its leads differ in length: {lengths}")
        return np.stack(found, axis=1)


@contextmanager
def signals_in(
    path: Path, dataset: str | None, axes: Sequence[str], leads: Sequence[str], ids: str | None
) -> Iterator[Signals]:
    """The records of an HDF5, Parquet, NumPy or CSV file; `BrokenPart` where it is none, or is not of these axes."""
    suffix = path.suffix.lower()
    if suffix in (".hdf5", ".h5"):
        with reading(path) as file:
            values = dataset_of(path, file, str(dataset))
            check_numbers(path, values)
            own = None if ids is None else ids_in(path, dataset_of(path, file, ids))
            yield Signals(path, values, axes, len(leads), own)
        return
    try:
        signals = _whole(path, suffix, dataset, axes, leads, ids)
    except EcgscaleError as error:
        raise BrokenPart(str(error)) from error
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        raise BrokenPart(f"{path} cannot be read ({error})") from error
    yield signals


def _whole(
    path: Path, suffix: str, dataset: str | None, axes: Sequence[str], leads: Sequence[str], ids: str | None
) -> Signals:
    if suffix in (".parquet", ".pq"):
        table = pq.read_table(path, partitioning=None, use_threads=False)
        named = [*(leads if dataset is None else [dataset]), *([] if ids is None else [ids])]
        absent = [name for name in named if name not in table.column_names]
        if absent:
            raise BrokenPart(f"{path} has no column {', '.join(absent)}; it has {', '.join(table.column_names)}")
        columns = [table.column(name) for name in (leads if dataset is None else [dataset])]
        for name, kind in zip(named, [column.type for column in columns], strict=False):
            if not is_list(kind):
                raise BrokenPart(f"{path}: column {name} is {kind}, expected a list of numbers")
        own = None if ids is None else [id_text(value) for value in table.column(ids).to_pylist()]
        return Signals(path, _ByLead(columns, leads) if dataset is None else columns[0], axes, len(leads), own)
    if suffix == ".npy":
        # Mapped, so that a header that claims more than the file has is an error and no memory is taken.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.dtype.kind not in "iuf":
            raise BrokenPart(f"{path} holds {array.dtype}, expected numbers")
        return Signals(path, array, axes, len(leads), None)
    many = "record" in axes
    table = read_csv(path, [*leads, *([str(ids)] if many else [])], ids=[str(ids)] if many else [])
    columns = [table.column(lead).to_numpy() for lead in leads]
    if any(column.dtype.kind not in "iuf" for column in columns):
        raise BrokenPart(f"{path}: a lead holds something else than numbers")
    samples_TL = np.stack(columns, axis=1)
    if not many:
        return Signals(path, samples_TL, axes, len(leads), None)
    rows: dict[str | None, list[int]] = {}
    for row, record in enumerate(ids_of(table, str(ids))):
        rows.setdefault(record, []).append(row)
    return Signals(path, [samples_TL[own] for own in rows.values()], axes, len(leads), list(rows))
