"""ECGs at rest: a folder of Parquet shards, one row a recording.

schema      the columns, and the names that labels may not have
shard       one shard as a file: built whole, put in one piece, its footer, its rows; a digest of what it says
listing     what lies in the folder: shards, what was meant to be one, what is neither
reader      an archive opened, batches of its records, chosen ones from the row groups that hold them
writer      whole shards, then `_archive.json`, last
validate    which records are usable, and why not
oddities    what is odd about those that are
traits      what electrodes and amplifiers did to a signal
waves       P, QRS and T: annotated ones merged over leads, or found by NeuroKit2
inspect     what is in an archive

sources     where archives come from (PTB-XL, CODE-15 %, WFDB, files of devices, tables), pseudonyms, who was forgotten
intake      files that arrive later: what is to be done, and the log that makes it exactly once
synthetic   a simulated archive with known truth
"""

from __future__ import annotations

from ecgscale.archive.reader import Archive, RawBatch
from ecgscale.archive.schema import CORE_COLUMNS, FIDUCIAL_TYPE, RESERVED_COLUMNS, SCHEMA_VERSION, archive_schema
from ecgscale.archive.shard import Shard, ShardFooter
from ecgscale.archive.validate import RECORD_STATUS, check_batch
from ecgscale.archive.writer import ArchiveWriter

__all__ = [
    "CORE_COLUMNS",
    "FIDUCIAL_TYPE",
    "RECORD_STATUS",
    "RESERVED_COLUMNS",
    "SCHEMA_VERSION",
    "Archive",
    "ArchiveWriter",
    "RawBatch",
    "Shard",
    "ShardFooter",
    "archive_schema",
    "check_batch",
]
