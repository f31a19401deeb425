"""What the headers of WFDB records, and the tables beside them, say of the archive that they make together."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pyarrow as pa

from ecgscale.archive.schema import SignalType, archive_schema
from ecgscale.archive.sources.pseudonyms import QuotesSource
from ecgscale.archive.sources.source import IngestOptions
from ecgscale.errors import did_you_mean

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
