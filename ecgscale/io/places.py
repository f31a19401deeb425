"""Places: folders and files on a disk or in an object store, under one name.

`place("s3://bucket/prefix")` is a path of universal-pathlib, `place("folder")` is a `pathlib.Path`; both join with
`/`, list, read and write alike. What libraries open by file name alone is fetched: `local_copy`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from ecgscale.errors import UsageError
from ecgscale.io.settings import get_object, put_object, s3, s3_options, storage_errors

if TYPE_CHECKING:
    import pyarrow.fs

Place: TypeAlias = Path
"""A `pathlib.Path`, or a `UPath`, which has its methods (but is none)."""

REMOTE = "s3://"
TEMPORARY_PREFIX = "_tmp-"
"""What names of unfinished files and folders begin with: garbage that nothing reads."""


def place(where: str | Path) -> Place:
    """The place of that name: `s3://bucket/key`, or a path. `UsageError` for other URLs."""
    if not isinstance(where, str):
        return where
    text = where
    if text.startswith(REMOTE):
        bucket = text.removeprefix(REMOTE).partition("/")[0]
        if not bucket:
            raise UsageError(f"{text} names no bucket; expected s3://BUCKET/PREFIX")
        from upath import UPath

        found: Any = UPath(text.rstrip("/"), **s3_options())
        return found
    if "://" in text:
        raise UsageError(
            f"{text}: only local paths and s3:// are known; for another store that speaks S3, set its endpoint"
        )
    return Path(where)


def is_remote(where: str | Path) -> bool:
    """Whether a place lies in an object store."""
    return str(where).startswith(REMOTE)


def absolute(where: str | Path) -> str:
    """The place in full, as it is written down: a URL, or an absolute path."""
    return str(where).rstrip("/") if is_remote(where) else str(Path(where).absolute())


def arrow_place(where: str) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """What pyarrow's functions take for a location: a path and its file system (None: the local one)."""
    if is_remote(where):
        import pyarrow.fs

        return where.removeprefix(REMOTE), pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(s3()))
    return where, None


def local_copy(where: str | Path) -> Path:
    """A local directory with the files below `where`: itself, or a copy that is kept in the cache of the user.

    The copy is named by the versions of the files, so a changed directory is fetched anew. FileNotFoundError when there
    is nothing to fetch.
    """
    if not is_remote(where):
        return Path(where)
    system, source = s3(), str(where).removeprefix(REMOTE).rstrip("/")
    with storage_errors(f"cannot read {where}"):
        files = sorted(system.find(source, detail=True).items())
    if not files:
        raise FileNotFoundError(f"{where}: nothing lies there")
    versions = hashlib.sha256(repr([(name, facts["size"], facts["ETag"]) for name, facts in files]).encode())
    # The last two names of the place are kept: ids are read from folders' names.
    copies = copies_folder() / versions.hexdigest()[:24]
    final = copies.joinpath(*source.split("/")[-1:])
    if final.is_dir():
        return final
    scratch = copies / f"{TEMPORARY_PREFIX}{os.getpid()}"
    try:
        for name, _ in files:
            target = scratch / name.removeprefix(source).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with storage_errors(f"cannot read {REMOTE}{name}"):
                target.write_bytes(get_object(name))
        os.rename(scratch, final)
    except OSError:
        if not final.is_dir():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return final


RANGE = 8 * 2**20


def fetch(where: str, size: int) -> bytes:
    """An object of that size, in parallel ranges; `StoreError` when it cannot be read whole."""
    starts = list(range(0, size, RANGE))
    paths = [where.removeprefix(REMOTE)] * len(starts)
    with storage_errors(f"cannot read {where}"):
        stops = [min(start + RANGE, size) for start in starts]
        data = b"".join(s3().cat_ranges(paths, starts, stops, on_error="raise"))
        if len(data) != size:
            raise OSError(f"{len(data)} bytes came, {size} were there before")
    return data


@contextmanager
def local_folder(where: Path, scratch: Path) -> Iterator[Path]:
    """A local folder whose content goes to `where` if the block ends well; `where` itself where that is local."""
    if not is_remote(where):
        yield where
        return
    scratch.mkdir(parents=True, exist_ok=True)
    yield scratch
    upload(scratch, where)


def upload(folder: Path, where: str | Path, last: str | None = None) -> None:
    """Put every file of a local folder below a place, each in one piece; the one named `last` after all others."""
    target = str(where).removeprefix(REMOTE).rstrip("/")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path.name == last):
        name = f"{target}/{path.relative_to(folder).as_posix()}"
        with storage_errors(f"cannot write {REMOTE}{name}"):
            put_object(name, path.read_bytes())


def copies_folder() -> Path:
    """Where `local_copy` keeps what it fetched: the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ecgscale" / "copies"


def place_whole(final: Place, fill: Callable[[Path], object], last: str) -> Place:
    """Let `fill` write into a new directory and move it to `final`; one that is there already is left alone.

    `last` is the file without which the directory does not count. Whoever comes second, in this or another process,
    changes nothing.
    """
    if (final / last).exists():
        return final
    if is_remote(final):
        with tempfile.TemporaryDirectory() as scratch:
            fill(Path(scratch))
            upload(Path(scratch), final, last)
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    scratch_path = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=final.parent))
    try:
        fill(scratch_path)
        scratch_path.chmod(0o755)
        os.rename(scratch_path, final)
    except OSError:
        if not final.exists():
            raise
    finally:
        shutil.rmtree(scratch_path, ignore_errors=True)
    return final
