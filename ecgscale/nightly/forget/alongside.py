"""Forgetting in what lies alongside explanations: lists of what was seen, evaluations, run records, nights, caches.

Digests and names of encoders and models do not rest on their lists (`seen.tsv`), so lines may go from them. Evaluations
that name a record go as a whole: they can be made again. From other JSON the ids alone are taken.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from ecgscale.archive.intake.intake import STAGED
from ecgscale.archive.reader import Archive
from ecgscale.encoders.seen import SEEN_FILE
from ecgscale.evaluate.written import EVALUATIONS
from ecgscale.io.objects import LocalObjects, ObjectStore
from ecgscale.io.places import copies_folder
from ecgscale.nightly.forget.search import Hit, Traces, holds_traces
from ecgscale.nightly.gates.gatekeeper import REFERENCE, night_records, spread
from ecgscale.nightly.gates.reference import Reference, RowsWithTraits
from ecgscale.store.commit import COMMITS
from ecgscale.store.manifest import MANIFESTS, newest_number, read_manifest

LEFTOVERS = ("_writing-", "_tmp-")
"""What names of files begin with that killed writers left."""
_FIXED = frozenset({COMMITS, MANIFESTS})
_OF_ENCODERS = (".toml", ".safetensors", ".pt", ".pth", ".json", ".tsv")


def without_seen(store: ObjectStore, keys: Iterable[str], traces: Traces) -> int:
    """Take the patient's lines from lists of what was seen; how many lists changed."""
    changed = 0
    for key in keys:
        text = (store.read(key) or b"").decode()
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if not traces.hashes.intersection(line.split())]
        if len(kept) < len(lines):
            store.put(key, "".join(kept).encode())
            changed += 1
    return changed


def seen_lists(root: ObjectStore) -> list[str]:
    """Keys of the lists alongside the encoders and models of a ROOT."""
    return [
        key for folder in ("encoders", "models") for key in root.list_prefix(folder) if key.endswith(f"/{SEEN_FILE}")
    ]


def evaluations_with(root: ObjectStore, skip: Callable[[str], bool], traces: Traces) -> list[str]:
    """Keys of all files of those evaluations of which one file tells of the patient, but for those to skip."""
    keys = [key for key in root.list_prefix(EVALUATIONS) if not skip(key)]
    found = {_evaluation(key) for key in keys if holds_traces(root, key, traces)}
    return [key for key in keys if _evaluation(key) in found]


def _evaluation(key: str) -> tuple[str, str]:
    """Folder and name of …/surrogate-x.json, …/surrogate-x.out_of_fold.parquet, and of what killed writers left."""
    folder, _, file = key.rpartition("/")
    return folder, file.lstrip(".").partition(".")[0]


def mend(hits: Iterable[Hit], traces: Traces) -> list[str]:
    """Take ids from JSON, and remove what killed writers left; keys of the latter. Anything else stays as it is."""
    removed = []
    for hit in hits:
        if any(part.startswith(LEFTOVERS) for part in hit.key.split("/")) or hit.key.startswith(STAGED):
            hit.store.delete(hit.key)
            removed.append(hit.key)
        elif hit.key.endswith(".json") and not hit.unreadable and not _FIXED.intersection(hit.key.split("/")):
            # A name cannot be mended, and neither can text that only looks like JSON.
            with contextlib.suppress(ValueError):
                content = json.loads(hit.store.read(hit.key) or b"")
                hit.store.put(hit.key, (json.dumps(traces.redacted(content), indent=1) + "\n").encode())
    return removed


def rebuild_reference(store: ObjectStore, archive: Archive) -> None:
    """Draw a dataset's reference period again, from what came before its first night, if it has one.

    Where nothing is left of that, it goes, and the next night draws another. `archive` is as it is now.
    """
    data = store.read(REFERENCE)
    if data is None:
        return
    newest = read_manifest(store, newest_number(store))
    old = Reference.from_bytes(data)
    entries = newest.content.shards if newest else ()
    judged = {key for record in night_records(store) for key in record.shards}
    before = [entry for entry in entries if entry.key not in judged] or list(entries)
    if not before:
        store.delete(REFERENCE)
        return
    rows = map(RowsWithTraits(store, archive), spread(before))
    made = Reference.of(rows, old.model_id, old.output_names, old.seed)
    store.put(REFERENCE, made.to_parquet_bytes())


def stale_copies(traces: Traces) -> list[Path]:
    """Copies in the user's cache of places in an object store that tell of the patient, or are of a source."""
    folder = copies_folder()
    found = []
    for copy in sorted(folder.iterdir()) if folder.is_dir() else []:
        store = LocalObjects(copy)
        keys = [*store.list_prefix(""), *store.list_leftovers()]
        if any(not key.endswith(_OF_ENCODERS) or holds_traces(store, key, traces) for key in keys):
            found.append(copy)
    return found
