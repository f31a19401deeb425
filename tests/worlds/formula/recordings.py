"""Small recordings, archives and source folders for the tests of this folder and of the commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import wfdb

from ecgscale.archive import Archive, ArchiveWriter, RawBatch, archive_schema
from ecgscale.archive.reader import raw_batch
from ecgscale.leads import CANONICAL_LEADS


def wave(seed: int = 0, leads: int = 12, samples: int = 200) -> np.ndarray:
    """An int16 random walk (leads, samples); the limb leads of twelve obey Einthoven and Goldberger."""
    rng = np.random.default_rng(seed)
    return lawful(np.cumsum(rng.integers(-50, 51, (leads, samples)), axis=1)).astype(np.int16)


def lawful(signal: np.ndarray) -> np.ndarray:
    """The same with the limb leads that leads I and II give, if it has all twelve leads."""
    if len(signal) != 12:
        return signal
    one, two = signal[:2].astype(np.float64)
    limb = np.stack([one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2])
    return np.concatenate([limb, signal[6:]])


def record(record_id: str | None, /, **columns: Any) -> dict[str, Any]:
    """One good row of an int16 archive, except for what `columns` say."""
    seed = int(record_id) if record_id and record_id.isdigit() else 0
    good = {
        "record_id": record_id,
        "patient_id": f"p{record_id}",
        "signal": wave(seed),
        "leads": list(CANONICAL_LEADS),
        "sampling_rate": 500.0,
        "units_per_mv": 1000.0,
    }
    return good | columns


def write_archive(
    path: Path, rows: Sequence[dict[str, Any]], signal: Any = "int16", extra: Sequence[pa.Field] = (), **options: Any
) -> Archive:
    with ArchiveWriter(path, {"kind": "test"}, signal, extra, **options) as writer:
        for row in rows:
            writer.append(row)
    return Archive.open(path)


def batch_of(rows: Sequence[dict[str, Any]], signal: Any = "int16") -> RawBatch:
    """A batch as the reader would give it, with signals of any shape: `signal` may be flat here."""
    flat = [{**row, "signal": np.asarray(row["signal"]).reshape(-1).tolist()} for row in rows]
    for row, source in zip(flat, rows, strict=True):
        samples = np.asarray(source["signal"]).shape[-1]
        row.setdefault("valid_start", 0)
        row.setdefault("valid_stop", samples)
    return raw_batch("part-00000.parquet", 0, pa.Table.from_pylist(flat, archive_schema(signal)))


def all_records(archive: Archive) -> list[tuple[str | None, np.ndarray]]:
    """(record_id, signal) of every record, copied out of its batch."""
    found = []
    for shard in archive.shards:
        for raw in archive.batches(shard):
            found += [(raw.record_ids[i], raw.signal(i).copy()) for i in range(len(raw))]
    return found


def write_wfdb(
    folder: Path,
    name: str,
    digital: np.ndarray,
    leads: Sequence[str] = CANONICAL_LEADS,
    gain: float | Sequence[float] = 1000.0,
    baseline: int | Sequence[int] = 0,
    comments: Sequence[str] = (),
    fs: float = 500,
    fmt: str = "16",
    units: str | Sequence[str] = "mV",
) -> Path:
    """A WFDB record of (leads, samples) digital values; returns its path without suffix."""
    folder.mkdir(parents=True, exist_ok=True)
    n = len(leads)

    def each(value: Any) -> list[Any]:
        return [value] * n if isinstance(value, (int, float, str)) else list(value)

    wfdb.Record(
        record_name=name,
        n_sig=n,
        fs=fs,
        sig_len=digital.shape[1],
        d_signal=digital.T.astype(np.int64),
        fmt=each(fmt),
        adc_gain=[float(g) for g in each(gain)],
        baseline=each(baseline),
        units=each(units),
        sig_name=list(leads),
        file_name=each(f"{name}.dat"),
        adc_res=[16] * n,
        adc_zero=[0] * n,
        init_value=digital[:, 0].tolist(),
        checksum=[int(total) % 65536 for total in digital.sum(axis=1)],
        block_size=[0] * n,
        byte_offset=[None] * n,
        samps_per_frame=[1] * n,
        skew=[None] * n,
        comments=list(comments),
    ).wrsamp(write_dir=str(folder))
    return folder / name


PTBXL_COLUMNS = (
    "ecg_id,patient_id,age,sex,height,site,device,recording_date,report,scp_codes,strat_fold,filename_lr,filename_hr"
)
STATEMENTS = """,description,diagnostic,diagnostic_class
NORM,normal ECG,1.0,NORM
IMI,inferior myocardial infarction,1.0,MI
ASMI,anteroseptal myocardial infarction,1.0,MI
SR,sinus rhythm,,
"""


def write_ptbxl(folder: Path) -> Path:
    """Three records in PTB-XL's layout; the last one's files are missing."""
    rows = [
        '1,15709.0,56.0,1,,0.0,"CS-12   E ",1984-11-09 09:17:34,"text, in\nlines","{one}",3',
        '2,13243.0,300.0,0,,,AT-6,1984-11-14 12:55:37,other,"{two}",2',
        '3,,,,,1.0,AT-6,1984-11-15 12:49:10,third,"{three}",10',
    ]
    codes = {
        "{one}": "{'NORM': 100.0, 'SR': 0.0}",
        "{two}": "{'IMI': 0.0, 'NORM': 50.0, 'ASMI': 80.0}",
        "{three}": "{'SR': 0.0}",
    }
    text = PTBXL_COLUMNS + "\n"
    for i, row in enumerate(rows, start=1):
        low, high = f"records100/00000/{i:05d}_lr", f"records500/00000/{i:05d}_hr"
        text += f"{row},{low},{high}\n"
        if i < 3:
            leads = [lead.upper() for lead in CANONICAL_LEADS]
            write_wfdb(folder / "records100/00000", f"{i:05d}_lr", wave(i, samples=100), leads, fs=100)
            write_wfdb(folder / "records500/00000", f"{i:05d}_hr", wave(10 * i, samples=500), leads)
    for mark, code in codes.items():
        text = text.replace(mark, code)
    (folder / "ptbxl_database.csv").write_text(text)
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    return folder


EXAMS = """exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file
11,43,True,40.5,True,False,False,False,False,False,48705.0,False,1.5,False,exams_part0.hdf5
12,49,False,,,,,,,,715186.0,,,,exams_part0.hdf5
13,81,True,80.0,False,False,False,False,False,False,81113.0,True,0.5,True,exams_part2.hdf5
"""


def write_code15(folder: Path) -> Path:
    """Two parts in CODE-15 %'s layout: padded, full and unlisted exams, an exam of zeros, and the zero rows."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)

    def trace(start: int, stop: int) -> np.ndarray:
        signal = np.zeros((4096, 12), dtype=np.float32)
        signal[start:stop] = rng.normal(size=(stop - start, 12)) + 0.1
        return signal

    parts = {
        "exams_part10.hdf5": ([99], [trace(0, 4096)]),
        "exams_part2.hdf5": ([13, 0], [trace(0, 0), trace(0, 0)]),
        "exams_part0.hdf5": ([11, 12, 0], [trace(581, 3515), trace(0, 4096), trace(0, 0)]),
    }
    for name, (exams, traces) in parts.items():
        with h5py.File(folder / name, "w") as file:
            file["exam_id"] = np.array(exams, dtype=np.int64)
            file["tracings"] = np.stack(traces)
    (folder / "exams.csv").write_text(EXAMS)
    return folder
