"""Which recordings a report shows, and why."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ecgscale.report.recordings import AUDITED, DISAGREES, DRAWN, UNCERTAIN, choose_records, disagreement
from ecgscale.report.subject import Subject, open_subject
from tests.report.published_root import publish_by_hand


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
    told = disagreement(published)
    assert told[rows].min() >= np.sort(told[wrong])[-10:].min()


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
