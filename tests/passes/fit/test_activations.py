"""From records to cached activations: each under its own number, whatever was chosen and in whatever batches."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ecgscale.archive.reader import Archive
from ecgscale.archive.validate import check_batch
from ecgscale.clusters.cache import ActivationCache
from ecgscale.clusters.packed import pack
from ecgscale.encoders.preprocess import prepare
from ecgscale.encoders.taps import Encoder
from ecgscale.explain.facts import encoder_layout
from ecgscale.passes.fit.request import FitRequest, Selection, select
from ecgscale.passes.fit.worker import fill_cache
from tests.worlds.commands.explaining import Watching
from tests.worlds.commands.simulated import LENGTH, RECORDS, VALID, simulated
from tests.worlds.formula.small_networks import noise, write_archive, write_small_encoder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    return Archive.open(simulated(tmp_path_factory.mktemp("activations") / "archive"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder.load(write_small_encoder(tmp_path_factory.mktemp("activations") / "encoder"), batch=8)


def filled(archive: Archive, encoder: Encoder, selection: Selection, **options: Any) -> tuple[ActivationCache, Counter]:
    cache = ActivationCache(encoder_layout(encoder), len(selection))
    watch = options.get("watch", Watching())
    request = FitRequest(include_padding=options.get("include_padding", False))
    left_out = fill_cache(cache, archive, encoder, selection.rows, request, watch, watch.say)
    return cache, left_out


def spans(cache: ActivationCache) -> list[tuple[int, int]]:
    """The valid span of every record, as the cache keeps it."""
    return [(int(start), int(stop)) for start, stop in zip(*cache.spans, strict=True)]


def alone(archive: Archive, encoder: Encoder) -> np.ndarray:
    """Packed activations of every record, run one by one."""
    rows = []
    for shard in archive.shards:
        for raw in archive.batches(shard, batch_records=1):
            prepared = prepare(raw, *check_batch(raw, set()), encoder.spec.input, encoder.hop)
            blocks = encoder.forward(prepared.x).blocks
            rows.append(pack(blocks, encoder_layout(encoder), prepared.valid_start, prepared.valid_stop).values[0])
    return np.stack(rows)


def test_every_record_lies_under_its_number(archive: Archive, encoder: Encoder) -> None:
    expected = alone(archive, encoder)
    order = {record: i for i, record in enumerate(archive.metadata(["record_id"])["record_id"].to_pylist())}
    for selection in (select(archive), select(archive, records=23, seed=3), select(archive, folds=(4, 9))):
        watch = Watching()
        cache, left_out = filled(archive, encoder, selection, watch=watch)
        assert not left_out
        assert watch.advanced == len(selection)
        for number, record in enumerate(selection.record_ids):
            np.testing.assert_allclose(cache.rows(number), expected[order[record]], rtol=1e-5, atol=1e-6)
        assert set(spans(cache)) == {(18, 18 + VALID)}


def test_bits_do_not_depend_on_what_else_was_chosen(archive: Archive, encoder: Encoder) -> None:
    everything, _ = filled(archive, encoder, select(archive))
    few = select(archive, records=9, seed=3)
    cache, _ = filled(archive, encoder, few)
    order = archive.metadata(["record_id"])["record_id"].to_pylist()
    at = [order.index(record) for record in few.record_ids]
    for number, record in enumerate(at):
        assert np.array_equal(cache.rows(number), everything.rows(record))


def test_padding_takes_part_when_asked(archive: Archive, encoder: Encoder) -> None:
    cache, _ = filled(archive, encoder, select(archive, records=5), include_padding=True)
    assert spans(cache) == [(0, LENGTH)] * 5


def test_unusable_records_leave_an_empty_place(encoder: Encoder, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"signal": noise(VALID, seed=i)} for i in range(5)]
    rows[1]["signal"] = np.zeros((12, VALID), np.float32)
    rows[3]["units_per_mv"] = 0.0
    archive = write_archive(tmp_path / "archive", rows)
    cache, left_out = filled(archive, encoder, select(archive))
    assert left_out == {"flat_signal": 1, "bad_units": 1}
    assert [stop > start for start, stop in spans(cache)] == [True, False, True, False, True]
    cache, left_out = filled(archive, encoder, select(archive, records=2, seed=0))
    assert sum(left_out.values()) + sum(stop > start for start, stop in spans(cache)) == 2


def test_a_network_that_gives_nan_loses_that_record_alone(
    archive: Archive, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean, _ = filled(archive, encoder, select(archive))
    forward = Encoder.forward

    def spoilt(self: Encoder, x: Any) -> Any:
        activations = forward(self, x)
        first, *rest = (block.clone() for block in activations.blocks)
        first[2, 0, 0] = float("inf")
        return dataclasses.replace(activations, blocks=(first, *rest))

    monkeypatch.setattr(Encoder, "forward", spoilt)
    cache, left_out = filled(archive, encoder, select(archive))
    batches = sum(-(-archive.footer(shard).rows // encoder.batch) for shard in archive.shards)
    assert left_out == {"non_finite_output": batches}
    kept = [i for i, (start, stop) in enumerate(spans(cache)) if stop > start]
    assert len(kept) == RECORDS - batches
    assert all(np.array_equal(cache.rows(i), clean.rows(i)) for i in kept)
