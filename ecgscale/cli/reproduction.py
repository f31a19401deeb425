"""What `jobs/reproduce.py` does with its options."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import click

from ecgscale.cli.options import placement_of
from ecgscale.config import RunConfig, RuntimeConfig
from ecgscale.errors import UsageError
from ecgscale.evaluate.reproduction import (
    Outcome,
    ReproductionOptions,
    facts_of,
    reproduce_code15,
    reproduce_ptbxl,
    table_lines,
    write_table,
)
from ecgscale.passes.workers import OpenPool
from ecgscale.progress import Progress


def run_reproduction(
    progress: Progress,
    train: dict[str, Any],
    *,
    ptbxl: Path | None,
    code15: Path | None,
    out: Path,
    protocols: tuple[str, ...],
    folds: tuple[int, ...],
    encoder: Path | None,
    fit_records: int,
    device: str,
    runtime: Literal["local", "ray"],
    workers: int | None,
    gpus_per_worker: float | None,
) -> dict[str, Any]:
    """Run what was asked for, print and write the tables; the facts for `--json`."""
    if ptbxl is None and code15 is None:
        raise UsageError("nothing to reproduce: give --ptbxl FOLDER or --code15 FOLDER")
    options = ReproductionOptions(
        encoder=encoder,
        train=train,
        runtime=RuntimeConfig(name=runtime, workers=workers or 1, gpus_per_worker=gpus_per_worker),
        device=device,
        fit_records=fit_records,
    )

    def place(config: RunConfig) -> tuple[OpenPool, str]:
        where = placement_of(config, progress)
        return where.pool, where.device

    facts: dict[str, Any] = {}
    if ptbxl is not None:
        outcomes = reproduce_ptbxl(ptbxl, out / "ptbxl", protocols, folds, options, place, progress)
        facts["ptbxl"] = _told(out / "ptbxl", outcomes, "PTB-XL superclasses: published against obtained")
    if code15 is not None:
        outcomes = reproduce_code15(code15, out / "code15", options, place, progress)
        facts["code15"] = _told(out / "code15", outcomes, "CODE-15 % age")
    return facts


def _told(out: Path, outcomes: list[Outcome], title: str) -> dict[str, Any]:
    click.echo("\n".join(table_lines(outcomes, title)))
    path = write_table(out, outcomes, title)
    click.echo(f"written: {path}")
    facts = {**facts_of(outcomes), "path": str(path)}
    path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return facts
