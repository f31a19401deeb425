"""The recordings that a report shows: which and why, their signals, and all in the form that a page carries.

A report holds a bounded number of recordings whatever the size of the archive: the most uncertain, those where network
and label part, the typical of each class. Every one says why it was chosen, and the same dataset gives the same choice.

The page carries plain JSON, samples as base64 of int16. What the eye cannot tell apart on paper is left out: rates
above 300 Hz come down to 250 Hz, and limb leads that follow from I and II are not stored twice. Times are seconds from
the recording's first sample, as everywhere.
"""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import resample_poly

from ecgscale.archive import Archive
from ecgscale.archive.reader import chosen_batches
from ecgscale.errors import ArchiveError, ShardError
from ecgscale.leads import CANONICAL_LEADS, derive_limb_leads
from ecgscale.progress import SILENT, Progress
from ecgscale.report.blocks import Section, remark
from ecgscale.report.subject import Subject
from ecgscale.tables import readable

UNCERTAIN, DISAGREES, AUDITED = "most uncertain", "label disagreement", "label audit"
TYPICAL, DRAWN = "typical", "drawn"
"""Why a recording is shown; `TYPICAL` is followed by a class."""

DISPLAY_RATE, FINE_RATE = 250.0, 300.0
LONGEST_S, SHOWN_S = 12.0, 10.0
"""Recordings up to the first are shown whole, the beginning of longer ones."""
SAME_MV = 0.025
"""A lead nearer than this to what follows from I and II is not stored: a fourth of a millimetre on paper."""

_DERIVED = ("III", "aVR", "aVL", "aVF")
_FACTS = ("age", "sex", "rhythm", "site", "device", "fold")
_ENTROPY_RATE = 100.0


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
    typical = _typical(subject)
    while len(chosen) < n and (pick := next(typical, None)):
        _add(chosen, *pick)
    rest = [row for row in np.random.default_rng(0).permutation(len(subject.rows)).tolist() if row not in chosen]
    return chosen | {row: [DRAWN] for row in rest[: n - len(chosen)]}


def disagreement(subject: Subject) -> NDArray[np.float64]:
    """(M,) how far the network's output is from the label: the largest |p − label| over classes, or |value − label|.

    NaN where the label is not known.
    """
    rows, truth = subject.rows, subject.rows.truth
    if truth is None:
        return np.full(len(rows), np.nan)
    if subject.is_regression:
        apart = np.abs(rows.outputs[:, 0] - truth.y)
    elif subject.spec.output.kind == "multiclass":
        apart = 1.0 - np.where(subject.labelled(), rows.outputs, 0.0).sum(axis=1)
    else:
        apart = np.abs(rows.outputs - subject.labelled()).max(axis=1)
    return np.asarray(np.where(truth.known, apart, np.nan), dtype=np.float64)


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
    distance = disagreement(subject)
    if not subject.is_regression and subject.rows.truth is not None:
        distance = np.where((subject.decided() == subject.labelled()).all(axis=1), np.nan, distance)
    return _by(distance)


def _typical(subject: Subject) -> Iterator[tuple[int, str]]:
    """(row, reason) going round the classes: the records nearest to a class's mean proportions, if called right."""
    queues = []
    for name, members in _groups(subject).items():
        if len(members):
            x = subject.rows.proportions[members].astype(np.float64)
            distance = ((x - x.mean(axis=0)) ** 2).sum(axis=1)
            queues.append([(int(row), f"{TYPICAL}: {name}") for row in members[np.argsort(distance, kind="stable")]])
    for picks in zip_longest(*queues):
        yield from (pick for pick in picks if pick is not None)


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

    A shard that cannot be read, or is gone, raises `ShardError` or `ArchiveError`, or is left out and named in
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


def embed_recordings(
    subject: Subject, chosen: Mapping[int, list[str]], progress: Progress = SILENT
) -> tuple[list[dict[str, Any]], list[str]]:
    """(the chosen rows (row number → reasons) with signal, segments and entropy, the most uncertain first; remarks).

    Recordings that the archive does not hold (any more) come without a signal; all when the archive is not there.
    """
    remarks: list[str] = [subject.archive_note] if subject.archive is None else []
    segments = _segments(subject, chosen)
    found = {row: facts | segments[row] for row, facts in _descriptions(subject, chosen).items()}
    numbers = {subject.rows.record_ids[row]: row for row in chosen}
    if subject.archive is not None:
        with progress.stage("signals", len(chosen), "recordings") as stage:
            for recording in read_recordings(subject.archive, by_shard(subject, chosen), remarks):
                found[numbers[recording.record_id]] |= packed_signal(recording)
                stage.advance()
    return sorted(found.values(), key=lambda record: (-record["mean_entropy"], record["id"])), remarks


def by_shard(subject: Subject, rows: Mapping[int, Any] | NDArray[np.integer]) -> dict[str, list[str]]:
    """Shard key → record ids of these rows."""
    shards = subject.rows.table.column("source_shard")
    found: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        found[str(shards[int(row)])].append(subject.rows.record_ids[int(row)])
    return found


def displayed(signal: NDArray[np.float64], rate: float) -> tuple[NDArray[np.float64], float]:
    """(a signal (n_leads, n_samples) at the display rate, that rate), near enough for the eye."""
    ratio = Fraction(DISPLAY_RATE / rate).limit_denominator(1000)
    shown = resample_poly(signal, ratio.numerator, ratio.denominator, axis=1, padtype="line")
    return shown, rate * ratio.numerator / ratio.denominator


def packed_signal(recording: Recording) -> dict[str, Any]:
    """rate, leads, signal (base64 of int16, lead after lead), uv (microvolts of one unit), n (samples a lead),
    duration (s of the whole recording), derived (leads that follow from I and II), each lead less its median."""
    duration = recording.signal_mv.shape[1] / recording.rate
    shown = duration if duration <= LONGEST_S else SHOWN_S
    signal = recording.signal_mv[:, : round(shown * recording.rate)]
    signal = signal - np.median(signal, axis=1, keepdims=True)
    rate = recording.rate
    if rate > FINE_RATE:
        signal, rate = displayed(signal, rate)
    leads, derived = _stored_leads(signal, recording.leads)
    stored = signal[[recording.leads.index(lead) for lead in leads]]
    unit = max(1.0, float(np.ceil(np.abs(stored).max(initial=0) * 1000 / 32767)))
    return {
        "rate": rate,
        "duration": round(duration, 3),
        "n": signal.shape[1],
        "uv": unit,
        "leads": leads,
        "derived": derived,
        "signal": _base64(np.round(stored * 1000 / unit).astype("<i2")),
    }


def _stored_leads(signal: NDArray[np.float64], leads: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """(leads to store, limb leads that a reader computes from I and II)."""
    derived = []
    if "I" in leads and "II" in leads:
        limb = signal[[leads.index("I"), leads.index("II")]]
        for lead, follows in zip(_DERIVED, derive_limb_leads(limb, ("I", "II"), _DERIVED), strict=True):
            apart = np.abs(signal[leads.index(lead)] - follows + np.median(follows)) if lead in leads else np.zeros(1)
            if apart.max() <= SAME_MV:
                derived.append(lead)
    order = {lead: place for place, lead in enumerate(CANONICAL_LEADS)}
    kept = [lead for lead in dict.fromkeys(leads) if lead not in derived]
    return sorted(kept, key=lambda lead: order.get(lead, len(order))), derived


def edges_of(row: Mapping[str, Any]) -> NDArray[np.float64]:
    """(S + 1,) seconds of the recording at which its segments begin, and the last one ends."""
    steps = [*(segment["start"] for segment in row["segments"]), row["valid_stop"]]
    return np.asarray(float(row["start_s"]) + np.array(steps) / float(row["sampling_rate"]))


def _segments(subject: Subject, chosen: Mapping[int, list[str]]) -> dict[int, dict[str, Any]]:
    names = {subject.rows.record_ids[row]: row for row in chosen}
    found = {}
    columns = ["segments", "entropy", "start_s", "sampling_rate", "valid_start", "valid_stop"]
    for row in subject.explained(names, columns):
        rate, start_s = float(row["sampling_rate"]), float(row["start_s"])
        found[names[row["record_id"]]] = {
            "edges": [round(edge, 3) for edge in edges_of(row).tolist()],
            "clusters": [s["cluster"] for s in row["segments"]],
            "entropies": [round(s["entropy"], 3) for s in row["segments"]],
            **_entropy_curve(row["entropy"], rate, start_s + row["valid_start"] / rate),
        }
    return found


def _entropy_curve(values: list[float] | None, rate: float, start_s: float) -> dict[str, Any]:
    """Entropy moment by moment as base64 of uint8 (255 is 1), thinned to about 100 Hz; empty where it was not kept."""
    if not values:
        return {}
    step = max(round(rate / _ENTROPY_RATE), 1)
    thinned = np.round(np.clip(values[::step], 0, 1) * 255).astype(np.uint8)
    return {"curve": _base64(thinned), "curve_start": round(start_s, 4), "curve_rate": rate / step}


def _descriptions(subject: Subject, chosen: Mapping[int, list[str]]) -> dict[int, dict[str, Any]]:
    """What stands with each signal: names, labels, outputs, why it was chosen, who had seen it."""
    rows, table = subject.rows, subject.rows.table
    columns = [name for name in _FACTS if name in table.column_names and name != subject.target]
    decided, labelled, apart = subject.decided(), subject.labelled(), disagreement(subject)
    found = {}
    for row, reasons in chosen.items():
        facts = {name: table.column(name)[row].as_py() for name in columns}
        found[row] = {
            "id": rows.record_ids[row],
            "reasons": reasons,
            "facts": {name: _plain(name, value) for name, value in facts.items() if value is not None},
            "flags": table.column("flags")[row].as_py() or [],
            "labels": _labels(subject, row, labelled),
            "outputs": [round(float(value), 4) for value in rows.outputs[row]],
            "decided": _named(subject.classes, decided[row]),
            "disagreement": round(float(apart[row]), 4) if np.isfinite(apart[row]) else None,
            "mean_entropy": round(float(rows.mean_entropy[row]), 4),
            "seen": _seen(subject, row),
        }
    return found


def _named(classes: tuple[str, ...], which: NDArray[np.bool_]) -> list[str]:
    return [name for name, there in zip(classes, which, strict=True) if there]


def _labels(subject: Subject, row: int, labelled: NDArray[np.bool_]) -> list[str] | float | None:
    """Classes by name, or the value of a regression; None where not known."""
    truth = subject.rows.truth
    if truth is None or not truth.known[row]:
        return None
    return float(truth.y[row]) if subject.is_regression else _named(subject.classes, labelled[row])


def _seen(subject: Subject, row: int) -> str:
    """Who had seen the recording, or another of its patient."""
    seen = subject.seen
    if seen.encoder is None or seen.clusters is None:
        return "not known"
    who = [name for name, by in (("the network", seen.encoder), ("K-means", seen.clusters)) if by[row]]
    return " and ".join(who) if who else "neither"


def _plain(name: str, value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return readable(text) if name == "rhythm" else text


def _base64(values: NDArray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")


def recordings_section(subject: Subject, recordings: list[dict[str, Any]], remarks: list[str]) -> Section:
    """The browser: which recordings are on the page and why, with warnings that belong to them."""
    there = {reason.split(":")[0] for record in recordings for reason in record["reasons"]}
    reasons = [reason for reason in (UNCERTAIN, DISAGREES, AUDITED, TYPICAL, DRAWN) if reason in there]
    classes = [] if subject.is_regression else list(subject.classes)
    section = Section(
        "recordings",
        "Recordings",
        f"{len(recordings)} of {len(subject.rows):,} explained recordings: the most uncertain, those where the "
        "network and the label disagree, and typical ones. Move over the paper to read time, cluster and entropy.",
        template="recordings.html",
        content={"reasons": reasons, "classes": classes, "recordings": len(recordings)},
    )
    section.blocks += [remark(text, warn=True) for text in remarks]
    return section
