"""A planted name, patient, record and key: after everything that ecgscale does with them they stand nowhere.

And a patient who is forgotten is nowhere afterwards, while everybody else is where they were.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ecgscale.archive.reader import Archive
from ecgscale.archive.sources.pseudonyms import Pseudonyms
from ecgscale.cli import main
from ecgscale.store import open_explanations
from ecgscale.store.commit import decode_hashes, hash_record_ids, read_commit
from ecgscale.store.dataset import dataset_store
from ecgscale.store.root import dataset_ids
from tests.e2e.planted import PATIENT, RECORD, found_in, new_key, plant_ptbxl, plant_wfdb, secrets, settle
from tests.worlds.commands.forgetting import objects_below

RECORDS, LATER = 60, 6

CONFIG = """
root = "results"
batch = 8
device = "cpu"
[archive]
path = "archive"
source = "{source}"
src = "src"
rate = 100
shard_records = 20
pseudonymise = "keys/ecg.key"
[encoder]
path = "encoder"
[train]
target = "superclasses"
epochs = 1
train_folds = [1, 2, 3, 4, 5, 6]
validation_folds = [7, 8]
rate = 100.0
length = 256
blocks = [[8, 256], [12, 64], [16, 16]]
[fit]
clusters = 4
max_epochs = 2
[surrogate]
target = "superclasses"
[nightly]
settle_minutes = 15
"""


class Place:
    """A folder with a source, a key and a configuration; `said` is all that commands ever printed there."""

    def __init__(self, folder: Path, source: str) -> None:
        self.folder, self.source, self.said = folder, source, ""
        (folder / "keys").mkdir()
        self.key = new_key(folder / "keys" / "ecg.key")
        self.keyfile = str(folder / "keys" / "ecg.key")
        self.config = folder / "job.toml"
        self.config.write_text(CONFIG.format(source=source))

    @property
    def root(self) -> str:
        return str(self.folder / "results")

    @property
    def archive(self) -> str:
        return str(self.folder / "archive")

    def run(self, *words: str, code: int = 0) -> dict[str, Any]:
        result = CliRunner().invoke(main, [*words, "--json"])
        self.said += f"{result.output}\n{result.stderr}\n{result.exception!r}\n"
        assert result.exit_code == code, result.output
        return dict(json.loads(result.stdout.splitlines()[-1]))

    def texts(self) -> Iterator[tuple[str, bytes]]:
        """Everything that was made here, as it lies there and as tables decode it."""
        yield "what was printed", self.said.encode()
        for part in ("archive", "results", "encoder", "report.html", "ecg.png", "cache"):
            path = self.folder / part
            if path.is_file():
                yield part, path.read_bytes()
            elif path.is_dir():
                for name, data in objects_below(path):
                    yield name, name.replace(str(self.folder), "").encode()
                    yield name, data
                    if data[:4] == b"PAR1":
                        table = pq.read_table(pa.BufferReader(data))
                        yield name, repr(table.schema.metadata).encode()
                        texts = [column for column in table.column_names if column != "signal"]
                        yield name, repr(table.select(texts).to_pylist()).encode("latin-1", "replace")

    def found(self, sought: list[str]) -> list[str]:
        return found_in(self.texts(), sought)


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def ptbxl(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A source that was ingested, learnt, clustered, explained, scored and shown, and grew overnight."""
    place = Place(tmp_path_factory.mktemp("ptbxl"), "ptbxl")
    plant_ptbxl(place.folder / "src", RECORDS)
    place.run("run", str(place.config))
    plant_ptbxl(place.folder / "src", LATER, RECORDS)
    night = place.run("nightly", str(place.config))
    assert night["arrivals"]["records"] == LATER
    assert night["records"] == RECORDS + LATER
    for words in (("inspect", place.archive), ("status", place.root), ("quarantine", place.root)):
        place.run(*words)
    record = open_explanations(place.root).to_table(columns=["record_id"])["record_id"][0].as_py()
    place.run("plot", place.root, record, "-o", str(place.folder / "ecg.png"))
    place.run("report", place.root, "-o", str(place.folder / "report.html"))
    return place


def test_nothing_that_was_planted_is_anywhere(ptbxl: Place) -> None:
    assert ptbxl.found(secrets(ptbxl.key, "ptbxl", RECORDS + LATER)) == []
    theirs = set(hash_record_ids(str(int(RECORD) + i) for i in range(RECORDS + LATER)).tolist())
    for dataset in dataset_ids(ptbxl.root):
        store = dataset_store(ptbxl.root, dataset)
        for name in store.list_prefix("_commits"):
            commit = read_commit(store, name)
            assert commit is not None
            assert not theirs & set(decode_hashes(commit.output.record_ids).tolist())


def test_the_canary_would_be_seen(ptbxl: Place) -> None:
    """The search finds what is there: the pseudonyms, in tables, lists and what was printed."""
    pseudonym = Pseudonyms(ptbxl.key).record(RECORD)
    places = {line.partition(": ")[0] for line in ptbxl.found([pseudonym])}
    assert any(where.endswith("part-00000.parquet") for where in places)
    assert "report.html" in places
    assert re.search(r"surrogate-superclasses\.\w+\.parquet", " ".join(places))


def test_what_the_archive_says_of_its_pseudonyms(ptbxl: Place) -> None:
    archive = Archive.open(ptbxl.archive)
    source = archive.info["source"]
    assert source["pseudonymised"] == {
        "key_id": Pseudonyms(ptbxl.key).key_id,
        "ages_pooled_from": 90.0,
        "dates": "kept",
    }
    assert "folder" not in source
    assert archive.label_columns() == ["superclasses", "scp_codes"]
    table = archive.metadata(["record_id", "patient_id"]).to_pylist()
    assert table[0]["record_id"] == Pseudonyms(ptbxl.key).record(RECORD)
    assert {row["patient_id"] for row in table[:2]} == {Pseudonyms(ptbxl.key).patient(PATIENT)}


def test_forgotten_by_the_id_of_the_source(ptbxl: Place) -> None:
    pseudonyms = Pseudonyms(ptbxl.key)
    hidden = [pseudonyms.patient(PATIENT), pseudonyms.record(RECORD), pseudonyms.record(str(int(RECORD) + 1))]
    before = {row["record_id"]: row for row in open_explanations(ptbxl.root).to_table().to_pylist()}
    assert ptbxl.found(hidden) != []
    words = ("forget", ptbxl.root, PATIENT, "--archive", ptbxl.archive, "--key", ptbxl.keyfile)
    done = ptbxl.run(*words, "--encoder", str(ptbxl.folder / "encoder"))
    assert (done["patients"], done["records"], done["left"]) == (1, 2, 0)
    # A page that somebody made is theirs, and so is what they have on their screen.
    (ptbxl.folder / "report.html").unlink()
    ptbxl.said = ""
    assert ptbxl.found([*hidden, PATIENT]) == []
    after = {row["record_id"]: row for row in open_explanations(ptbxl.root).to_table().to_pylist()}
    assert after == {name: row for name, row in before.items() if name not in hidden}
    assert ptbxl.run("verify", ptbxl.root)["ok"]
    # The source still has them, and brings another record.
    source = ptbxl.folder / "src"
    table = source / "ptbxl_database.csv"
    plant_ptbxl(source, 1, RECORDS + LATER)
    table.write_text(table.read_text().replace(f"{int(PATIENT) + (RECORDS + LATER) // 2},", f"{PATIENT},"))
    settle(source)
    night = ptbxl.run("nightly", str(ptbxl.config))
    assert (night["arrivals"]["records"], night["arrivals"]["forgotten"], night["computed"]) == (0, 3, 0)
    assert "3 records of patients who were forgotten" in ptbxl.said
    new = pseudonyms.record(str(int(RECORD) + RECORDS + LATER))
    assert ptbxl.found([*hidden, new, PATIENT]) == []
    assert ptbxl.run("nightly", str(ptbxl.config))["arrivals"]["forgotten"] == 3


def test_headers_paths_and_broken_files_tell_nothing(tmp_path: Path) -> None:
    place = Place(tmp_path, "wfdb")
    plant_wfdb(tmp_path / "src", 6)
    place.config.write_text(place.config.read_text().replace("rate = 100\n", ""))
    sought = secrets(place.key, "wfdb", 10)
    words = ("ingest", "wfdb", str(tmp_path / "src"), place.archive, "--pseudonymise", place.keyfile)
    made = place.run(*words)
    assert (made["records"], made["problems"]) == (6, 2)
    info = Archive.open(place.archive).info["source"]
    assert {line.partition(": ")[2] for line in info["first_problems"]} == {"kept with an empty signal"}
    archive = Archive.open(place.archive)
    rows = archive.metadata(["age", "snomed", "leads"]).to_pylist()
    assert [row["age"] for row in rows] == [90.0, None, *[90.0] * 4]
    assert rows[0]["snomed"] == ["426783006"]
    assert rows[0]["leads"] == ["I", "II", "channel 3"]
    # More come, one of them with a header that is nothing but a name, and one that lacks its file.
    plant_wfdb(tmp_path / "src", 4, 6)
    late = int(RECORD) + 8
    (tmp_path / f"src/p7000/p{int(PATIENT) + 4}/s{late}/{late}.dat").unlink()
    from ecgscale.archive.intake.arrivals import ingest_arrivals
    from ecgscale.config import load_config

    config = load_config(place.config).archive
    arrived = ingest_arrivals(config, 15.0, 1000.0)
    place.said += repr(arrived.to_dict())
    assert (arrived.records, arrived.incomplete) == (3, 1)
    assert "one of its files is not there" in " ".join(arrived.notes)
    assert ingest_arrivals(config, 15.0, 1000.0).records == 0
    # Errors quote nothing of the source.
    refused = place.run(*words, "--overwrite", "--carry", "Nmae", code=2)["error"]
    assert "no header has such a comment" in refused
    refused = place.run(*words, "--overwrite", "--carry", "comments", code=2)["error"]
    assert "no ids, file names or whole comments" in refused
    assert place.found(sought) == []
