"""Thresholds of the quality gates: section `[gates]` of a nightly configuration. Formulae stand in docs/gates.md."""

from __future__ import annotations

from datetime import date
from itertools import pairwise

from pydantic import BaseModel, ConfigDict, Field, field_validator


class GateSettings(BaseModel):
    """When a night is held back. By chance alone, the defaults do so about once in three years."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    quarantine_rate: float = Field(default=0.05, gt=0, lt=1)
    """Share of records that may be quarantined; more than this, beyond chance, is an alarm."""

    freshness_hours: float = Field(default=48.0, gt=0, allow_inf_nan=False)
    """How much older than usual the newest recording of a night may be."""

    silent_nights: int = Field(default=3, ge=1)
    """Days without a single record that are an alarm, unless the feed has been silent for longer before."""

    volume_low: float = Field(default=0.5, ge=0, lt=1)
    """Share of the weekday's usual number of records under which a night is suspected."""

    volume_high: float = Field(default=3.0, gt=1, allow_inf_nan=False)
    """Multiple of the weekday's usual number of records over which a night is suspected."""

    holidays: tuple[date, ...] = ()
    """UTC dates of nights on which few or no records are no alarm."""

    closed_sites: tuple[str, ...] = ()
    """Sites that deliver no more: their silence is no alarm."""

    history_nights: int = Field(default=84, ge=28)
    """Days of past nights that say what is usual; none is judged by them before 28 are known."""

    effect: float = Field(default=0.474, gt=0, le=1)
    """Smallest |Cliff's delta| against the reference that is an alarm. 0.474 is "large" by Romano et al. 2006."""

    effect_reported: float = Field(default=0.33, gt=0, le=1)
    """Smallest |Cliff's delta| that is told without an alarm; 0.33 is "medium" by the same."""

    alpha: float = Field(default=0.001, gt=0, lt=0.5)
    """Chance that a gate raises an alarm on a sound night, all its comparisons of that night together."""

    minimum_records: int = Field(default=300, ge=1)
    """Records, one a patient, in the longest window and in the reference: with fewer, drift is told and never held."""

    windows: tuple[int, ...] = (1, 2, 7, 28)
    """Nights with records, tonight included, that are taken together when drift is looked for; ascending from 1."""

    window_records: int = Field(default=20_000, ge=300)
    """Rows of earlier nights, newest first, that are looked at at most; whole shards."""

    @field_validator("windows")
    @classmethod
    def _ascending(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        if not windows or windows[0] != 1 or any(b <= a for a, b in pairwise(windows)):
            raise ValueError("has to begin with 1 and to ascend, such as [1, 2, 7, 28]")
        return windows
