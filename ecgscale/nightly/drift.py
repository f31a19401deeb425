"""Drift: do tonight's explanations look like those of the reference period?

Every quantity of a record (shares of clusters, entropy, distance to the centroids, outputs, length, flags) is compared
for all records, each site, each device and each of tonight's shards, over tonight alone and over tonight with the
nights before. An alarm takes a shift that is both large (|Cliff's delta| of `effect`) and beyond chance (its
probability, times all comparisons of the night, under `alpha`); with many records the first decides, with few the
second. `docs/gates.md` says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscale.errors import EcgscaleError
from ecgscale.nightly.evidence import Evidence, Group, usable
from ecgscale.nightly.findings import ALL, Finding, without_echoes
from ecgscale.nightly.gate_settings import GateSettings
from ecgscale.nightly.placements import Placed, Shift, Strata
from ecgscale.nightly.quantities import Quantities, flags, quantities
from ecgscale.nightly.reference import Reference

TOLD_CLUSTERS, TOLD_OTHERS = 3, 3
"""How many quantities of each kind are named of one group; the message counts the others."""

_LEAST_ROWS = 10
"""Rows of an earlier shard from which on it is named as one that moved too."""


def find_drift(
    evidence: Evidence, reference: Reference | None, settings: GateSettings, output_names: Sequence[str]
) -> list[Finding]:
    """What moved; nothing when tonight has no explained record. EcgscaleError when the reference is of another kind."""
    explained = evidence.take(usable(evidence.rows)).one_a_patient()
    if not (explained.age == 0).any():
        return []
    if reference is None:
        return [_told("there is no reference period yet, so drift was not looked for; make one from published records")]
    _require_same_outputs(reference, output_names)
    kinds = sorted({kind for rows in (explained.rows, reference.rows) for found in flags(rows) for kind in found})
    records = quantities(explained.rows, output_names, kinds)
    usual = quantities(reference.rows, output_names, kinds)
    if records.names != usual.names:
        raise EcgscaleError(
            f"the reference has {len(usual.names)} quantities a record and the explanations {len(records.names)}; it "
            f"is of another cluster model ({reference.model_id}). Make it again from this dataset"
        )
    return _Search(explained, records, usual, Strata(usual).place(records), settings).findings()


def _require_same_outputs(reference: Reference, output_names: Sequence[str]) -> None:
    if reference.output_names != tuple(output_names):
        raise EcgscaleError(
            f"the reference knows the outputs {', '.join(reference.output_names)}, the explanations have "
            f"{', '.join(output_names)}; make the reference again from this dataset"
        )


@dataclass(frozen=True)
class _Comparison:
    """One group over so many nights, all quantities at once. member: bool (n,)"""

    group: Group
    nights: int
    member: NDArray[np.bool_]
    shift: Shift


@dataclass(frozen=True)
class _Moved:
    """One quantity of one comparison that is worth telling."""

    comparison: _Comparison
    quantity: int
    delta: float
    p_adjusted: float


class _Search:
    """All comparisons of a night, and what is told of them."""

    def __init__(
        self, evidence: Evidence, records: Quantities, usual: Quantities, placed: Placed, settings: GateSettings
    ) -> None:
        self.evidence, self.records, self.usual = evidence, records, usual
        self.placed, self.settings = placed, settings
        self.comparisons = list(self._compare())
        self.tests = sum(int((comparison.shift.n > 0).sum()) for comparison in self.comparisons)

    def findings(self) -> list[Finding]:
        """Group by group, the largest shifts first."""
        groups = dict.fromkeys(comparison.group.key for comparison in self.comparisons)
        return without_echoes([finding for group in groups for finding in self._of(group)])

    def _compare(self) -> Iterator[_Comparison]:
        for group in self.evidence.groups():
            before = -1
            for nights in self.settings.windows:
                member = group.member & (self.evidence.age < nights)
                # A longer window without further records is the same comparison.
                if (n := int(member.sum())) > before:
                    yield _Comparison(group, nights, member, self.placed.shift(member))
                before = n

    def _of(self, group: tuple[str, str]) -> list[Finding]:
        """The findings of one group: of each quantity that moved, its surest window."""
        moved: dict[int, _Moved] = {}
        for comparison in self.comparisons:
            if comparison.group.key == group:
                for found in self._moved(comparison):
                    standing = moved.get(found.quantity)
                    if standing is None or self._rank(found) > self._rank(standing):
                        moved[found.quantity] = found
        ordered = sorted(moved.values(), key=self._rank, reverse=True)
        clusters = [found for found in ordered if self._name(found).startswith("cluster ")]
        others = [found for found in ordered if found not in clusters]
        told = clusters[:TOLD_CLUSTERS] + others[:TOLD_OTHERS]
        return [self._finding(found, len(moved) - len(told)) for found in sorted(told, key=self._rank, reverse=True)]

    def _moved(self, comparison: _Comparison) -> Iterator[_Moved]:
        adjusted = np.minimum(1.0, comparison.shift.p * self.tests)
        delta = comparison.shift.delta
        for quantity in np.flatnonzero(
            (adjusted < self.settings.alpha) & (np.abs(delta) >= self.settings.effect_reported)
        ):
            yield _Moved(comparison, int(quantity), float(delta[quantity]), float(adjusted[quantity]))

    def _rank(self, found: _Moved) -> tuple[bool, float]:
        return self._is_alarm(found), abs(found.delta)

    def _is_alarm(self, found: _Moved) -> bool:
        return (
            abs(found.delta) >= self.settings.effect and self._enough(found) and bool(self._shards(found, fresh=True))
        )

    def _enough(self, found: _Moved) -> bool:
        """Whether the feed that a group is part of has enough records to be held back for, and the reference too."""
        group, quantity = found.comparison.group, found.quantity
        # A shard is a piece of the whole feed, however small it was cut.
        member = np.ones(len(self.evidence), bool) if group.kind == "shard" else group.member
        here, there = self.placed.placements[member, quantity], self.usual.values[:, quantity]
        return int(min(np.isfinite(here).sum(), np.isfinite(there).sum())) >= self.settings.minimum_records

    def _shards(self, found: _Moved, fresh: bool) -> tuple[str, ...]:
        """Shards, of tonight or of the nights before, whose own records of the group moved at least half as far as an
        alarm asks, in the same direction."""
        age = self.evidence.age
        member = found.comparison.member & ((age == 0) if fresh else (age > 0))
        member &= np.isfinite(self.placed.placements[:, found.quantity])
        placements = self.placed.placements[member, found.quantity].astype(np.float64)
        n_shards = len(self.evidence.keys)
        rows = np.bincount(self.evidence.shard[member], minlength=n_shards)
        sums = np.bincount(self.evidence.shard[member], weights=placements, minlength=n_shards)
        means = np.sign(found.delta) * sums / np.maximum(rows, 1)
        moved = (means >= self.settings.effect / 2) & (rows >= (1 if fresh else _LEAST_ROWS))
        return tuple(sorted(self.evidence.keys[index] for index in np.flatnonzero(moved)))

    def _cluster(self, comparison: _Comparison) -> str:
        """The cluster whose share moved most, whether or not that means something, and its delta."""
        clusters = [i for i, name in enumerate(self.records.names) if name.startswith("cluster ")]
        most = max(clusters, key=lambda i: abs(float(comparison.shift.delta[i])))
        return f"{self.records.names[most]} ({comparison.shift.delta[most]:+.2f})"

    def _name(self, found: _Moved) -> str:
        return self.records.names[found.quantity]

    def _finding(self, found: _Moved, more: int) -> Finding:
        comparison, alarm = found.comparison, self._is_alarm(found)
        shards, earlier = self._shards(found, fresh=True), self._shards(found, fresh=False)
        return Finding(
            gate="drift",
            alarm=alarm,
            group=str(comparison.group),
            what=self._name(found),
            effect=round(found.delta, 4),
            p_adjusted=found.p_adjusted,
            nights=comparison.nights,
            records=int(comparison.shift.n[found.quantity]),
            cluster=self._cluster(comparison),
            shards=shards,
            earlier=earlier,
            message=self._message(found, alarm, shards, earlier, more),
        )

    def _message(self, found: _Moved, alarm: bool, shards: tuple[str, ...], earlier: tuple[str, ...], more: int) -> str:
        comparison = found.comparison
        nights = "tonight" if comparison.nights == 1 else f"over {comparison.nights} nights"
        told = f"{comparison.group}, {nights}: {self._values(found)} in {comparison.shift.n[found.quantity]} records"
        told += f" (Cliff's delta {found.delta:+.2f}, adjusted p {found.p_adjusted:.0e})"
        if more:
            told += f", and {more} other quantities moved"
        if alarm and not self._name(found).startswith("cluster "):
            told += f"; of the clusters, {self._cluster(comparison)} moved most"
        if alarm:
            told += f"; held back: {', '.join(shards)}"
            return told + (f"; published before and moved too: {', '.join(earlier)}" if earlier else "")
        return told + f"; told only: {self._why_not(found)}"

    def _why_not(self, found: _Moved) -> str:
        if abs(found.delta) < self.settings.effect:
            return f"a shift under {self.settings.effect:g} is no alarm"
        if not self._enough(found):
            return f"with fewer than {self.settings.minimum_records} records, nothing is held back"
        return "none of tonight's shards moved"

    def _values(self, found: _Moved) -> str:
        """What the quantity is here and in the reference, as a person would say it."""
        name, quantity = self._name(found), found.quantity
        here = _known(self.records.values[found.comparison.member, quantity])
        there = _known(self.usual.values[self._alike(found.comparison.group), quantity])
        if name.startswith("cluster "):
            return f"{name} takes {here.mean():.1%} of the time, {there.mean():.1%} in the reference,"
        if name.startswith("flag "):
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


def _told(message: str) -> Finding:
    return Finding(gate="drift", alarm=False, group=ALL, what="reference", message=message)
