"""docs/benchmarks.md, written from the kept results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.bars import bar_of
from ecgscale.tables import Table

INTRODUCTION = """\
# Benchmarks

<!-- Written by `python -m benchmarks`; change benchmarks/tables.py, not this file. -->

What explaining costs, beside what a user would pick instead. Ours and theirs run in turn in one process, on the same
arrays, with the same number of threads, warmed up, without imports and compilation; each ratio is the median of the
ratios of at least five such pairs, and every pair's answers are compared before they are timed. Results with all
details are in `benchmarks/results/`.
"""

REPEAT = """\
## Repeat it

```text
make bench                                  # everything, about a quarter of an hour on two cores
.venv/bin/python -m benchmarks --quick      # everything, fewer records
.venv/bin/python -m benchmarks.kernels      # one; its last line is one JSON object
```

Let nothing else run meanwhile: on two cores any neighbour shows. Each result tells how many cores other processes used
while it was measured (`cores_used_by_others`), and a benchmark says so when that was more than a tenth of one.
"""


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; sections of benchmarks without a result are left out."""
    parts = [INTRODUCTION, _ratios(results)]
    parts += [section(results[name]["details"]) for name, section in SECTIONS.items() if name in results]
    return "\n".join([*parts, REPEAT])


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    shown = ([f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows)
    return Table.of(header, shown).markdown()


def _ratios(results: Mapping[str, Mapping[str, Any]]) -> str:
    verdict = {True: "met", False: "**missed**", None: ""}
    rows = []
    for name in SECTIONS:
        for ratio, value in results.get(name, {}).get("ratios", {}).items():
            bar = bar_of(ratio)
            rows.append((f"`{ratio}`", value, bar.summary(), verdict[bar.met(value)], bar.meaning))
    machines = {name: _machine(result) for name, result in results.items()}
    if len(set(machines.values())) == 1:
        where = next(iter(machines.values())) + "\n"
    else:
        where = "".join(f"- {name}: {machine}\n" for name, machine in machines.items())
    return f"{where}\n{table(('ratio', 'measured', 'bar', '', 'what it is'), rows)}"


def _machine(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if name != "ecgscale")
    gpu = f", {machine['gpu']}" if machine["gpu"] else ""
    others = result["details"].get("cores_used_by_others")
    quick = "; quick sizes" if result["quick"] else ""
    quick += f"; others used {others:g} cores meanwhile" if others else ""
    return (
        f"Measured on {machine['date']}: {machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_gib']:g} GiB{gpu}, {machine['system']}, Python {machine['python']}, {versions}{quick}."
    )


def _kernels(details: Mapping[str, Any]) -> str:
    peers = [
        (name, facts["theirs_ms"], facts["ours_ms"], facts["ratio"],
         f"{facts['ratio_least']:g}–{facts['ratio_most']:g}", f"{facts['difference']:.0e}")
        for name, facts in details["peers"].items()
    ]  # fmt: skip
    sweep = [
        (row["n_clusters"], row["threads"], row["ours_ms"], row["dense_ms"], row["ratio"], row["dense_rows_ms"],
         row["ratio_rows"])
        for row in details["sweep"]
    ]  # fmt: skip
    around, work = details["around"], details["multiply_adds"]
    return f"""\
## One exact K-means iteration

{details["records"]} records of the CODE shapes ({details["timesteps"]:,} timesteps of 772 channels),
K = {details["n_clusters"]}, {details["threads"]} threads; milliseconds a record. All give the same new centroids
(`difference` is relative).

{table(("peer", "theirs, ms", "ours, ms", "ratio", "range", "difference"), peers)}
`dense` writes the formulas down on features as interpolation leaves them (records × channels × timesteps);
`dense_rows` is the fastest dense form found, on features transposed beforehand. A record's features are 12.65 MB in
either, so dense is bound by reading memory twice an iteration; ours reads 0.30 MB.

Beside an iteration, once a record: laying activations out {around["pack_ms"]:g} ms, and for `explain` labels with
entropy {around["labels_and_entropy_ms"]:g} ms. Multiply-adds a record and iteration: dense {work["dense"] / 1e6:.1f}
million; ours {work["project"] / 1e6:.2f} million to project, {work["search"] / 1e6:.2f} million to search, and at most
as many as to project for the sums.

{table(("K", "threads", "ours, ms", "dense, ms", "ratio", "dense rows, ms", "ratio"), sweep)}"""


def _end_to_end(details: Mapping[str, Any]) -> str:
    rates, shares = details["records_per_s"], details["shares"]
    ranges, agreement = details["ratio_ranges"], details["agreement"]
    rows = [
        ("`explain`, archive to published Parquet", rates["explain"], ""),
        ("the network alone, recordings decoded in memory", rates["bare"], "{:g}–{:g}".format(*ranges["bare"])),
        ("a script of the usual libraries", rates["script"], "{:g}–{:g}".format(*ranges["script"])),
    ]
    parts = [
        (name, shares[f"{name}_ms"], f"{shares[f'{name}_ms'] / shares['forward_ms']:.2%}")
        for name in ("forward", "assign", "summary", "segments")
    ]
    return f"""\
## Explaining an archive

{details["records"]} simulated recordings of 12 × 4096 samples at the network's rate, K = {details["n_clusters"]},
{details["threads"]} threads, batches of 32. `explain` is timed whole, from opening the archive and loading the network
to the published manifest. The script (`benchmarks/student_script.py`) ran on {details["script_records"]} of them.

{table(("", "records a second", "ours over it, range"), rows)}
Both say the same of each recording: labels equal on {agreement["labels_equal"]:.4%} of the timesteps (the rest are ties
to float32), mean entropies within {agreement["mean_entropy_difference"]:.0e}, predictions within
{agreement["prediction_difference"]:.0e}; {agreement["segments_per_record"]:.0f} segments a record.

Milliseconds a record within one run (`assign` holds {shares["pack_ms"]:g} ms of laying activations out):

{table(("", "ms", "of the forward pass"), parts)}"""


def _memory(details: Mapping[str, Any]) -> str:
    each = details["bytes_per_record_by_layout"]
    kept, archives = details["fit_peak_mb_by_records_kept"], details["fit_peak_mb_by_archive_size"]
    explained = details["explain_peak_mb_by_archive_size"]
    return f"""\
## Memory

Peaks of anonymous and shared memory of whole processes, in MB. A cached record takes {each["float32"] / 1e6:.3f} MB by
its layout ({each["float16"] / 1e6:.3f} in float16; its dense features would take {each["dense"] / 1e6:.2f}); libraries,
network and reading take {details["fit_fixed_mb"]:g} MB whatever the size.

{table(("records kept by `fit`", *kept), [("peak, MB", *kept.values())])}
{
        table(
            ("records in the archive", *archives),
            [
                (f"`fit` on {details['kept_for_archive_sizes']} of them, MB", *archives.values()),
                ("`explain`, MB", *explained.values()),
            ],
        )
    }"""


def _growth(details: Mapping[str, Any]) -> str:
    names = {"records": "records", "n_clusters": "clusters", "timesteps": "timesteps", "blocks": "blocks"}
    curves = "\n".join(
        table((names[name], *(f"{p['at']:g}" for p in curve)), [("ms a record", *(p["ms_per_record"] for p in curve))])
        for name, curve in details["curves"].items()
    )
    fits, ks = details["fits"], ", ".join(map(str, details["fit_clusters"]))
    return f"""\
## How time grows

One iteration, milliseconds a record, {details["threads"]} threads; K = 20 and the CODE shapes but for what is varied.
Longer recordings pass through the same network; blocks are added from the deepest up to one that is not downsampled.

{curves}
Fitting K = {ks} at once took {fits["together_s"]:g} s, K = {max(details["fit_clusters"])} alone {fits["alone_s"]:g} s
({details["fit_records"]} recordings, reading and network included: {fits["together"]["forward"]:g} s and
{fits["alone"]["forward"]:g} s of it).
"""


def _scaling(details: Mapping[str, Any]) -> str:
    rates, dispatch, reduction = details["records_per_s"], details["dispatch"], details["reduction"]
    names = {"local": "processes", "ray": "Ray actors"}
    rows = [(names[kind], rates[f"{kind}_1"], rates[f"{kind}_2"]) for kind in names]
    first, last = dispatch["shards_per_s_first_tenth"], dispatch["shards_per_s_last_tenth"]
    half, end = dispatch["driver_mb_by_tenths"][4], dispatch["driver_mb_by_tenths"][-1]
    return f"""\
## Pools of workers

Records a second of `explain` on {details["records"]} simulated recordings, workers started and warm, a thread each:

{table(("", "one", "two"), rows)}
The driver against {details["actors"]} Ray actors that do no work: {dispatch["shards_per_s"]:g} shards a second
({first:g} in the first tenth of {dispatch["shards"]:,}, {last:g} in the last), its memory {half:g} MB after half of
them and {end:g} MB at the end. A step of a fit, centroids out and sums back, for {details["standing_for"]:,} partial
sums: {reduction["sums_ms"]:g} ms when each actor adds up its own, as workers do, and {reduction["partials_ms"]:g} ms
when the driver gets them all.
"""


SECTIONS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "kernels": _kernels,
    "end_to_end": _end_to_end,
    "memory": _memory,
    "growth": _growth,
    "scaling": _scaling,
}
"""Every benchmark, in the page's order, and what is told of its details."""
