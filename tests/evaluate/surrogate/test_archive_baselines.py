"""Baselines from signals and from the network: read again, for a sample, beside the proportions."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ecgscale.archive.reader import Archive
from ecgscale.archive.validate import OK
from ecgscale.encoders.inputs import InputSpec
from ecgscale.encoders.preprocess import prepare
from ecgscale.encoders.taps import Encoder
from ecgscale.errors import ModelError
from ecgscale.evaluate.published import by_shard
from ecgscale.evaluate.surrogate.archive_baselines import (
    archive_baselines,
    downsampled,
    heart_rate,
    rate_and_amplitudes,
    signal_baselines,
)
from ecgscale.evaluate.surrogate.check import check_published, open_records
from ecgscale.evaluate.surrogate.surrogate import SurrogateRequest
from ecgscale.evaluate.sweep.fits import from_root
from ecgscale.explain.record import raw_batch
from ecgscale.leads import CANONICAL_LEADS
from ecgscale.passes.features import extract
from ecgscale.passes.stream import StreamSettings
from ecgscale.report.explained import load_explained
from ecgscale.report.subject import open_subject
from tests.worlds.commands.explaining import Watching
from tests.worlds.commands.small_root import RECORDS, SmallRoot, write_small_root
from tests.worlds.formula.explained import SMALL
from tests.worlds.formula.recordings import record, wave, write_archive

NETWORK = {"pooled", "random_timesteps", "random_centroids", "random_weights"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> SmallRoot:
    return write_small_root(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("bpm", [45, 72, 150])
def test_heart_rate_of_pulses(bpm: int) -> None:
    rate, n = 100.0, 1000
    time = np.arange(n) / rate
    pulse = np.exp(-(((time % (60 / bpm)) - 0.2) ** 2) / 0.0008)
    x = np.stack([pulse, -0.4 * pulse])[None] + np.random.default_rng(0).normal(0, 0.02, (1, 2, n))
    valid = np.ones((1, n), dtype=bool)
    valid[:, 900:] = False
    x[..., 900:] = 0
    found, regularity = heart_rate(x, valid, rate)
    assert found[0] == pytest.approx(bpm, rel=0.04)
    assert 0.3 < regularity[0] <= 1


def test_amplitudes_leave_padding_out() -> None:
    spec = InputSpec(leads=CANONICAL_LEADS[:2], sampling_rate=100.0, length=512)
    signal = np.stack([np.sin(np.arange(300) / 5), 3 * np.sin(np.arange(300) / 5)])
    prepared = prepare(raw_batch(signal, CANONICAL_LEADS[:2], 100.0, 1.0, None), [OK], [[]], spec, 1)
    features = rate_and_amplitudes(prepared, 100.0)
    assert features.shape == (1, 2 + 3 * 2)
    np.testing.assert_allclose(features[0, 2:4], [-1, -3], atol=0.02)
    np.testing.assert_allclose(features[0, 6:8], signal.std(axis=1), rtol=0.01)
    np.testing.assert_allclose(downsampled(prepared.x, 100.0)[0, :256], prepared.x[0, 0].reshape(-1, 2).mean(axis=1))


def test_baselines_of_a_sample(small: SmallRoot) -> None:
    published, data = open_records(small.root, request=SurrogateRequest(baselines=True))
    found = archive_baselines(published, data, with_network=True, records=96, device="cpu")
    assert set(found) == {"signal", "rate_and_amplitudes", *NETWORK}
    for name, baseline in found.items():
        assert baseline.has.sum() == 96, name
        assert np.isfinite(baseline.x).all()
        assert not baseline.x[~baseline.has].any()
    for name in NETWORK - {"pooled"}:
        np.testing.assert_allclose(found[name].x[found[name].has].sum(axis=1), 1, rtol=1e-5)
    assert found["pooled"].x.shape == (RECORDS, 8 + 12 + 16)


def test_scores_of_baselines_are_on_the_same_records(small: SmallRoot) -> None:
    request = SurrogateRequest(folds="patients:3", forests=SMALL, n_bootstrap=30, baselines=True)

    facts = check_published(
        small.root, request=request, baselines=partial(archive_baselines, records=96), write=False
    ).to_dict()["baselines"]
    assert list(facts) == ["permuted", "signal", "rate_and_amplitudes"]
    assert facts["signal"]["records"] < facts["permuted"]["records"]
    assert facts["signal"]["proportions"] == facts["rate_and_amplitudes"]["proportions"]
    assert facts["signal"]["proportions"] != facts["permuted"]["proportions"]
    difference = facts["signal"]["difference"]["agreement"]
    assert difference == pytest.approx(
        facts["signal"]["proportions"]["agreement"] - facts["signal"]["scores"]["agreement"]
    )


def test_an_archive_that_is_gone_is_told(small: SmallRoot, tmp_path: Path) -> None:
    published, data = open_records(small.root)
    hidden = small.archive.rename(small.archive.with_name("hidden"))
    try:
        watch = Watching()
        assert archive_baselines(published, data, progress=watch) == {}
        assert "--archive" in watch.said[0]
        assert set(archive_baselines(published, data, hidden, records=32)) == {"signal", "rate_and_amplitudes"}
    finally:
        hidden.rename(small.archive)


def test_gaps_that_were_filled_are_filled_again(small: SmallRoot, tmp_path: Path) -> None:
    rows = [record(name, signal=wave(int(name), samples=4000).astype(np.float32)) for name in "012"]
    rows[1]["signal"][1, 600:605] = np.nan
    archive = write_archive(tmp_path / "archive", rows, "float32")
    encoder, wanted = Encoder.load(small.encoder, batch=8), {archive.shards[0].key: ["0", "1", "2"]}
    assert extract(archive, encoder, wanted).record_ids == ("0", "2")
    assert extract(archive, encoder, wanted, StreamSettings(gaps_ms=10.0)).record_ids == ("0", "1", "2")
    found = signal_baselines(archive, encoder.spec.input, ["0", "1", "2"], wanted, gaps_ms=10.0)
    assert found["signal"].has.all()


def test_a_network_that_was_changed_is_not_run_again_nor_are_its_outputs_named(small: SmallRoot) -> None:
    published, data = open_records(small.root)
    weights = published.encoder_dir / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        with pytest.raises(ModelError, match="the weights changed"):
            archive_baselines(published, data, with_network=True, records=32, device="cpu")
        with pytest.raises(ModelError, match="the weights changed"):
            from_root(small.root, None)
    finally:
        weights.write_bytes(whole)
    contract = published.encoder_dir / "encoder.toml"
    text = contract.read_text()
    contract.write_text(text.replace('"CD", "HYP"', '"HYP", "CD"'))
    try:
        for look in (open_subject, lambda root: load_explained(root, str(data.table["record_id"][0]))):
            with pytest.raises(ModelError, match="was changed since cluster model"):
                look(small.root)
    finally:
        contract.write_text(text)


def test_extracted_activations_give_the_published_facts(small: SmallRoot) -> None:
    """Proportions and outputs from activations extracted again are those that were explained."""
    published, data = open_records(small.root)
    table = data.table
    encoder = Encoder.load(published.encoder_dir, batch=8)
    extracted = extract(Archive.open(small.archive), encoder, by_shard(table))
    order = [table.column("record_id").to_pylist().index(record) for record in extracted.record_ids]
    assert data.proportions is not None
    model = published.model
    shares = extracted.soft(model.centroids, model.gamma, model.tau, labels=True)
    np.testing.assert_array_equal(shares.proportions, data.proportions[order])
    np.testing.assert_array_equal(extracted.predictions > 0, data.questions.says[order] > 0.5)
    assert shares.labels.shape == (RECORDS, 256)
    first = extracted.with_blocks([0])
    assert first.layout.channels == (8,)
    np.testing.assert_array_equal(first.pooled(), extracted.pooled()[:, :8])
    some = extracted.of(np.array([5, 9]))
    [sums] = some.assign_to([model.centroids])
    labels = shares.labels[[5, 9]]
    np.testing.assert_array_equal(sums.counts, np.bincount(labels[labels >= 0], minlength=4))
