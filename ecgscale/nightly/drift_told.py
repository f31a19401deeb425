"""What moved, as a sentence that an operator understands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscale.gate_settings import GateSettings
from ecgscale.nightly.evidence import Group
from ecgscale.nightly.findings import held_back, over_nights
from ecgscale.nightly.placements import Shift
from ecgscale.nightly.quantities import CLUSTER, FLAG, Quantities
from ecgscale.words import counted, named


@dataclass(frozen=True)
class Comparison:
    """One group over so many nights, all quantities at once. member: bool (n,)"""

    group: Group
    nights: int
    member: NDArray[np.bool_]
    shift: Shift


@dataclass(frozen=True)
class Moved:
    """One quantity of one comparison that is worth telling, by its number."""

    comparison: Comparison
    quantity: int
    delta: float
    p_adjusted: float


@dataclass(frozen=True)
class Teller:
    """Says what the `records` looked at are like beside the `usual` ones. date: of the night, ISO"""

    records: Quantities
    usual: Quantities
    settings: GateSettings
    date: str

    def found(self, moved: Moved, more: int) -> str:
        """What moved, and `more` quantities beside it, in words that stay true."""
        told = self._shift(moved, more)
        if not self.records.names[moved.quantity].startswith(CLUSTER):
            told += f"; of the clusters, {self.cluster(moved.comparison)} moved most"
        return told

    def alarm(self, found: str, shards: tuple[str, ...], earlier: tuple[str, ...]) -> str:
        """The sentence of an alarm: what was `found`, and which shards showed it."""
        told = f"{found}; {held_back(shards)}"
        return told + (f"; published before and moved too: {named(earlier)}" if earlier else "")

    def told_only(self, moved: Moved, more: int, enough: bool) -> str:
        """The sentence of what is no alarm, and why it is none."""
        if abs(moved.delta) < self.settings.effect:
            why = f"a shift under {self.settings.effect:g} is no alarm"
        elif not enough:
            why = f"with fewer than {self.settings.minimum_records} patients, nothing is held back"
        else:
            why = "none of the night's shards moved"
        return f"{self._shift(moved, more)}; told only: {why}"

    def cluster(self, comparison: Comparison) -> str:
        """The cluster whose share moved most, whether or not that means something, and its delta."""
        clusters = [i for i, name in enumerate(self.records.names) if name.startswith(CLUSTER)]
        most = max(clusters, key=lambda i: abs(float(comparison.shift.delta[i])))
        return f"{self.records.names[most]} ({comparison.shift.delta[most]:+.2f})"

    def _shift(self, moved: Moved, more: int) -> str:
        comparison, n = moved.comparison, moved.comparison.shift.n[moved.quantity]
        when = over_nights(comparison.nights, self.date)
        chance = f"{moved.p_adjusted:.0e}" if moved.p_adjusted >= 1e-99 else "under 1e-99"
        told = f"{comparison.group}, {when}: {self._values(moved)} in {counted(int(n), 'patient')}"
        told += f" (Cliff's delta {moved.delta:+.2f}, adjusted p {chance})"
        return told + (f", and {counted(more, 'other quantity', 'other quantities')} moved" if more else "")

    def _values(self, moved: Moved) -> str:
        name, quantity = self.records.names[moved.quantity], moved.quantity
        here = _known(self.records.values[moved.comparison.member, quantity])
        there = _known(self.usual.values[self._alike(moved.comparison.group), quantity])
        if name.startswith(CLUSTER):
            return f"{name} takes {here.mean():.1%} of the time, {there.mean():.1%} in the reference,"
        if name.startswith(FLAG):
            return f"{name} is set on {here.mean():.1%}, {there.mean():.1%} in the reference,"
        return f"{name} is {np.median(here):.3g}, {np.median(there):.3g} in the reference (medians),"

    def _alike(self, group: Group) -> NDArray[np.bool_]:
        """bool (m,): reference records of the group's site or device, all where it has none of them."""
        if group.kind in ("site", "device"):
            here = (self.usual.site if group.kind == "site" else self.usual.device) == group.name
            if here.any():
                return np.asarray(here)
        return np.ones(len(self.usual.values), bool)


def _known(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return values[np.isfinite(values)].astype(np.float64)
