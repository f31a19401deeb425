"""Two models are explained below one ROOT while somebody may decide: what is served never goes back, without a clock.

The functions are the real ones, in any interleaving, killed anywhere and started again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import ecgscale.store.dataset as dataset_module
from ecgscale.errors import PublishError
from ecgscale.store.dataset import Pointer, follow, newest_pointer, pointer_key, serve
from ecgscale.store.manifest import Manifest, manifest_numbers, newest_number, publish, read_manifest
from tests.store.interleaved import Killed, Objects, Turns, View
from tests.worlds.published.shards import RUN, content_of, facts

ROOT = Path("/model")
NAMES = ("model-a", "model-b")
ID = {name: facts(name).dataset_id for name in NAMES}
PLAYS = [60, pytest.param(2000, marks=pytest.mark.slow)]


class Below(View):
    """The objects of one dataset."""

    def __init__(self, objects: Objects, turn: Callable[[], None], name: str) -> None:
        super().__init__(objects, turn)
        self._below = f"explanations/{ID[name]}/"

    def put_if_absent(self, key: str, data: bytes) -> bool:
        return super().put_if_absent(self._below + key, data)

    def read(self, key: str) -> bytes | None:
        return super().read(self._below + key)

    def stat(self, key: str):  # type: ignore[no-untyped-def]
        return super().stat(self._below + key)

    def list_stats(self, prefix: str):  # type: ignore[no-untyped-def]
        found = super().list_stats(self._below + prefix)
        return {key.removeprefix(self._below): stat for key, stat in found.items()}


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch) -> threading.local:
    """What each process sees of ROOT."""
    own = threading.local()
    monkeypatch.setattr(dataset_module, "open_objects", lambda where: own.view)
    return own


def explain(store: Below, name: str, path: str) -> None:
    """What `explain_archive` does in the end, until it is through."""
    while True:
        base = newest_number(store)
        # Every run of it has something else to say.
        content = content_of([], model_id=name)
        content = content.model_copy(update={"archive": content.archive.model_copy(update={"path": path})})
        manifest = publish(store, content, base, RUN, newest_pointer(ROOT))
        if manifest is not None:
            follow(ROOT, manifest, RUN)
            return


def again(work: Callable[[], None]) -> None:
    """Typed again when it was killed."""
    while True:
        try:
            return work()
        except Killed:
            continue


def play(here: threading.local, seed: int, decide: bool) -> tuple[Objects, list[str]]:
    """All at once; the datasets that somebody decided on."""
    objects, decided = Objects(), list[str]()
    turns = Turns([], seed)

    def run(turn: Callable[[], None], name: str, number: int) -> None:
        here.view = View(objects, turn)
        for part in range(2):
            again(lambda part=part: explain(Below(objects, turn, name), name, f"{number}-{part}"))  # type: ignore[misc]

    def person(turn: Callable[[], None]) -> None:
        here.view = View(objects, turn)
        for _ in range(3):
            try:
                serve(ROOT, ID["model-a"], "looked at", RUN)
                decided.append(ID["model-a"])
                return
            except (Killed, PublishError):
                continue

    for number, name in enumerate((*NAMES, *NAMES)):
        turns.add(f"{name}-{number}", lambda turn, name=name, number=number: run(turn, name, number))  # type: ignore[misc]
    if decide:
        turns.add("person", person)
    turns.run()
    here.view = View(objects)
    return objects, decided


def pointers(objects: Objects) -> list[Pointer]:
    newest = newest_pointer(ROOT)
    return [Pointer.model_validate_json(objects.data[pointer_key(n)]) for n in range(1, newest + 1)]


def manifests(objects: Objects, name: str) -> list[Manifest]:
    store = Below(objects, lambda: None, name)
    return [found for n in manifest_numbers(store) if (found := read_manifest(store, n)) is not None]


@pytest.mark.parametrize("plays", PLAYS)
def test_what_is_published_last_is_served_unless_somebody_decided(here: threading.local, plays: int) -> None:
    for seed in range(plays):
        objects, decided = play(here, seed, decide=seed % 2 == 0)
        moves = pointers(objects)
        claims = {ID[name]: {manifest.pointer for manifest in manifests(objects, name)} for name in NAMES}
        for before, move in zip([None, *moves[:-1]], moves, strict=True):
            # On top of the pointer that its manifest was published on, and never after somebody decided.
            assert move.decided or move.number - 1 in claims[move.dataset_id]
            assert move.decided or before is None or (before.dataset_id != move.dataset_id and not before.decided)
        assert moves[-1].decided == bool(decided) or not decided
        # It was published before it was served.
        puts = [key for key, _ in objects.history]
        for move in moves:
            first = f"explanations/{move.dataset_id}/_manifests/00000001.json"
            assert move.decided or puts.index(first) < puts.index(pointer_key(move.number))


def test_who_slept_after_publishing_moves_nothing_back(here: threading.local) -> None:
    objects = Objects()
    here.view = View(objects)
    asleep = publish(Below(objects, lambda: None, "model-a"), content_of([]), 0, RUN, newest_pointer(ROOT))
    assert asleep is not None
    explain(Below(objects, lambda: None, "model-b"), "model-b", "/archive")
    follow(ROOT, asleep, RUN)
    assert [move.dataset_id for move in pointers(objects)] == [ID["model-b"]]


def test_who_was_killed_after_publishing_moves_it_when_typed_again(here: threading.local) -> None:
    objects = Objects()
    here.view = View(objects)
    explain(Below(objects, lambda: None, "model-a"), "model-a", "/archive")
    store = Below(objects, lambda: None, "model-b")
    killed = publish(store, content_of([], model_id="model-b"), 0, RUN, newest_pointer(ROOT))
    assert [move.dataset_id for move in pointers(objects)] == [ID["model-a"]]
    standing = read_manifest(store, newest_number(store))
    assert standing == killed
    assert standing is not None
    follow(ROOT, standing, RUN)
    assert [move.dataset_id for move in pointers(objects)] == [ID["model-a"], ID["model-b"]]
