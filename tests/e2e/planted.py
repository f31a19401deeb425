"""Sources with a planted name, patient and record, in every place that a source has for them."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ecgscale.archive.sources.files import key_of, place_of
from ecgscale.encoders.seen import hashed
from ecgscale.leads import CANONICAL_LEADS
from tests.worlds.formula.recordings import PTBXL_COLUMNS, STATEMENTS, write_wfdb

NAME = "Canary Featherstonehaugh"
SURNAME = "Featherstonehaugh"
PATIENT, RECORD = "70000001", "80000001"
"""The planted ones; others count up from here."""

_MOMENT = time.time() - 3600
_CODES = ("{'NORM': 100.0}", "{'IMI': 80.0}", "{'NORM': 50.0, 'ASMI': 100.0}")


def new_key(path: Path) -> bytes:
    """A key file as it should be; what is in it."""
    key = os.urandom(32)
    path.write_bytes(key)
    path.chmod(0o600)
    return key


def settle(folder: Path) -> None:
    """Let what is new below a folder have been there for a while; what was there before keeps its time."""
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_mtime > _MOMENT:
            os.utime(path, (_MOMENT, _MOMENT))


def plant_ptbxl(folder: Path, records: int, first: int = 0) -> Path:
    """Records in PTB-XL's layout at 100 Hz, two a patient, all of them called after the planted name."""
    folder.mkdir(parents=True, exist_ok=True)
    table = folder / "ptbxl_database.csv"
    rows = table.read_text() if table.exists() else PTBXL_COLUMNS + "\n"
    for i in range(first, first + records):
        record, patient = int(RECORD) + i, int(PATIENT) + i // 2
        stem = f"records100/{SURNAME}/{record}_lr"
        rows += (
            f'{record},{patient},{95.0 if i < 2 else 40.0 + i % 30},{i % 2},,0,"{SURNAME} cart" ,'
            f'2026-03-{1 + i % 28:02d} 09:17:34,"{NAME}, aged 95","{_CODES[i % 3]}",{1 + i % 10},{stem},{stem}\n'
        ).replace(f'"{SURNAME} cart" ', '"CS-12"')
        rng = np.random.default_rng(i)
        beat = np.sin(np.arange(300) / (4 + i % 3 * 3))[None] * rng.integers(200, 900, (12, 1))
        write_wfdb(
            folder / f"records100/{SURNAME}",
            f"{record}_lr",
            (beat + rng.normal(0, 30, (12, 300))).astype(np.int16),
            [lead.upper() for lead in CANONICAL_LEADS],
            fs=100,
            comments=[f"Name: {NAME}"],
        )
    table.write_text(rows)
    (folder / "scp_statements.csv").write_text(STATEMENTS)
    settle(folder)
    return folder


def plant_wfdb(folder: Path, records: int, first: int = 0) -> Path:
    """Records in the layout of MIMIC-IV-ECG, which tells patients by paths; one whose header is a name, one torn."""
    for i in range(first, first + records):
        record, patient = int(RECORD) + i, int(PATIENT) + i // 2
        where = folder / f"p7000/p{patient}/s{record}"
        rng = np.random.default_rng(i)
        leads = ["I", "II", SURNAME]
        comments = [f"Name: {NAME}", "Age: 95", f"Dx: 426783006,{SURNAME}", f"{SURNAME}: seen"]
        write_wfdb(where, str(record), rng.integers(-500, 500, (3, 300)).astype(np.int16), leads, comments=comments)
        if i == 1:
            (where / f"{record}.hea").write_text(f"{NAME}\n")
        if i == 2:
            (where / f"{record}.dat").unlink()
    settle(folder)
    return folder


def secrets(key: bytes, kind: str, records: int) -> list[str]:
    """Everything that may stand nowhere: names, ids, plain hashes of them, and the key in any of its forms."""
    ids = [str(int(RECORD) + i) for i in range(records)]
    patients = [str(int(PATIENT) + i // 2) for i in range(records)]
    plain = [hashed(kind, what, name) for what, names in (("record", ids), ("patient", patients)) for name in names]
    paths = [f"records100/{SURNAME}/{name}_lr" for name in ids]
    logged = [key_of(name) for name in ids] + [place_of(name) for name in (*ids, *paths)]
    keys = [key.hex(), base64.b64encode(key).decode(), hashlib.sha256(key).hexdigest(), key.decode("latin-1")]
    return [NAME, SURNAME, *ids, *patients, *plain, *logged, *keys]


def found_in(texts: Iterator[tuple[str, bytes]], sought: list[str]) -> list[str]:
    """`where: what` of every secret in these texts; what was decoded from them is looked at by the caller."""
    forms = [(secret, {secret.encode(), secret.encode("latin-1", "ignore")}) for secret in sought]
    return [
        f"{where}: {secret[:20]!r}"
        for where, text in texts
        for secret, both in forms
        if any(form and form in text for form in both)
    ]
