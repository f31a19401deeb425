"""Files of many recordings: HDF5, with a dataset of samples and often one of ids, and NumPy, Parquet, CSV.

A file from somewhere may be torn, or claim anything. What it claims is held to its size before memory is taken for it,
links into other files are not followed, and whatever h5py raises while it is read is one error that names the file.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
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


Read = Iterator[tuple[NDArray[np.float32] | None, str]]
"""Of each record its samples, (leads, samples), and ""; or None, and why they cannot be read."""


@dataclass(frozen=True)
class Signals:
    """The records of one file. Nothing is read before it is asked for.

    between: records from a first number up to another; ids: one a record, None where the file has none
    """

    count: int
    between: Callable[[int, int], Read]
    ids: Callable[[], list[str | None] | None] = lambda: None


@contextmanager
def signals_in(
    path: Path, dataset: str | None, axes: Sequence[str], leads: Sequence[str], ids: str | None, stream: Any = None
) -> Iterator[Signals]:
    """The records of an HDF5 (from `stream` where it is no local file), Parquet, NumPy or CSV file.

    `BrokenPart` where it is none, or is not of these axes, and for what goes wrong with it in the block.
    """
    suffix = path.suffix.lower()
    if suffix in (".hdf5", ".h5"):
        with reading(path, stream) as file:
            yield _of_hdf5(path, file, str(dataset), axes, len(leads), ids)
        return
    try:
        if suffix in (".parquet", ".pq"):
            with pq.ParquetFile(path) as table:
                yield _of_parquet(path, table, dataset, axes, leads, ids)
        else:
            yield _of_npy(path, axes, len(leads)) if suffix == ".npy" else _of_csv(path, axes, leads, ids)
    except BrokenPart:
        raise
    except EcgscaleError as error:
        raise BrokenPart(str(error)) from error
    except (OSError, ValueError, EOFError, pa.ArrowException) as error:
        raise BrokenPart(f"{path} cannot be read ({error})") from error


def valid_span(signal: NDArray[Any]) -> dict[str, int]:
    """Columns that leave out the zeros before and after (leads, samples); none where all are zero."""
    alive = np.flatnonzero((signal != 0).any(axis=0))
    return {"valid_start": int(alive[0]), "valid_stop": int(alive[-1]) + 1} if len(alive) else {}


def _float32(array: Any) -> NDArray[np.float32]:
    with np.errstate(over="ignore", invalid="ignore"):
        # What float32 cannot hold becomes infinite, and is found to be so.
        return np.ascontiguousarray(array, dtype=np.float32)


def _one_by_one(path: Path, take: Callable[[int], Any]) -> Callable[[int, int], Read]:
    def between(first: int, stop: int) -> Read:
        for number in range(first, stop):
            try:
                signal = _float32(take(number))
            except (OSError, RuntimeError, ValueError, TypeError) as error:
                yield None, f"its samples in {path.name} cannot be read ({str(error)[:100]})"
            else:
                yield signal, ""

    return between


def _of_hdf5(path: Path, file: h5py.File, name: str, axes: Sequence[str], n_leads: int, ids: str | None) -> Signals:
    values = dataset_of(path, file, name)
    check_numbers(path, values)
    signals = _of_array(path, values, axes, n_leads)

    def own() -> list[str | None]:
        found = ids_in(path, dataset_of(path, file, str(ids)))
        if len(found) != signals.count:
            raise BrokenPart(f"{path} has {len(found):,} ids and {signals.count:,} records")
        return found

    return signals if ids is None else replace(signals, ids=own)


def _of_npy(path: Path, axes: Sequence[str], n_leads: int) -> Signals:
    # Mapped, so that a header that claims more than the file has is an error and no memory is taken.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype.kind not in "iuf":
        raise BrokenPart(f"{path} holds {array.dtype}, expected numbers")
    return _of_array(path, array, axes, n_leads)


def _of_array(path: Path, values: Any, axes: Sequence[str], n_leads: int) -> Signals:
    """The records of an HDF5 dataset or an array, a slab at a time, and one by one where a slab cannot be read."""
    if len(values.shape) != len(axes):
        raise BrokenPart(f"{path} holds an array of shape {values.shape}, expected ({', '.join(axes)})")
    found = values.shape[axes.index("lead")]
    if found != n_leads:
        raise BrokenPart(f"{path} has {found} leads (shape {values.shape}, {', '.join(axes)}), expected {n_leads}")
    axis = axes.index("record") if "record" in axes else None
    is_turned = axes.index("lead") > axes.index("sample")
    count = 1 if axis is None else values.shape[axis]
    bytes_each = values.size // max(count, 1) * values.dtype.itemsize
    step = max(1, min(SLAB_RECORDS, _SLAB_BYTES // max(bytes_each, 1)))

    def read(first: int, stop: int) -> NDArray[np.float32]:
        if axis is None:
            records = np.asarray(values[...])[None]
        else:
            records = np.moveaxis(np.asarray(values[(slice(None),) * axis + (slice(first, stop),)]), axis, 0)
        return _float32(records.transpose(0, 2, 1) if is_turned else records)

    def between(first: int, stop: int) -> Read:
        for start in range(first, stop, step):
            end = min(start + step, stop)
            try:
                slab = read(start, end)
            except (OSError, RuntimeError, ValueError):
                yield from _one_by_one(path, lambda number: read(number, number + 1)[0])(start, end)
            else:
                yield from ((record, "") for record in slab)

    return Signals(count, between)


def _of_parquet(
    path: Path, file: pq.ParquetFile, dataset: str | None, axes: Sequence[str], leads: Sequence[str], ids: str | None
) -> Signals:
    """A row a record, with one list of all samples, or a list a lead."""
    schema, names = file.schema_arrow, list(leads) if dataset is None else [dataset]
    absent = [name for name in (*names, *filter(None, [ids])) if name not in schema.names]
    if absent:
        raise BrokenPart(f"{path} has no column {', '.join(absent)}; it has {', '.join(schema.names)}")
    for name in names:
        if not is_list(schema.field(name).type):
            raise BrokenPart(f"{path}: column {name} is {schema.field(name).type}, expected a list of numbers")

    def record(batch: pa.RecordBatch, row: int) -> NDArray[Any]:
        found = [_flat(batch.column(name)[row].values) for name in names]
        if dataset is None:
            lengths = dict(zip(leads, map(len, found), strict=True))
            if len(set(lengths.values())) > 1:
                raise ValueError(f"its leads differ in length: {lengths}")
            return np.stack(found)
        if len(found[0]) % len(leads):
            raise ValueError(f"it has {len(found[0])} samples, which {len(leads)} leads cannot share")
        by_lead = axes.index("lead") < axes.index("sample")
        return found[0].reshape(len(leads), -1) if by_lead else found[0].reshape(-1, len(leads)).T

    def between(first: int, stop: int) -> Read:
        row = 0
        for group in range(file.num_row_groups):
            end = row + file.metadata.row_group(group).num_rows
            if row < stop and first < end:
                for batch in file.iter_batches(SLAB_RECORDS, row_groups=[group], columns=names, use_threads=False):
                    here = max(first - row, 0), min(stop - row, batch.num_rows)
                    yield from _one_by_one(path, partial(record, batch))(*here)
                    row += batch.num_rows
            row = end

    def own() -> list[str | None] | None:
        return [id_text(one) for one in file.read([ids], use_threads=False).column(0).to_pylist()] if ids else None

    return Signals(file.metadata.num_rows, between, own)


def _flat(values: pa.Array | None) -> NDArray[Any]:
    while values is not None and is_list(values.type):
        values = values.flatten()
    return np.zeros(0) if values is None else np.asarray(values.to_numpy(zero_copy_only=False))


def _of_csv(path: Path, axes: Sequence[str], leads: Sequence[str], ids: str | None) -> Signals:
    """A row a sample; of many records, the column `ids` says whose."""
    many = [str(ids)] if "record" in axes else []
    table = read_csv(path, [*leads, *many], ids=many)
    columns = [table.column(lead).to_numpy() for lead in leads]
    if any(column.dtype.kind not in "iuf" for column in columns):
        raise BrokenPart(f"{path}: a lead holds something else than numbers")
    samples_LT = np.stack(columns)
    if not many:
        return Signals(1, _one_by_one(path, lambda _: samples_LT))
    rows: dict[str | None, list[int]] = {}
    for row, record in enumerate(ids_of(table, str(ids))):
        rows.setdefault(record, []).append(row)
    own = list(rows.values())
    return Signals(len(own), _one_by_one(path, lambda number: samples_LT[:, own[number]]), lambda: list(rows))
