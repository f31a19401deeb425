"""All benchmarks, each in a process of its own: `python -m benchmarks [--quick] [NAME ...]`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.bars import bar_of
from benchmarks.machine import machine_facts
from benchmarks.report import PAGE, REPOSITORY, RESULTS, say, write_results
from benchmarks.tables import SECTIONS


def main() -> None:
    """Run, write results and the page, print every ratio beside its bar. Exit 1 when a bar is not met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--quick", action="store_true", help="each in under four minutes")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(SECTIONS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}")
    names = arguments.names or list(SECTIONS)
    results = {}
    for name in names:
        results[name] = run(name, arguments.quick)
        # At once, so that a later one that fails takes nothing with it.
        write_results({name: results[name]}, machine_facts(), arguments.quick)
    ratios = {ratio: value for result in results.values() for ratio, value in result["ratios"].items()}
    missed = [ratio for ratio, value in ratios.items() if bar_of(ratio).met(value) is False]
    for ratio, value in ratios.items():
        print(f"{ratio:38} {value:>10g}   {bar_of(ratio).told()}{'   missed' if ratio in missed else ''}")
    print(f"written: {PAGE.relative_to(REPOSITORY)}, {RESULTS.relative_to(REPOSITORY)}/")
    print(json.dumps({"benchmark": "all", "ratios": ratios, "details": {"missed": missed}}))
    sys.exit(1 if missed else 0)


def run(name: str, quick: bool) -> dict[str, Any]:
    """One benchmark in a fresh process; its last line, parsed."""
    say(f"{name} …")
    command = [sys.executable, "-m", f"benchmarks.{name}", *(["--quick"] if quick else [])]
    output = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True).stdout
    result: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
