"""Places: folders and files on a disk or in an object store, under one name.

`place("s3://bucket/prefix")` is a path of universal-pathlib, `place("folder")` is a `pathlib.Path`; both join with
`/`, list, read and write alike. What libraries open by file name alone is fetched: `local_copy`.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import unquote

from ecgscale.errors import UsageError
from ecgscale.io.settings import get_object, put_object, s3, s3_options, storage_errors
from ecgscale.words import one_line

if TYPE_CHECKING:
    import pyarrow.fs

Place: TypeAlias = Path
"""A `pathlib.Path`, or a `UPath`, which has its methods (but is none)."""

REMOTE = "s3://"
TEMPORARY_PREFIX = "_tmp-"
"""What names of unfinished files and folders begin with: garbage that nothing reads."""


def place(where: str | Path) -> Place:
    """The place of that name: `s3://bucket/key`, a path, `~/path`, or `file:///path`.

    A `file://` URL has its %XX decoded, as URLs have; nothing else has. `UsageError` for other URLs, and for what would
    be taken for another place than was meant: an empty name, `s3:/bucket`, names that are not UTF-8.
    """
    if not isinstance(where, str | Path):
        return where
    text = str(where)
    if not text.strip():
        raise UsageError("the name of a place is empty; is a variable not set? The folder one is in is called .")
    if "\0" in text or not is_utf8(text):
        raise UsageError(f"{one_line(text)}: a name has to be UTF-8 text, which this one is not; rename it")
    scheme = _SCHEME.match(text)
    if scheme is None:
        return _at_home(text) if text.startswith("~") else Path(where)
    if scheme[1].lower() == "file":
        return _of_file_url(text)
    if scheme[1].lower() != "s3" or scheme[2] != "//":
        slashes = scheme[1].lower() == "s3"
        what = "expected s3://BUCKET/PREFIX, with two slashes" if slashes else "only local paths and s3:// are known"
        store = "" if slashes else "; for another store that speaks S3, set its endpoint"
        raise UsageError(f"{text}: {what}{store}")
    return _in_bucket(text[len(REMOTE) :].rstrip("/"), text)


_SCHEME = re.compile(r"(s3|file|[A-Za-z][A-Za-z0-9+.-]*(?=://)):(//|/|(?=$))", re.IGNORECASE)


def _in_bucket(key: str, text: str) -> Place:
    bucket, *names = key.split("/")
    if not bucket:
        raise UsageError(f"{text} names no bucket; expected s3://BUCKET/PREFIX")
    odd = next((name for name in names if name in ("", ".", "..")), None)
    if odd is not None:
        what = f"/{odd}/" if odd else "//"
        raise UsageError(f"{text}: {what} leads nowhere in a bucket, where names are taken as they are; leave it out")
    from upath import UPath

    found: Any = UPath(REMOTE + key, **s3_options())
    return found


def _of_file_url(text: str) -> Path:
    """RFC 8089: `file:///path`, `file://localhost/path` or `file:/path`."""
    found = _FILE_URL.fullmatch(text)
    if found is None:
        raise UsageError(f"{text} is a file of another machine; a file: URL of this one is file:///PATH")
    try:
        return Path(unquote(found[1], errors="strict"))
    except UnicodeDecodeError:
        raise UsageError(f"{text}: what %XX stands for is not UTF-8; rename the file, or type its path") from None


_FILE_URL = re.compile(r"file:(?://(?:localhost)?)?(/(?!/).*|/)", re.IGNORECASE | re.DOTALL)


def _at_home(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(f"{text}: there is no such user; a folder of that name is ./{text}") from None


def is_utf8(name: str) -> bool:
    """Whether a file's name is text; bytes that are none are kept by Python as surrogates, which cannot be written."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def nearly(where: Place) -> str:
    """The question "Did you mean X?", after a space, for a place that is not there: one beside it whose name looks the
    same, in other Unicode (a decomposed umlaut), case or blanks around it. Empty where there is none."""
    if is_remote(where) or not where.parent.is_dir():
        return ""
    alike = [path for path in where.parent.iterdir() if _plain(path.name) == _plain(where.name)]
    return f" Did you mean {one_line(str(alike[0]))}, whose name is written otherwise?" if alike else ""


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).strip().casefold()


def is_remote(where: str | Path) -> bool:
    """Whether a place lies in an object store."""
    return str(where).startswith(REMOTE)


def absolute(where: str | Path) -> str:
    """The place in full, as it is written down: a URL, or an absolute path."""
    found = place(where)
    return str(found).rstrip("/") if is_remote(found) else str(found.absolute())


def arrow_place(where: str) -> tuple[str, pyarrow.fs.FileSystem | None]:
    """What pyarrow's functions take for a location: a path and its file system (None: the local one)."""
    if is_remote(where):
        import pyarrow.fs

        return where.removeprefix(REMOTE), pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(s3()))
    return where, None


def local_copy(where: str | Path) -> Path:
    """What lies at `where` as a local folder or file: itself, or a copy that is kept in the cache of the user.

    The copy is named by the versions of the files, so a changed directory is fetched anew. FileNotFoundError when there
    is nothing to fetch.
    """
    where = place(where)
    if not is_remote(where):
        return where
    system, source = s3(), str(where).removeprefix(REMOTE).rstrip("/")
    with storage_errors(f"cannot read {where}"):
        found = sorted(system.find(source, detail=True).items())
    # What ends in a slash is the mark of a folder, and no file.
    files = [(name, facts) for name, facts in found if not name.endswith("/")]
    leaving = [name for name, _ in files if ".." in name.split("/")]
    if leaving:
        raise UsageError(f"{REMOTE}{leaving[0]}: a name with .. in it would leave the folder; remove or rename it")
    if not files:
        raise FileNotFoundError(f"{where}: nothing lies there")
    versions = hashlib.sha256(repr([(name, facts["size"], facts["ETag"]) for name, facts in files]).encode())
    # The last two names of the place are kept: ids are read from folders' names.
    copies = copies_folder() / versions.hexdigest()[:24]
    final = copies.joinpath(*source.split("/")[-1:])
    if final.exists():
        return final
    scratch = copies / f"{TEMPORARY_PREFIX}{os.getpid()}"
    try:
        for name, _ in files:
            # A single object is its own copy.
            target = scratch / below if (below := name.removeprefix(source).lstrip("/")) else scratch
            target.parent.mkdir(parents=True, exist_ok=True)
            with storage_errors(f"cannot read {REMOTE}{name}"):
                target.write_bytes(get_object(name))
        os.rename(scratch, final)
    except OSError:
        if not final.exists():
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
