"""Thousands of damaged files of every format: each is understood, or told."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from ecgscale.archive.sources.formats.recording import NotUnderstood, read_recording
from tests.archive.sources.formats.exports import WRITERS, levels

PIECES = (b"9", b"-", b"0", b"NaN", b"1e309", b"<", b" ", bytes(4), b"\xff\xff\xff\xff", b"\xff\x7f", b"")


def damaged(data: bytes, drawn: random.Random) -> bytes:
    """A few bytes are others, more or fewer, most of them in the header; some files are cut."""
    found = bytearray(data)
    for _ in range(drawn.randint(1, 6)):
        at = drawn.randrange(min(len(found), 3000))
        if drawn.random() < 0.5:
            found[at] = drawn.randrange(256)
        else:
            found[at : at + drawn.randint(0, 4)] = drawn.choice(PIECES)
    return bytes(found[: drawn.randrange(len(found))] if drawn.random() < 0.1 else found)


@pytest.mark.parametrize("kind", WRITERS)
def test_damage_ends_in_a_reason_and_not_in_a_traceback(tmp_path: Path, kind: str) -> None:
    data = WRITERS[kind](tmp_path / "a", levels()).read_bytes()
    if kind in ("scp", "ishne"):
        # Without a checksum, which would catch all of it at the door.
        data = bytes(2) + data[2:] if kind == "scp" else data[:8] + bytes(2) + data[10:]
    drawn, path = random.Random(7), tmp_path / "b"
    for _ in range(5000):
        path.write_bytes(damaged(data, drawn))
        try:
            found = read_recording(path)
        except NotUnderstood:
            continue  # and nothing else, whatever the parsers raise
        assert found.levels.shape[0] == len(found.leads) == len(found.microvolts)
        assert all(one > 0 for one in found.microvolts)
        assert found.sampling_rate > 0
