"""HDF5 files of recordings: one dataset with the tracings, and often one with ids.

A file from somewhere may be torn, or claim anything. What it claims is held to its size before memory is taken for it,
links into other files are not followed, and whatever h5py raises while it is read is one error that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.sources.tables import id_text
from ecgscale.errors import ArchiveError, EcgscaleError

SLAB_RECORDS = 128
_SLAB_BYTES = 2**26
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
    # Not as a list: a Python float has forgotten how few digits its type holds.
    return [id_text(value) for value in dataset[...].reshape(-1)]


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
