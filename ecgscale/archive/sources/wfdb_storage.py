"""Signal files of WFDB as they are stored: which kind, how long, and the digital values in them.

Formats are those of signal(5) of the WFDB manual. `wfdb` fills up what is missing, and checks nothing; here a file that
is not what the header describes makes the record unreadable, with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.sources.wfdb_header import NO_FILE, Channel, Header, UnreadableRecord

_BLOCKS = {"8": (1, 1), "80": (1, 1), "16": (1, 2), "61": (1, 2), "160": (1, 2), "24": (1, 3), "32": (1, 4)}
_BLOCKS |= {"212": (2, 3), "310": (3, 4), "311": (3, 4)}
"""Samples and bytes of the smallest whole piece of a file, in the formats of fixed size."""
_PARTS = {"212": {1: 2}, "310": {1: 2, 2: 4}, "311": {1: 2, 2: 3}}
"""Bytes of so many samples at the end of a file, where they make no whole piece."""
_NUMPY = {"8": "<i1", "16": "<i2", "61": ">i2", "32": "<i4"}
_FLAC = {"508": 8, "516": 16, "524": 24}
_FLAC_MOST = 2000
"""Samples that a byte of such a file can stand for, about, where nothing changes."""
_FLAC_BITS = {"PCM_S8": 8, "PCM_16": 16, "PCM_24": 24}

WHOLE = 6
"""Frames that are whole blocks in every format of fixed size, whatever their width."""


_OTHER_KINDS = {
    b"\x1f\x8b": "a gzip file",
    b"PK\x03\x04": "a zip file",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"MATLAB 5.0": "a MATLAB 5 file",
    b"MATLAB 7.3": "a MATLAB 7.3 file",
    b"fLaC": "a FLAC file",
    b"%PDF": "a PDF",
}
_TEXT = re.compile(rb"[\t\n\r\x20-\x7e]+")
_MAT_OFFSET = 24
_MAT_TYPE = 30
"""Of a MATLAB 4 matrix: little-endian, 16 bits, no text."""


def bytes_of(kind: str, samples: int) -> int:
    """How many bytes so many samples take at least, in a format of fixed size (a `KeyError` for another)."""
    per_block, size = _BLOCKS[kind]
    blocks, rest = divmod(samples, per_block)
    return blocks * size + (_PARTS[kind][rest] if rest else 0)


def has_fixed_size(kind: str) -> bool:
    """Whether the size of a file says how many samples are in it."""
    return kind in _BLOCKS


@dataclass(frozen=True)
class SignalFile:
    """One signal file, the numbers of its channels, and how many frames of it the record has."""

    path: Path
    channels: tuple[Channel, ...]
    numbers: tuple[int, ...]
    size: int
    frames: int

    @property
    def name(self) -> str:
        return self.channels[0].file

    @property
    def width(self) -> int:
        return sum(channel.per_frame for channel in self.channels)

    @property
    def can_stretch(self) -> bool:
        """Whether frames from the middle can be read alone: samples of a fixed size, each at its own time."""
        return self.channels[0].format in _BLOCKS and not any(c.skew or c.format == "8" for c in self.channels)

    def read(self, begin: int = 0, end: int | None = None) -> list[NDArray[Any]]:
        """Samples of each channel; of frames [begin, end), where `can_stretch` and a whole block begins there."""
        first = self.channels[0]
        if first.format in _FLAC:
            frames_FS = self._flac()
        else:
            frames = (self.frames if end is None else end) - begin
            samples = frames * self.width
            offset = first.byte_offset + bytes_of(first.format, begin * self.width)
            raw = np.fromfile(self.path, np.uint8, bytes_of(first.format, samples), offset=offset)
            frames_FS = unpack(first.format, raw, samples).reshape(frames, self.width)
        ends = np.cumsum([channel.per_frame for channel in self.channels])[:-1]
        parts = [part.reshape(-1) for part in np.split(frames_FS, ends, axis=1)]
        if first.format != "8":
            return parts
        starts = [c.zero if c.first is None else c.first for c in self.channels]
        return [np.cumsum(part, dtype=np.int64) + start for part, start in zip(parts, starts, strict=True)]

    def _flac(self) -> NDArray[Any]:
        import soundfile

        each = self.channels[0].per_frame
        with soundfile.SoundFile(str(self.path)) as sound:
            bits = _FLAC_BITS.get(sound.subtype, 99)
            if bits > _FLAC[self.channels[0].format] or sound.channels != len(self.channels):
                found = f"{self.name} holds {sound.channels} channels of {sound.subtype}"
                raise UnreadableRecord(f"{found}, not {len(self.channels)} of format {self.channels[0].format}")
            sound.seek(self.channels[0].byte_offset)
            values = sound.read(self.frames * each, dtype="int32", always_2d=True) >> (32 - bits)
        if len(values) != self.frames * each:
            raise UnreadableRecord(f"{self.name} is cut short: {len(values)} of {self.frames * each} samples a channel")
        by_frame = values.reshape(self.frames, each, len(self.channels)).transpose(0, 2, 1)
        return by_frame.reshape(self.frames, self.width)

    def surplus(self, has_checks: bool) -> list[str]:
        """What is behind the samples, told where checksums prove these right; else the record is unreadable."""
        first = self.channels[0]
        if first.format in _FLAC:
            return []
        per_block, size = _BLOCKS[first.format]
        expected = first.byte_offset + -(-self.frames * self.width // per_block) * size
        # Less than a frame, and what fills up a block of a disk, are nobody's samples.
        if self.size - expected < bytes_of(first.format, self.width) or self._is_padded(expected):
            return []
        said = f"{self.name} has {self.size:,} bytes, {self.size - expected:,} more than its header describes"
        if not has_checks:
            raise UnreadableRecord(f"{said}, and there are no checksums to tell which is right")
        return [said]

    def _is_padded(self, expected: int) -> bool:
        return self.size - expected < 512 and not np.fromfile(self.path, np.uint8, offset=expected).any()


def files_of(header: Header) -> list[SignalFile]:
    """The files of a record, as they are there and as long as they should be; raises `UnreadableRecord`."""
    numbers: dict[str, list[int]] = {}
    for i, channel in enumerate(header.channels):
        numbers.setdefault(channel.file, []).append(i)
    files = []
    for name, own in numbers.items():
        channels = tuple(header.channels[i] for i in own)
        if name in NO_FILE:
            raise UnreadableRecord("its header names no signal file")
        if len({(channel.format, channel.byte_offset) for channel in channels}) > 1:
            raise UnreadableRecord(f"its header gives {name} several formats or offsets")
        path = header.stem.parent / name
        if not path.is_file():
            raise UnreadableRecord(_absent(path, name))
        files.append(_sized(header, path, channels, tuple(own)))
    if len({file.frames for file in files}) > 1:
        raise UnreadableRecord("its signal files hold different numbers of samples")
    return files


def _absent(path: Path, name: str) -> str:
    if path.exists():
        return f"{name}: Not a file"
    try:
        others = [other.name for other in path.parent.iterdir() if other.name.lower() == path.name.lower()]
    except OSError:
        others = []
    beside = path.parent.parent / path.name
    hint = f" (there is {others[0]})" if others else ""
    hint = f" ({path.name} lies elsewhere)" if not hint and "/" in name and beside.is_file() else hint
    return f"{name}: No such file{hint}"


def _sized(header: Header, path: Path, channels: tuple[Channel, ...], numbers: tuple[int, ...]) -> SignalFile:
    """A file with its frames, which are never more than it can hold."""
    kind, offset, size = channels[0].format, channels[0].byte_offset, path.stat().st_size
    each, name = sum(channel.per_frame for channel in channels), channels[0].file
    if kind in _FLAC:
        if len({channel.per_frame for channel in channels}) > 1:
            raise UnreadableRecord(f"channels of {name} have several rates, which FLAC cannot hold")
        there = _flac_frames(path, channels)
        if there < max(header.frames, 1):
            raise UnreadableRecord(f"{name} is cut short: {there} of {header.frames} frames")
        return SignalFile(path, channels, numbers, size, header.frames or there)
    if kind not in _BLOCKS:
        raise UnreadableRecord(f"storage format {kind} of {name} is none that signal(5) of the WFDB manual describes")
    _require_samples(path, name, channels, header.frames)
    per_block, block = _BLOCKS[kind]
    blocks, rest = divmod(max(size - offset, 0), block)
    there = blocks * per_block + max((n for n, part in _PARTS.get(kind, {}).items() if part <= rest), default=0)
    if not header.frames and (there < each or there % each >= per_block):
        raise UnreadableRecord(f"{name} holds {there} samples, no whole number for {len(channels)} channels")
    if there < header.frames * each:
        raise UnreadableRecord(
            f"{name} is cut short: {there} of {header.frames * each} samples ({len(channels)} channels)"
        )
    return SignalFile(path, channels, numbers, size, header.frames or there // each)


def _flac_frames(path: Path, channels: Sequence[Channel]) -> int:
    """How many frames a compressed file says to have; what it cannot hold is refused before memory is asked for."""
    import soundfile

    samples = int(soundfile.info(str(path)).frames)
    if samples * len(channels) > path.stat().st_size * _FLAC_MOST:
        raise UnreadableRecord(f"{channels[0].file} says to hold {samples:,} samples a channel, more than it can")
    return (samples - channels[0].byte_offset) // channels[0].per_frame


def _require_samples(path: Path, name: str, channels: Sequence[Channel], frames: int) -> None:
    """Raise `UnreadableRecord` for a file that shows itself to be something else than samples."""
    with open(path, "rb") as stream:
        start = stream.read(4096)
    for mark, what in _OTHER_KINDS.items():
        if start.startswith(mark):
            raise UnreadableRecord(f"{name} is {what}, not samples of format {channels[0].format}")
    if len(start) >= 64 and _TEXT.fullmatch(start) and (b"\n" in start or b" " in start):
        raise UnreadableRecord(f"{name} is a text, which begins with {start[:40]!r}")
    if path.suffix.lower() != ".mat" or channels[0].byte_offset != _MAT_OFFSET or channels[0].format != "16":
        return
    kind, rows, columns, imaginary, length = (int(one) for one in np.frombuffer(start[:20].ljust(20, b"\0"), "<i4"))
    width = sum(channel.per_frame for channel in channels)
    if (kind, imaginary, length, rows) != (_MAT_TYPE, 0, 4, width) or start[20:24] != b"val\0":
        raise UnreadableRecord(f"{name} is no MATLAB 4 file of a matrix 'val' of {width} rows of 16 bits")
    if frames and columns != frames:
        raise UnreadableRecord(f"{name} is a matrix of {columns} columns, and its header describes {frames} samples")


def unpack(kind: str, raw: NDArray[np.uint8], samples: int) -> NDArray[Any]:
    """(samples,) digital values of a piece of a file that begins with a whole block; of format 8 the differences."""
    per_block, size = _BLOCKS[kind]
    whole = -(-samples // per_block) * size
    if len(raw) < whole:
        raw = np.concatenate([raw, np.zeros(whole - len(raw), np.uint8)])
    raw = raw[:whole]
    if kind in _NUMPY:
        return raw.view(_NUMPY[kind]).astype(_NUMPY[kind].replace(">", "<"), copy=False)
    if kind == "160":
        return (raw.view("<u2").astype(np.int32) - 2**15).astype(np.int16)
    if kind == "80":
        return raw.astype(np.int16) - 128
    if kind == "24":
        bytes_3N = raw.reshape(-1, 3).T.astype(np.int32)
        return _signed(bytes_3N[0] | bytes_3N[1] << 8 | bytes_3N[2] << 16, 24)
    if kind == "212":
        low, both, high = raw.reshape(-1, 3).T.astype(np.int16)
        pieces = [low | (both & 0x0F) << 8, high | (both >> 4) << 8]
        return _signed(np.stack(pieces, axis=1).reshape(-1), 12)[:samples]
    if kind == "310":
        a, b = raw.view("<u2").reshape(-1, 2).T.astype(np.int16)
        pieces = [a >> 1 & 0x3FF, b >> 1 & 0x3FF, (a >> 11 & 0x1F) | (b >> 11 & 0x1F) << 5]
    else:
        word = raw.view("<u4").astype(np.int64)
        pieces = [(word >> shift & 0x3FF).astype(np.int16) for shift in (0, 10, 20)]
    return _signed(np.stack(pieces, axis=1).reshape(-1), 10)[:samples]


def _signed(values: NDArray[Any], bits: int) -> NDArray[Any]:
    """Two's complement of so many bits."""
    values[values >= 2 ** (bits - 1)] -= 2**bits
    return values
