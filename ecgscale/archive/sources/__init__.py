"""Where archives come from: one description a source, which ingest, workers, nights and redaction all consume.

A source is a subclass of `source.Source`: it has a `kind` (the word in `[archive] source`), the names of the `tables`
that all its records depend on, and `one_by_one` where its files hold many records. To add one, write a module with such
a class and a function that ingests a whole folder by `files.ingest_whole`, and name both below. The class gives

    configured(files, config)   itself, from `[archive]`; `files` is where it lies (`files.SourceFolder`)
    ingest(target, options)     all of it, or `options.portion`, as rows to `Source.writing(...)`: a row is a dict of
                                column to value, and one that cannot be read keeps its row with an empty signal
    schema(options)             the columns of its archive; pieces(options): portions of it for workers
    sets(known, until)          what a listing shows that belongs together; looked_into(sets, schema): what they lack
    fetch(portion)              local copies of what a portion needs, for a source in an object store

Tables, columns to carry and ids as text are in `tables`, files of many records in `hdf5`, WFDB in `wfdb_*`. Pseudonyms,
tombstones and redacted errors come by themselves: `Source.writing` and whoever calls `ingest` see to them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ecgscale.archive.sources.files import SourceFolder
    from ecgscale.archive.sources.source import IngestOptions, IngestResult, Source
    from ecgscale.config import ArchiveConfig


def kinds() -> dict[str, type[Source]]:
    """The sources that a configuration can name (imported here, because HDF5 takes its time)."""
    from ecgscale.archive.sources.code15 import Code15Source
    from ecgscale.archive.sources.formats.source import FormatsSource
    from ecgscale.archive.sources.ptbxl import PtbxlSource
    from ecgscale.archive.sources.table import TableSource
    from ecgscale.archive.sources.wfdb import WfdbSource

    return {one.kind: one for one in (PtbxlSource, Code15Source, WfdbSource, FormatsSource, TableSource)}


def open_source(config: ArchiveConfig, files: SourceFolder) -> Source:
    """The source at `files`, of the kind and with the options that the configuration names."""
    assert config.source is not None
    return kinds()[config.source].configured(files, config)


def ingest_source(config: ArchiveConfig, options: IngestOptions) -> IngestResult:
    """Ingest all of `config.src` into `config.path` in this process; raises as sources of its kind do."""
    from ecgscale.archive.sources.beside import tables_with_ids
    from ecgscale.archive.sources.code15 import ingest_code15
    from ecgscale.archive.sources.formats.source import ingest_formats
    from ecgscale.archive.sources.ptbxl import ingest_ptbxl
    from ecgscale.archive.sources.table import ingest_table
    from ecgscale.archive.sources.wfdb import ingest_wfdb
    from ecgscale.archive_config import read_layout

    assert config.src is not None
    if config.source == "ptbxl":
        return ingest_ptbxl(config.src, config.path, config.rate, options)
    if config.source == "code15":
        return ingest_code15(config.src, config.path, config.units_per_mv or 1.0, options)
    if config.source == "table":
        return ingest_table(config.src, config.path, read_layout(config.layout or ""), options)
    if config.source == "formats":
        return ingest_formats(config.src, config.path, options)
    tables = tables_with_ids(config.table, config.id)
    return ingest_wfdb(config.src, config.path, config.units_per_mv, options, config.patients, tables)


def options_of(config: ArchiveConfig, **more: Any) -> IngestOptions:
    """How a source is ingested as its configuration says; `more` are the options that stand in none."""
    from ecgscale.archive.sources.source import IngestOptions

    return IngestOptions(
        shard_records=config.shard_records,
        carry=config.carry,
        lead_map=config.lead_map,
        windows=config.window_seconds,
        memory=config.memory_bytes,
        **more,
    )
