"""`ecgscale forget`: take a patient out of an archive and of everything that was made of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.nightly.forget.forget import ForgetResult

_NAMED = 10


@click.command()
@click.argument("root", type=PLACE)
@click.argument("patient_id")
@click.option("--archive", type=PLACE, required=True, help="The archive that ROOT was made of.")
@click.option("--key", type=PLACE, metavar="KEYFILE",
              help="PATIENT_ID is that of the source, and the archive was pseudonymised with this key.")  # fmt: skip
@click.option("--record", is_flag=True, help="PATIENT_ID is a record_id: for archives that know no patients.")
@click.option("--reason", default="", help="Why; kept beside the datasets, so without any id.")
@click.option("--encoder", "encoders", type=PLACE, multiple=True, metavar="DIR",
              help="An encoder elsewhere, whose list of what it has seen is mended too; may be repeated.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Say what would go, and change nothing.")
@command
def forget(
    progress: Progress,
    root: Path,
    patient_id: str,
    archive: Path,
    key: Path | None,
    record: bool,
    reason: str,
    encoders: tuple[Path, ...],
    dry_run: bool,
) -> dict[str, Any]:
    """Remove a patient from the archive and from everything below ROOT, and show that nothing is left.

    Shards of the archive are written again without the patient's recordings, and so is everything that was explained
    or probed of them; earlier manifests that held them go, so nobody can roll back to them. Evaluations that name a
    recording go, lists of what networks have seen and records of runs are mended, and a hash keeps the patient from
    coming back with the next ingest. In the end every object is searched. Stopped at any point: type it again.

    PATIENT_ID is as in the archive, or as in the source with --key; "-" reads it from standard input, so that no shell
    keeps it. Reports that you made, backups, and earlier versions in a bucket are yours to remove (docs/privacy.md).

    \b
    Example:
      ecgscale forget results 15709 --archive ptbxl.archive --dry-run
      ecgscale forget s3://bucket/results - --archive s3://bucket/archive --key ecg.key --reason "withdrawn" < id.txt

    Exit codes: 0 nothing is left, 1 something is (it is named), 5 a nightly run or another
    command is at work below ROOT: wait until it ends.
    """
    from ecgscale.nightly.forget.forget import Whom, forget_patient

    given = sys.stdin.readline().strip() if patient_id == "-" else patient_id
    result = forget_patient(
        root,
        Whom(given, key, record),
        archive,
        reason=reason,
        encoders=encoders,
        dry_run=dry_run,
        progress=progress,
    )
    for line in _told(result):
        click.echo(line)
    return {**result.to_dict(), "exit_code": result.exit_code}


def _told(result: ForgetResult) -> list[str]:
    """What was done, as lines for people; nobody is named."""
    would = "would be " if result.dry_run else ""
    rewritten, gone = counted(result.shards_rewritten, "shard"), counted(result.files_removed, "object")
    lines = [
        f"{counted(result.records, 'record')}, {rewritten} of the archive {would}written again, {gone} {would}removed, "
        f"{result.manifests_removed:,} of them manifests"
    ]
    if result.again:
        waits = f"{counted(result.again, 'shard')} {'waits' if result.again == 1 else 'wait'} for the next run"
        lines.append(f"{waits}: what was published was out of date")
    lines += [f"note: {note}" for note in result.notes]
    searched = f"{counted(result.objects_searched, 'object')} searched"
    if not result.left:
        return [*lines, f"{searched}: nothing is left"]
    says = "tell of the patient now" if result.dry_run else "still tell of the patient"
    lines.append(f"{searched}, {len(result.left):,} {says}:")
    lines += [f"  {where}" for where in result.left[:_NAMED]]
    if len(result.left) > _NAMED:
        lines.append(f"  and {len(result.left) - _NAMED:,} more")
    if not result.dry_run:
        lines.append("remove what is yours, and type the same command again")
    return lines
