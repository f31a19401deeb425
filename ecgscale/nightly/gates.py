"""The quality gates of a night: may what was explained tonight be published?

    judge(tonight, trailing, nights, reference, settings, now, output_names) → GateReport

A pure function of tables: whoever runs the night reads and stores them. `findings` are what it says, `evidence` what it
looks at, `gate_settings` the thresholds; `quarantine`, `volume` (with freshness) and `drift` are the gates.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ecgscale.errors import UsageError
from ecgscale.gate_settings import GateSettings
from ecgscale.nightly.drift import find_drift
from ecgscale.nightly.evidence import Evidence, FreshShard, Night
from ecgscale.nightly.findings import GateReport
from ecgscale.nightly.quarantine import check_quarantine
from ecgscale.nightly.reference import Reference
from ecgscale.nightly.volume import check_freshness, check_volume


def judge(
    tonight: Sequence[FreshShard],
    trailing: Sequence[FreshShard],
    nights: Sequence[Night],
    reference: Reference | None,
    settings: GateSettings,
    now: datetime,
    output_names: Sequence[str],
) -> GateReport:
    """All gates over one night.

    tonight: the shards that would be published; may be none
    trailing: published shards of earlier nights, back to the longest window or `window_records` rows; what was held or
        rejected does not belong here
    nights: past nights, this one left out; those of today's UTC date are earlier runs of the same day
    reference: of the same dataset; without one, drift is not looked for
    now: when the night started, with its time zone
    output_names: of the network, in the order of `prediction`

    Raises UsageError for a `now` without a time zone, EcgscaleError for a reference of another dataset.
    """
    if now.tzinfo is None:
        raise UsageError("the time of the night has no time zone; give it in UTC")
    evidence = Evidence.of(tonight, trailing, settings.windows[-1], settings.window_records)
    return GateReport.of(
        [
            *check_quarantine(evidence, settings),
            *check_freshness(tonight, nights, settings, now),
            *check_volume(tonight, nights, settings, now),
            *find_drift(evidence, reference, settings, output_names),
        ]
    )
