"""`ecgscale ingest` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ecgscale.archive import Archive
from ecgscale.cli import main
from ecgscale.io.places import upload
from tests.worlds.formula.recordings import wave, write_code15, write_ptbxl, write_wfdb


def run(*args: str | Path) -> Result:
    return CliRunner().invoke(main, [str(arg) for arg in args])


@pytest.mark.parametrize(
    ("source", "write", "records", "dropped", "problems", "signal"),
    [("ptbxl", write_ptbxl, 3, 0, 1, "int16"), ("code15", write_code15, 4, 2, 1, "float32")],
)
def test_sources(
    tmp_path: Path, source: str, write: object, records: int, dropped: int, problems: int, signal: str
) -> None:
    assert callable(write)
    result = run("ingest", source, write(tmp_path / "src"), tmp_path / "a", "--shard-records", 2, "--json")
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout.splitlines()[-1])
    archive = Archive.open(tmp_path / "a")
    assert facts == {
        "archive": str(tmp_path / "a"),
        "archive_id": archive.archive_id,
        "records": records,
        "shards": 2,
        "dropped": dropped,
        "problems": problems,
        "signal": signal,
    }
    assert f"{problems} problem, also in" in result.stdout
    assert f"next: ecgscale inspect {tmp_path / 'a'}" in result.stdout


def test_wfdb_with_its_options(tmp_path: Path) -> None:
    gains = [float(span) for span in wave(1).max(axis=1).astype(int) - wave(1).min(axis=1)]
    write_wfdb(tmp_path / "src", "1", wave(1), gain=gains, comments=["Rhythm: sinus"])
    result = run("ingest", "wfdb", tmp_path / "src", tmp_path / "a")
    assert result.exit_code == 0, result.output
    assert "note: in 1 records every lead spans exactly 1 mV" in result.stdout
    again = ("ingest", "wfdb", tmp_path / "src", tmp_path / "a", "--units-per-mv", 1000, "--carry", "Rhythm")
    refused = run(*map(str, again))
    assert refused.exit_code == 2
    assert "already holds an archive" in refused.stderr
    result = run(*map(str, again), "--overwrite")
    assert result.exit_code == 0, result.output
    archive = Archive.open(tmp_path / "a")
    assert archive.info["signal"] == "int16"
    assert archive.metadata(["Rhythm"]).column("Rhythm").to_pylist() == ["sinus"]


def test_patients_are_not_printed(tmp_path: Path) -> None:
    result = run("ingest", "ptbxl", write_ptbxl(tmp_path / "src"), tmp_path / "a", "--json")
    assert "15709" not in result.output


def test_a_wrong_source_is_a_usage_error_with_json(tmp_path: Path) -> None:
    result = run("ingest", "code15", tmp_path, tmp_path / "a", "--json")
    assert result.exit_code == 2
    assert json.loads(result.stdout.splitlines()[-1])["exit_code"] == 2
    assert "exams_part" in result.stderr
    assert run("ingest", "ptbxl", tmp_path, tmp_path / "a", "--rate", "250").exit_code == 2
    assert run("ingest", "ptbxl", tmp_path, tmp_path / "a", "--shard-records", "0").exit_code == 2


@pytest.mark.parametrize("source", ["ptbxl", "code15", "wfdb"])
def test_help_teaches_with_an_example(source: str) -> None:
    text = run("ingest", source, "--help").stdout
    assert f"ecgscale ingest {source} " in text
    assert "--carry" in text


WRITERS = {"ptbxl": write_ptbxl, "code15": write_code15, "wfdb": lambda folder: write_two_records(folder)}


def write_two_records(folder: Path) -> Path:
    for name in ("a", "b"):
        write_wfdb(folder / "Tag 1", name, wave(2, 3), ["I", "II", "V1"])
    return folder


@pytest.mark.parametrize("kind", WRITERS)
def test_from_and_to_an_object_store(tmp_path: Path, s3_root: str, kind: str) -> None:
    """Every form of source and target gives the same rows; `src` as it is typed, with a slash at its end."""
    source = WRITERS[kind](tmp_path / "Ärzte Ordner")
    upload(source, f"{s3_root}/Ärzte Ordner")
    targets = {
        "disk to disk": (source, tmp_path / "here"),
        "bucket to disk": (f"{s3_root}/Ärzte Ordner/", tmp_path / "there"),
        "disk to bucket": (f"file://{tmp_path}/%C3%84rzte%20Ordner", f"{s3_root}/neues Archiv"),
        "bucket to bucket": (f"{s3_root}/Ärzte Ordner", f"{s3_root}/archive"),
    }
    digests = {}
    for form, (src, archive) in targets.items():
        result = run("ingest", kind, src, archive, "--shard-records", 2, "--json")
        assert result.exit_code == 0, (form, result.output, result.exception)
        opened = Archive.open(str(archive))
        digests[form] = [(shard.key, opened.footer(shard).content_digest) for shard in opened.shards]
        assert len(opened.shards) == json.loads(result.stdout.splitlines()[-1])["shards"] > 0
    assert all(found == digests["disk to disk"] for found in digests.values())
