"""Lead names, and the limb leads of each other."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from ecgscale.errors import EcgscaleError
from ecgscale.leads import (
    CANONICAL_LEADS,
    MissingLeads,
    canonical_lead,
    derive_limb_leads,
    lead_matrix,
    named_leads,
    read_lead_map,
)

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
        ("ECG lead II", "II"),
        ("EKG I", "I"),
        ("ECG-V1", "V1"),
        ("ECG_II", "II"),
        ("Lead 1", "I"),
        ("ECG Lead 3", "III"),
        ("Abl. II", "II"),
        ("V1 (mV)", "V1"),
        ("II.", "II"),
        ("aVR+", "aVR"),
        ("V01", "V1"),
        ("Lead I (Einthoven)", "I"),
        ("aVR, augmented voltage, right", "aVR"),
        ("\u2161", "II"),
        ("channel I", "I"),
        ("MLII", "MLII"),
        ("-aVR", "-aVR"),
        ("\u2212aVR", "\u2212aVR"),
        ("aVR-", "aVR-"),
        ("lead -aVR", "lead -aVR"),
        ("ECG -V1", "ECG -V1"),
        ("ECG-aVR", "ECG-aVR"),
        ("inverted aVR", "inverted aVR"),
        ("V10", "V10"),
        ("V7", "V7"),
        ("V3R", "V3R"),
        ("CM5", "CM5"),
        ("VR", "VR"),
        ("1", "1"),
        ("Ch1", "Ch1"),
        ("Ch 1", "Ch 1"),
        ("channel 1", "channel 1"),
        ("ECG 1", "ECG 1"),
        ("ECG1", "ECG1"),
        ("ECG", "ECG"),
        ("Lead 12", "Lead 12"),
        ("I-II", "I-II"),
        (" vx ", "vx"),
        ("", ""),
    ],
)
def test_aliases(name: str, expected: str) -> None:
    assert canonical_lead(name) == expected


@pytest.mark.parametrize(
    ("names", "text", "leads", "used"),
    [
        (("ECG1", "ECG2"), "ECG1=II,ECG2=V5", ("II", "V5"), ("ECG1", "ECG2")),
        (("ECG", "ECG"), "ecg#1=II, ECG#2=v5", ("II", "V5"), ("ecg#1", "ECG#2")),
        (("", ""), "#2=DI", ("", "I"), ("#2",)),
        (("MLII", "V5"), "MLII=II", ("II", "V5"), ("MLII",)),
        (("Lead 1", "I"), "Lead 1#1=V1", ("V1", "I"), ("Lead 1#1",)),
        (("a=b", "II"), "a=b=V1", ("V1", "II"), ("a=b",)),
        (("III",), "ECG9=II", ("III",), ()),
    ],
)
def test_a_lead_map_says_which_lead_a_channel_is(
    names: tuple[str, ...], text: str, leads: tuple[str, ...], used: tuple[str, ...]
) -> None:
    assert named_leads(names, read_lead_map(text)) == (leads, used)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ECG1", "is not CHANNEL=LEAD"),
        ("ECG1=", "is not CHANNEL=LEAD"),
        ("=II", "is not CHANNEL=LEAD"),
        ("ECG1=II,ECG1=I", "named twice"),
        ("-aVR=aVR", "inverted"),
        ("ECG1=-aVR", "no name of a lead"),
    ],
)
def test_a_lead_map_that_can_only_be_a_mistake(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        read_lead_map(text)


@pytest.mark.parametrize(
    ("lead", "says"),
    [("MLII", "modified lead"), ("-aVR", "inverted lead"), ("ECG", "--lead-map"), ("", "without a name")],
)
def test_what_to_do_about_a_name_is_said(lead: str, says: str) -> None:
    with pytest.raises(MissingLeads, match=says):
        lead_matrix((lead, "V1"), ("II",))


def test_a_channel_that_a_pseudonym_hides_is_no_lead() -> None:
    from ecgscale.archive.reader import _canonical

    assert _canonical(("lead 1", "LEAD 1", None, "dii")) == ("lead 1", "I", "", "II")


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
