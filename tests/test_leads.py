"""Lead names, and the limb leads of each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ecgscale.errors import EcgscaleError
from ecgscale.leads import CANONICAL_LEADS, MissingLeads, canonical_lead, derive_limb_leads, lead_matrix

LIMB = CANONICAL_LEADS[:6]


def twelve(samples: int = 50) -> np.ndarray:
    """Twelve leads that obey Einthoven and Goldberger."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(2, samples))
    limb = [one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2]
    return np.concatenate([np.stack(limb), rng.normal(size=(6, samples))])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("DI", "I"),
        ("diii", "III"),
        ("D2", "II"),
        ("AVR", "aVR"),
        ("avf", "aVF"),
        (" V1 ", "V1"),
        ("v6", "V6"),
        ("C3", "V3"),
        ("Lead II", "II"),
        ("MDC_ECG_LEAD_AVL", "aVL"),
        ("MLII", "MLII"),
        (" vx ", "vx"),
        ("", ""),
    ],
)
def test_aliases(name: str, expected: str) -> None:
    assert canonical_lead(name) == expected


def test_leads_that_are_there_are_copied_bit_for_bit() -> None:
    signal = twelve().astype(np.float32)
    order = ("V6", "aVF", "I")
    picked = derive_limb_leads(signal, CANONICAL_LEADS, order)
    assert picked.dtype == np.float32
    np.testing.assert_array_equal(picked, signal[[CANONICAL_LEADS.index(lead) for lead in order]])


@pytest.mark.parametrize("pair", list(combinations(("I", "II", "III"), 2)))
def test_any_two_of_the_three_give_all_limb_leads(pair: tuple[str, str]) -> None:
    signal = twelve()
    given = signal[[LIMB.index(lead) for lead in pair]]
    np.testing.assert_allclose(derive_limb_leads(given, pair, LIMB), signal[:6], atol=1e-12)
    np.testing.assert_allclose(lead_matrix(pair, LIMB) @ given, signal[:6], atol=1e-12)


def test_names_of_any_spelling_are_matched() -> None:
    assert lead_matrix(("DII", "DI"), ("I", "avl")).tolist() == [[0, 1], [-0.5, 1]]


def test_a_bad_lead_does_not_spoil_the_others() -> None:
    signal = twelve()
    signal[6] = np.nan
    assert np.isfinite(derive_limb_leads(signal[[0, 1, 6]], ("I", "II", "V1"), ("III", "aVR"))).all()


def test_missing_leads_are_all_named() -> None:
    with pytest.raises(MissingLeads, match=r"leads II, V2 missing: the recording has I, V1") as caught:
        lead_matrix(("I", "V1"), ("I", "II", "V1", "V2"))
    assert caught.value.missing == ("II", "V2")
    assert isinstance(caught.value, EcgscaleError)
    with pytest.raises(MissingLeads, match="has none"):
        lead_matrix((), ("I",))


def test_the_shared_matrix_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        lead_matrix(("I", "II"), ("III",))[0, 0] = 1
