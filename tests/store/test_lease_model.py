"""Four processes take the lease at once, in any interleaving: one has it, also where the store has no put-if-absent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from ecgscale.store.lease import Lease, LeaseLost, LockedError
from tests.store.interleaved import Choice, Objects, Turns, View

CHOICES = st.lists(st.builds(Choice, st.integers(0, 3), steps=st.sampled_from([1, 2, 5])), max_size=40)


def leases(objects: Objects, choices: list[Choice], seed: int) -> list[Lease]:
    """Four processes take the lease at once; those that were given it."""
    turns, given_to = Turns(choices, seed, killed=0), list[Lease]()

    def take(name: str, turn: Callable[[], None]) -> None:
        lease = Lease("model", name, "a test")
        lease._store = View(objects, turn)
        with contextlib.suppress(LockedError):
            lease._acquire()
            given_to.append(lease)

    for name in ("a", "b", "c", "d"):
        turns.add(name, lambda turn, name=name: take(name, turn))  # type: ignore[misc]
    turns.run()
    for lease in given_to:
        lease._store = View(objects)
    return given_to


@settings(max_examples=60, deadline=None)
@given(CHOICES, st.integers(0, 2**32))
def test_a_generation_of_the_lease_has_one_holder(choices: list[Choice], seed: int) -> None:
    [lease] = leases(Objects(), choices, seed)
    assert lease._number == 1


@settings(max_examples=60, deadline=None)
@given(CHOICES, st.integers(0, 2**32))
def test_one_holder_is_left_where_the_last_one_wins(choices: list[Choice], seed: int) -> None:
    """Without put-if-absent several may be given it; when they look, before they publish, it is one of them."""

    def still_holds(lease: Lease) -> bool:
        try:
            lease.check()
        except LeaseLost:
            return False
        return True

    assert sum(still_holds(lease) for lease in leases(Objects(conditional=False), choices, seed)) == 1
