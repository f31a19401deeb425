"""What is written down of forgetting: a journal while it goes on, and a note without ids when it is done.

    ROOT/_forgetting/<token>.json                       whom, and which records and shards: gone when nothing is left
    ROOT/explanations/<dataset_id>/_forgotten.json      when, why, how many records, which manifests went

The journal names the patient, since whoever goes on after a crash has to know what to look for.
"""

from __future__ import annotations

from typing import Literal
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from ecgscale.io.numbered import read_json_object, to_json
from ecgscale.io.objects import ObjectStore
from ecgscale.store.commit import Source
from ecgscale.store.provenance import utc_now

JOURNAL = "_forgetting"
NOTE = "_forgotten.json"


class Journal(BaseModel):
    """One patient (None: single records) on the way out, by the ids of the archive.

    records: of this patient alone; shards: of the archive that held them, as they were
    """

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    patient: str | None
    records: tuple[str, ...] = ()
    shards: dict[str, Source] = {}


class Removal(BaseModel):
    """One patient was taken from a dataset; nothing here tells who."""

    model_config = ConfigDict(frozen=True)

    at: str
    reason: str
    records: int
    manifests: tuple[int, ...]


class Removals(BaseModel):
    """All of a dataset, in order."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1] = 1
    removals: tuple[Removal, ...] = ()


def open_journals(root: ObjectStore) -> dict[str, Journal]:
    """Journals of what is not finished, by key."""
    found = {key: read_json_object(root, key, Journal) for key in root.list_prefix(JOURNAL)}
    return {key: journal for key, journal in found.items() if journal is not None}


def keep_journal(root: ObjectStore, journal: Journal, key: str | None) -> str:
    """Put a journal in the place of the one of that key, or in a new place; its key."""
    key = key or f"{JOURNAL}/{uuid4().hex}.json"
    root.put(key, to_json(journal))
    return key


def note_removal(dataset: ObjectStore, reason: str, records: int, manifests: list[int]) -> None:
    """Add a note to those of a dataset."""
    removals = read_json_object(dataset, NOTE, Removals) or Removals()
    removal = Removal(at=utc_now(), reason=reason, records=records, manifests=tuple(manifests))
    dataset.put(NOTE, to_json(removals.model_copy(update={"removals": (*removals.removals, removal)})))


def why_gone(dataset: ObjectStore, number: int) -> str:
    """Why manifest `number` is gone, if that is because somebody was forgotten; else ""."""
    removals = read_json_object(dataset, NOTE, Removals) or Removals()
    for removal in removals.removals:
        if number in removal.manifests:
            return (
                f"it held a patient who was forgotten on {removal.at[:10]}"
                f"{f' ({removal.reason})' if removal.reason else ''}, and cannot be gone back to"
            )
    return ""
