"""What is in an archive: one pass over metadata, one over signals, both in bounded memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.archive.reader import Archive, RawBatch, Shard
from ecgscale.archive.schema import CORE_COLUMNS, is_list, signal_of
from ecgscale.archive.shard import stated_digest
from ecgscale.archive.validate import check_batch, describe
from ecgscale.errors import ShardError
from ecgscale.progress import SILENT, Progress, Stage
from ecgscale.store.columns import widened

EXAMPLES = 3
_TOP_VALUES = 8
_MANY_WORDS = 10_000
_DESCRIBED = ("acquired_at", "site", "device", "age", "sex", "fold", "fiducials")


@dataclass
class _Column:
    """One column seen shard by shard: how often set, which words, and the range of numbers."""

    kind: pa.DataType
    kinds: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    present: int = 0
    words: Counter[str] = field(default_factory=Counter)
    numbers: list[np.ndarray] = field(default_factory=list)
    is_text: bool = False

    def add(self, column: pa.ChunkedArray, shard: str) -> None:
        self.kinds[str(column.type)].append(shard)
        kind = widened(self.kind, column.type, as_utc=True)
        if kind is None:
            return  # numbers and words have no common values
        self.kind = kind
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if is_list(column.type):
            self.present += pc.sum(pc.greater(pc.list_value_length(column), 0)).as_py() or 0
            column = pc.list_flatten(column)
        else:
            self.present += len(column) - column.null_count
        if pa.types.is_struct(column.type):
            # A code counts without its likelihood, an annotated wave without its place.
            names = [child.name for child in column.type]
            column = pc.struct_field(column, "wave" if "wave" in names else names[0])
        kind = column.type
        if pa.types.is_floating(kind) or pa.types.is_temporal(kind):
            self.numbers.append(pc.drop_null(column).to_numpy())
        elif not self.is_text:
            counted = pc.value_counts(pc.drop_null(column)).to_pylist()
            self.words.update({str(one["values"]): one["counts"] for one in counted})
            if len(self.words) > _MANY_WORDS:
                # Identifiers or free text: counting on would hold them all, and printing them would help nobody.
                self.is_text = True
                self.words.clear()

    def facts(self) -> dict[str, Any]:
        """JSON-able: type, how many records have a value, and either value counts or quartiles."""
        facts: dict[str, Any] = {"type": str(self.kind), "present": self.present}
        if len(self.kinds) > 1:
            facts["types"] = {kind: len(shards) for kind, shards in self.kinds.items()}
        if self.words:
            facts["distinct"] = len(self.words)
            facts["values"] = dict(_top(self.words))
        values = np.concatenate(self.numbers) if self.numbers else np.zeros(0)
        if len(values) and values.dtype.kind == "M":
            facts["range"] = [str(moment)[:19].replace("T", " ") for moment in (values.min(), values.max())]
        elif len(values):
            facts["quartiles"] = [float(q) for q in np.quantile(values, [0, 0.25, 0.5, 0.75, 1])]
        return facts


@dataclass
class _Signals:
    """What a pass over the signals counts."""

    lengths: Counter[tuple[int, float]] = field(default_factory=Counter)
    valid: Counter[int] = field(default_factory=Counter)
    status: Counter[str] = field(default_factory=Counter)
    flags: Counter[str] = field(default_factory=Counter)
    examples: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    peaks_mv: list[np.ndarray] = field(default_factory=list)

    def merge(self, other: _Signals) -> None:
        """Take in the counts of another shard."""
        for name in ("lengths", "valid", "status", "flags"):
            getattr(self, name).update(getattr(other, name))
        for reason, places in other.examples.items():
            self.examples[reason] = (self.examples[reason] + places)[:EXAMPLES]
        self.peaks_mv += other.peaks_mv

    def add(self, raw: RawBatch, seen: set[str]) -> None:
        status, flags = check_batch(raw, seen)
        self.lengths.update(zip(raw.n_samples.tolist(), raw.sampling_rate.tolist(), strict=True))
        self.valid.update((raw.valid_stop - raw.valid_start).tolist())
        self.status.update(status)
        for i, (state, marks) in enumerate(zip(status, flags, strict=True)):
            if state != "ok" and len(self.examples[state]) < EXAMPLES:
                self.examples[state].append(describe(raw, i, state))
            for mark in marks:
                self.flags[mark] += 1
                if len(self.examples[mark]) < EXAMPLES:
                    self.examples[mark].append(_example(raw, i, mark))
        self.peaks_mv.append(_peaks_mv(raw, status))


def inspect_archive(
    archive: Archive, quick: bool = False, progress: Progress = SILENT, full: bool = False
) -> dict[str, Any]:
    """Facts about an archive as a JSON-able dict; no patient id is among them.

    `quick` leaves the signals alone: then there are no lengths, amplitudes, or checks of records. `full` reads all
    columns and holds the rows against the content digests: `content` says how many shards have one. A shard that cannot
    be read, or is not what its digest says, is named under `unreadable` with the reason, and the rest goes on.
    """
    unreadable: dict[str, str] = {}
    signals = _Signals()
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("leads", "sampling_rate", "units_per_mv")}
    columns: dict[str, _Column] = {}
    read: list[str] = []
    identities = []
    content = {"held": 0, "without_digest": 0}
    with progress.stage("inspect", _records(archive), "records") as stage:
        for shard in archive.shards:
            try:
                with archive.opened(shard) as file:
                    schema, is_stated = file.schema_arrow, bool(stated_digest(shard, file.metadata))
                described = [name for name in schema.names if name in _DESCRIBED or name not in CORE_COLUMNS]
                identity = [name for name in ("record_id", "patient_id") if name in schema.names]
                rows = archive.shard_metadata(shard, [*identity, *counts, *described])
                if quick:
                    stage.advance(rows.num_rows)
                else:
                    signals.merge(_shard_signals(archive, shard, stage, full))
            except ShardError as error:
                unreadable[shard.key] = str(error)
                continue
            if full:
                content["held" if is_stated else "without_digest"] += 1
            stage.note(shard.key)
            identities.append(_identities(rows))
            read.append(shard.key)
            for name, counter in counts.items():
                counter.update(_counted(rows.column(name)))
            for name in described:
                columns.setdefault(name, _Column(schema.field(name).type)).add(rows.column(name), shard.key)
    people = pa.concat_tables(identities, promote_options="default") if identities else None
    waves = columns.get("fiducials")
    return {
        "archive": str(archive.path),
        "archive_id": archive.archive_id,
        "source": archive.info.get("source", {}),
        "records": people.num_rows if people else 0,
        "shards": len(archive.shards),
        "at_ingest": {name: archive.info.get(name) for name in ("records", "shards")},
        "bytes": sum(shard.size for shard in archive.shards),
        "signal": signal_of(archive.schema()),
        **_people(people),
        **{name: dict(_top(counter)) for name, counter in counts.items()},
        "columns": {name: column.facts() for name, column in columns.items() if name != "fiducials"},
        "labels": [name for name in columns if name not in CORE_COLUMNS],
        "differences": _differences(columns, read),
        "fiducials": {"records": waves.present if waves else 0, "waves": dict(_top(waves.words)) if waves else {}},
        **({} if quick else _signal_facts(signals)),
        "duplicates": _duplicates(people),
        "unreadable": unreadable,
        "others": list(archive.others),
        **({"content": content} if full else {}),
    }


def _records(archive: Archive) -> int | None:
    """How many records there are, as the ingest counted them; None where shards came or went since."""
    total = archive.info.get("records")
    return total if isinstance(total, int) and archive.info.get("shards") == len(archive.shards) else None


def _identities(rows: pa.Table) -> pa.Table:
    """Who each row is, as text, and where it stands."""
    names = [name for name in ("record_id", "patient_id") if name in rows.column_names]
    return pa.table(
        {**{name: rows[name].cast(pa.string()) for name in names}, "shard": rows["shard"], "row": rows["row"]}
    )


def _differences(columns: dict[str, _Column], read: list[str]) -> list[str]:
    """Columns that not every shard has, or not in one type, as sentences."""
    said = []
    for name, column in columns.items():
        there = {key for shards in column.kinds.values() for key in shards}
        absent = [key for key in read if key not in there]
        if absent:
            said.append(f"column {name} is not in {_some(absent)}: null there")
        if len(column.kinds) > 1:
            told = " and ".join(f"{kind} in {_some(shards)}" for kind, shards in column.kinds.items())
            said.append(f"column {name} is {told}")
    return said


def _some(shards: list[str]) -> str:
    return ", ".join(shards[:EXAMPLES]) + (f" and {len(shards) - EXAMPLES:,} more" if len(shards) > EXAMPLES else "")


def _shard_signals(archive: Archive, shard: Shard, stage: Stage, full: bool) -> _Signals:
    signals = _Signals()
    seen: set[str] = set()
    for raw in archive.batches(shard, columns=None if full else ()):
        signals.add(raw, seen)
        stage.advance(len(raw))
    return signals


def _example(raw: RawBatch, i: int, flag: str) -> str:
    """Where a flag is set; of an amplitude, what it is."""
    where = f"{raw.shard}, row {raw.first_row + i}, record {raw.record_ids[i]!r}"
    if not flag.startswith("implausible_amplitude"):
        return where
    signal, lead = raw.signal(i), flag.partition(":")[2]
    if lead:
        signal = signal[raw.leads[i].index(lead)]
    return f"{where}: peaks of {np.nanmax(np.abs(signal.astype(np.float64))) / raw.units_per_mv[i]:.4g} mV"


def _counted(column: pa.ChunkedArray) -> dict[str, int]:
    """How often each value stands in a column; a list of leads counts as one value."""
    if is_list(column.type):
        return dict(Counter(" ".join(lead or "unnamed" for lead in value or ()) for value in column.to_pylist()))
    counted = pc.value_counts(column).to_pylist()
    return {"none" if one["values"] is None else f"{one['values']:g}": one["counts"] for one in counted}


def _top(counter: Counter[str]) -> Iterable[tuple[str, int]]:
    """The commonest values, ties by name, so that two runs print the same."""
    return sorted(counter.items(), key=lambda item: (-item[1], item[0]))[:_TOP_VALUES]


def _people(people: pa.Table | None) -> dict[str, Any]:
    if people is None or "patient_id" not in people.column_names:
        return {"patients": None, "without_patient": people.num_rows if people else 0}
    patients = people.column("patient_id")
    return {"patients": pc.count_distinct(patients).as_py() or None, "without_patient": patients.null_count}


def _duplicates(people: pa.Table | None) -> dict[str, Any]:
    """Record ids that stand in more than one shard: how many, and where the first ones are."""
    if people is None:
        return {"across_shards": 0, "examples": []}
    grouped = people.group_by("record_id").aggregate([("shard", "count_distinct")])
    doubled = grouped.filter(pc.greater(grouped.column("shard_count_distinct"), 1)).column("record_id").drop_null()
    examples = []
    for record_id in doubled.slice(0, EXAMPLES).to_pylist():
        places = people.filter(pc.equal(people.column("record_id"), record_id)).slice(0, EXAMPLES).to_pylist()
        examples.append(f"record {record_id!r}: " + " and ".join(f"{p['shard']}, row {p['row']}" for p in places))
    return {"across_shards": len(doubled), "examples": examples}


def _peaks_mv(raw: RawBatch, status: list[str]) -> np.ndarray:
    """Largest absolute value of each usable record, in the millivolts that units_per_mv implies."""
    usable = np.flatnonzero([state == "ok" for state in status])
    if len(usable) == len(raw):
        starts = raw.offsets[:-1]
        high, low = (reduce.reduceat(raw.values, starts).astype(np.float64) for reduce in (np.maximum, np.minimum))
        peaks = np.maximum(high, -low)
    else:
        peaks = np.array([np.abs(raw.signal(int(i)).astype(np.float64)).max() for i in usable])
    return np.asarray(peaks / raw.units_per_mv[usable])


def _signal_facts(signals: _Signals) -> dict[str, Any]:
    peaks = np.concatenate(signals.peaks_mv) if signals.peaks_mv else np.zeros(0)
    common = sorted(signals.lengths.items(), key=lambda item: (-item[1], item[0]))
    return {
        "lengths": [
            {"samples": samples, "seconds": samples / rate if rate > 0 else None, "records": records}
            for (samples, rate), records in common[:_TOP_VALUES]
        ],
        "distinct_lengths": len(common),
        "valid_samples": {str(samples): records for samples, records in signals.valid.most_common(_TOP_VALUES)},
        "distinct_valid": len(signals.valid),
        "peak_mv": {f"{q}%": float(np.percentile(peaks, q)) for q in (1, 50, 99)} if len(peaks) else None,
        "status": dict(signals.status),
        "flags": dict(signals.flags.most_common()),
        "examples": dict(signals.examples),
    }
