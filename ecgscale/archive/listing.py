"""What lies in the folder of an archive: shards, what was meant to be one and cannot be read, and what is neither.

Names that begin with "_" are the archive's own. Whatever is called like a shard is one: a folder of that name, a link
into nowhere, a name that cannot be written down come with the reason why they cannot be read, and are set aside by
whoever reads shards. Everything else is named by `ecgscale inspect`.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ecgscale.archive.shard import Shard, is_shard_name
from ecgscale.errors import ArchiveError
from ecgscale.io.numbered import DocumentError, canonical_digest, parsed
from ecgscale.io.objects import LocalObjects, open_objects
from ecgscale.io.places import Place, is_remote
from ecgscale.io.settings import storage_errors
from ecgscale.io.walking import oddity, walk
from ecgscale.words import counted, named, one_line

ARCHIVE_JSON = "_archive.json"
_DIGEST = "digest"


def archive_json(info: Mapping[str, Any]) -> bytes:
    """What is written as `_archive.json`: these facts, and a digest of them."""
    facts = json.loads(json.dumps({key: value for key, value in info.items() if key != _DIGEST}))
    return json.dumps({_DIGEST: canonical_digest(facts), **facts}, indent=2, ensure_ascii=False).encode() + b"\n"


def archive_info(content: bytes, where: object) -> dict[str, Any]:
    """The facts in an `_archive.json`, less their digest; one that has none (of earlier versions) is taken as it is.

    Raises `ArchiveError` for what is no JSON object, or is not what its digest is of.
    """
    try:
        info = dict(parsed(content))
    except (DocumentError, TypeError, ValueError) as error:
        raise ArchiveError(f"{where} is damaged: {error}; restore it") from error
    digest = info.pop(_DIGEST, None)
    if digest is not None and digest != canonical_digest(info):
        raise ArchiveError(
            f"{where} is not what its digest is of: a bit has changed, or somebody has edited it. Restore it; if the "
            f'change was meant, take out the line "{_DIGEST}"'
        )
    return info


@dataclass(frozen=True)
class Listing:
    """shards: in the order of their keys; others: names of what is no shard and no file of the archive's own."""

    shards: tuple[Shard, ...]
    others: tuple[str, ...]


def list_archive(folder: Place) -> Listing:
    """The archive's folder, from one listing; `StoreError` if it cannot be listed."""
    with storage_errors(f"cannot list {folder}"):
        top, inside = _in_bucket(folder) if is_remote(folder) else _on_disk(folder)
    shards = [shard for shard in top if _is_meant(shard.key)]
    others = [shard.key for shard in top if not _is_meant(shard.key)]
    for name, files in inside.items():
        if _is_meant(name):
            shards.append(_odd(folder, name, "is a folder, and a shard is a file"))
        elif any(_is_meant(file.rpartition("/")[2]) for file in files):
            what = f"holds {counted(len(files), 'file')} ({named(files)}), which nobody reads: shards lie in the"
            shards.append(_odd(folder, f"{name}/", f"{what} archive's own folder. Move them there, or elsewhere"))
        else:
            others += [f"{name}/{file}" for file in files] or [f"{name}/"]
    return Listing(tuple(sorted(shards, key=lambda shard: shard.key)), tuple(sorted(others)))


def _is_meant(name: str) -> bool:
    """Whether whoever called a file so meant it to be a shard."""
    return is_shard_name(name.lower())


def _odd(folder: Place, key: str, odd: str) -> Shard:
    return Shard(key, f"{str(folder).rstrip('/')}/{key}", 0, "", odd)


def _is_own(name: str) -> bool:
    return name.startswith("_")


def _on_disk(folder: Path) -> tuple[list[Shard], dict[str, list[str]]]:
    """Files of the folder, and the files in each of its folders, under names that can be printed."""
    store, top, inside = LocalObjects(folder), list[Shard](), dict[str, list[str]]()
    with os.scandir(folder) as entries:
        for entry in entries:
            name = one_line(entry.name)
            if _is_own(name):
                continue
            what = oddity(entry)
            if what == "a folder":
                within = () if _is_meant(name) else walk(entry.path, _is_own)
                inside[name] = sorted(one_line(key) for key, _, _ in within)
            elif what:
                top.append(_odd(folder, name, f"is {what}"))
            elif odd := _odd_name(entry.name):
                top.append(_odd(folder, name, odd))
            elif (stat := store.stat(name)) is not None:
                top.append(Shard(name, store.location(name), stat.size, stat.version))
    return top, inside


def _in_bucket(folder: Place) -> tuple[list[Shard], dict[str, list[str]]]:
    store, top, inside = open_objects(folder), list[Shard](), defaultdict[str, list[str]](list)
    for key, stat in store.list_stats("").items():
        first, slash, rest = key.partition("/")
        if _is_own(first):
            continue
        if slash:
            inside[one_line(first)] += [one_line(rest)] if rest else []
        elif odd := _odd_name(key):
            top.append(_odd(folder, one_line(key), odd))
        else:
            top.append(Shard(key, store.location(key), stat.size, stat.version))
    return top, dict(inside)


def _odd_name(name: str) -> str:
    """Why a file cannot be a shard for its name alone."""
    if one_line(name) != name:
        return "has a name that cannot be written down; rename it"
    return (
        "" if is_shard_name(name) or not _is_meant(name) else "is not called part-*.parquet in small letters; rename it"
    )
