"""A part of the real recordings in the layout of the whole, for tests that are about commands."""

from __future__ import annotations

import csv
from pathlib import Path

TABLE = "ptbxl_database.csv"


def few_recordings(real: Path, folder: Path, one_in: int = 4) -> Path:
    """`real` with one in so many recordings of PTB-XL; everything else is linked."""
    (folder / "ptbxl").mkdir(parents=True)
    for there in real.iterdir():
        if there.name != "ptbxl":
            (folder / there.name).symlink_to(there)
    for there in (real / "ptbxl").iterdir():
        if there.name != TABLE:
            (folder / "ptbxl" / there.name).symlink_to(there)
    with (real / "ptbxl" / TABLE).open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    with (folder / "ptbxl" / TABLE).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *rows[::one_in]])
    return folder
