"""Sources with more than one shard of records, and with everything in them that an ingest has to tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import wfdb

from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.recordings import PTBXL_COLUMNS, STATEMENTS, wave

SAMPLES = 40


def write_quickly(
    folder: Path, name: str, digital: np.ndarray, gain: str = "1000.0(0)/mV", comments: tuple[str, ...] = ()
) -> None:
    """A WFDB record of (12, samples) int16 values, without the `wfdb` package, which takes milliseconds."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{name} {len(digital)} 500 {digital.shape[1]}"]
    lines += [f"{name}.dat 16 {gain} 16 0 0 0 0 {lead}" for lead in CANONICAL_LEADS[: len(digital)]]
    lines += [f"#{comment}" for comment in comments]
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n")
    np.ascontiguousarray(digital.T, dtype="<i2").tofile(folder / f"{name}.dat")


def write_large_ptbxl(folder: Path, records: int = 340) -> Path:
    """PTB-XL's layout: two records a patient; the first and two others cannot be read, some samples are missing.

    An id is there twice, far apart, and `height` is empty at first, so that its type shows in the whole table alone.
    """
    rows = [PTBXL_COLUMNS]
    for i in range(1, records + 1):
        low, high = f"records100/{i // 100:02d}/{i:05d}_lr", f"records500/{i // 100:02d}/{i:05d}_hr"
        name = 7 if i == records - 3 else i
        height = 150.5 + i if i > records // 2 else ""
        day = f"19{84 + i % 10}-11-{1 + i % 28:02d} 09:17:34"
        codes = "{'NORM': 100.0}" if i % 3 else "{'IMI': 35.0, 'SR': 0.0}"
        rows.append(
            f'{name},{1000 + i // 2}.0,{30 + i % 65},{i % 2},{height},0.0,AT-6,{day},text {i},"{codes}",{1 + i % 10},'
            f"{low},{high}"
        )
        digital = wave(i, samples=SAMPLES)
        if i % 50 == 0:
            digital[3, 5:9] = -(2**15)
        if i not in (1, 200):
            write_quickly(folder / Path(high).parent, Path(high).name, digital)
    if records > 130:
        file = folder / "records500/01/00130_hr.dat"
        file.write_bytes(file.read_bytes()[:-6])
    (folder / "ptbxl_database.csv").write_text("\n".join(rows) + "\n")
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    return folder


def write_large_wfdb(folder: Path, records: int = 200) -> Path:
    """Folders of WFDB records: names that are there twice, an odd signal file, waves, and headers that cannot be read.

    Only one of the last records has codes, and only one needs float32, so no stretch of them tells the schema.
    """
    for i in range(records):
        where, extra = folder / f"p{i % 3}", {}
        if i == records - 2:
            extra = {"comments": ("Age: 61", "Sex: F", "Dx: 426783006,39732003")}
        elif i % 5 == 0:
            extra = {"comments": (f"Age: {20 + i % 60}", "Rhythm: sinus")}
        if i == records - 1:
            extra = {"gain": "333.3(7)/mV"}
        write_quickly(where, f"{i // 2}", wave(i, samples=SAMPLES), **extra)
    (folder / "p0/3.hea").write_text("nothing that a header says\n")
    (folder / "p1/2.dat").unlink()
    # Its signals lie in a file that is called otherwise.
    header = folder / "p2/4.hea"
    header.write_text(header.read_text().replace("4.dat", "raw_of_four.bin"))
    (folder / "p2/4.dat").rename(folder / "p2/raw_of_four.bin")
    annotate(folder / "p1/5")
    return folder


def annotate(stem: Path) -> None:
    """A P wave in lead II, in an annotation file named after it."""
    wfdb.wrann(stem.name, "ii", np.array([3, 5, 8]), ["(", "p", ")"], write_dir=str(stem.parent))


def write_large_code15(folder: Path, samples: int = SAMPLES, parts: tuple[int, ...] = (150, 5, 131, 0)) -> Path:
    """Parts 0, 2, 10 … of so many exams, each with the zero row at its end; one exam is not in the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[str] = []
    exam = 10
    for number, exams in zip((0, 2, 10, 11), parts, strict=True):
        ids = list(range(exam, exam + exams))
        exam += exams
        signals: Any = np.random.default_rng(number).normal(size=(exams + 1, samples, 12)).astype(np.float32)
        signals[-1] = 0
        with h5py.File(folder / f"exams_part{number}.hdf5", "w") as file:
            file["exam_id"], file["tracings"] = np.array([*ids, 0]), signals
        rows += [f"{i},{20 + i % 70},True,{40 + i / 8},False,,True,,,True,{i // 2},False,{i}" for i in ids if i != 100]
    head = "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,normal_ecg,trace"
    (folder / "exams.csv").write_text("\n".join([head, *rows]) + "\n")
    return folder
