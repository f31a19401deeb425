"""Comments of WFDB headers: `key: value` in the forms that published sets have, and age and sex out of them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from ecgscale.archive.schema import SignalType, archive_schema, sex_of
from ecgscale.archive.sources.pseudonyms import QuotesSource
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.errors import did_you_mean

_BRACKETED = re.compile(r"<(?P<key>[^<>]+)>\s*:?\s*(?P<value>[^<]*)")
_COMMENT = re.compile(r"^<?(?P<key>[^:<>]+?)>?\s*:\s*(?P<value>.*?)\s*$")
_ASSIGNED = re.compile(r"^(?P<key>age|sex|gender)\s*=\s*(?P<value>.*)$", re.IGNORECASE)
_INNER = re.compile(r"[\s,;]+(?P<key>age|sex|gender)\s*[:=]\s*", re.IGNORECASE)
"""Further fields in the line of one of them: `Age: 62, Sex: F`."""
_MIT_BIH = re.compile(r"^(?P<age>-1|[0-9]{1,3})\s+(?P<sex>[MF?])(?:\s|$)")
"""First comment of the MIT-BIH databases: age, sex, numbers of the tape."""

UNKNOWN_WORDS = frozenset({"?", "-", "nan", "na", "n/a", "none", "(none)", "null", "unknown", "unk", "u"})
"""What says in so many words that something is not known."""

_NUMBER = r"[0-9]{1,4}(?:\.[0-9]*|,[0-9]{1,2})?"
_YEARS, _MONTHS = r"years?(?:\s+old)?|yrs?|y/?o|y|a", r"months?|mos?|mon"
_WEEKS, _DAYS = r"weeks?|wks?|w", r"days?|d"
_PART = re.compile(
    rf"(?P<number>{_NUMBER})\s*(?:(?P<y>{_YEARS})|(?P<m>{_MONTHS})|(?P<w>{_WEEKS})|(?P<d>{_DAYS}))\.?(?:$|[\s,]+)",
    re.IGNORECASE,
)
_DICOM = re.compile(r"(?P<number>[0-9]{3})(?P<unit>[YMWD])")
_BOUND = re.compile(
    rf"(?P<more>>=?|≥|over\s)?\s*(?P<number>{_NUMBER})\s*(?P<plus>\+)?(?:\s*(?P<unit>{_YEARS}))?", re.IGNORECASE
)
_IN_A_YEAR = {"y": 1.0, "m": 12.0, "w": 365.25 / 7, "d": 365.25}
_OLDEST = 120.0

AT_LEAST = "in {:,} records the age is a lower bound, such as >89 or 90+: kept as the lowest whole age that it allows"
NO_AGE = "in {:,} records the age is a number that no age can be, such as -1 or 300; left null"


def keyed_comments(comments: Sequence[str]) -> dict[str, str]:
    """All `key: value` and `<key>: value` comments, of which a line may hold several; keys as written."""
    found: dict[str, str] = {}
    for comment in comments:
        bracketed = list(_BRACKETED.finditer(comment)) if comment.startswith("<") else []
        if len(bracketed) > 1:
            found |= {match["key"].strip(): match["value"].strip() for match in bracketed}
        elif match := _COMMENT.match(comment) or _ASSIGNED.match(comment):
            pieces = [match["key"].strip(), *_INNER.split(match["value"])] if _is_person(match["key"]) else []
            pieces = pieces or [match["key"].strip(), match["value"]]
            found |= {key: value.strip(" ,;") for key, value in zip(pieces[::2], pieces[1::2], strict=True)}
    return found


def _is_person(key: str) -> bool:
    return _plain(key) in ("age", "sex", "gender")


def _plain(key: str) -> str:
    """A key without what stands in brackets behind it and whose it is, in lower case."""
    bare = re.sub(r"\s*[(\[].*", "", key.strip()).lower()
    return re.sub(r"^(patient|subject)('?s)?[\s_-]*", "", bare)


def codes_of(text: str | None) -> list[str] | None:
    """Codes that a comment lists; None where there is none, or it says that they are not known."""
    if text is None or text.strip().lower() in UNKNOWN_WORDS:
        return None
    return [code for code in re.split(r"[,;\s]+", text) if code]


@dataclass
class Person:
    """Age in years and sex ("male" or "female") of a recording; None where they are not known.

    unread: what is written there and was not understood; notes: what is to be told (texts for `count_notes`)
    """

    age: float | None = None
    sex: str | None = None
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def person_of(keyed: Mapping[str, str], comments: Sequence[str]) -> Person:
    """Who was recorded, from the comments of a header."""
    fields = {_plain(key): (key, value) for key, value in keyed.items()}
    person = Person()
    age, sex = fields.get("age"), fields.get("sex", fields.get("gender"))
    if age is None and sex is None and comments and (old := _MIT_BIH.match(comments[0])):
        age = ("age", "" if old["age"] == "-1" else old["age"])
        sex = ("sex", old["sex"])
    if age is not None:
        _read_age(person, *age)
    if sex is not None and sex[1].strip() and sex[1].strip().lower() not in UNKNOWN_WORDS:
        person.sex = sex_of(sex[1])
        if person.sex is None:
            person.unread.append(f"sex {sex[1][:40]!r}")
    return person


def _read_age(person: Person, key: str, text: str) -> None:
    text = re.sub(r"[()]", " ", text).strip() if text.strip() != "(none)" else ""
    if not text or text.lower() in UNKNOWN_WORDS:
        return
    years = _years(key, text)
    if years is None:
        person.unread.append(f"age {text[:40]!r}")
    elif not 0 <= years <= _OLDEST:
        person.notes.append(NO_AGE)
    else:
        person.age = years
        if re.search(r"[>≥+]|over", text, re.IGNORECASE):
            person.notes.append(AT_LEAST)


def _years(key: str, text: str) -> float | None:
    """Years of `62`, `61,5`, `062Y`, `45 years`, `1 year 6 months`, `>89`, `90+`; None for what is none of them."""
    if dicom := _DICOM.fullmatch(text):
        return int(dicom["number"]) / _IN_A_YEAR[dicom["unit"].lower()]
    if re.fullmatch(r"-[0-9]+(\.[0-9]+)?", text):
        return float(text)
    unit = re.search(r"[(\[]\s*([a-z]+)", key.lower())
    per_year = 1.0 if unit is None else _IN_A_YEAR.get(unit[1][0], 0.0) if unit[1] != "min" else 0.0
    if (bound := _BOUND.fullmatch(text)) and per_year:
        number = _number(bound["number"])
        above = bound["more"] is not None and "=" not in bound["more"] and "≥" not in bound["more"]
        return (number + above) / (1.0 if bound["unit"] else per_year)
    total, end = 0.0, 0
    while end < len(text):
        part = _PART.match(text, end)
        if part is None:
            return None
        total += _number(part["number"]) / next(_IN_A_YEAR[name] for name in "ymwd" if part[name])
        end = part.end()
    return total


def _number(text: str) -> float:
    return float(text.replace(",", "."))


ALL_COMMENTS = "comments"


@dataclass
class HeaderFacts:
    """What headers say together: whether int16 holds all of them, whether one has codes, and their comments' keys.

    beside: columns that tables beside them have for all; beside_texts: those that come along with --carry
    """

    fits_int16: bool = True
    has_codes: bool = False
    comment_keys: Counter[str] = field(default_factory=Counter)
    beside: dict[str, pa.DataType] = field(default_factory=dict)
    beside_texts: dict[str, pa.DataType] = field(default_factory=dict)

    def add(self, others: HeaderFacts) -> None:
        """Take in what other headers say."""
        self.fits_int16 &= others.fits_int16
        self.has_codes |= others.has_codes
        self.comment_keys.update(others.comment_keys)
        self.beside, self.beside_texts = self.beside or others.beside, self.beside_texts or others.beside_texts

    def schema(self, options: IngestOptions) -> pa.Schema:
        """The schema of an archive of these records; raises as `columns` does."""
        return archive_schema(self.signal, self.columns(options))

    def columns(self, options: IngestOptions) -> list[pa.Field]:
        """Of codes and comments; `ArchiveError` for a key to carry that is in no header, unless a schema has it."""
        for key in options.carry if options.schema is None else ():
            if key not in (ALL_COMMENTS, *self.beside, *self.beside_texts) and key not in self.comment_keys:
                known = [ALL_COMMENTS, *self.beside_texts, *(name for name, _ in self.comment_keys.most_common(30))]
                lacks = f"--carry {key}: no header has such a comment, and no table such a column."
                raise QuotesSource(f"{lacks}{did_you_mean(key, known)} There are: {', '.join(known)}", lacks)
        extra = [pa.field("snomed", pa.list_(pa.string()))] if self.has_codes else []
        extra += [pa.field(name, kind) for name, kind in self.beside.items()]
        kinds = {**self.beside_texts, ALL_COMMENTS: pa.list_(pa.string())}
        asked = [key for key in options.carry if key not in self.beside]
        return extra + [pa.field(key, kinds.get(key, pa.string())) for key in asked]

    @property
    def signal(self) -> SignalType:
        """The sample type that holds all of them."""
        return "int16" if self.fits_int16 else "float32"
