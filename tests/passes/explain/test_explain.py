"""The explain pass: every record out once, whatever happens in between."""

from __future__ import annotations

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ecgscale.store.manifest as manifest_module
from ecgscale.archive import ArchiveWriter
from ecgscale.cli.explain import explain_summary
from ecgscale.errors import ArchiveError, ExitCode
from ecgscale.store import find_dataset, open_explanations
from ecgscale.store.dataset import serve
from ecgscale.store.provenance import run_facts
from tests.explain.golden import LEADS, good_row, signal, write_archive, write_rows
from tests.worlds.commands.explaining import Watching, explain, rewrite, rows, state


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "archive")  # 10 records in shards of 4, 4, 2


def test_every_record_out_once_in_order(archive: Path, model: Path, tmp_path: Path) -> None:
    watch = Watching()
    result = explain(archive, model, tmp_path / "out", watch)
    table = open_explanations(tmp_path / "out").to_table()
    assert table["record_id"].to_pylist() == [f"r{number}" for number in range(10)]
    assert table["source_shard"].to_pylist() == [f"part-0000{n // 4}.parquet" for n in range(10)]
    assert set(table["status"].to_pylist()) == {"ok"}
    assert (result.records, result.shards, result.computed, result.manifest) == (10, 3, 3, 1)
    assert (watch.total, watch.unit, watch.advanced) == (10, "records", 10)
    assert result.exit_code == ExitCode.DONE
    assert (table["age"].to_pylist()[3], table["sex"].to_pylist()[3], table["fold"].to_pylist()[3]) == (43, "female", 3)


def test_facts_hold_together(archive: Path, model: Path, tmp_path: Path) -> None:
    explain(archive, model, tmp_path / "out", entropy="timestep")
    for row in rows(tmp_path / "out"):
        segments, valid = row["segments"], row["valid_stop"] - row["valid_start"]
        assert (row["sampling_rate"], row["length"], valid) == (100, 256, 220)
        assert row["start_s"] == -row["valid_start"] / 100
        assert [segments[0]["start"], segments[-1]["stop"]] == [row["valid_start"], row["valid_stop"]]
        assert all(a["stop"] == b["start"] for a, b in pairwise(segments))
        time_in = np.zeros(4)
        for segment in segments:
            time_in[segment["cluster"]] += segment["stop"] - segment["start"]
        np.testing.assert_allclose(row["proportions"], time_in / valid, atol=1e-7)
        assert abs(sum(row["proportions"]) - 1) < 1e-6
        assert abs(sum(row["soft_proportions"]) - 1) < 1e-6
        entropy = np.array(row["entropy"])
        assert len(entropy) == valid
        assert entropy.min() >= 0
        assert entropy.max() <= 1
        assert abs(entropy.mean() - row["mean_entropy"]) < 1e-6
        first = entropy[: segments[0]["stop"] - segments[0]["start"]]
        assert abs(first.mean() - segments[0]["entropy"]) < 1e-6


def test_unusable_records_keep_their_rows(model: Path, tmp_path: Path) -> None:
    flat = np.zeros((3, 220), np.int16)
    archive = write_archive(
        tmp_path / "archive",
        r1={"signal": flat},
        r2={"sampling_rate": 0.0},
        r3={"record_id": "r0"},
        r4={"leads": ["I", "II", "V2"]},
        r5={"signal": good_row(5)["signal"][:, :0]},
        r6={"record_id": None},
        r7={"valid_start": 90, "valid_stop": 94, "sampling_rate": 500.0},
        r8={"signal": np.vstack([good_row(8)["signal"][:2], flat[:1]])},
    )
    result = explain(archive, model, tmp_path / "out")
    found = rows(tmp_path / "out")
    assert [row["status"] for row in found] == [
        "ok",
        "flat_signal",
        "bad_sampling_rate",
        "duplicate_record_id",
        "missing_leads",
        "empty_signal",
        "missing_record_id",
        "too_short",
        "ok",
        "ok",
    ]
    assert found[8]["flags"] == ["flat_lead:V1"]
    for row in found:
        facts = ("prediction", "proportions", "soft_proportions", "mean_entropy", "distortion", "segments", "start_s")
        assert all((row[fact] is None) == (row["status"] != "ok") for fact in facts)
        assert row["age"] is not None
    assert result.quarantined == dict.fromkeys(sorted({row["status"] for row in found} - {"ok"}), 1)
    assert result.records == 10


def test_what_a_network_needs_and_a_recording_has_is_kept_with_the_row(model: Path, tmp_path: Path) -> None:
    archive = write_archive(tmp_path / "archive", records=2, r1={"leads": ["ECG", "ECG", "V2"]})
    explain(archive, model, tmp_path / "out")
    row = rows(tmp_path / "out")[1]
    needs = [f"needs:{lead}" for lead in ("I", "II", "V1")]
    assert (row["status"], row["flags"]) == ("missing_leads", [*needs, "has:ECG", "has:ECG", "has:V2"])


def test_a_lead_that_the_network_does_not_take_decides_nothing(model: Path, tmp_path: Path) -> None:
    plain = [good_row(i) | {"signal": good_row(i)["signal"].astype(np.float32)} for i in range(3)]
    more = [row | {"signal": np.vstack([row["signal"], row["signal"][2:]]), "leads": [*LEADS, "V5"]} for row in plain]
    more[0]["signal"][3, 7] = np.nan
    more[1]["signal"][3] = 0
    for name, given in (("plain", plain), ("more", more)):
        with ArchiveWriter(tmp_path / name, {"name": name}, "float32", archive_id="same") as writer:
            for row in given:
                writer.append(row)
        explain(tmp_path / name, model, tmp_path / f"{name}-out")
    assert rows(tmp_path / "more-out") == rows(tmp_path / "plain-out")
    assert {row["status"] for row in rows(tmp_path / "plain-out")} == {"ok"}


def test_gaps_are_filled_only_where_that_is_asked_for(model: Path, tmp_path: Path) -> None:
    signal = good_row(0)["signal"].astype(np.float32)
    signal[1, 100:103] = np.linspace(signal[1, 99], signal[1, 103], 5)[1:-1]
    gap = signal.copy()
    gap[1, 100:103] = np.nan
    for name, values in (("whole", signal), ("gap", gap)):
        with ArchiveWriter(tmp_path / name, {"name": name}, "float32", archive_id="same") as writer:
            writer.append(good_row(0) | {"signal": values})
    explain(tmp_path / "whole", model, tmp_path / "whole-out")
    refused = explain(tmp_path / "gap", model, tmp_path / "out")
    row = rows(tmp_path / "out")[0]
    assert (row["status"], row["flags"]) == ("non_finite_samples", ["non_finite_lead:II"])
    filled = explain(tmp_path / "gap", model, tmp_path / "filled-out", fill_gaps=30.0)
    assert filled.dataset_id != refused.dataset_id
    assert rows(tmp_path / "filled-out")[0] == rows(tmp_path / "whole-out")[0] | {"flags": ["filled_gap:II"]}
    shorter = explain(tmp_path / "gap", model, tmp_path / "shorter-out", fill_gaps=20.0)
    assert shorter.quarantined == {"non_finite_samples": 1}


@pytest.mark.parametrize("name", ["entropy", "soft", "mean_entropy", "distortion"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_no_row_is_ok_beside_a_number_that_is_none(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: float
) -> None:
    from ecgscale.explain import facts

    if value == 1e300 and name != "distortion":
        pytest.skip("the others are shares")
    assign = facts.assign

    def spoilt(*arguments: Any) -> Any:
        found = assign(*arguments)
        part = getattr(found, name).copy()
        part[1] = value
        return dataclasses.replace(found, **{name: part})

    monkeypatch.setattr(facts, "assign", spoilt)
    explain(archive, model, tmp_path / "out")
    first = rows(tmp_path / "out")[:4]
    assert [row["status"] for row in first] == ["ok", "non_finite_output", "ok", "ok"]
    assert first[1]["prediction"] is first[1]["distortion"] is first[1]["segments"] is None


@pytest.mark.parametrize(("units", "status"), [(1e-30, "bad_units"), (1e-18, "bad_units"), (1e30, "bad_units")])
def test_absurd_units_are_quarantined(model: Path, tmp_path: Path, units: float, status: str) -> None:
    archive = write_archive(tmp_path / "archive", records=3, r1={"units_per_mv": units})
    explain(archive, model, tmp_path / "out")
    assert [row["status"] for row in rows(tmp_path / "out")] == ["ok", status, "ok"]


def test_recordings_that_are_longer_than_the_network_sees_are_counted(model: Path, tmp_path: Path) -> None:
    long = good_row(1) | {"signal": signal(1, seconds=5.0)}
    result = explain(write_rows(tmp_path / "archive", [good_row(0), long, long | {"record_id": "r9"}]), model, tmp_path)
    assert (result.cropped, result.network_seconds) == (2, 2.56)
    assert result.to_dict()["cropped"] == 2
    assert "2 recordings were cropped: the network sees 2.56 s" in "\n".join(explain_summary(result, tmp_path))


def test_a_network_that_gives_nan_quarantines_that_record_alone(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ecgscale.encoders.taps import Encoder

    explain(archive, model, tmp_path / "clean")
    forward = Encoder.forward

    def spoilt(self: Encoder, x: Any) -> Any:
        activations = forward(self, x)
        one, two, three = (block.clone() for block in activations.blocks)
        two[1, 0, 0] = float("nan")
        return dataclasses.replace(activations, blocks=(one, two, three))

    monkeypatch.setattr(Encoder, "forward", spoilt)
    explain(archive, model, tmp_path / "out")
    clean, found = rows(tmp_path / "clean"), rows(tmp_path / "out")
    assert [row["status"] for row in found[:4]] == ["ok", "non_finite_output", "ok", "ok"]
    assert found[1]["prediction"] is None
    assert [found[0], *found[2:4]] == [clean[0], *clean[2:4]]


def test_bytes_depend_on_nothing_but_the_input(archive: Path, model: Path, tmp_path: Path) -> None:
    one = explain(archive, model, tmp_path / "one")
    two = explain(archive, model, tmp_path / "two")
    assert state(one.path) == state(two.path)
    metadata = pq.read_schema(sorted(Path(one.path, "data").iterdir())[1]).metadata
    assert metadata[b"ecgscale.source_shard"] == b"part-00001.parquet"
    assert metadata[b"ecgscale.model_id"].decode() == model.name
    assert json.loads(metadata[b"ecgscale.settings"])["batch"] == 4
    assert {b"ecgscale.source_content_digest", b"ecgscale.encoder_digest", b"ecgscale.results_version"} <= set(metadata)


def test_the_model_stands_beside_its_explanations(archive: Path, model: Path, tmp_path: Path) -> None:
    explain(archive, model, tmp_path / "out")
    assert explain(archive, tmp_path / "out" / "models" / model.name, tmp_path / "out").unchanged == 3
    again = explain(archive, tmp_path / "out" / "models" / model.name, tmp_path / "again")
    assert state(again.path) == state(again.path.replace("again", "out"))
    assert not list(tmp_path.rglob("_tmp-*"))


def test_other_settings_are_another_dataset(archive: Path, model: Path, tmp_path: Path) -> None:
    results = [
        explain(archive, model, tmp_path / "out", **options)
        for options in ({}, {"entropy": "timestep"}, {"batch": 8}, {"include_padding": True})
    ]
    assert len({result.dataset_id for result in results}) == 4
    padded = rows(tmp_path / "out")
    assert {(row["valid_start"], row["valid_stop"]) for row in padded} == {(0, 256)}
    assert {row["segments"][-1]["stop"] for row in padded} == {256}


def test_a_reserved_label_column_is_told_before_any_work(model: Path, tmp_path: Path) -> None:
    archive = write_rows(tmp_path / "archive", [good_row(0)])
    rewrite(archive / "part-00000.parquet", lambda table: table.append_column("entropy", pa.array([0.5])))
    with pytest.raises(ArchiveError, match="entropy: reserved for the explanations"):
        explain(archive, model, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_duckdb_and_polars_read_the_files(archive: Path, model: Path, tmp_path: Path) -> None:
    import duckdb
    import polars

    rewrite(
        archive / "part-00001.parquet",
        lambda table: table.set_column(
            table.schema.get_field_index("sampling_rate"), "sampling_rate", pa.array([100, 0, 100, 100], pa.float32())
        ),
    )
    result = explain(archive, model, tmp_path / "out", entropy="timestep")
    expected = rows(tmp_path / "out")
    ds = open_explanations(tmp_path / "out")  # noqa: F841 (DuckDB finds it by name)
    shares = "list_sum(proportions::FLOAT[]), len(segments), len(entropy)"
    for source in ("ds", f"'{result.path}/data/*.parquet'"):
        found = duckdb.sql(f"SELECT record_id, status, {shares} FROM {source} ORDER BY record_id").fetchall()
        assert [row[0] for row in found] == [row["record_id"] for row in expected]
        assert [row[1] for row in found].count("bad_sampling_rate") == 1
        for mine, row in zip(found, expected, strict=True):
            if row["status"] == "ok":
                assert mine[2] == pytest.approx(1, abs=1e-6)
                assert mine[3:] == (len(row["segments"]), len(row["entropy"]))
            else:
                assert mine[2:] == (None, None, None)
    frame = polars.read_parquet(f"{result.path}/data/*.parquet")
    assert frame["segments"].to_list() == [row["segments"] for row in expected]
    assert frame["proportions"].to_list() == [row["proportions"] for row in expected]


def test_the_clock_of_a_host_does_not_say_what_is_served(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as ahead:
        ahead.setattr(manifest_module, "utc_now", lambda: "2999-01-01T00:00:00.000000+00:00")
        first = explain(archive, model, out)
    assert find_dataset(out).dataset_id == first.dataset_id
    second = explain(archive, model, out, entropy="timestep")
    assert find_dataset(out).dataset_id == second.dataset_id
    # Nothing new is no publishing; what somebody decides stays, whatever is published.
    explain(archive, model, out)
    assert find_dataset(out).dataset_id == second.dataset_id
    serve(out, first.dataset_id, "looked at", run_facts())
    (archive / "part-00002.parquet").unlink()
    explain(archive, model, out, entropy="timestep")
    assert find_dataset(out).dataset_id == first.dataset_id


def test_what_other_code_computed_is_gone_on_with_and_said(
    archive: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written_by(version: str) -> None:
        facts = run_facts().model_copy(update={"code_version": version, "code_commit": None})
        monkeypatch.setattr("ecgscale.passes.explain.explain.run_facts", lambda: facts)

    watch = Watching()
    written_by("0.0.1")
    explain(archive, model, tmp_path / "out", watch)
    written_by("0.0.2")
    explain(archive, model, tmp_path / "out", watch)
    assert not any("other code" in said or "0.0.1" in said for said in watch.said)  # nothing is new
    more = write_rows(tmp_path / "more", [good_row(99)])
    (more / "part-00000.parquet").rename(archive / "part-00009.parquet")
    explain(archive, model, tmp_path / "out", watch)
    assert any("computed by ecgscale 0.0.1, what is new will be by 0.0.2" in said for said in watch.said)
