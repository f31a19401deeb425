"""Which recordings a report shows: the most uncertain, those where network and label part, the typical of each class.

A report holds a bounded number of recordings whatever the size of the archive. Every one says why it was chosen, and
the same dataset gives the same choice.

Signals of chosen recordings, in millivolts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive import Archive
from ecgscale.archive.reader import chosen_batches
from ecgscale.errors import ArchiveError, ShardError
from ecgscale.report.subject import Subject

UNCERTAIN, DISAGREES, AUDITED = "most uncertain", "label disagreement", "label audit"
TYPICAL, DRAWN = "typical", "drawn"
"""Why a recording is shown; `TYPICAL` is followed by a class."""


def choose_records(subject: Subject, n: int, audited: Sequence[str] = ()) -> dict[int, list[str]]:
    """Row number → reasons, of up to `n` explained records.

    Equal parts go to the most uncertain, to those where the network disagrees most with the label, to the first of a
    label audit where there was one, and to the records nearest to the middle of each class; where there are too few of
    a kind, seeded draws take the places. A record chosen twice has both reasons.
    """
    n = min(n, len(subject.rows))
    room = n // (4 if audited else 3)
    number = {record: row for row, record in enumerate(subject.rows.record_ids)}
    chosen: dict[int, list[str]] = {}
    for reason, queue in (
        (UNCERTAIN, _by(subject.rows.mean_entropy)),
        (AUDITED, [number[record] for record in audited if record in number]),
        (DISAGREES, _most_disagreeing(subject)),
    ):
        for row in queue[:room]:
            _add(chosen, row, reason)
    for row, reason in _typical(subject):
        if len(chosen) >= n:
            break
        _add(chosen, row, reason)
    rest = np.random.default_rng(0).permutation(len(subject.rows)).tolist()
    for row in rest:
        if len(chosen) >= n:
            break
        if row not in chosen:
            _add(chosen, row, DRAWN)
    return chosen


def disagreement(subject: Subject) -> NDArray[np.float64]:
    """(M,) how far the network's output is from the label: the largest |p − label| over classes, or |value − label|.

    NaN where the label is not known.
    """
    rows, truth = subject.rows, subject.rows.truth
    if truth is None:
        return np.full(len(rows), np.nan)
    if subject.is_regression:
        told = np.abs(rows.outputs[:, 0] - truth.y)
    elif subject.spec.output.kind == "multiclass":
        told = 1.0 - np.where(subject.labelled(), rows.outputs, 0.0).sum(axis=1)
    else:
        told = np.abs(rows.outputs - subject.labelled()).max(axis=1)
    return np.asarray(np.where(truth.known, told, np.nan), dtype=np.float64)


def _add(chosen: dict[int, list[str]], row: int, reason: str) -> None:
    reasons = chosen.setdefault(row, [])
    if reason not in reasons:
        reasons.append(reason)


def _by(values: NDArray[np.floating]) -> list[int]:
    """Rows in falling order of values, those without a value left out."""
    order = np.argsort(-values, kind="stable")
    return [int(row) for row in order if np.isfinite(values[row])]


def _most_disagreeing(subject: Subject) -> list[int]:
    """Rows in which a decision differs from a label, worst first; for a regression the largest errors."""
    told = disagreement(subject)
    if not subject.is_regression and subject.rows.truth is not None:
        told = np.where((subject.decided() == subject.labelled()).all(axis=1), np.nan, told)
    return _by(told)


def _typical(subject: Subject) -> Iterator[tuple[int, str]]:
    """(row, reason) going round the classes: the records nearest to a class's mean proportions, if called right."""
    groups = _groups(subject)
    queues = []
    for name, members in groups.items():
        x = subject.rows.proportions[members].astype(np.float64)
        if len(members):
            distance = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
            queues.append([(int(members[i]), f"{TYPICAL}: {name}") for i in np.argsort(distance, kind="stable")])
    places = [iter(queue) for queue in queues]
    # Every queue ends, so going round them as often as the longest is long visits everything.
    for place in islice(cycle(places), len(places) * max(map(len, queues), default=0)):
        yield from islice(place, 1)


def _groups(subject: Subject) -> dict[str, NDArray[np.int64]]:
    """Members of each class; for a regression, of each third of its values."""
    if subject.is_regression:
        values = subject.rows.outputs[:, 0]
        low, high = np.quantile(values, [1 / 3, 2 / 3])
        thirds = {"low": values <= low, "middle": (values > low) & (values < high), "high": values >= high}
        return {name: np.flatnonzero(inside) for name, inside in thirds.items()}
    decided, labelled = subject.decided(), subject.labelled()
    known = subject.rows.truth is not None
    agreed = (decided == labelled).all(axis=1) if known else np.ones(len(decided), dtype=bool)
    return {name: np.flatnonzero(decided[:, i] & agreed) for i, name in enumerate(subject.classes)}


@dataclass(frozen=True)
class Recording:
    """(n_leads, n_samples) millivolts at `rate` Hz; `leads` in the order of the rows."""

    record_id: str
    signal_mv: NDArray[np.float64]
    leads: tuple[str, ...]
    rate: float


def read_recordings(
    archive: Archive, wanted: Mapping[str, Sequence[str]], unreadable: list[str] | None = None
) -> Iterator[Recording]:
    """The recordings of these names, shard key → record ids; those that a shard does not hold any more are left out.

    A shard that cannot be read, or is gone, raises `ShardError` or `ArchiveError`, or is left out and told in
    `unreadable` where such a list is given.
    """
    for key in sorted(wanted):
        try:
            yield from _of_shard(archive, key, wanted[key])
        except (ShardError, ArchiveError) as error:
            if unreadable is None:
                raise
            unreadable.append(str(error))


def _of_shard(archive: Archive, key: str, names: Sequence[str]) -> Iterator[Recording]:
    for batch, rows in chosen_batches(archive, {key: names}):
        for i in rows:
            signal_mv = batch.signal(i).astype(np.float64) / float(batch.units_per_mv[i])
            yield Recording(str(batch.record_ids[i]), signal_mv, batch.leads[i], float(batch.sampling_rate[i]))
