"""An archive and the source that it grows from: do they belong together, and what of the source is in it already."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from ecgscale.archive.feeds import Code15Feed, Feed, PtbxlFeed, WfdbFeed
from ecgscale.archive.intake import IntakeLog
from ecgscale.archive.pseudonyms import Pseudonyms
from ecgscale.archive.reader import Archive
from ecgscale.archive.source_sets import Known, SourceSet
from ecgscale.archive.source_view import SourceView
from ecgscale.archive.wfdb_records import BY_NAME, BY_PATH
from ecgscale.errors import ArchiveError, ShardError, UsageError

if TYPE_CHECKING:
    from ecgscale.config import ArchiveConfig

_KINDS = ("ptbxl", "code15", "wfdb", "simulate")
_SIGNAL_SUFFIXES = (".dat", ".mat")


def open_feed(config: ArchiveConfig, view: SourceView, archive: Archive | None, log: IntakeLog) -> Feed:
    """The source that the configuration names, read as `archive` was; None: an archive is still to be made."""
    if config.source == "wfdb":
        return WfdbFeed(view, config.units_per_mv, None if archive is None else _record_ids(archive, log) == BY_PATH)
    if config.source == "code15":
        return Code15Feed(view, config.units_per_mv or 1.0)
    if config.source == "ptbxl":
        return PtbxlFeed(view, config.rate, config.carry if archive is None else archive.label_columns())
    raise UsageError(f"files do not arrive at a source of the kind {config.source!r}")


def check_same_source(archive: Archive, config: ArchiveConfig) -> None:
    """Raise `ArchiveError` when the configuration reads a source otherwise than the archive was made."""
    made: dict[str, Any] = archive.info.get("source", {})
    units = config.units_per_mv or 1.0 if config.source == "code15" else config.units_per_mv
    wanted: dict[str, Any] = {"kind": config.source}
    wanted |= {"rate": config.rate} if config.source == "ptbxl" else {"units_per_mv": units}
    if made.get("kind") not in _KINDS:
        return
    for name, value in wanted.items():
        if name in made and made[name] != value:
            raise ArchiveError(
                f"{archive.path} was made with {name} = {made[name]!r}, and [archive] now says {value!r}: their "
                "recordings would not mean the same. Mend the configuration, or ingest into a new archive"
            )


def adopted(archive: Archive, feed: Feed, pseudonyms: Pseudonyms | None = None) -> dict[SourceSet, str]:
    """The sets whose record (of CODE-15 %, whose part) is in an archive without a log, each with the stamp to log.

    That is "" where a file is younger than the ingest's listing, so that the set counts as changed. What an ingest
    missed because it arrived while it ran is not among them, so it is new.
    """
    made: dict[str, Any] = archive.info.get("source", {})
    moment = made.get("listed_at") or archive.info.get("created_at")
    until = datetime.fromisoformat(moment) if moment else None
    is_in = _is_in(archive, made)
    sets = {one.key: one for one in feed.sets(Known(pseudonyms=pseudonyms), until) if is_in(one)}
    if made.get("kind") == "wfdb":
        # Headers without a file of their name beside them name others, which belong to the stamp.
        bare = [one for one in sets.values() if not any(file.name.endswith(_SIGNAL_SUFFIXES) for file in one.files)]
        sets |= {one.key: one for one in feed.looked_into(bare, None)}
    return {one: "" if until is not None and one.newest > until else one.stamp for one in sets.values()}


def record_ids_of(archive: Archive) -> str:
    """Whether the records of an archive of WFDB files are known by name or by path, from the ids themselves."""
    unreadable: list[ShardError] = []
    ids = archive.metadata(["record_id"], unreadable).column("record_id")
    return BY_PATH if pc.any(pc.match_substring(ids, "/")).as_py() else BY_NAME


def _record_ids(archive: Archive, log: IntakeLog) -> str:
    told = [archive.info.get("source", {}).get("record_ids"), *(entry.record_ids for entry in log.own)]
    return next((name for name in told if name), None) or record_ids_of(archive)


def _is_in(archive: Archive, made: dict[str, Any]) -> Callable[[SourceSet], bool]:
    if "parts" in made:
        parts = frozenset(made["parts"])
        return lambda one: one.name in parts
    unreadable: list[ShardError] = []
    ids = frozenset(archive.metadata(["record_id"], unreadable).column("record_id").to_pylist())
    return lambda one: one.archived_as in ids
