"""Lead names and the algebra of the limb leads.

Sources spell leads in many ways (`DI`, `AVR`, `v1`, `Lead II`); everything behind the archive uses one spelling,
and every lead is picked by its name, never by its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ecgscale.errors import EcgscaleError

CANONICAL_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

_ALIASES = {lead.lower(): lead for lead in CANONICAL_LEADS}
_ALIASES |= {f"d{lead.lower()}": lead for lead in ("I", "II", "III")}
_ALIASES |= {f"{letter}{i}": lead for letter in "dl" for i, lead in enumerate(("I", "II", "III"), start=1)}
_ALIASES |= {f"c{i}": f"V{i}" for i in range(1, 7)}
_PREFIXES = ("mdc_ecg_lead_", "lead")

# Each limb lead as a weighted sum of any two of I, II, III: Einthoven's II = I + III, Goldberger's augmented leads.
_LIMB_FROM_TWO: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
    ("I", "II"): {"III": (-1, 1), "aVR": (-0.5, -0.5), "aVL": (1, -0.5), "aVF": (-0.5, 1)},
    ("I", "III"): {"II": (1, 1), "aVR": (-1, -0.5), "aVL": (0.5, -0.5), "aVF": (0.5, 1)},
    ("II", "III"): {"I": (1, -1), "aVR": (-1, 0.5), "aVL": (0.5, -1), "aVF": (0.5, 0.5)},
}


class MissingLeads(EcgscaleError):
    """Leads that are neither in a recording nor derivable from it; their names are in `missing`."""

    def __init__(self, missing: Sequence[str], leads: Sequence[str]) -> None:
        self.missing = tuple(missing)
        super().__init__(
            f"lead{'s' if len(self.missing) > 1 else ''} {', '.join(self.missing)} missing: the recording has "
            f"{', '.join(leads) or 'none'} (limb leads are derived from any two of I, II and III)"
        )


@lru_cache(maxsize=4096)
def canonical_lead(name: str) -> str:
    """The archive's spelling of a lead: "DI" -> "I", "AVR" -> "aVR", "lead v1" -> "V1"; unknown names only stripped."""
    stripped = name.strip()
    key = stripped.lower()
    for prefix in _PREFIXES:
        if key.startswith(prefix):
            key = key.removeprefix(prefix).strip(" _-")
            break
    return _ALIASES.get(key, stripped)


@lru_cache(maxsize=1024)
def lead_matrix(leads: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.float64]:
    """The (len(wanted), len(leads)) matrix that turns a signal of `leads` into one of `wanted`.

    A lead that is there is picked (a single 1 in its row); a limb lead that is not is derived from two of I, II, III.
    The array is shared between callers and therefore read-only. Raises `MissingLeads` naming every lead that can
    neither be picked nor derived.
    """
    have = {canonical_lead(lead): i for i, lead in reversed(list(enumerate(leads)))}
    pair = next((pair for pair in _LIMB_FROM_TWO if pair[0] in have and pair[1] in have), None)
    derived = _LIMB_FROM_TWO[pair] if pair else {}
    matrix = np.zeros((len(wanted), len(leads)))
    missing = []
    for row, lead in enumerate(canonical_lead(name) for name in wanted):
        if lead in have:
            matrix[row, have[lead]] = 1.0
        elif pair and lead in derived:
            matrix[row, [have[pair[0]], have[pair[1]]]] = derived[lead]
        else:
            missing.append(lead)
    if missing:
        raise MissingLeads(missing, leads)
    matrix.flags.writeable = False
    return matrix


def derive_limb_leads(signal: NDArray[np.floating], leads: Sequence[str], wanted: Sequence[str]) -> NDArray:
    """The `wanted` leads of a (n_leads, T) float signal as a (len(wanted), T) array of the same dtype.

    Leads that are there are copied bit for bit; see `lead_matrix` for the others and for the error.
    """
    matrix = lead_matrix(tuple(leads), tuple(wanted)).astype(signal.dtype)
    out = np.empty((len(wanted), signal.shape[-1]), dtype=signal.dtype)
    for row, weights in enumerate(matrix):
        # Only the leads that count are touched: 0 * NaN of another lead would spoil this one.
        (used,) = np.nonzero(weights)
        out[row] = signal[used[0]] if len(used) == 1 else weights[used] @ signal[used]
    return out
