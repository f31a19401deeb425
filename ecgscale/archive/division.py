"""A source divided into pieces, each of which is ingested by itself, by whoever is free, and becomes whole shards.

Records of PTB-XL and of WFDB folders are counted as the archive will have them, so that every piece but the last makes
one full shard, and the shards are those of an ingest in one go, byte for byte. Of CODE-15 % a piece is a part, and
shards end where parts end.

Listings and tables are read here, by the driver. Workers get names and row numbers, and read everything else.
"""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import batched, pairwise
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from ecgscale.archive.code15 import EXAMS, PARTS, code15_schema, find_parts, part_exams, part_number, require_parts
from ecgscale.archive.ptbxl import (
    DATABASE,
    STATEMENTS,
    ptbxl_schema,
    read_database,
    recordings,
    sample_type,
)
from ecgscale.archive.signal_files import HEADER, NO_FILE
from ecgscale.archive.source import IngestOptions, whole_number_texts
from ecgscale.archive.source_view import SourceFolder
from ecgscale.archive.wfdb_header import UnreadableRecord, read_header
from ecgscale.archive.wfdb_records import (
    LEAD_SUFFIXES,
    find_records,
    mimic_subject,
    name_by,
    natural_order,
    require_records,
)

_SUFFIXES = frozenset({"hea", "dat", "mat", *LEAD_SUFFIXES})
_HEADERS_AT_ONCE = 16
_EXAM_BYTES = 4096 * 12 * 4
