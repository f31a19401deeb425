"""Training on a worker of a pool, for where this process has no GPU: one worker trains, and this process writes.

A network is trained by one worker, never by several: which records share a step decides the weights. The worker hands
back the encoder's files, so the place they go to need not be one that it can reach.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ecgscale.archive.reader import Archive
from ecgscale.encoders.spec import encoder_files
from ecgscale.encoders.train import TrainSettings, place_kept, put_encoder, train_encoder
from ecgscale.io.places import absolute
from ecgscale.passes.spread import Spread
from ecgscale.progress import Progress, Stage
from ecgscale.words import one_line


@dataclass(frozen=True)
class Trained:
    """What `train_encoder` told, and the files of the encoder by name."""

    facts: dict[str, Any]
    files: dict[str, bytes]


def train_on(
    spread: Spread,
    archive: Archive,
    out: str | Path,
    settings: TrainSettings,
    *,
    threads: int | None = None,
    overwrite: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """`encoders.train.train_encoder` on a worker of `spread`; the same facts, and `out` written by this process.

    Errors as there; those that only `out` decides come before the worker begins.
    """
    with place_kept(out, overwrite):
        progress.say("training on a worker; its lines come through the runtime's log")
        [done] = spread.map(_trained, absolute(archive.path), [(settings, threads)], names=["the training"])
        put_encoder(out, done.files)
    return {**done.facts, "encoder": str(out)}


def _trained(archive: str, task: tuple[TrainSettings, int | None]) -> Trained:
    settings, threads = task
    if threads is not None:
        torch.set_num_threads(threads)
    with TemporaryDirectory() as scratch:
        out = Path(scratch) / "encoder"
        facts = train_encoder(Archive.open(archive), out, settings, progress=_Lines())
        return Trained(facts, {path.name: path.read_bytes() for path in encoder_files(out)})


class _Lines:
    """Progress of a worker on its stderr, which runtimes gather: a line for every note (an epoch)."""

    @contextmanager
    def stage(self, name: str, total: int | None, unit: str) -> Iterator[Stage]:
        yield _LineStage(f"{name}, of {total} {unit}")

    def say(self, text: str) -> None:
        print(one_line(text), file=sys.stderr, flush=True)


class _LineStage:
    def __init__(self, what: str) -> None:
        self._what, self._done, self._note = what, 0, ""

    def advance(self, amount: int = 1) -> None:
        self._done += amount

    def note(self, text: str) -> None:
        print(one_line(f"{self._what}: {self._done}, {text}"), file=sys.stderr, flush=True)
