"""An explained recording: from the published row and the archive's samples to one page."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ecgscale.archive.synthetic.simulation import simulate, simulate_records
from ecgscale.errors import UsageError
from ecgscale.report.explained import load_explained
from tests.worlds.published.page_root import PublishedRoot, publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> PublishedRoot:
    return publish_by_hand(tmp_path_factory.mktemp("published"), records=40)


def test_samples_and_segments_share_one_clock(published: PublishedRoot) -> None:
    recording = load_explained(published.root, "sim0-0000005")
    made = simulate_records(0, 5, 6, rate=100.0, seconds=5.0).column("signal")[0].values.to_numpy()
    np.testing.assert_allclose(recording.signal_mv, made.reshape(12, -1) / 1000)
    assert recording.rate == 100.0
    # Timestep 6 of the encoder, whose axis begins 0.06 s before the recording, is the first sample.
    assert recording.segments[0].start_s == pytest.approx(0.0)
    assert recording.segments[-1].stop_s == pytest.approx(4.96)
    assert recording.entropy is not None
    times, values = recording.entropy
    assert times[[0, -1]] == pytest.approx([0.0, 4.95])
    assert len(times) == len(values) == 496


def test_outputs_are_probabilities(published: PublishedRoot) -> None:
    recording = load_explained(published.root, "sim0-0000005")
    assert set(recording.outputs) == {"CD", "HYP", "MI", "NORM", "STTC"}
    logits = np.array(recording.row["prediction"])
    assert list(recording.outputs.values()) == pytest.approx(1 / (1 + np.exp(-logits)))
    [title] = [text for each in recording.draw().axes[0].texts if "sim0-0000005" in (text := each.get_text())]
    assert "NORM 0." in title


def test_unknown_record_names_the_nearest(published: PublishedRoot) -> None:
    with pytest.raises(UsageError, match=r"no record 'sim0-000005'.*sim0-0000005"):
        load_explained(published.root, "sim0-000005")


def test_quarantined_record_tells_its_status(published: PublishedRoot) -> None:
    with pytest.raises(UsageError, match="flat_signal"):
        load_explained(published.root, published.quarantined)


def test_an_archive_that_moved_is_asked_for_and_another_refused(tmp_path: Path) -> None:
    there = publish_by_hand(tmp_path / "first", records=8, entropy=False)
    moved = tmp_path / "moved"
    shutil.move(there.archive, moved)
    with pytest.raises(UsageError, match="--archive"):
        load_explained(there.root, "sim0-0000003")
    assert load_explained(there.root, "sim0-0000003", archive=moved).entropy is None
    simulate(tmp_path / "other", 8, seed=1, rate=100)
    with pytest.raises(UsageError, match="explained was"):
        load_explained(there.root, "sim0-0000003", archive=tmp_path / "other")
