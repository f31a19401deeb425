"""Annotated waves of WFDB records: P, QRS and T in annotation files that are named after leads."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ecgscale.archive.sources.wfdb_header import Header, UnreadableRecord
from ecgscale.leads import canonical_lead

_WAVES = {"p": "P", "N": "QRS", "t": "T"}
_MOST_BYTES = 2**24


def read_fiducials(header: Header, extensions: Sequence[str], samples: int) -> list[dict[str, Any]]:
    """Waves of annotation files named after leads, as in LUDB (`1.ii`, `1.avr`): dicts of `FIDUCIAL_TYPE`.

    A wave is written `( peak )`; a bracket that is missing gives a null onset or offset, and a pair of brackets
    without a peak is no wave. Raises `UnreadableRecord`, and no other error, if a file is damaged, or marks something
    outside of the record's `samples` (0: nothing is known of those).
    """
    waves = []
    for extension in extensions:
        name = f"{header.stem.name}.{extension}"
        try:
            marks = _marks(header, extension)
        except UnreadableRecord:
            raise
        # One record never ends a run, and what the reader of a damaged file raises is nearly anything.
        except Exception as error:
            raise UnreadableRecord(f"annotations {name} cannot be read: {str(error)[:200]}") from error
        outside = [sample for sample, _ in marks if not 0 <= sample < (samples or 2**31)]
        if outside:
            raise UnreadableRecord(f"annotations {name} mark sample {outside[0]}, which the record does not have")
        waves += _waves(canonical_lead(extension), marks)
    return waves


def _marks(header: Header, extension: str) -> list[tuple[int, str]]:
    """Samples, counted at the rate of the record's leads, and symbols."""
    import wfdb

    path = header.stem.with_name(f"{header.stem.name}.{extension}")
    size = path.stat().st_size
    if size > _MOST_BYTES or size % 2:
        raise UnreadableRecord(f"annotations {path.name} have {size:,} bytes, and no annotation file has that many")
    with tempfile.TemporaryDirectory(prefix="ecgscale-waves-") as alone:
        # Beside its header, wfdb reads that again for every file of annotations, which takes ten times as long.
        os.symlink(path.resolve(), Path(alone) / path.name)
        annotation = wfdb.rdann(str(Path(alone) / header.stem.name), extension)
    # Where a frame has several samples, annotations are counted in frames.
    factor = header.sampling_rate / (annotation.fs or header.frame_rate)
    samples = annotation.sample.tolist()
    if factor != 1:
        samples = [round(sample * factor) for sample in samples]
    return list(zip(samples, annotation.symbol, strict=True))


def _waves(lead: str, marks: list[tuple[int, str]]) -> list[dict[str, Any]]:
    waves: list[dict[str, Any]] = []
    onset: int | None = None
    is_open = False
    for sample, symbol in marks:
        if symbol == "(":
            onset, is_open = sample, False
        elif symbol in _WAVES:
            waves.append({"lead": lead, "wave": _WAVES[symbol], "onset": onset, "peak": sample, "offset": None})
            onset, is_open = None, True
        elif symbol == ")" and is_open:
            waves[-1]["offset"] = sample
            is_open = False
        elif symbol == ")":
            onset = None
    return waves
