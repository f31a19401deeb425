"""`ecgscale verify`: is what is published whole and right?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command
from ecgscale.cli.options import PLACE
from ecgscale.progress import Progress
from ecgscale.words import counted

if TYPE_CHECKING:
    from ecgscale.nightly.verify.verify import Verified, VerifiedDataset


@click.command()
@click.argument("root", type=PLACE)
@click.option("--dataset", metavar="ID", help="Look at this dataset alone. Default: all below ROOT.")
@click.option("--sample", type=click.FloatRange(0, 1), default=0.001, show_default=True,
              help="Share of the records to compute again from the archive, at least one batch; 0: none.")  # fmt: skip
@click.option("--archive", type=PLACE, help="Where the archive is now, if it moved.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws another sample.")
@command
def verify(
    progress: Progress, root: Path, dataset: str | None, sample: float, archive: Path | None, seed: int
) -> dict[str, Any]:
    """Check everything that the newest manifests below ROOT refer to.

    Every file is there with its size and hash, its rows are as many as the plan says, no record is explained twice,
    shares and entropies are possible, segments cover, commit records fit; and a sample of the records, computed again
    from the archive, is what is published: to the last bit on the machine that computed it, else within tolerances.
    Nothing is changed. Garbage is told, and is no problem: `ecgscale gc` removes it.

    \b
    Example:
      ecgscale verify results
      ecgscale verify s3://bucket/results --sample 0.01 --archive /data/archive

    Exit codes: 0 all is right, 1 there are problems.
    """
    from ecgscale.nightly.verify.verify import verify_root

    verified = verify_root(root, dataset, sample=sample, archive=archive, seed=seed, progress=progress)
    for line in _lines(verified):
        click.echo(line)
    return {**verified.to_dict(), "exit_code": verified.exit_code}


def _lines(verified: Verified) -> Iterator[str]:
    for dataset in verified.datasets:
        yield from _dataset_lines(dataset)
    told = f"{counted(verified.problems, 'problem')}: docs/operations.md says what each means"
    yield told if verified.problems else "all is right"


def _dataset_lines(dataset: VerifiedDataset) -> Iterator[str]:
    from ecgscale.cli.tables import size

    if not dataset.manifest:
        yield f"dataset {dataset.dataset_id}: nothing was published yet"
    else:
        yield (
            f"dataset {dataset.dataset_id}, manifest {dataset.manifest}: {counted(dataset.files, 'file')}, "
            f"{counted(dataset.records, 'record')}, {counted(sum(dataset.counts.values()), 'problem')}"
        )
    again = dataset.recomputed
    if again.records:
        yield f"  {counted(again.records, 'record')} computed again, {again.exactly:,} of them the same to the last bit"
    yield from (f"  not computed again: {reason}" for reason in again.skipped)
    garbage = dataset.garbage
    if garbage.objects:
        named = ", ".join(garbage.first) + (" …" if garbage.objects > len(garbage.first) else "")
        objects = counted(garbage.objects, "object")
        yield f"  garbage: {objects} of {size(garbage.bytes)} that nothing refers to: {named}"
    for kind, count in dataset.counts.items():
        kept = [problem for problem in dataset.problems if problem.kind == kind]
        yield f"  {kind}: {count:,}" + (f", the first {len(kept)}:" if count > len(kept) else "")
        yield from (f"    {problem.where}: {problem.message}" for problem in kept)
