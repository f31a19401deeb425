"""An export for a blinded reader study: the same cases with clusters, with Grad-CAM, and with neither.

A crossover: in every session each case is read once, and over the sessions with every kind of picture; which kind comes
in which session goes round like a Latin square, and the order within a session is drawn. Pictures carry a number and
what the network says, which is the same in all kinds; no name, no label, no age. The key, which alone tells number,
case and kind together, is a file next to the folder, not in it.

Grad-CAM of recordings, where the network was probed: what a reader study shows as well as clusters.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from ecgscale.errors import UsageError
from ecgscale.io.parquet import parquet_dataset
from ecgscale.passes.probe.probe import probe_store
from ecgscale.passes.probe.schema import SCHEMA
from ecgscale.progress import SILENT, Progress
from ecgscale.report.ecg_paper import draw_recording
from ecgscale.report.explained import ExplainedRecording, load_explained, outputs_text
from ecgscale.report.relations import class_groups
from ecgscale.report.subject import Subject
from ecgscale.store.manifest import newest_number, read_manifest
from ecgscale.words import spreadsheet_safe

Heat = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Seconds of the recording, and how much it mattered there, 0 to 1."""


def heat_of(subject: Subject) -> dict[str, Heat]:
    """Record id → Grad-CAM of the deepest tapped layer, scaled to its own maximum; empty where nothing was probed.

    Step l of L on the encoder's D timesteps stands at timestep (l + ½) D / L − ½, as the features have it.
    """
    found = subject.evaluations.get("probes")
    probe_id = found.facts.get("probe_id") if found else None
    store = probe_store(subject.root, subject.dataset_id, str(probe_id))
    manifest = read_manifest(store, newest_number(store)) if probe_id else None
    if manifest is None:
        return {}
    files = [store.location(name) for name in manifest.files]
    probed = parquet_dataset(files, SCHEMA)
    wanted = (pc.field("status") == "ok") & pc.field("gradcam").is_valid()
    maps = {row["record_id"]: row["gradcam"] for row in probed.to_table(["record_id", "gradcam"], wanted).to_pylist()}
    heat = {}
    for row in subject.explained(maps, ["start_s", "sampling_rate", "length"]):
        deepest = np.array((maps[row["record_id"]] or [[]])[-1], dtype=np.float64)
        if len(deepest) and deepest.max() > 0:
            steps = (np.arange(len(deepest)) + 0.5) * row["length"] / len(deepest) - 0.5
            seconds = row["start_s"] + steps / float(row["sampling_rate"])
            heat[row["record_id"]] = (seconds, np.clip(deepest / deepest.max(), 0, 1))
    return heat


CLUSTERS, GRADCAM, NEITHER = "clusters", "gradcam", "neither"
DPI = 150
ANSWERS = ("picture", "finding", "sure_0_to_100", "agrees_with_network", "seconds", "remarks")

_READ_ME = """\
Reader study
============

{cases} cases, {sessions} sessions. Read one session from its first picture to its last, without going back, and leave
at least two weeks between sessions. Write what you find into answers-session-N.csv: one line a picture.

Every picture shows a recording at 25 mm/s and 10 mm/mV and what a neural network says about it. On some, coloured bands
are states that the network went through, with their numbers below; on some, an orange tint says what it looked at; on
some there is neither. The same case comes again in other sessions.
"""


@dataclass(frozen=True)
class Picture:
    """One picture: in which session, as which number, which record (by its row), of which kind."""

    session: int
    number: int
    row: int
    kind: str


@dataclass(frozen=True)
class WrittenStudy:
    """Where the folder and the key are, and what could not be shown."""

    folder: Path
    key: Path
    cases: int
    kinds: tuple[str, ...]
    pictures: int
    remarks: list[str]


def write_study(
    subject: Subject, out: str | Path, n_cases: int, seed: int = 0, progress: Progress = SILENT
) -> WrittenStudy:
    """Draw `n_cases` in every kind there is, into sessions below `out`, and the key into `out`.key.csv.

    Grad-CAM takes part if probes of the network are there; cases are drawn among their records then. Raises
    `UsageError` when there is no archive, when there are too few recordings, and when folder or key are there already.
    """
    folder = Path(out)
    key = folder.with_name(f"{folder.name}.key.csv")
    if subject.archive is None:
        raise UsageError(f"no signals to draw: {subject.archive_note}")
    for path in (folder, key):
        if path.exists() and (path.is_file() or any(path.iterdir())):
            raise UsageError(f"{path} is there already; readers may have it. Name another folder")
    heat = heat_of(subject)
    kinds = (CLUSTERS, GRADCAM, NEITHER) if heat else (CLUSTERS, NEITHER)
    rows = draw_cases(subject, n_cases, seed, list(heat) if heat else None)
    pictures = arrange(rows, kinds, seed)
    remarks = [] if heat else ["no Grad-CAM: the network has not been probed (`ecgscale probe`)"]
    with progress.stage("pictures", len(pictures), "pictures") as stage:
        for picture in pictures:
            _draw(subject, picture, heat, folder)
            stage.advance()
    sessions = len(kinds)
    for session in range(1, sessions + 1):
        own = sorted(picture.number for picture in pictures if picture.session == session)
        _write_csv(folder / f"answers-session-{session}.csv", ANSWERS, [{"picture": number} for number in own])
    (folder / "READ-ME.txt").write_text(_READ_ME.format(cases=len(rows), sessions=sessions), encoding="utf-8")
    _write_csv(key, _KEY, [_key_row(subject, picture) for picture in pictures])
    return WrittenStudy(folder, key, len(rows), kinds, len(pictures), remarks)


def draw_cases(subject: Subject, n: int, seed: int, among: Sequence[str] | None = None) -> list[int]:
    """Rows of `n` cases, drawn from each class in turn; from records that nothing has seen, if there are enough."""
    allowed = np.ones(len(subject.rows), dtype=bool)
    if among is not None:
        allowed &= np.isin(subject.rows.record_ids, list(among))
    neither = subject.seen.neither
    if neither is not None and (allowed & neither).sum() >= n:
        allowed &= neither
    if allowed.sum() < n:
        raise UsageError(f"{n} cases were asked for; {int(allowed.sum())} recordings can be shown. Ask for fewer")
    rng = np.random.default_rng([seed, 11])
    queues = [rng.permutation(np.flatnonzero(own & allowed)).tolist()[::-1] for own in class_groups(subject).values()]
    queues = [queue for queue in queues if queue] or [rng.permutation(np.flatnonzero(allowed)).tolist()[::-1]]
    in_turn = [row for rows in zip_longest(*queues) for row in rows if row is not None]
    return list(dict.fromkeys([*in_turn, *rng.permutation(np.flatnonzero(allowed)).tolist()]))[:n]


def arrange(rows: Sequence[int], kinds: Sequence[str], seed: int) -> list[Picture]:
    """Every row once a session, in drawn order; over the sessions, every row in every kind."""
    rng, pictures = np.random.default_rng([seed, 12]), []
    start = rng.permutation(len(rows)) % len(kinds)
    for session in range(len(kinds)):
        for number, case in enumerate(rng.permutation(len(rows)).tolist()):
            kind = kinds[(int(start[case]) + session) % len(kinds)]
            pictures.append(Picture(session + 1, number + 1, rows[case], kind))
    return pictures


def _draw(subject: Subject, picture: Picture, heat: Mapping[str, Heat], folder: Path) -> None:
    assert subject.archive is not None
    record_id = subject.rows.record_ids[picture.row]
    record = load_explained(subject.root, record_id, subject.archive.path, subject.dataset_id)
    path = folder / f"session-{picture.session}" / f"{picture.number:03d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    _figure(record, picture, heat.get(record_id)).savefig(path, dpi=DPI)


def _figure(record: ExplainedRecording, picture: Picture, heat: Heat | None) -> Figure:
    clusters = picture.kind == CLUSTERS
    return draw_recording(
        record.signal_mv,
        record.leads,
        record.rate,
        record.segments if clusters else (),
        record.entropy if clusters else None,
        heat=heat if picture.kind == GRADCAM else None,
        title=f"Session {picture.session}, picture {picture.number}",
        subtitle=f"the network says: {outputs_text(record.outputs)}",
    )


_KEY = ("session", "picture", "file", "record_id", "kind", "labels", "network_says", "seen_before_by_network")


def _key_row(subject: Subject, picture: Picture) -> dict[str, Any]:
    row, seen = picture.row, subject.seen.encoder
    labels = [name for name, has in zip(subject.classes, subject.labelled()[row], strict=True) if has]
    outputs = dict(zip(subject.classes, subject.rows.outputs[row].tolist(), strict=True))
    truth = subject.rows.truth
    if subject.is_regression and truth is not None and truth.known[row]:
        labels = [f"{truth.y[row]:g}"]
    return {
        "session": picture.session,
        "picture": picture.number,
        "file": f"session-{picture.session}/{picture.number:03d}.png",
        "record_id": subject.rows.record_ids[row],
        "kind": picture.kind,
        "labels": " ".join(labels),
        "network_says": " ".join(f"{name}={value:.3f}" for name, value in outputs.items()),
        "seen_before_by_network": "" if seen is None else str(bool(seen[row])).lower(),
    }


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=columns, restval="")
        writer.writeheader()
        writer.writerows({name: spreadsheet_safe(value) for name, value in row.items()} for row in rows)
