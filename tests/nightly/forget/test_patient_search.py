"""Where ids count and where they do not, in texts, JSON and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.archive.sources.files import key_of
from ecgscale.encoders.seen import hashed
from ecgscale.io.objects import LocalObjects
from ecgscale.nightly.forget.search import Traces, holds_traces, search
from ecgscale.progress import SILENT
from ecgscale.store.commit import encode_hashes, hash_record_ids

SHORT = Traces("12", frozenset({"5", "6"}), "ptbxl")
LONG = Traces("p-10000032", frozenset({"files/s40689238", "s40689239"}), "wfdb")


@pytest.mark.parametrize(
    ("traces", "text", "there"),
    [
        (SHORT, "5 records of 12", False),
        (SHORT, "shard part-00005.parquet, row 6", False),
        (SHORT, "row 3, record '5': no samples", True),
        (SHORT, "record_id 55", False),
        (SHORT, 'patient_id: "12"', True),
        (SHORT, "2 refused: 5: its gains need float32; 7: so do its", True),
        (LONG, "p-10000032", True),
        (LONG, "of p-10000032.", True),
        (LONG, "of p-100000321", False),
        (LONG, "s40689239_lr.dat", True),
        (LONG, "cannot read files/s40689238.hea", True),
        (LONG, "s40689238", False),
        (LONG, hashed("wfdb", "record", "s40689239"), True),
        (LONG, f"fit\t{hashed('wfdb', 'record', 'x')}\t{hashed('wfdb', 'patient', 'p-10000032')}", True),
        (LONG, key_of("s40689239"), True),
        (LONG, key_of("another"), False),
    ],
)
def test_ids_in_texts(traces: Traces, text: str, there: bool) -> None:
    assert traces.is_in(text) is there


def test_ids_in_json() -> None:
    assert SHORT.in_json({"top": [{"record_id": "5"}]})
    assert SHORT.in_json({"records": ["7", "6"]})
    assert not SHORT.in_json({"clusters": {"5": 0.2}, "records": 12, "fold": "5"})
    assert SHORT.in_json({"output": {"record_ids": encode_hashes(hash_record_ids(["5", "9"]))}})
    assert not SHORT.in_json({"output": {"record_ids": encode_hashes(hash_record_ids(["9"]))}})
    assert LONG.in_json({key_of("s40689239"): ["a", "b", "c"]})


def test_ids_are_taken_from_json() -> None:
    record = {"error": "record 5: odd; record 7: fine", "top": [{"record_id": "6", "n": 6}], "names": {"5": "P waves"}}
    assert SHORT.redacted(record) == {
        "error": "record (forgotten): odd; record 7: fine",
        "top": [{"record_id": "(forgotten)", "n": 6}],
        "names": {"5": "P waves"},
    }
    assert LONG.redacted({"sets": {key_of("s40689239"): [], "kept": []}}) == {"sets": {"kept": []}}


def test_rows_of_a_patient() -> None:
    table = pa.table({"record_id": ["5", "5", "9", None, "6"], "patient_id": ["12", "13", "12", "12", None]})
    assert SHORT.rows(table).tolist() == [True, False, True, True, True]
    alone = Traces(None, frozenset({"5"}), "ptbxl")
    assert alone.rows(table).tolist() == [True, True, False, False, False]
    assert alone.rows(table.drop_columns("patient_id")).tolist() == [True, True, False, False, False]


def parquet(path: Path, table: pa.Table) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def test_tables_are_decoded_at_any_depth(tmp_path: Path) -> None:
    plain = pa.table({"site": ["5", "6"], "age": [5, 6], "record_id": ["7", "8"]})
    parquet(tmp_path / "a.parquet", plain)
    parquet(tmp_path / "b.parquet", plain.set_column(2, "record_id", pa.array(["7", "5"])))
    pairs = pa.array(
        [[{"other": "6", "d": 0.1}], []], pa.list_(pa.struct([("other", pa.string()), ("d", pa.float32())]))
    )
    parquet(tmp_path / "c.parquet", plain.append_column("pairs", pairs))
    parquet(tmp_path / "d.parquet", plain.append_column("note", pa.array(["like record 5", None]).dictionary_encode()))
    parquet(tmp_path / "e.parquet", plain.replace_schema_metadata({"of": "patient 12"}))
    parquet(tmp_path / "f.parquet", plain.set_column(2, "record_id", pa.array(["s", "t"])).slice(0, 0))
    store = LocalObjects(tmp_path)
    there = {key: holds_traces(store, key, SHORT) for key in store.list_prefix("")}
    assert there == {f"{name}.parquet": name in "bcde" for name in "abcdef"}


def test_everything_below_a_place_is_looked_into(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<td>p-10000032</td>")
    (tmp_path / "weights.safetensors").write_bytes(b"\0\1p-10000032\0")
    (tmp_path / "other.bin").write_bytes(b"\0\1p-100000321\0")
    (tmp_path / "broken.json").write_text("{ p-10000032")
    (tmp_path / "fine.json").write_text(json.dumps({"n": 1}))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    (tmp_path / "_tmp-1-x").write_bytes(b"p-10000032")
    (tmp_path / "s40689239").mkdir()
    (tmp_path / "s40689239" / "empty").touch()
    store = LocalObjects(tmp_path)
    with SILENT.stage("search", None, "objects") as stage:
        found = search(store, LONG, stage, lambda key: key.startswith("report"))
    assert found.objects == 7
    hits = {hit.key: hit.unreadable for hit in found.hits}
    assert hits.pop("broken.parquet").startswith("ArrowInvalid")
    assert hits == dict.fromkeys(("_tmp-1-x", "broken.json", "s40689239/empty", "weights.safetensors"), "")
