"""The recordings on the page: which and why, and that nothing of their signals is lost that an eye could see."""

from __future__ import annotations

import base64
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ecgscale.errors import ShardError
from ecgscale.leads import CANONICAL_LEADS, derive_limb_leads
from ecgscale.report.recordings import (
    AUDITED,
    DISAGREES,
    DRAWN,
    UNCERTAIN,
    Recording,
    choose_records,
    disagreement,
    embed_recordings,
    packed_signal,
    read_recordings,
)
from ecgscale.report.subject import Subject, open_subject
from tests.worlds.published.page_root import publish_by_hand


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return open_subject(publish_by_hand(tmp_path_factory.mktemp("published"), records=200).root)


def test_thirds(published: Subject) -> None:
    chosen = choose_records(published, 30)
    assert len(chosen) == 30
    reasons = Counter(reason.split(":")[0] for of_record in chosen.values() for reason in of_record)
    assert reasons[UNCERTAIN] == reasons[DISAGREES] == 10
    assert reasons["typical"] >= 10
    uncertain = [row for row, of_record in chosen.items() if UNCERTAIN in of_record]
    assert uncertain == np.argsort(-published.rows.mean_entropy, kind="stable")[:10].tolist()
    assert chosen == choose_records(published, 30), "the same choice every time"


def test_disagreement_is_where_a_decision_is_not_the_label(published: Subject) -> None:
    rows = [row for row, why in choose_records(published, 30).items() if DISAGREES in why]
    wrong = (published.decided() != published.labelled()).any(axis=1)
    assert wrong[rows].all()
    apart = disagreement(published)
    assert apart[rows].min() >= np.sort(apart[wrong])[-10:].min()


def test_typical_records_are_called_right(published: Subject) -> None:
    rows = [row for row, why in choose_records(published, 60).items() if any(one.startswith("typical") for one in why)]
    assert (published.decided() == published.labelled())[rows].all()


def test_audited_records_have_a_part_of_their_own(published: Subject) -> None:
    names = published.rows.record_ids[50:60]
    chosen = choose_records(published, 32, names)
    assert [published.rows.record_ids[row] for row, why in chosen.items() if AUDITED in why] == names[:8]
    assert sum(DISAGREES in why for why in chosen.values()) == 8


def test_never_more_than_there_are_and_draws_fill_up(published: Subject, tmp_path: Path) -> None:
    assert len(choose_records(published, 1000)) == len(published.rows) == 199
    assert choose_records(published, 0) == {}
    few = open_subject(publish_by_hand(tmp_path, records=12).root)
    assert any(DRAWN in why for why in choose_records(few, 11).values()) or len(choose_records(few, 11)) == 11


def recording(rate: float = 500.0, seconds: float = 10.0, **leads: NDArray[np.float64]) -> Recording:
    t = np.arange(int(rate * seconds)) / rate
    known = {
        "I": np.sin(2 * np.pi * t),
        "II": 0.5 * np.cos(2 * np.pi * 1.3 * t) + 0.2,
        "V1": -np.sin(2 * np.pi * 2 * t),
    }
    known |= leads
    return Recording("r", np.stack(list(known.values())), tuple(known), rate)


def unpacked(packed: dict[str, Any]) -> NDArray[np.float64]:
    """(leads, n) millivolts, as the page's script reads them."""
    samples = np.frombuffer(base64.b64decode(packed["signal"]), "<i2").reshape(len(packed["leads"]), packed["n"])
    return samples * packed["uv"] / 1000


def test_samples_come_back_to_a_microvolt() -> None:
    given = recording(rate=250.0)
    packed = packed_signal(given)
    assert (packed["rate"], packed["n"], packed["uv"]) == (250.0, 2500, 1.0)
    expected = given.signal_mv - np.median(given.signal_mv, axis=1, keepdims=True)
    np.testing.assert_allclose(unpacked(packed), expected, atol=0.0006)


def test_fast_recordings_are_thinned_and_long_ones_cut() -> None:
    packed = packed_signal(recording(rate=1000.0, seconds=30.0))
    assert (packed["rate"], packed["n"], packed["duration"]) == (250.0, 2500, 30.0)
    t = np.arange(2500) / 250
    np.testing.assert_allclose(unpacked(packed)[0][50:-50], np.sin(2 * np.pi * t)[50:-50], atol=0.01)
    assert packed_signal(recording(rate=257.0, seconds=12.0))["n"] == 3084, "up to 300 Hz and 12 s as it is"


def test_limb_leads_that_follow_are_not_stored() -> None:
    plain = recording()
    follows = derive_limb_leads(plain.signal_mv[:2], ("I", "II"), ("III", "aVR", "aVL", "aVF"))
    whole = recording(III=follows[0], aVR=follows[1] + 0.3, aVL=follows[2] * 1.2, aVF=follows[3])
    packed = packed_signal(whole)
    assert packed["leads"] == ["I", "II", "aVL", "V1"], "aVL is another than I and II make it"
    assert packed["derived"] == ["III", "aVR", "aVF"], "an offset is no difference"
    assert packed_signal(Recording("r", plain.signal_mv[1:], ("II", "V1"), 500.0))["derived"] == []


def test_voltages_beyond_int16_take_a_coarser_unit() -> None:
    packed = packed_signal(recording(V2=np.linspace(-200, 200, 5000)))
    assert packed["uv"] == 7.0
    assert unpacked(packed)[3].max() == pytest.approx(200, abs=0.5)


def test_order_of_leads_is_the_usual_one() -> None:
    names = ["V6", "V1", "Z", "II", "I"]
    packed = packed_signal(Recording("r", np.random.default_rng(0).normal(size=(5, 500)), tuple(names), 100.0))
    assert packed["leads"] == ["I", "II", "V1", "V6", "Z"]
    assert set(packed["derived"]) < set(CANONICAL_LEADS)


def test_a_shard_that_cannot_be_read_is_told_and_the_others_are_shown(tmp_path: Path) -> None:
    made = publish_by_hand(tmp_path, records=20)
    shard = made.archive / "part-00000.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    subject = open_subject(made.root)
    found, remarks = embed_recordings(subject, choose_records(subject, 4))
    assert len(found) == 4
    assert "not a whole Parquet file" in remarks[0]
    assert subject.archive is not None
    with pytest.raises(ShardError):
        list(read_recordings(subject.archive, {"part-00000.parquet": ["sim0-0000003"]}))
