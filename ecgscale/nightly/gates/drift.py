"""Drift: do tonight's explanations look like those of the reference period?

Every quantity of a record (shares of clusters, entropy, distance to the centroids, outputs, length, traits of the
signal, flags) is compared for all records, each site, each device and each of tonight's shards, over tonight alone and
over tonight with the nights before. An alarm takes a shift that is both large (|Cliff's delta| of `effect`) and beyond
chance (its probability, times all comparisons of the night, under `alpha`); with many records the first decides, with
few the second. docs/gates.md says why.

What is held back is found step by step: the shards behind the strongest alarm are taken away, and the rest is compared
again, until nothing alarms. So a broken device does not hold back its whole site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgscale.config import GateSettings
from ecgscale.errors import EcgscaleError
from ecgscale.nightly.gates.evidence import (
    ALL,
    Evidence,
    Finding,
    Group,
    held_back,
    over_nights,
    usable,
    without_echoes,
)
from ecgscale.nightly.gates.placements import CLUSTER, FLAG, Placed, Quantities, Shift, Strata, flag_kinds, quantities
from ecgscale.nightly.gates.reference import Reference
from ecgscale.words import counted, named


@dataclass(frozen=True)
class _Comparison:
    """One group over so many nights, all quantities at once. member: bool (n,)"""

    group: Group
    nights: int
    member: NDArray[np.bool_]
    shift: Shift


@dataclass(frozen=True)
class _Moved:
    """One quantity of one comparison that is worth a line, by its number."""

    comparison: _Comparison
    quantity: int
    delta: float
    p_adjusted: float


NAMED_CLUSTERS, NAMED_OTHERS = 3, 3
"""How many quantities of each kind are named of one group; the message counts the others."""

_NEARLY = 0.8
"""A wider group is named instead of a narrower one when its shift is at least this share of the other's."""
_WIDEST_FIRST = ("all", "site", "device", "shard")
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
        message = "there is no reference period yet, so drift was not looked for; make one from published records"
        return [Finding(gate="drift", alarm=False, group=ALL, what="reference", message=message)]
    if reference.output_names != tuple(output_names):
        raise EcgscaleError(
            f"the reference knows the outputs {', '.join(reference.output_names)}, the explanations have "
            f"{', '.join(output_names)}; make the reference again from this dataset"
        )
    kinds = sorted(flag_kinds(explained.rows) | flag_kinds(reference.rows))
    records = quantities(explained.rows, output_names, kinds)
    reference_records = quantities(reference.rows, output_names, kinds)
    if records.names != reference_records.names:
        raise EcgscaleError(
            f"the reference has {len(reference_records.names)} quantities a record and the explanations "
            f"{len(records.names)}; it is of another cluster model ({reference.model_id}). Make it again from this "
            "dataset"
        )
    return _Search(explained, records, reference_records, settings).findings()


class _Search:
    """The comparisons of a night, repeated without the shards that are held back already."""

    def __init__(self, evidence: Evidence, records: Quantities, reference: Quantities, settings: GateSettings) -> None:
        self.evidence, self.records, self.reference, self.settings = evidence, records, reference, settings
        self.placed: Placed = Strata(reference).place(records)
        self.left = np.ones(len(evidence), bool)
        self.tests = 0

    def findings(self) -> list[Finding]:
        """Alarms in the order in which they were found, then notes."""
        found: list[Finding] = []
        while True:
            moved = self._moved()
            alarms = [one for one in moved if self._is_alarm(one)]
            if not alarms:
                return [*found, *without_echoes(self._findings(moved))]
            strongest = max(abs(one.delta) for one in alarms)
            near = [one for one in alarms if abs(one.delta) >= _NEARLY * strongest]
            group = min(near, key=lambda one: _WIDEST_FIRST.index(one.comparison.group.kind)).comparison.group
            alarming = self._findings([one for one in alarms if one.comparison.group.key == group.key])
            found += alarming
            held = {key for finding in alarming for key in finding.shards}
            self.left &= ~np.isin(self.evidence.shard, [i for i, key in enumerate(self.evidence.keys) if key in held])

    def _moved(self) -> list[_Moved]:
        """Every quantity of every comparison that is worth a line."""
        windows = self.evidence.windows(self.settings.windows, self.left)
        comparisons = [_Comparison(*one, self.placed.shift(one[2])) for one in windows]
        # The first round counts: what is compared again is a part of it.
        self.tests = self.tests or sum(int((comparison.shift.n > 0).sum()) for comparison in comparisons)
        found = []
        for comparison in comparisons:
            adjusted, delta = np.minimum(1.0, comparison.shift.p * self.tests), comparison.shift.delta
            clear = (adjusted < self.settings.alpha) & (np.abs(delta) >= self.settings.effect_reported)
            for quantity in np.flatnonzero(clear):
                found.append(_Moved(comparison, int(quantity), float(delta[quantity]), float(adjusted[quantity])))
        return found

    def _findings(self, moved: list[_Moved]) -> list[Finding]:
        """Findings: group by group, of each quantity its window with the largest shift, the largest first."""
        found = []
        for group in dict.fromkeys(one.comparison.group.key for one in moved):
            best: dict[int, _Moved] = {}
            for one in moved:
                if one.comparison.group.key == group:
                    standing = best.get(one.quantity)
                    best[one.quantity] = one if standing is None else max(standing, one, key=self._rank)
            ordered = sorted(best.values(), key=self._rank, reverse=True)
            clusters = [one for one in ordered if self._name(one).startswith(CLUSTER)]
            others = [one for one in ordered if not self._name(one).startswith(CLUSTER)]
            shown = clusters[:NAMED_CLUSTERS] + others[:NAMED_OTHERS]
            found += [self._finding(one, len(best) - len(shown)) for one in sorted(shown, key=self._rank, reverse=True)]
        return found

    def _rank(self, one: _Moved) -> tuple[bool, float]:
        return self._is_alarm(one), abs(one.delta)

    def _name(self, one: _Moved) -> str:
        return self.records.names[one.quantity]

    def _is_alarm(self, one: _Moved) -> bool:
        large = abs(one.delta) >= self.settings.effect
        return large and self._enough(one) and bool(self._shards(one, fresh=True))

    def _enough(self, one: _Moved) -> bool:
        """Whether the feed that a group is part of has enough records to be held back for, and the reference too."""
        group: Group = one.comparison.group
        # A shard is a piece of the whole feed, however small it was cut.
        member = np.ones(len(self.evidence), bool) if group.kind == "shard" else group.member
        here, there = self.placed.placements[member, one.quantity], self.reference.values[:, one.quantity]
        return int(min(np.isfinite(here).sum(), np.isfinite(there).sum())) >= self.settings.minimum_records

    def _shards(self, one: _Moved, fresh: bool) -> tuple[str, ...]:
        """Shards, of tonight or of the nights before, whose own records of the group moved at least half as far as an
        alarm asks, in the same direction."""
        placements, age = self.placed.placements[:, one.quantity], self.evidence.age
        member: NDArray[np.bool_] = one.comparison.member & np.isfinite(placements)
        member &= (age == 0) if fresh else (age > 0)
        shard, n_shards = self.evidence.shard[member], len(self.evidence.keys)
        rows = np.bincount(shard, minlength=n_shards)
        sums = np.bincount(shard, weights=placements[member].astype(np.float64), minlength=n_shards)
        means = np.sign(one.delta) * sums / np.maximum(rows, 1)
        moved = (means >= self.settings.effect / 2) & (rows >= (1 if fresh else _LEAST_ROWS))
        return tuple(sorted(self.evidence.keys[index] for index in np.flatnonzero(moved)))

    def _finding(self, one: _Moved, more: int) -> Finding:
        comparison, alarm = one.comparison, self._is_alarm(one)
        shards, earlier = self._shards(one, fresh=True), self._shards(one, fresh=False)
        shift, cluster = self._sentence(one, more), self._cluster(comparison)
        found = shift if self._name(one).startswith(CLUSTER) else f"{shift}; of the clusters, {cluster} moved most"
        before = f"; published before and moved too: {named(earlier)}" if earlier else ""
        message = f"{found}; {held_back(shards)}{before}" if alarm else f"{shift}; told only: {self._why_none(one)}"
        return Finding(
            gate="drift",
            alarm=alarm,
            group=str(comparison.group),
            what=self._name(one),
            message=message,
            effect=round(one.delta, 4),
            p_adjusted=one.p_adjusted,
            nights=comparison.nights,
            records=int(comparison.shift.n[one.quantity]),
            cluster=cluster,
            shards=shards,
            earlier=earlier,
            found=found,
        )

    def _why_none(self, one: _Moved) -> str:
        """Why what moved is no alarm."""
        if abs(one.delta) < self.settings.effect:
            return f"a shift under {self.settings.effect:g} is no alarm"
        if not self._enough(one):
            return f"with fewer than {self.settings.minimum_records} patients, nothing is held back"
        return "none of the night's shards moved"

    def _cluster(self, comparison: _Comparison) -> str:
        """The cluster whose share moved most, whether or not that means something, and its delta."""
        clusters = [i for i, name in enumerate(self.records.names) if name.startswith(CLUSTER)]
        most = max(clusters, key=lambda i: abs(float(comparison.shift.delta[i])))
        return f"{self.records.names[most]} ({comparison.shift.delta[most]:+.2f})"

    def _sentence(self, one: _Moved, more: int) -> str:
        """What moved, and `more` quantities with it, in words that stay true."""
        comparison, n = one.comparison, one.comparison.shift.n[one.quantity]
        when = over_nights(comparison.nights, self.evidence.date)
        chance = f"{one.p_adjusted:.0e}" if one.p_adjusted >= 1e-99 else "under 1e-99"
        sentence = f"{comparison.group}, {when}: {self._values(one)} in {counted(int(n), 'patient')}"
        sentence += f" (Cliff's delta {one.delta:+.2f}, adjusted p {chance})"
        return sentence + (f", and {counted(more, 'other quantity', 'other quantities')} moved" if more else "")

    def _values(self, one: _Moved) -> str:
        name, group, there = self._name(one), one.comparison.group, self.reference
        # Reference records of the group's site or device; all where it has none of them.
        alike = there.site == group.name if group.kind == "site" else there.device == group.name
        alike = alike if group.kind in ("site", "device") and alike.any() else np.ones(len(alike), bool)
        now = _known(self.records.values[one.comparison.member, one.quantity])
        before = _known(there.values[alike, one.quantity])
        if name.startswith(CLUSTER):
            return f"{name} takes {now.mean():.1%} of the time, {before.mean():.1%} in the reference,"
        if name.startswith(FLAG):
            return f"{name} is set on {now.mean():.1%}, {before.mean():.1%} in the reference,"
        return f"{name} is {np.median(now):.3g}, {np.median(before):.3g} in the reference (medians),"


def _known(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return values[np.isfinite(values)].astype(np.float64)
