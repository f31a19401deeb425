"""How a benchmark ends: one JSON line; and how all of them become benchmarks/results/*.json and docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import Neighbours
from benchmarks.tables import SECTIONS, page

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
PAGE = REPOSITORY / "docs" / "benchmarks.md"

NOISY = 0.1
"""Cores used by others from which on a result is told to be noisy."""


@dataclass(frozen=True)
class Result:
    """What a benchmark found: named ratios, and whatever they came from."""

    benchmark: str
    ratios: dict[str, float]
    details: dict[str, Any]

    def line(self) -> str:
        """The JSON object that ends a benchmark's output."""
        return json.dumps(asdict(self))


def say(text: str) -> None:
    """Progress goes to stderr; stdout is the result's."""
    print(text, file=sys.stderr, flush=True)


def main(run: Callable[[bool, Callable[[str], None]], Result], about: str | None) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="all ratios in under four minutes, on fewer records")
    arguments = parser.parse_args()
    neighbours = Neighbours()
    result = run(arguments.quick, say)
    others = neighbours.share()
    if others is not None and others > NOISY:
        say(f"note: other processes kept {others:g} cores busy meanwhile; these timings are noisy")
    print(Result(result.benchmark, result.ratios, {**result.details, "cores_used_by_others": others}).line())


def write_results(results: Mapping[str, Mapping[str, Any]], machine: Mapping[str, Any], quick: bool) -> None:
    """Keep each result with the machine it was measured on, and write the page from all that are kept."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    for name, result in results.items():
        text = json.dumps({**result, "quick": quick, "machine": machine}, indent=1, ensure_ascii=False)
        (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    files = {name: RESULTS / f"{name}.json" for name in SECTIONS}
    kept = {name: json.loads(file.read_text(encoding="utf-8")) for name, file in files.items() if file.is_file()}
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(kept), encoding="utf-8")
