"""Commands and `forget` at one store, in any interleaving: never both, unless one of them slept, who is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from ecgscale.store.lease import Lease, LeaseLost, LockedError
from ecgscale.store.presence import FORGETTING, Mark, require_alone
from tests.store.interleaved import Choice, Objects, Turns, View

CHOICES = st.lists(st.builds(Choice, st.integers(0, 3), steps=st.sampled_from([1, 2, 5, 20])), max_size=40)
FOREVER = 10_000.0


@dataclass
class Story:
    """Who was at it at the same time as a `forget`, who was told that it slept, and who did something at all."""

    objects: Objects
    ttl_s: float
    inside: set[str] = field(default_factory=set)
    beside: set[frozenset[str]] = field(default_factory=set)
    message: set[str] = field(default_factory=set)
    did: set[str] = field(default_factory=set)

    def work(self, name: str, store: View, steps: int) -> None:
        """Some puts; whoever of the other kind is inside meanwhile is noted."""
        self.did.add(name)
        self.inside.add(name)
        for step in range(steps):
            self._note(name)
            store.put(f"work/{name}-{step}", b"")
            self._note(name)

    def _note(self, name: str) -> None:
        others = (other for other in self.inside if (name[0] == "f") != (other[0] == "f"))
        self.beside |= {frozenset((name, other)) for other in others}

    def command(self, name: str, turn: Callable[[], None]) -> None:
        """What a command does, as `at_work` has it."""
        store = View(self.objects, turn)
        mark = Mark(store, name, ttl_s=self.ttl_s)
        try:
            mark.announce()
        except LockedError:
            return
        self.work(name, store, 3)
        self.inside.discard(name)
        if not mark.withdraw():
            self.message.add(name)

    def forget(self, name: str, turn: Callable[[], None]) -> None:
        """What `forget` does: the lease, a look, the work, and a last look at the lease."""
        store = View(self.objects, turn)
        lease = Lease("model", name, FORGETTING, self.ttl_s)
        lease._store = store
        try:
            lease._acquire()
        except LockedError:
            return
        try:
            require_alone(store)
            self.work(name, store, 3)
            lease.check()
        except LockedError:
            pass
        except LeaseLost:
            self.message.add(name)
        self.inside.discard(name)
        if name not in self.message:
            lease.end()


def played(choices: list[Choice], seed: int, ttl_s: float, conditional: bool = True) -> Story:
    story = Story(Objects(conditional), ttl_s)
    turns = Turns(choices, seed, killed=0)
    for name in ("forget-1", "command-1", "command-2", "forget-2"):
        does = story.forget if name.startswith("forget") else story.command
        turns.add(name, lambda turn, does=does, name=name: does(name, turn))  # type: ignore[misc]
    turns.run()
    return story


@settings(max_examples=400, deadline=None)
@given(CHOICES, st.integers(0, 2**32), st.booleans())
def test_never_both(choices: list[Choice], seed: int, conditional: bool) -> None:
    story = played(choices, seed, FOREVER, conditional)
    assert story.beside == set()
    # Without put-if-absent, of two that forget one is overwritten, and told.
    assert not story.message or not conditional
    assert not [key for key in story.objects.data if "at_work" in key]


@settings(max_examples=400, deadline=None)
@given(CHOICES, st.integers(0, 2**32), st.sampled_from([1.0, 4.0, 8.0]), st.booleans())
def test_of_two_that_met_because_one_slept_one_is_told(
    choices: list[Choice], seed: int, ttl_s: float, conditional: bool
) -> None:
    story = played(choices, seed, ttl_s, conditional)
    assert all(pair & story.message for pair in story.beside)


def test_one_after_the_other_all_do_their_work() -> None:
    choices = [Choice(0, steps=200)] * 4
    assert played(choices, 0, FOREVER).did == {"forget-1", "command-1", "command-2", "forget-2"}


def test_commands_work_side_by_side() -> None:
    """The two commands are processes 1 and 2; step by step in turn, then whoever forgets."""
    choices = [Choice(1 + i % 2) for i in range(40)]
    assert {"command-1", "command-2"} <= played(choices, 0, FOREVER).did
