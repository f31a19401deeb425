"""`ecgscale ingest` and `ecgscale simulate`: public or own recordings, or made ones, into an archive."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import LEAD_MAP, PLACE, Where, option_of, options_of, runtime_options
from ecgscale.config import ArchiveConfig
from ecgscale.errors import ExitCode, UsageError
from ecgscale.progress import Progress
from ecgscale.words import counted, typed

if TYPE_CHECKING:
    from ecgscale.archive.sources.source import IngestResult

_PROBLEMS = 5


@click.group()
def ingest() -> None:
    """Turn recordings into an archive: a folder of Parquet shards that everything else reads.

    \b
    ecgscale ingest ptbxl  SRC ARCHIVE     PTB-XL as downloaded
    ecgscale ingest code15 SRC ARCHIVE     CODE-15 % as downloaded and unpacked
    ecgscale ingest table  SRC ARCHIVE     arrays and tables of any layout, by a TOML
    ecgscale ingest wfdb   SRC ARCHIVE     any folder of WFDB records (CinC, LUDB, MIMIC-IV-ECG, your own)
    ecgscale ingest formats SRC ARCHIVE    files in DICOM, MUSE or aECG XML, SCP-ECG, EDF, ISHNE

    Signals keep their values, rate and length. Labels and demographics come along; free text and names only with
    --carry. A recording that cannot be read keeps its row, with an empty signal, and is named at the end.

    \b
    (umask 077; head -c 32 /dev/urandom > ecg.key)
    ecgscale ingest wfdb SRC ARCHIVE --pseudonymise ecg.key     ids become keyed hashes (docs/privacy.md)

    With --workers N and --shard-records (CODE-15 % needs none) N processes, or Ray actors, make the same archive.
    """


def _source_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """SRC, ARCHIVE, and the options that all sources share."""
    decorators = (
        click.argument("src", type=PLACE),
        click.argument("archive", type=PLACE),
        click.option(
            "--overwrite", is_flag=True, help="Replace the archive that is there, once the new one is complete."
        ),
        options_of(ArchiveConfig, "shard_records"),
        option_of(ArchiveConfig, "carry", metavar="COLUMN"),
        option_of(ArchiveConfig, "lead_map", type=LEAD_MAP, default=None, show_default=False),
        option_of(ArchiveConfig, "windows", metavar="LENGTH"),
        option_of(ArchiveConfig, "memory", metavar="SIZE"),
        option_of(ArchiveConfig, "pseudonymise", metavar="KEYFILE"),
        options_of(ArchiveConfig, "shift_dates"),
        runtime_options,
    )
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


@ingest.command()
@_source_options
@option_of(ArchiveConfig, "rate", type=click.Choice([500, 100]))
@command
def ptbxl(progress: Progress, src: Path, archive: Path, **asked: Any) -> dict[str, Any]:
    """PTB-XL: SRC holds ptbxl_database.csv, scp_statements.csv, records500/, records100/.

    Columns: superclasses (diagnostic classes of all listed SCP codes, whatever their likelihood), scp_codes with
    likelihoods, fold (strat_fold), age (none above 89), sex, site, device, acquired_at. `--carry report` takes the
    report text along; any other column of ptbxl_database.csv works as well.

    \b
    Example:
      ecgscale ingest ptbxl ptb-xl-1.0.3 ptbxl.archive
      ecgscale inspect ptbxl.archive
    """
    return _ingested(progress, "ptbxl", src, archive, **asked)


@ingest.command()
@_source_options
@click.option(
    "--units-per-mv",
    type=float,
    default=1.0,
    show_default=True,
    help="What 1 mV is in the released values. The published scale is ambiguous; values are kept as they are.",
)
@command
def code15(progress: Progress, src: Path, archive: Path, **asked: Any) -> dict[str, Any]:
    """CODE-15 %: SRC holds exams.csv and exams_part*.hdf5 (some parts are enough).

    Columns: 1dAVb, RBBB, LBBB, SB, ST, AF, normal_ecg, nn_predicted_age, age, sex. The all-zero row of exam_id 0 at
    the end of each part is dropped, and zero padding becomes the valid span.

    \b
    Example:
      ecgscale ingest code15 code15 code15.archive
    """
    return _ingested(progress, "code15", src, archive, **asked)


@ingest.command()
@_source_options
@option_of(ArchiveConfig, "patients", metavar="RULE")
@option_of(ArchiveConfig, "table", type=PLACE, metavar="FILE")
@option_of(ArchiveConfig, "id", metavar="COLUMN")
@click.option("--units-per-mv", type=float, help="Ignore gains and baselines of the headers: digital units per mV.")
@command
def wfdb(progress: Progress, src: Path, archive: Path, **asked: Any) -> dict[str, Any]:
    """WFDB: every .hea below SRC is a record.

    Age, sex and SNOMED codes (column snomed) come from header comments as in the CinC challenges, P, QRS and T waves
    (column fiducials) from annotation files named after leads as in LUDB, patients from paths as in MIMIC-IV-ECG.
    `--carry comments` takes all header comments along, `--carry KEY` that of `KEY: value`.

    `--patients` says whose a record is: `folder` (the one that it lies in), `comment:KEY`, a table of record_id and
    patient_id (`who.csv`, or `who.csv:ID:PATIENT`), or an expression with one group on its path, `(p\\d+)/`. `--table
    FILE --id COLUMN` brings labels: numbers and true or false come along, texts only with `--carry COLUMN`. In SRC,
    REFERENCE.csv of CinC 2017 and record_list.csv and machine_measurements.csv of MIMIC-IV-ECG are found by themselves.

    \b
    Example:
      ecgscale ingest wfdb ptbdb ptbdb.archive --patients folder
      ecgscale ingest wfdb chapman-shaoxing cinc.archive
      ecgscale ingest wfdb ludb-1.0.1 ludb.archive --carry Rhythm --units-per-mv 1000
    """
    return _ingested(progress, "wfdb", src, archive, **asked)


@ingest.command()
@_source_options
@command
def formats(progress: Progress, src: Path, archive: Path, **asked: Any) -> dict[str, Any]:
    """Files of devices: DICOM, MUSE XML, HL7 aECG, SCP-ECG, EDF, ISHNE.

    Every file below SRC is told by its content, whatever it is called. Units, resolution, rate, leads, patient id,
    time, sex and age come from the file; names and dates of birth stay behind. A file that is not understood keeps its
    row, with an empty signal, and what was wrong is said. Needs `pip install 'ecgscale[formats]'`.

    \b
    Example:
      ecgscale ingest formats exports exports.archive
      ecgscale ingest formats s3://bucket/muse s3://bucket/archive --shard-records 2000 --workers 8
    """
    return _ingested(progress, "formats", src, archive, **asked)


@ingest.command()
@_source_options
@option_of(ArchiveConfig, "layout", metavar="FILE.toml", required=True)
@click.option("--dry-run", is_flag=True, help="Show what is understood, with ranges in mV; write nothing.")
@command
def table(progress: Progress, src: Path, archive: Path, dry_run: bool, **asked: Any) -> dict[str, Any]:
    """Arrays and tables (HDF5, NumPy, Parquet, CSV), as a small TOML says. See docs/data-format.md.

    The layout says where samples lie, in which axes, with which leads, rate and units, and which table says what of
    the records. samitrop and code-test are ready layouts, of SaMi-Trop and of the test set of CODE.

    \b
    Example:
      ecgscale ingest table samitrop samitrop.archive --layout samitrop --dry-run
      ecgscale ingest table my-arrays my.archive --layout my.toml
    """
    if dry_run:
        return _understood(src, asked)
    return _ingested(progress, "table", src, archive, **asked)


def _understood(src: Path, asked: dict[str, Any]) -> dict[str, Any]:
    from ecgscale.archive.sources.files import SourceFolder
    from ecgscale.archive.sources.source import IngestOptions
    from ecgscale.archive.sources.table import TableSource
    from ecgscale.archive_config import read_layout
    from ecgscale.io.places import local_copy

    layout = read_layout(asked["layout"])
    try:
        folder = local_copy(src)
        facts = TableSource(SourceFolder(folder, folder), layout).understood(IngestOptions(carry=asked["carry"]))
    except FileNotFoundError as error:
        raise UsageError(f"{src} holds nothing") from error
    first, files = facts["first"], facts["files"]
    say(f"{counted(facts['records'], 'record')} in {counted(len(files), 'file')}: {', '.join(files[:3])}")
    say(f"first: {first['record_id']}, {first['samples']:,} samples at {facts['sampling_rate'] or 'the table'} Hz")
    if facts["problem"]:
        say(f"  {facts['problem']}")
    for lead, (low, high) in facts["millivolts"].items():
        say(f"  {lead:<4} {low:>9.3f} to {high:>8.3f} mV")
    if (known := facts.get("table")) is not None:
        say(f"table: {known['rows']:,} rows, {known['records_with_a_row']:,} records have one")
        for name, count in known["set"].items():
            true = f", true in {known['true'][name]:,}" if name in known["true"] else ""
            say(f"  {name}: set in {count:,}{true}")
        say(f"  not used: {', '.join(known['not_used']) or 'nothing'}")
    say(*(f"set aside: {reason}" for reason in facts["set_aside"].values()))
    say(*(f"note: {note}" for note in facts["notes"]), "nothing was written")
    return facts


def _ingested(
    progress: Progress,
    source: Literal["ptbxl", "code15", "wfdb", "formats", "table"],
    src: Path,
    archive: Path,
    where: Where,
    overwrite: bool,
    **asked: Any,
) -> dict[str, Any]:
    """Ingest with the options that all sources share and those of one of them."""
    from ecgscale.passes.ingest.ingest import ingest_archive

    if asked["shift_dates"] and asked["pseudonymise"] is None:
        raise UsageError("--shift-dates needs a key: --pseudonymise KEYFILE")
    units = asked.get("units_per_mv")
    if units is not None and not (math.isfinite(units) and units > 0):
        raise UsageError(f"--units-per-mv {units}: expected a positive number, such as 1 or 1000")
    asked["lead_map"] = asked["lead_map"] or {}
    config = ArchiveConfig(path=archive, source=source, src=src, **asked)
    result = ingest_archive(config, progress, where.placement("cpu", progress).pool, overwrite=overwrite)
    say(*summary(result))
    return {
        **{name: getattr(result, name) for name in ("archive", "archive_id", "records", "shards", "dropped")},
        "problems": result.problems.count,
        "signal": result.signal,
        **({"set_aside": dict(result.set_aside), "exit_code": ExitCode.SHARDS_SET_ASIDE} if result.set_aside else {}),
    }


def summary(result: IngestResult) -> Iterator[str]:
    """What was made, what is wrong with it, and what to type next."""
    records, shards = counted(result.records, "record"), counted(result.shards, "shard")
    yield f"{records} in {shards} ({result.signal}): {result.archive}"
    if result.dropped:
        yield f"{counted(result.dropped, 'row')} dropped: no recordings (all zero, exam_id 0)"
    if result.problems.count:
        yield f"{counted(result.problems.count, 'problem')}, also in {result.archive}/_archive.json:"
        yield from (f"  {problem}" for problem in result.problems.first[:_PROBLEMS])
    yield from (f"set aside: {reason}" for reason in result.set_aside.values())
    yield from (f"note: {note}" for note in result.notes)
    yield f"next: ecgscale inspect {typed(result.archive)}"


@click.command()
@click.argument("archive", type=PLACE)
@option_of(ArchiveConfig, "records", type=int, default=None, required=True, metavar="N")
@options_of(ArchiveConfig, "seed")
@option_of(
    ArchiveConfig, "shard_records", type=int, metavar="N", help="Records a shard; by default shards of about 128 MB."
)
@click.option("--rate", type=float, default=500.0, show_default=True, help="Sampling rate in Hz.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="Length of each recording.")
@click.option("--overwrite", is_flag=True, help="Replace the archive that is there.")
@runtime_options
@command
def simulate(progress: Progress, archive: Path, where: Where, **asked: Any) -> dict[str, Any]:
    """Write a synthetic 12-lead archive to ARCHIVE: no data needed, and the truth is known.

    Patients with one of five diagnostic superclasses (or several), five rhythms, noise, and the onset, peak and
    offset of every P, QRS and T. A record depends on the seed and its number alone.

    \b
    Try it:
      ecgscale simulate demo.archive --records 400
      ecgscale inspect demo.archive
      ecgscale train demo.archive --target superclasses --out demo.encoder

    A large one, for measurements of scale; on any number of workers the same bytes:

    \b
      ecgscale simulate big.archive --records 100000 --seed 7 --shard-records 2000 --workers 8
    """
    from ecgscale.passes.ingest.simulate import simulate_archive

    pool = where.placement("cpu", progress).pool
    facts = simulate_archive(archive, progress=progress, pool=pool, **asked)
    say(
        f"{counted(facts['records'], 'recording')} of {counted(facts['patients'], 'patient')} in "
        f"{counted(facts['shards'], 'shard')}: {archive}"
    )
    say(f"next: ecgscale inspect {typed(archive)}")
    return facts
