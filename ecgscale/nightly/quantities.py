"""The quantities of a record that drift is looked for in: numbers, one column each, with the name an operator reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.archive.traits import TRAITS
from ecgscale.errors import EcgscaleError
from ecgscale.nightly.evidence import texts

CLUSTER, FLAG = "cluster ", "flag "
SECONDS = "seconds recorded"
TRAIT_NAMES = dict(
    zip(TRAITS, ("amplitude (mV)", "correlation of I and V6", "mains hum (mV)", "frequency (Hz)"), strict=True)
)
STEPS = {
    SECONDS: 0.5,
    "mean_entropy": 0.005,
    **dict(zip(TRAIT_NAMES.values(), (0.02, 0.1, 0.01, 0.5), strict=True)),
}
"""Quantities are rounded to steps, shares of clusters to `SHARE_STEP`. To ranks alone, recordings that are
all a hundredth of a second longer would be as far from the others as can be."""
SHARE_STEP = 0.002


@dataclass(frozen=True)
class Quantities:
    """N explained records by F quantities.

    names: "cluster 0" … "cluster K−1", "mean_entropy", "distortion", "output X" …, "seconds recorded", traits
        of the signal, "flag X" …
    values: float32 (N, F), NaN where unknown; site, device: (N,) strings, "" where unknown
    """

    names: tuple[str, ...]
    values: NDArray[np.float32]
    site: NDArray[np.object_]
    device: NDArray[np.object_]


def quantities(rows: pa.Table, output_names: Sequence[str], kinds: Sequence[str]) -> Quantities:
    """The quantities of explained rows (status "ok"), with a column for each of the `kinds` of flags.

    EcgscaleError when their outputs are not those named.
    """
    shares = _lists(rows["proportions"], None, "proportions")
    outputs = _lists(rows["prediction"], len(output_names), "outputs of the network")
    columns: dict[str, NDArray] = {f"{CLUSTER}{k}": shares[:, k] for k in range(shares.shape[1])}
    columns["mean_entropy"] = _numbers(rows, "mean_entropy")
    columns["distortion"] = _numbers(rows, "distortion")
    columns |= {f"output {name}": outputs[:, i] for i, name in enumerate(output_names)}
    columns[SECONDS] = _seconds(rows)
    columns |= {name: _numbers(rows, trait) for trait, name in TRAIT_NAMES.items()}
    columns |= {f"{FLAG}{kind}": _flagged(rows, kind) for kind in kinds}
    return Quantities(
        names=tuple(columns),
        values=np.stack([_rounded(name, column) for name, column in columns.items()], axis=1),
        site=np.array(texts(rows, "site"), dtype=object),
        device=np.array(texts(rows, "device"), dtype=object),
    )


def _rounded(name: str, column: NDArray) -> NDArray[np.float32]:
    step = SHARE_STEP if name.startswith(CLUSTER) else STEPS.get(name)
    return (np.round(column / step) * step if step else column).astype(np.float32)


def flag_kinds(rows: pa.Table) -> set[str]:
    """Kinds of the flags that are set: "flat_lead:V1" is of the kind "flat_lead"."""
    return {_kind(flag) for flag in pc.unique(pc.list_flatten(rows["flags"])).to_pylist()}


def _kind(flag: str) -> str:
    return flag.split(":")[0]


def _flagged(rows: pa.Table, kind: str) -> NDArray[np.float32]:
    """1 where a flag of this kind is set, else 0."""
    lists = rows["flags"].combine_chunks()
    flat = pc.list_flatten(lists)
    wanted = [flag for flag in pc.unique(flat).to_pylist() if _kind(flag) == kind]
    found = np.zeros(rows.num_rows, np.float32)
    here = pc.is_in(flat, value_set=pa.array(wanted, flat.type)).to_numpy(zero_copy_only=False)
    found[pc.list_parent_indices(lists).to_numpy()[here]] = 1
    return found


def _lists(column: pa.ChunkedArray, size: int | None, what: str) -> NDArray[np.float32]:
    """(N, size) of a column of lists that are as long as each other."""
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1 or None in lengths or (size is not None and lengths not in ([], [size])):
        raise EcgscaleError(
            f"the explanations have {' or '.join(map(str, lengths))} {what} a record"
            + (f"; expected {size}" if size is not None else "")
            + ". Judge the rows of one dataset, with its own reference and output names"
        )
    return np.asarray(pc.list_flatten(column).to_numpy(), np.float32).reshape(len(column), -1)


def _numbers(rows: pa.Table, column: str) -> NDArray[np.float32]:
    """A column of numbers, NaN where it is null or not there."""
    if column not in rows.column_names:
        return np.full(rows.num_rows, np.nan, np.float32)
    return np.asarray(rows[column].to_numpy(), np.float32)


def _seconds(rows: pa.Table) -> NDArray[np.float32]:
    """Length of the recording as its sampling rate has it.

    A record that was cut at the encoder's length is as long as that; "flag cropped" tells the rest.
    """
    span = _numbers(rows, "valid_stop") - _numbers(rows, "valid_start")
    return np.asarray(span / _numbers(rows, "sampling_rate"))
