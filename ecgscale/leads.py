"""Lead names and the algebra of the limb leads.

Sources spell leads in many ways (`DI`, `AVR`, `v1`, `Lead II`, `ECG lead II`, `Abl. V3`); everything behind the archive
uses one spelling, and every lead is picked by its name, never by its position.

A name is taken for a lead only if all of it is understood. Channels are no leads (`Ch1`, `ECG 1`), an inverted lead is
not the upright one (`-aVR`), and a modified one is not what it is called after: `MLII` is taken on the torso, and its
waves are others than those of II (Drew et al. 2004, Circulation 110:2721). Who knows better says so with a lead map.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ecgscale.errors import EcgscaleError

CANONICAL_LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")

_WORD = r"lead|abl(?:eitung)?|d[ée]rivation|derivaci[óo]n|deriva[çc][ãa]o|afleiding|avledning"
# A hyphen may join a word and a name, but for aVR: whoever writes "ECG-aVR" may mean that it is inverted.
_JOIN = r"(?:[\s_.:]+|-(?!\s*av))?"
_NAMED = re.compile(
    rf"(?:mdc_ecg_)?(?:e[ck]g{_JOIN}|channel\s+|ch\s+)??(?:(?P<word>{_WORD}){_JOIN})?\+?"
    r"(?:[dl]?[\s_]?(?P<roman>i{1,3})|(?P<dl>[dl])?[\s_]?(?P<digit>[1-3])|a[\s_.]?v[\s_.]?(?P<limb>[rlf])"
    r"|[vc][\s_.]?0?(?P<chest>[1-6]))"
    r"\+?(?:\s*[(\[](?:[munμ]?v|einthoven|goldberger|wilson)[)\]])?"
    r"(?:,\s*augmented voltage,\s*(?:right|left|foot))?[.,;:]?"
)
_MODIFIED = re.compile(r"(?:ecg|ekg)?[\s_-]*(?:ml|mod|mcl|cm|cc|cs)[\s_.]*(?:i{1,3}|v?[1-6])?", re.IGNORECASE)
_INVERTED = re.compile(r"\s*[-\u2010-\u2015\u2212]|.*[-\u2212]\s*$|.*\b(?:inv|neg|minus)", re.IGNORECASE)

# Each limb lead as a weighted sum of any two of I, II, III: Einthoven's II = I + III, Goldberger's augmented leads.
LIMB_FROM_TWO: dict[tuple[str, str], dict[str, tuple[float, float]]] = {
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
            f"{', '.join(lead or 'a channel without a name' for lead in leads) or 'none'} (limb leads are derived from "
            f"any two of I, II and III){name_hint(leads)}"
        )


def name_hint(leads: Sequence[str]) -> str:
    """What to do about channels whose names say no lead, as the end of a sentence; "" where all are leads."""
    unknown = [lead for lead in leads if lead not in CANONICAL_LEADS]
    hints = []
    if any(_INVERTED.match(lead) for lead in unknown):
        hints.append("an inverted lead is not taken for the upright one")
    if any(_MODIFIED.fullmatch(lead) for lead in unknown):
        hints.append("a modified lead, taken on the torso, is not taken for the standard one")
    if unknown:
        hints.append("say at ingest what a channel is: --lead-map 'NAME=II'")
    return "; " + "; ".join(hints) if hints else ""


@lru_cache(maxsize=4096)
def canonical_lead(name: str) -> str:
    """The archive's spelling of a lead: "DI" -> "I", "AVR" -> "aVR", "ECG lead v1" -> "V1"; unknown names only
    stripped."""
    stripped = name.strip()
    found = _NAMED.fullmatch(unicodedata.normalize("NFKC", stripped).casefold())
    if found is None:
        return stripped
    if found["roman"]:
        return found["roman"].upper()
    if found["digit"]:
        # "Lead 1" and "D1" are leads; "1", "Ch 1" and "ECG 1" are channels.
        return "I" * int(found["digit"]) if found["word"] or found["dl"] else stripped
    return f"aV{found['limb'].upper()}" if found["limb"] else f"V{found['chest']}"


def read_lead_map(given: str | Mapping[str, object]) -> dict[str, str]:
    """ "ECG1=II,ECG2=V5" → {"ECG1": "II", "ECG2": "V5"}, leads spelt as in the archive; ValueError says what is wrong.

    "ECG#2" is the second channel of that name, "#2" the second channel of a recording, whatever it is called.
    """
    pairs = list(given.items()) if isinstance(given, Mapping) else [_pair(part) for part in given.split(",")]
    lead_map: dict[str, str] = {}
    for channel, lead in pairs:
        if channel in lead_map:
            raise ValueError(f"channel {channel!r} is named twice")
        if not isinstance(lead, str) or not re.fullmatch(r"[^\W\d_][\w+.-]*", lead):
            raise ValueError(f"{lead!r} is no name of a lead, such as II, aVR or V5")
        lead_map[channel] = canonical_lead(lead)
        if _INVERTED.match(channel) and lead_map[channel] in CANONICAL_LEADS:
            raise ValueError(
                f"{channel!r} is an inverted lead: its values are not those of {lead}. Turn it at the source"
            )
    return lead_map


def _pair(part: str) -> tuple[str, str]:
    channel, _, lead = (piece.strip() for piece in part.rpartition("="))
    if not channel or not lead:
        raise ValueError(f"{part.strip()!r} is not CHANNEL=LEAD, as in ECG1=II,ECG2=V5")
    return channel, lead


def named_leads(names: Sequence[str], lead_map: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the channels of a recording are called in the archive, and the keys of `lead_map` that were used.

    A key names a channel as the source does, in any case and any spelling of a lead; of several of one name, "ECG#2" is
    the second, and "#2" the second channel of all.
    """
    leads, used = [], []
    wanted = {_key(channel): channel for channel in lead_map}
    met: Counter[str] = Counter()
    for number, name in enumerate(names, start=1):
        key = _key(name)
        met[key] += 1
        asked = (f"#{number}", f"{key}#{met[key]}", key)
        channel = next((wanted[one] for one in asked if one in wanted), None)
        used += [channel] if channel is not None else []
        leads.append(canonical_lead(name) if channel is None else lead_map[channel])
    return tuple(leads), tuple(used)


def _key(channel: str) -> str:
    name, hash_sign, number = channel.partition("#")
    return canonical_lead(name).casefold() + hash_sign + number.strip()


@lru_cache(maxsize=1024)
def lead_matrix(leads: tuple[str, ...], wanted: tuple[str, ...]) -> NDArray[np.float64]:
    """The (len(wanted), len(leads)) matrix that turns a signal of `leads` into one of `wanted`.

    A lead that is there is picked (a single 1 in its row); a limb lead that is not is derived from two of I, II, III.
    The array is shared between callers and therefore read-only. Raises `MissingLeads` naming every lead that can
    neither be picked nor derived.
    """
    matrix, missing = _weights(leads, wanted)
    if missing:
        raise MissingLeads(missing, leads)
    matrix.flags.writeable = False
    return matrix


@lru_cache(maxsize=1024)
def taken_leads(leads: tuple[str, ...], wanted: tuple[str, ...] | None) -> NDArray[np.bool_]:
    """bool (len(leads),): those that `lead_matrix` takes, as far as the wanted ones are there; all if None is wanted.

    Of two channels of one name both are marked, for nobody knows which of them is meant. Read-only, as it is shared.
    """
    if wanted is None:
        taken = np.ones(len(leads), bool)
    else:
        used = {leads[i] for i in np.flatnonzero(_weights(leads, wanted)[0].any(axis=0))}
        taken = np.array([lead in used for lead in leads], bool)
    taken.flags.writeable = False
    return taken


def _weights(leads: Sequence[str], wanted: Sequence[str]) -> tuple[NDArray[np.float64], list[str]]:
    """`lead_matrix` with rows of zeros for leads that are missing, and their names."""
    have = {canonical_lead(lead): i for i, lead in reversed(list(enumerate(leads)))}
    pair = next((pair for pair in LIMB_FROM_TWO if pair[0] in have and pair[1] in have), None)
    derived = LIMB_FROM_TWO[pair] if pair else {}
    matrix = np.zeros((len(wanted), len(leads)))
    missing = []
    for row, lead in enumerate(canonical_lead(name) for name in wanted):
        if lead in have:
            matrix[row, have[lead]] = 1.0
        elif pair and lead in derived:
            matrix[row, [have[pair[0]], have[pair[1]]]] = derived[lead]
        else:
            missing.append(lead)
    return matrix, missing


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
