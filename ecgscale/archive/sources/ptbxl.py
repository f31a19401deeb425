"""PTB-XL (Wagner et al. 2020, doi 10.13026/kfzx-aw45) in its native layout as an archive.

`superclasses` are the diagnostic classes (CD, HYP, MI, NORM, STTC) of all SCP codes listed for a record, whatever
their likelihood: a likelihood of 0 means "unknown" in PTB-XL, and the data set's own example aggregates the same way.
The likelihoods stand in `scp_codes` for whoever wants a threshold. Ages above 89 are 300 in PTB-XL, and null here.
Recording times have no zone and are taken as UTC. Report texts and names come along only when asked for.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ecgscale.archive.schema import SignalType, archive_schema
from ecgscale.archive.sources.source import (
    DEFAULTS,
    Ingest,
    IngestOptions,
    IngestResult,
    Portion,
    QuotesSource,
    carried_columns,
    column_values,
    empty_signal,
    folder_name,
    read_csv,
    require_columns,
    signal_of,
    source_folder,
    utc,
    whole_number_texts,
)
from ecgscale.archive.sources.wfdb_header import UnreadableRecord, WfdbSignal, read_header, read_signal
from ecgscale.errors import ArchiveError
from ecgscale.io.places import place
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.store.provenance import utc_now

RATES = (500, 100)

DATABASE = "ptbxl_database.csv"
STATEMENTS = "scp_statements.csv"
_OLDEST_AGE = 89
_SEXES = {0: "male", 1: "female"}
_LABELS = (
    pa.field("superclasses", pa.list_(pa.string())),
    pa.field("scp_codes", pa.list_(pa.struct([("code", pa.string()), ("likelihood", pa.float32())]))),
)
NEEDED = ("ecg_id", "patient_id", "age", "sex", "scp_codes", "strat_fold", "filename_lr", "filename_hr")


def ingest_ptbxl(
    src: str | Path, archive_path: str | Path, rate: int = 500, options: IngestOptions = DEFAULTS
) -> IngestResult:
    """Write an archive from PTB-XL at `rate` Hz (500 or 100), one record a row of `ptbxl_database.csv`, in its order.

    Digital values go over as they are (int16, 1000 per mV). A listed record whose files are missing or damaged keeps a
    row with an empty signal. Raises `ArchiveError` if the layout is not PTB-XL's, no record of that rate is there, or
    a column to carry does not exist.
    """
    if rate not in RATES:
        raise ArchiveError(f"PTB-XL has recordings at {' and '.join(map(str, RATES))} Hz, not {rate}")
    target, listed_at = place(archive_path), utc_now()
    folder = source_folder(src, target, options, f"{DATABASE}, {STATEMENTS} and records{rate}/")
    table = read_database(folder)
    # Types come from the whole table, so that they are the same every night.
    extra = [*_LABELS, *carried_columns(table, options, folder / DATABASE)]
    if options.portion is not None:
        table = _portion_of(table, options.portion)
    stems = [folder / name for name in recordings(table, rate)]
    signal = sample_type(folder, stems, rate) if options.schema is None else signal_of(options.schema)
    ingest = Ingest(
        archive_path=target,
        source={
            "kind": "ptbxl",
            "folder": folder_name(folder),
            "listed_at": listed_at,
            "rate": rate,
            "carry": list(options.carry),
        },
        signal=signal,
        extra=extra,
        options=options,
    )
    return ingest.write(_rows(ingest, table, stems, rate, superclass_of_code(folder / STATEMENTS)), table.num_rows)


def file_column(rate: int) -> str:
    """The column of the database that names the recordings of that rate."""
    return "filename_hr" if rate == 500 else "filename_lr"


def read_database(folder: Path) -> pa.Table:
    """The table of all records; `ArchiveError` if it is not PTB-XL's, or lists none."""
    table = read_csv(folder / DATABASE)
    require_columns(table, NEEDED, folder / DATABASE)
    if table.num_rows == 0:
        raise ArchiveError(f"{folder / DATABASE} lists no records")
    return table


def recordings(table: pa.Table, rate: int) -> list[str]:
    """Paths of the recordings of all rows, without suffix."""
    return [str(name) for name in table.column(file_column(rate)).to_pylist()]


def ptbxl_schema(folder: Path, table: pa.Table, signal: SignalType, options: IngestOptions) -> pa.Schema:
    """The schema of a new archive of all rows; `ArchiveError` for a column to carry that is not there."""
    return archive_schema(signal, [*_LABELS, *carried_columns(table, options, folder / DATABASE)])


def _portion_of(table: pa.Table, portion: Portion) -> pa.Table:
    if portion.rows is not None:
        first, stop = portion.rows
        return table.slice(first, stop - first)
    return table.filter(pa.array([name in portion.sets for name in whole_number_texts(table, "ecg_id")]))


def sample_type(folder: Path, stems: Iterable[Path], rate: int) -> SignalType:
    """The type that the first readable recording fits; `ArchiveError` if there is none."""
    looked_at = []
    for stem in stems:
        looked_at.append(stem)
        try:
            return "int16" if read_header(stem).fits_int16() else "float32"
        except UnreadableRecord:
            # Told when its row is written.
            continue
    other = 100 if rate == 500 else 500
    raise ArchiveError(
        f"{folder}: none of {len(looked_at)} listed recordings at {rate} Hz is there, such as {looked_at[0]}.hea; "
        f"download records{rate}/ or use --rate {other}"
    )


def superclass_of_code(path: Path) -> dict[str, str]:
    """SCP code to diagnostic superclass, from the rows of `scp_statements.csv` with `diagnostic` 1."""
    table = read_csv(path)
    require_columns(table, ("diagnostic", "diagnostic_class"), path)
    table = table.filter(pc.equal(table.column("diagnostic").cast(pa.float64()), 1.0))
    pairs = zip(table.column(0).to_pylist(), table.column("diagnostic_class").to_pylist(), strict=True)
    return {code: superclass for code, superclass in pairs if superclass}


def _rows(
    ingest: Ingest, table: pa.Table, stems: list[Path], rate: int, superclasses: dict[str, str]
) -> Iterator[dict[str, Any]]:
    labels = [field.name for field in _LABELS]
    columns: dict[str, list[Any]] = {
        "patient_id": whole_number_texts(table, "patient_id"),
        "acquired_at": [utc(moment) for moment in column_values(table, "recording_date", pa.timestamp("us"))],
        "site": whole_number_texts(table, "site"),
        "device": [device and device.strip() for device in column_values(table, "device", pa.string())],
        "age": [_age(age) for age in column_values(table, "age", pa.float64())],
        "sex": [_SEXES.get(sex) for sex in column_values(table, "sex", pa.int64())],
        "fold": column_values(table, "strat_fold", pa.int16()),
        **{
            field.name: column_values(table, field.name, field.type)
            for field in ingest.extra
            if field.name not in labels
        },
    }
    texts = table.column("scp_codes").to_pylist()
    record_ids = [str(record_id) for record_id in whole_number_texts(table, "ecg_id")]
    for i, (record_id, stem) in enumerate(zip(record_ids, stems, strict=True)):
        row: dict[str, Any] = {"record_id": record_id, **{name: values[i] for name, values in columns.items()}}
        codes = scp_codes(texts[i], record_id)
        row["scp_codes"] = [{"code": code, "likelihood": likelihood} for code, likelihood in codes.items()]
        row["superclasses"] = sorted({superclasses[code] for code in codes if code in superclasses})
        yield row | _signal(ingest, stem, record_id, rate)


def scp_codes(text: str | None, record_id: str) -> dict[str, float]:
    """SCP codes and likelihoods of one cell, such as "{'NORM': 100.0, 'SR': 0.0}"."""
    try:
        codes = ast.literal_eval(text or "{}")
        return {str(code): float(likelihood) for code, likelihood in codes.items()}
    except (ValueError, SyntaxError, AttributeError, TypeError) as error:
        expected = "expected a dictionary of code and likelihood"
        raise QuotesSource(
            f"{DATABASE}, ecg_id {record_id}: scp_codes is {text!r}, {expected}",
            f"{DATABASE}: scp_codes of a record cannot be read, {expected}",
        ) from error


def _signal(ingest: Ingest, stem: Path, record_id: str, rate: int) -> dict[str, Any]:
    try:
        header = read_header(stem)
        if ingest.signal == "int16" and not header.fits_int16():
            raise UnreadableRecord("its gain or format differs from the first record's")
        read = read_signal(header, ingest.signal)
        rate_found = header.sampling_rate
    except UnreadableRecord as error:
        ingest.problems.add(record_id, f"{error}; kept with an empty signal")
        read, rate_found = WfdbSignal(empty_signal(ingest.signal, 12), CANONICAL_LEADS, 1000.0), float(rate)
    return {
        "signal": read.signal,
        "leads": list(read.leads),
        "sampling_rate": rate_found,
        "units_per_mv": read.units_per_mv,
    }


def _age(age: float | None) -> float | None:
    return age if age is not None and 0 <= age <= _OLDEST_AGE else None
