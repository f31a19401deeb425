"""`ecgscale inspect` and `ecgscale verify`: what an archive holds; whether what is published is whole and right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgscale.cli.command import command, say
from ecgscale.cli.options import PLACE, archive_option
from ecgscale.errors import ExitCode, UsageError
from ecgscale.progress import Progress
from ecgscale.words import counted, named, size

if TYPE_CHECKING:
    from ecgscale.nightly.verify.verify import Verified, VerifiedDataset


@click.command()
@click.argument("archive", type=PLACE)
@click.option("--quick", is_flag=True, help="Read metadata only: no lengths, amplitudes, or checks of the signals.")
@click.option("--full", is_flag=True,
              help="Read every column, and hold the rows of each shard against its content digest.")  # fmt: skip
@command
def inspect(progress: Progress, archive: Path, quick: bool, full: bool) -> dict[str, Any]:
    """Say what is in ARCHIVE: records, patients, leads, rates, lengths, label columns, problems.

    Every record is checked as `explain` will check it; problems are counted by status, the first of each named by
    shard, row and record_id. Patient ids are counted and never printed.

    \b
    Example:
      ecgscale inspect ptbxl.archive
      ecgscale inspect ptbxl.archive --quick --json | tail -1 | jq .columns
      ecgscale inspect ptbxl.archive --full

    Exit codes: 0 also with problem records in it, 3 if a shard could not be read, or is not what its digest says (the
    others were looked at).
    """
    from ecgscale.archive.inspect import inspect_archive
    from ecgscale.archive.reader import Archive

    if quick and full:
        raise UsageError("--quick reads metadata only, --full everything: give one of them")
    facts = inspect_archive(Archive.open(archive), quick, progress, full)
    say(*inspect_summary(facts))
    return {**facts, "exit_code": ExitCode.SHARDS_SET_ASIDE} if facts["unreadable"] else facts


def inspect_summary(facts: dict[str, Any]) -> Iterator[str]:
    """What is in an archive, column by column, and its problems."""
    source = facts["source"]
    yield f"{facts['archive']}  archive {facts['archive_id']}, from {source.get('kind', 'an unnamed source')}"
    patients = "unknown patients" if facts["patients"] is None else counted(facts["patients"], "patient")
    unknown = facts["without_patient"]
    yield (
        f"records        {facts['records']:,} of {patients}"
        + (f" ({unknown:,} without a patient_id)" if unknown and facts["patients"] else "")
        + f" in {counted(facts['shards'], 'shard')}, {facts['bytes'] / 2**20:,.1f} MiB"
    )
    yield from _since_ingest(facts)
    yield f"leads          {_counts(facts['leads'])}"
    yield f"sampling_rate  {_counts(facts['sampling_rate'])} Hz"
    yield f"signal         {facts['signal']}, units_per_mv {_counts(facts['units_per_mv'])}"
    if "lengths" in facts:
        yield from _length_lines(facts)
    fiducials = facts["fiducials"]
    waves = f" ({_counts(fiducials['waves'])})" if fiducials["waves"] else ""
    yield f"fiducials      in {counted(fiducials['records'], 'record')}{waves}"
    yield ""
    width = max(map(len, facts["columns"]), default=0)
    for name, column in facts["columns"].items():
        yield f"{name:<{width}}  {_column(column, facts['records'])}{'' if name in facts['labels'] else '  [core]'}"
    yield ""
    yield from _problem_lines(facts)


def _since_ingest(facts: dict[str, Any]) -> Iterator[str]:
    """What came or went since an ingest or a night counted last: shards that people copied in, or removed."""
    records, shards = facts["at_ingest"]["records"], facts["at_ingest"]["shards"]
    if records is None or shards is None or facts["unreadable"]:
        return
    changes = [
        ("+" if now > then else "−") + counted(abs(now - then), noun)
        for now, then, noun in ((facts["records"], records, "record"), (facts["shards"], shards, "shard"))
        if now != then
    ]
    if changes:
        then = f"{counted(records, 'record')} in {counted(shards, 'shard')}"
        yield f"at ingest      {then}; since then {', '.join(changes)}"


def _counts(values: dict[str, int]) -> str:
    """ "500" alone, or "400 (120), 500 (3)" when there are several."""
    if len(values) == 1:
        return next(iter(values))
    return ", ".join(f"{value} ({count:,})" for value, count in values.items())


def _length_lines(facts: dict[str, Any]) -> Iterator[str]:
    lengths = facts["lengths"]
    written = ", ".join(
        f"{one['samples']}" + (f" = {one['seconds']:g} s" if one["seconds"] else "") + f" ({one['records']:,})"
        for one in lengths
    )
    more = facts["distinct_lengths"] - len(lengths)
    yield f"samples        {written}" + (f" and {more} more lengths" if more > 0 else "")
    valid = facts["valid_samples"]
    rest = facts["distinct_valid"] - len(valid)
    yield f"not padding    {_counts(valid)} samples" + (f" and {rest} more lengths" if rest > 0 else "")
    if facts["peak_mv"]:
        peaks = ", ".join(f"{name} {value:.3g}" for name, value in facts["peak_mv"].items())
        yield f"peak           {peaks} mV over records, as units_per_mv says"


def _column(column: dict[str, Any], records: int) -> str:
    text = f"{column['type']}, set in {column['present']:,} of {records:,}"
    if "values" in column:
        more = column["distinct"] - len(column["values"])
        values = ", ".join(f"{value} {count:,}" for value, count in column["values"].items())
        text += f": {values}" + (f" and {more:,} more" if more > 0 else "")
    elif "range" in column:
        text += f": {column['range'][0]} to {column['range'][1]}"
    elif "quartiles" in column:
        text += f": {', '.join(f'{q:g}' for q in column['quartiles'])} (minimum, quartiles, maximum)"
    return text


def _content_lines(content: dict[str, int] | None) -> Iterator[str]:
    if content is not None:
        yield f"content        {counted(content['held'], 'shard')} with the very rows that the digest is of"
        if content["without_digest"]:
            yield f"               {counted(content['without_digest'], 'shard')} without a digest, read to the end"


def _problem_lines(facts: dict[str, Any]) -> Iterator[str]:
    from ecgscale.archive.validate import STATUS_MEANING

    for shard, reason in facts["unreadable"].items():
        yield f"unreadable shard {shard}: {reason}"
    if facts["others"]:
        yield f"not read       {counted(len(facts['others']), 'file')} that is no shard: {named(facts['others'])}"
    yield from facts["differences"]
    yield from _content_lines(facts.get("content"))
    duplicates = facts["duplicates"]
    if duplicates["across_shards"]:
        ids = counted(duplicates["across_shards"], "record id")
        yield f"{ids} in several shards; publishing will refuse them"
        yield from (f"    {example}" for example in duplicates["examples"])
    if "status" not in facts:
        yield "records not checked (--quick)"
        return
    bad = {status: count for status, count in facts["status"].items() if status != "ok"}
    yield f"usable         {facts['status'].get('ok', 0):,} of {facts['records']:,} records"
    for status, count in bad.items():
        yield f"  {status}: {count:,} ({STATUS_MEANING[status]}); kept, with this status and no facts"
        yield from (f"    {example}" for example in facts["examples"].get(status, []))
    for flag, count in facts["flags"].items():
        where = " by networks that do not take the lead" if flag.startswith("non_finite_lead") else ""
        yield f"  {flag}: {count:,} (usable{where})"
        yield from (f"    {example}" for example in facts["examples"].get(flag, []))
    yield from (f"note: {note}" for note in facts["source"].get("notes", []))
    problems = facts["source"].get("first_problems", [])
    if problems:
        yield f"told at ingest: {facts['source'].get('problems', len(problems)):,}"
        yield from (f"    {problem}" for problem in problems[:3])


@click.command()
@click.argument("root", type=PLACE)
@click.option("--dataset", metavar="ID", help="Look at this dataset alone. Default: all below ROOT.")
@click.option("--sample", type=click.FloatRange(0, 1), default=0.001, show_default=True,
              help="Share of the records to compute again from the archive, at least one batch; 0: none.")  # fmt: skip
@archive_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Draws another sample.")
@command
def verify(
    progress: Progress, root: Path, dataset: str | None, sample: float, archive: Path | None, seed: int
) -> dict[str, Any]:
    """Check everything that the newest manifests below ROOT refer to.

    Every file is there with its size and hash, its rows are as many as the plan says, no record is explained twice,
    shares and entropies are possible, segments cover, commit records fit; the archive's shards hold the rows that were
    explained (all of them are read, unless --sample is 0); and a sample of the records, computed again from there, is
    what is published: to the last bit on the machine that computed it, else within tolerances. Nothing is changed.
    Garbage is told, and is no problem: `ecgscale gc` removes it.

    \b
    Example:
      ecgscale verify results
      ecgscale verify s3://bucket/results --sample 0.01 --archive /data/archive

    Exit codes: 0 all is right, 1 there are problems.
    """
    from ecgscale.nightly.verify.verify import verify_root

    verified = verify_root(root, dataset, sample=sample, archive=archive, seed=seed, progress=progress)
    say(*verify_summary(verified))
    return {**verified.to_dict(), "exit_code": verified.exit_code}


def verify_summary(verified: Verified) -> Iterator[str]:
    """What is wrong, dataset by dataset."""
    for dataset in verified.datasets:
        yield from _dataset_lines(dataset)
    if verified.problems:
        yield f"{counted(verified.problems, 'problem')}: docs/operations.md says what each means"
    else:
        yield "all is right"


def _dataset_lines(dataset: VerifiedDataset) -> Iterator[str]:
    if not dataset.manifest:
        yield f"dataset {dataset.dataset_id}: nothing was published yet"
    else:
        yield (
            f"dataset {dataset.dataset_id}, manifest {dataset.manifest}: {counted(dataset.files, 'file')}, "
            f"{counted(dataset.records, 'record')}, {counted(sum(dataset.counts.values()), 'problem')}"
        )
    if dataset.held:
        yield f"  {counted(dataset.held, 'shard')} of the archive with the very rows that were explained"
    again = dataset.recomputed
    if again.records:
        yield f"  {counted(again.records, 'record')} computed again, {again.exactly:,} of them the same to the last bit"
    yield from (f"  not computed again: {reason}" for reason in again.skipped)
    if dataset.set_aside:
        aside = counted(len(dataset.set_aside), "shard")
        yield f"  set aside: {aside} of the archive, {named(dataset.set_aside)} (why: `ecgscale status`)"
    yield from (f"  note: {note}" for note in dataset.notes)
    garbage = dataset.garbage
    if garbage.objects:
        first = ", ".join(garbage.first) + (" …" if garbage.objects > len(garbage.first) else "")
        objects = counted(garbage.objects, "object")
        yield f"  garbage: {objects} of {size(garbage.bytes)} that nothing refers to: {first}"
    for kind, count in dataset.counts.items():
        kept = [problem for problem in dataset.problems if problem.kind == kind]
        yield f"  {kind}: {count:,}" + (f", the first {len(kept)}:" if count > len(kept) else "")
        yield from (f"    {problem.where}: {problem.message}" for problem in kept)
