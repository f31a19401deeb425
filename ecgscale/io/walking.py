"""What lies below a local folder, every file once: links to folders are followed, and never in a circle.

What is no file that could be read (a link into nowhere, a pipe that would be waited for without end) is told apart, so
that whoever walks can say so.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import suppress

from ecgscale.io.places import is_utf8

Found = tuple[str, "os.DirEntry[str]", str]
"""A file's path below the folder, its entry, and what is odd about it ("" for a file that can be read)."""

NOT_UTF8 = "called by a name that is not UTF-8"


def walk(root: str | os.PathLike[str], skip: Callable[[str], bool] = lambda name: False) -> Iterator[Found]:
    """All that lies below `root` and is no folder, in no order; nothing where `root` is no folder.

    A folder that is linked to is looked into under the name of the link, unless it lies within what is looked at
    anyway, or around it. Files and folders whose names are to be left out are those that `skip` says.
    """
    looked_at = [os.path.realpath(root)]
    folders, links = [("", os.fspath(root))], list[tuple[str, str]]()
    while folders or links:
        if not folders:
            below, path = links.pop(0)
            real = os.path.realpath(path)
            if any(_is_within(real, other) or _is_within(other, real) for other in looked_at):
                continue
            looked_at.append(real)
            folders.append((below, path))
        below, path = folders.pop()
        for entry in _entries(path):
            if skip(entry.name):
                continue
            key = f"{below}/{entry.name}" if below else entry.name
            if not _is_folder(entry):
                yield key, entry, oddity(entry) if is_utf8(key) else NOT_UTF8
            elif entry.is_symlink():
                links.append((key, entry.path))
            else:
                folders.append((key, entry.path))


def _entries(path: str) -> list[os.DirEntry[str]]:
    # A folder may go while others are looked into.
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(path) as entries:
        return list(entries)
    return []


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):
        return entry.is_dir()
    return False


def _is_within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder


def oddity(entry: os.DirEntry[str]) -> str:
    """Why an entry that is no folder is no file to be read, as "a link into nowhere"; empty where it is one."""
    try:
        if entry.is_file():
            return ""
        mode = entry.stat().st_mode
    except FileNotFoundError:
        return "a link into nowhere" if entry.is_symlink() else ""
    except OSError:
        return "a link that leads in a circle" if entry.is_symlink() else "a file that may not be looked at"
    return next((what for is_one, what in _KINDS if is_one(mode)), "no file")


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (lambda mode: stat.S_ISCHR(mode) or stat.S_ISBLK(mode), "a device"),
)
