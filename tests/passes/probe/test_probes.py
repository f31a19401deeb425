"""The probe pass: a sample, committed once, the same whatever happens on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ecgscale.archive import Archive
from ecgscale.archive.listing import archive_info, archive_json
from ecgscale.clusters.features import BlockLayout
from ecgscale.clusters.model import ClusterModel
from ecgscale.errors import ShardError, UsageError
from ecgscale.passes.probe.batch import BatchProber, has_dtaidistance, pooled, share_within
from ecgscale.passes.probe.network import ProbeNetwork
from ecgscale.passes.probe.probe import ProbeResult, open_probes, probe_explained
from ecgscale.passes.probe.schema import SCHEMA, ProbeSettings
from ecgscale.passes.probe.worker import ProbeWorker, is_sampled
from tests.explain.golden import write_archive
from tests.worlds.commands.explaining import explain, rewrite
from tests.worlds.formula.small_networks import noise, spec_of

QUICK = ProbeSettings(sample=1.0, batch=4, dropout_passes=3, mask_shifts=2, wave_shifts=5)
RECORDS = 7


def marks(number: int) -> list[dict[str, Any]]:
    """One P and one QRS a second, near where the golden signal has its beats."""
    at = [30 + number, 90 + number, 150 + number]
    qrs = [{"lead": "global", "wave": "QRS", "onset": t - 4, "peak": t, "offset": t + 5} for t in at]
    return qrs + [{"lead": "global", "wave": "P", "onset": t - 16, "peak": t - 12, "offset": t - 8} for t in at]


@pytest.fixture
def explained(model: Path, tmp_path: Path) -> Path:
    changes = {f"r{i}": {"fiducials": marks(i)} for i in range(RECORDS)}
    changes["r3"]["signal"] = np.ones((3, 220), np.int16)
    archive = write_archive(tmp_path / "archive", RECORDS, shard_records=4, **changes)
    explain(archive, model, tmp_path / "root")
    return tmp_path / "root"


def probe(root: Path, settings: ProbeSettings = QUICK, **options: Any) -> ProbeResult:
    return probe_explained(root, settings, device="cpu", **options)


def rows_of(result: ProbeResult) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = open_probes(result).to_table().to_pylist()
    return rows


def test_every_probe_of_every_record_that_was_explained(explained: Path, tmp_path: Path) -> None:
    result = probe(explained)
    rows = rows_of(result)
    assert (result.records, result.shards, result.set_aside, result.remarks) == (6, 2, (), ())
    assert [row["record_id"] for row in rows] == [f"r{i}" for i in range(RECORDS) if i != 3]
    assert open_probes(result).schema.equals(SCHEMA)
    row = rows[-1]
    assert row["target"] == int(np.argmax(row["prediction"]))
    assert [len(cam) for cam in row["gradcam"]] == [128, 64, 16]
    assert len(row["entropy"]) == len(row["votes"]) == 128
    known = np.isfinite(row["entropy"])
    assert known.sum() == pytest.approx((row["valid_stop"] - row["valid_start"]) / 2, abs=1)
    assert row["mean_entropy"] == pytest.approx(np.nanmean(row["entropy"]), abs=0.02)
    assert np.shape(row["dropout"]) == (3, 2)
    assert sum(part["share"] for part in row["masked"]) == pytest.approx(1.0, abs=1e-5)
    assert all(np.shape(part["moved"]) == (2, 2) and len(part["gradcam"]) == 3 for part in row["masked"])
    assert [stage["stage"] for stage in row["randomised"]][-1] == "everything"
    if has_dtaidistance():
        assert {pair["wave"] for pair in row["pairs"]} == {"P", "QRS"}
        assert all(len(pair["shifted"]) == 5 for pair in row["pairs"])
        assert rows[0]["pairs"] == []


def test_masking_a_cluster_is_running_the_network_without_it(explained: Path) -> None:
    """The row's prediction is that of the plain network, and a mask's is another's."""
    row = rows_of(probe(explained, ProbeSettings(probes=("masking",), sample=1.0, batch=4)))[0]
    network = ProbeNetwork.load(next((explained / "encoders").iterdir()), "cpu", 4)
    assert any(part["prediction"] != pytest.approx(row["prediction"], abs=1e-6) for part in row["masked"])
    assert row["dropout"] is row["votes"] is row["randomised"] is row["pairs"] is None
    assert len(network.spec.layers) == len(row["gradcam"])


class OneLead(nn.Module):
    """Sees all leads and weighs one alone; its clusters are high and low, its outputs how much of either."""

    def __init__(self, lead: int) -> None:
        super().__init__()
        self.tap, self.head = nn.Conv1d(12, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
        with torch.no_grad():
            self.tap.weight.zero_()
            self.tap.weight[:, lead, 0] = torch.tensor([1.0, -1.0])
            self.head.weight.copy_(torch.eye(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.tap(x)).mean(dim=2))


@pytest.mark.parametrize("silence", ["mean", "zeros"])
def test_silencing_the_one_lead_that_a_network_uses_is_everything_and_any_other_nothing(silence: str) -> None:
    spec = spec_of(factory="tests:OneLead", arguments={}, layers=["tap"])
    centroids, layout = np.array([[1, -1], [-1, 1]], np.float32), BlockLayout((2,), (256,), 256, (1.0,))
    model = ClusterModel(centroids, np.ones(2, np.int64), layout, 2, 1.0, {})
    settings = ProbeSettings(probes=("gradcam", "occlusion"), batch=4, silence=silence)
    prober = BatchProber(ProbeNetwork(OneLead(4), spec, "cpu", 4), model, settings)
    x = np.stack([noise(256, seed=i) for i in range(3)])
    x[:, 4] = np.where(np.arange(256) < 60, -1.0, 2.0).astype(np.float32)
    spans = np.array([0, 8, 0], np.int32), np.array([256, 248, 256], np.int32)
    rows = prober.rows(x, spans, 0)[0]
    for row in rows:
        by_lead = {part["lead"]: part for part in row["occluded"]}
        assert list(by_lead) == list(spec.input.leads)
        used = by_lead.pop(spec.input.leads[4])
        for part in by_lead.values():
            assert (part["changed"], part["lost"].tolist()) == (0.0, [0.0, 0.0])
            assert part["prediction"].tobytes() == row["prediction"].tobytes()
        # Flat at its mean (above 0) all is "high"; flat at zero both are as near, and the first has it.
        assert used["lost"].tolist() == [0.0, 1.0]
        assert used["changed"] == pytest.approx(52 / 240 if row is rows[1] else 60 / 256)
        assert abs(used["prediction"][0] - row["prediction"][0]) > 0.1
    alone = prober.rows(x[1:2], (spans[0][1:2], spans[1][1:2]), 0)[0][0]
    np.testing.assert_equal(alone["occluded"], rows[1]["occluded"])


def test_occlusion_is_running_the_network_without_the_lead(explained: Path) -> None:
    settings = ProbeSettings(probes=("occlusion",), sample=1.0, batch=4)
    rows = rows_of(probe(explained, settings))
    network = ProbeNetwork.load(next((explained / "encoders").iterdir()), "cpu", 4)
    for row in rows:
        assert [part["lead"] for part in row["occluded"]] == list(network.spec.input.leads)
        assert all(0 <= part["changed"] <= 1 and len(part["lost"]) == 4 for part in row["occluded"])
        assert row["gradcam"] is row["masked"] is None
    assert any(part["changed"] > 0 for row in rows for part in row["occluded"])
    zeros = probe(explained, replace(settings, silence="zeros"))
    assert zeros.probe_id != probe(explained, settings).probe_id


def test_repeated_and_resumed(explained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = ProbeSettings(
        probes=("gradcam", "dropout", "occlusion", "waves"), sample=1.0, batch=4, dropout_passes=2, wave_shifts=5
    )
    first = probe(explained, some)
    assert probe(explained, some).computed == 0
    other = explained.parent / "again"
    explain(explained.parent / "archive", next((explained / "models").iterdir()), other)
    commit, done = ProbeWorker.commit, []

    def once(self: ProbeWorker, source: Any) -> Any:
        if done:
            raise KeyboardInterrupt
        done.append(source.key)
        return commit(self, source)

    with monkeypatch.context() as patch:
        patch.setattr(ProbeWorker, "commit", once)
        with pytest.raises(KeyboardInterrupt):
            probe(other, some)
    resumed = probe(other, some)
    assert resumed.computed == 1
    assert resumed.probe_id == first.probe_id
    np.testing.assert_equal(rows_of(resumed), rows_of(first))


def test_the_sample_is_a_matter_of_id_and_seed(explained: Path) -> None:
    half = ProbeSettings(probes=("gradcam",), sample=0.5, batch=4)
    names = {row["record_id"] for row in rows_of(probe(explained, half))}
    assert names == {f"r{i}" for i in range(RECORDS) if i != 3 and is_sampled(f"r{i}", half)}
    assert 0 < len(names) < 6
    chosen = sum(is_sampled(str(i), ProbeSettings(sample=0.1)) for i in range(5000))
    assert 400 < chosen < 600


def test_a_shard_that_changed_is_set_aside(explained: Path) -> None:
    archive = Archive.open(explained.parent / "archive")
    rewrite(Path(archive.shards[0].path), lambda table: table.slice(1))
    result = probe(explained, ProbeSettings(probes=("gradcam",), sample=1.0, batch=4))
    assert result.records == 3
    assert "changed since it was explained" in result.set_aside[0].reason
    for shard in archive.shards:
        Path(shard.path).write_bytes(b"PAR1")
    with pytest.raises(ShardError, match="none of 2 shards"):
        probe(explained, ProbeSettings(probes=("masking",), sample=1.0, batch=4))


def test_a_network_without_dropout_is_told(explained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProbeNetwork, "_dropouts", lambda self: iter(()))
    result = probe(explained, ProbeSettings(probes=("gradcam", "dropout"), sample=1.0, batch=4))
    assert "MC dropout refused: golden has no dropout" in result.remarks[0]
    assert all(row["dropout"] is None for row in rows_of(result))
    with pytest.raises(UsageError, match="MC dropout refused"):
        probe(explained, ProbeSettings(probes=("dropout",)))


def test_requests_that_make_no_sense(explained: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no probe 'gradcan'.*'gradcam'"):
        ProbeSettings(probes=("gradcan",))
    with pytest.raises(UsageError, match="silence 'noise': one of mean, zeros"):
        ProbeSettings(silence="noise")
    with pytest.raises(UsageError, match="--sample 0"):
        ProbeSettings(sample=0.0)
    other = write_archive(tmp_path / "other", 2)
    file = other / "_archive.json"
    file.write_bytes(archive_json({**archive_info(file.read_bytes(), file), "archive_id": "another"}))
    with pytest.raises(UsageError, match="explained was golden-archive"):
        probe(explained, archive=other)


def test_means_within_steps() -> None:
    values = np.arange(10.0)[None]
    valid = np.array([[False, True, *[True] * 5, False, False, False]])
    np.testing.assert_allclose(pooled(values, valid, 5), [[1.0, 2.5, 4.5, 6.0, np.nan]])
    np.testing.assert_allclose(pooled(values, np.ones_like(valid), 3), [[1.5, 5.0, 8.0]])


def test_share_of_a_map() -> None:
    inside, valid, borders = np.arange(8) < 4, np.arange(8) < 6, np.array([0.0, 4.0, 8.0])
    assert share_within(np.array([1.0, 3.0], np.float32), inside, valid, borders) == pytest.approx(4 / 10)
    later = np.array([-1.0, 3.0, 7.0])  # the same two steps, a timestep earlier each
    assert share_within(np.array([1.0, 3.0], np.float32), inside, valid, later) == pytest.approx(6 / 12)
    assert np.isnan(share_within(np.zeros(2, np.float32), inside, valid, borders))
