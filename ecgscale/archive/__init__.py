"""ECGs at rest: a folder of Parquet shards, one row a recording.

schema      the columns, and the names that labels may not have
writer      whole shards, then `_archive.json`, last
reader      listing, footers, batches streamed row group by row group
batch       what a reader yields: flat samples and where each record's are
validate    which records are usable, and why not
inspect     what is in an archive
chosen      chosen recordings, from the row groups that hold them
waves       annotated P, QRS and T, merged over leads
delineation the same where nobody annotated them, by NeuroKit2
digest      what a shard says, independent of how it says it
ptbxl, code15, wfdb_records, synthetic      where archives come from; division (pieces of one, for workers)
arrivals    files that arrive later: source_view (a listing, copies), source_sets (what belongs together), feeds (the
            three layouts), found_sets (what is to be done), intake (the log), adoption (of archives without one)
pseudonyms  keyed hashes for ids; untold (errors that name nobody), tombstones (who was forgotten stays so)
"""

from __future__ import annotations

from ecgscale.archive.batch import RawBatch
from ecgscale.archive.reader import Archive
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
