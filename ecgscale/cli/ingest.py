"""`ecgscale ingest`: public or own recordings into an archive."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE, pool_of, runtime_options
from ecgscale.progress import Progress
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.archive.sources.source import IngestResult

_TOLD = 5


@click.group()
def ingest() -> None:
    """Turn recordings into an archive: a folder of Parquet shards that everything else reads.

    \b
    ecgscale ingest ptbxl  SRC ARCHIVE     PTB-XL as downloaded
    ecgscale ingest code15 SRC ARCHIVE     CODE-15 % as downloaded and unpacked
    ecgscale ingest wfdb   SRC ARCHIVE     any folder of WFDB records (CinC, LUDB, MIMIC-IV-ECG, your own)

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
        click.option("--shard-records", type=click.IntRange(min=1), help="Records a shard; by default about 128 MB."),
        click.option(
            "--carry",
            multiple=True,
            metavar="COLUMN",
            help="Take this column of the source along too; may be given several times.",
        ),
        click.option(
            "--pseudonymise",
            type=PLACE,
            metavar="KEYFILE",
            help="Replace ids by keyed hashes, pool ages from 90 on. KEYFILE: head -c 32 /dev/urandom, mode 600.",
        ),
        click.option("--shift-dates", is_flag=True, help="With a key: move dates by 1 to 52 whole weeks a patient."),
    )
    function = runtime_options(function)
    for decorator in reversed(decorators):
        function = decorator(function)
    return function


@ingest.command()
@_source_options
@click.option(
    "--rate", type=click.Choice(["500", "100"]), default="500", show_default=True, help="Which recordings, Hz."
)
@command
def ptbxl(progress: Progress, src: Path, archive: Path, rate: str, **shared: Any) -> dict[str, Any]:
    """PTB-XL: SRC holds ptbxl_database.csv, scp_statements.csv, records500/ and records100/.

    Columns: superclasses (diagnostic classes of all listed SCP codes, whatever their likelihood), scp_codes with
    likelihoods, fold (strat_fold), age (none above 89), sex, site, device, acquired_at. `--carry report` takes the
    report text along; any other column of ptbxl_database.csv works as well.

    \b
    Example:
      ecgscale ingest ptbxl ptb-xl-1.0.3 ptbxl.archive
      ecgscale inspect ptbxl.archive
    """
    return _ingested(progress, "ptbxl", src, archive, shared, rate=int(rate))


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
def code15(progress: Progress, src: Path, archive: Path, units_per_mv: float, **shared: Any) -> dict[str, Any]:
    """CODE-15 %: SRC holds exams.csv and exams_part*.hdf5 (some parts are enough).

    Columns: 1dAVb, RBBB, LBBB, SB, ST, AF, normal_ecg, nn_predicted_age, age, sex. The all-zero row of exam_id 0 at
    the end of each part is dropped, and zero padding becomes the valid span.

    \b
    Example:
      ecgscale ingest code15 code15 code15.archive
    """
    return _ingested(progress, "code15", src, archive, shared, units_per_mv=units_per_mv)


@ingest.command()
@_source_options
@click.option("--units-per-mv", type=float, help="Ignore gains and baselines of the headers: digital units per mV.")
@command
def wfdb(progress: Progress, src: Path, archive: Path, units_per_mv: float | None, **shared: Any) -> dict[str, Any]:
    """WFDB: every .hea below SRC is a record.

    Age, sex and SNOMED codes (column snomed) come from header comments as in the CinC challenges, P, QRS and T waves
    (column fiducials) from annotation files named after leads as in LUDB, patients from paths as in MIMIC-IV-ECG.
    `--carry comments` takes all header comments along, `--carry KEY` that of `KEY: value`.

    \b
    Example:
      ecgscale ingest wfdb chapman-shaoxing cinc.archive
      ecgscale ingest wfdb ludb-1.0.1 ludb.archive --carry Rhythm --units-per-mv 1000
    """
    return _ingested(progress, "wfdb", src, archive, shared, units_per_mv=units_per_mv)


def _ingested(
    progress: Progress,
    source: Literal["ptbxl", "code15", "wfdb"],
    src: Path,
    archive: Path,
    shared: dict[str, Any],
    **own: Any,
) -> dict[str, Any]:
    """Ingest with the options that all sources share and those of one of them."""
    from ecgscale.config import ArchiveConfig
    from ecgscale.errors import UsageError
    from ecgscale.passes.ingest.ingest import ingest_archive

    if shared["shift_dates"] and shared["pseudonymise"] is None:
        raise UsageError("--shift-dates needs a key: --pseudonymise KEYFILE")
    units = own.get("units_per_mv")
    if units is not None and not (math.isfinite(units) and units > 0):
        raise UsageError(f"--units-per-mv {units}: expected a positive number, such as 1 or 1000")
    where = {name: shared.pop(name) for name in ("runtime", "workers", "gpus_per_worker")}
    pool, _ = pool_of(**where, device="cpu", progress=progress)
    overwrite = shared.pop("overwrite")
    config = ArchiveConfig(path=archive, source=source, src=src, **shared, **own)
    return _told(ingest_archive(config, progress, pool, overwrite=overwrite))


def _told(result: IngestResult) -> dict[str, Any]:
    """Print the summary and return the facts for --json."""
    records, shards = counted(result.records, "record"), counted(result.shards, "shard")
    click.echo(f"{records} in {shards} ({result.signal}): {result.archive}")
    if result.dropped:
        click.echo(f"{counted(result.dropped, 'row')} dropped: no recordings (all zero, exam_id 0)")
    if result.problems.count:
        click.echo(f"{counted(result.problems.count, 'problem')}, also in {result.archive}/_archive.json:")
        for problem in result.problems.first[:_TOLD]:
            click.echo(f"  {problem}")
    for note in result.notes:
        click.echo(f"note: {note}")
    click.echo(f"next: ecgscale inspect {result.archive}")
    return {
        "archive": result.archive,
        "archive_id": result.archive_id,
        "records": result.records,
        "shards": result.shards,
        "dropped": result.dropped,
        "problems": result.problems.count,
        "signal": result.signal,
    }
