"""Age, sex and codes in the forms that the comments of headers have."""

from __future__ import annotations

import pytest

from ecgscale.archive.sources.wfdb_comments import AT_LEAST, NO_AGE, Person, codes_of, keyed_comments, person_of


def person(*comments: str) -> Person:
    return person_of(keyed_comments(comments), comments)


@pytest.mark.parametrize(
    ("comments", "age", "sex"),
    [
        (["Age: 74", "Sex: Male"], 74, "male"),
        (["<age>: 25  <sex>: M  <diagnoses>: (none)  <medications>: (none)"], 25, "male"),
        (["<age>: 65 <sex>: F <diagnoses> Coronary artery disease, arterial hypertension"], 65, "female"),
        (["Age: 62, Sex: F"], 62, "female"),
        (["age=62", "gender=female"], 62, "female"),
        (["69 M 1085 1629 x1", "Aldomet, Inderal"], 69, "male"),
        (["-1 F 1 2 x1"], None, "female"),
        (["Age: 062Y", "Sex: F"], 62, "female"),
        (["Age: 006M"], 0.5, None),
        (["Age: 45 years", "Sex: M "], 45, "male"),
        (["Age: 6 months"], 0.5, None),
        (["Age: 1 year, 6 months"], 1.5, None),
        (["Age (years): 44", "Sex (M/F): F"], 44, "female"),
        (["Age (months): 6"], 0.5, None),
        (["Age: 61,5", "Sex: W"], 61.5, "female"),
        (["Age: 57.123456"], 57.123456, None),
        (["Age: NaN", "Sex: Unknown"], None, None),
        (["Age:", "Sex:"], None, None),
        (["Age : 50", "Gender: woman"], 50, "female"),
        (["PatientAge: 062Y", "Patient's Sex: F"], 62, "female"),
        (["Sex: M, Age: 62 (years)"], 62, "male"),
        (["Age (months): 6 years"], 6, None),
        (["age: (none)"], None, None),
    ],
)
def test_forms_that_are_read(comments: list[str], age: float | None, sex: str | None) -> None:
    assert person(*comments) == Person(age, sex)


@pytest.mark.parametrize(
    ("text", "age"),
    [(">89", 90), ("90+", 90), (">= 90", 90), ("≥90", 90), ("over 89", 90), (">89 years", 90), ("90+ y", 90)],
)
def test_lower_bounds_are_kept_and_told(text: str, age: float) -> None:
    assert person(f"Age: {text}") == Person(age, notes=[AT_LEAST])


def test_what_is_not_read_is_told() -> None:
    for number in ("-1", "300", "121"):
        assert person(f"Age: {number}") == Person(notes=[NO_AGE])
    for text in ("7M", "sixty", "1,000", "62yo F", "<1", "40-50", "12 parsecs"):
        assert person(f"Age: {text}").unread == [f"age {text!r}"]
    assert person("Age: 5", "Sex: 1") == Person(5.0, None, unread=["sex '1'"])


def test_codes() -> None:
    assert codes_of("426783006;164889003 , 1") == ["426783006", "164889003", "1"]
    assert codes_of("Unknown") is None
    assert codes_of("") == []
