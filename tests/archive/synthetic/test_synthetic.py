"""The simulated archive: reproducible record by record, consistent as ECGs are, and true about its own waves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ecgscale.archive import Archive
from ecgscale.archive.synthetic.patients import RHYTHMS, SUPERCLASSES, draw_patient, patient_of
from ecgscale.archive.synthetic.simulation import SCHEMA, simulate, simulate_records
from ecgscale.errors import UsageError
from ecgscale.leads import CANONICAL_LEADS

RATE = 500.0


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return simulate_records(0, 0, 512, rate=RATE)


def signals_mv(table: pa.Table) -> np.ndarray:
    flat = table.column("signal").combine_chunks().values.to_numpy()
    return flat.reshape(table.num_rows, 12, -1) / 1000


def lead(signals: np.ndarray, name: str) -> np.ndarray:
    return signals[:, CANONICAL_LEADS.index(name)]


def waves_of(table: pa.Table, row: int, wave: str) -> np.ndarray:
    found = [f for f in table.column("fiducials")[row].as_py() if f["wave"] == wave]
    return np.array([(f["onset"], f["peak"], f["offset"]) for f in found]).reshape(-1, 3)


def rows_where(table: pa.Table, superclasses: list[str], rhythm: str = "sinus") -> list[int]:
    pairs = zip(table.column("superclasses").to_pylist(), table.column("rhythm").to_pylist(), strict=True)
    return [row for row, pair in enumerate(pairs) if pair == (superclasses, rhythm)]


def beat_averages(table: pa.Table, rows: list[int], before: int = 100, after: int = 225) -> np.ndarray:
    """(rows, 12, samples) mean beats around the QRS peak, the PR segment's level taken off."""
    signals = signals_mv(table)
    means = []
    for row in rows:
        qrs = waves_of(table, row, "QRS")
        qrs = qrs[(qrs[:, 1] >= before) & (qrs[:, 1] + after < signals.shape[2])]
        beats = [signals[row, :, p - before : p + after] - signals[row, :, [o - 4]].T for o, p, _ in qrs]
        means.append(np.median(beats, axis=0))
    return np.array(means)


def test_a_record_depends_on_the_seed_and_its_index_alone(table: pa.Table) -> None:
    assert simulate_records(0, 37, 45, rate=RATE).equals(table.slice(37, 8))
    assert not simulate_records(1, 37, 45, rate=RATE).column("signal").equals(table.slice(37, 8).column("signal"))


def test_schema_and_spans(table: pa.Table) -> None:
    assert table.schema.equals(SCHEMA)
    assert table.column("valid_stop").unique().to_pylist() == [5000]
    assert table.column("leads")[3].as_py() == list(CANONICAL_LEADS)
    assert len(set(table.column("record_id").to_pylist())) == 512
    assert set(table.column("rhythm").to_pylist()) <= set(RHYTHMS)


def test_limb_leads_obey_einthoven_and_goldberger_up_to_rounding(table: pa.Table) -> None:
    units = np.rint(signals_mv(table) * 1000)
    one, two, three, avr, avl, avf = (units[:, i] for i in range(6))
    assert np.abs(two - one - three).max() <= 1.5
    assert np.abs(avr + (one + two) / 2).max() <= 1.0
    assert np.abs(avl - (one - two / 2)).max() <= 1.25
    assert np.abs(avf - (two - one / 2)).max() <= 1.25


def test_patients_keep_their_fold_and_diagnosis(table: pa.Table) -> None:
    frame = table.select(["patient_id", "fold", "sex", "superclasses"]).to_pylist()
    facts: dict[str, set[tuple]] = {}
    for row in frame:
        facts.setdefault(row["patient_id"], set()).add((row["fold"], row["sex"], *row["superclasses"]))
    assert all(len(found) == 1 for found in facts.values())
    assert 300 < len(facts) < 500
    assert set(table.column("fold").to_pylist()) == set(range(1, 11))


def test_a_patients_later_recordings_come_later(table: pa.Table) -> None:
    times: dict[str, list] = {}
    for row in table.select(["patient_id", "acquired_at", "age"]).to_pylist():
        times.setdefault(row["patient_id"], []).append((row["acquired_at"], row["age"]))
    assert all(sorted(seen) == seen for seen in times.values())


def test_superclasses_come_in_plausible_shares() -> None:
    patients = [draw_patient(3, number) for number in range(2000)]
    share = {name: np.mean([name in p.superclasses for p in patients]) for name in SUPERCLASSES}
    assert 0.38 < share["NORM"] < 0.52
    assert all(0.07 < share[name] < 0.35 for name in ("MI", "STTC", "CD", "HYP"))
    assert any(len(p.superclasses) == 3 for p in patients)
    assert len({patient_of(3, index)[0] for index in range(3200)}) == 2500


def test_fiducials_are_ordered_and_fit_the_beat(table: pa.Table) -> None:
    for row in range(0, 512, 16):
        for fiducial in table.column("fiducials")[row].as_py():
            assert fiducial["lead"] == "global"
            assert 0 <= fiducial["onset"] < fiducial["peak"] < fiducial["offset"] < 5000
    rows = rows_where(table, ["NORM"])
    widths = np.concatenate([waves_of(table, row, "QRS") for row in rows])
    assert 70 < np.median(widths[:, 2] - widths[:, 0]) * 1000 / RATE < 115
    pr = [waves_of(table, row, "QRS")[3, 0] - waves_of(table, row, "P")[:, 0] for row in rows]
    nearest = np.array([gaps[gaps > 0].min() for gaps in pr]) * 1000 / RATE
    assert 110 < np.median(nearest) < 210


def test_fiducials_bound_the_energy_of_the_signal(table: pa.Table) -> None:
    """Within its QRS a recording moves far faster than outside of it."""
    signals = signals_mv(table)
    for row in rows_where(table, ["NORM"])[:20]:
        speed = np.abs(signals[row, :, 5:] - signals[row, :, :-5]).sum(axis=0)
        inside = np.zeros(len(speed), bool)
        for onset, _, offset in waves_of(table, row, "QRS"):
            inside[onset:offset] = True
        assert speed[inside].mean() > 5 * speed[~inside].mean()


def test_normal_recordings_look_normal(table: pa.Table) -> None:
    beats = beat_averages(table, rows_where(table, ["NORM"]))
    qrs = slice(70, 140)
    chest = [lead(beats, f"V{i}")[:, qrs] for i in range(1, 7)]
    r, s = (np.array([np.median(f(b, axis=1)) for b in chest]) for f in (np.max, np.min))
    assert r[0] < r[1] < r[2] < r[3], "R grows from V1 to V4"
    assert s[1] < s[3] < s[4], "S shrinks from V2 to V5"
    assert r[0] < -s[0]
    assert r[4] > -2 * s[4]
    assert 0.5 < np.median(lead(beats, "II")[:, qrs].max(axis=1)) < 1.8
    assert np.median(lead(beats, "aVR")[:, qrs].min(axis=1)) < -0.4
    # 80 ms after the peak nothing is left of QRS and T has hardly begun.
    st = np.median(lead(beats, "V5")[:, 136:142].mean(axis=1))
    assert abs(st) < 0.08
    t_wave = slice(200, 270)
    assert all(np.median(lead(beats, name)[:, t_wave].max(axis=1)) > 0.1 for name in ("I", "II", "V3", "V4", "V5"))


def test_diseases_show_where_they_should(table: pa.Table) -> None:
    def typical(superclasses: list[str], name: str, span: slice, how: str) -> float:
        beats = lead(beat_averages(table, rows_where(table, superclasses)), name)[:, span]
        return float(np.median(getattr(beats, how)(axis=1)))

    qrs, t_wave = slice(70, 150), slice(200, 270)
    assert typical(["HYP"], "V5", qrs, "max") > 1.25 * typical(["NORM"], "V5", qrs, "max")
    assert typical(["STTC"], "V5", t_wave, "mean") < 0.5 * typical(["NORM"], "V5", t_wave, "mean")

    def width(superclasses: list[str]) -> float:
        spans = [np.median(np.diff(waves_of(table, r, "QRS")[:, [0, 2]])) for r in rows_where(table, superclasses)]
        return float(np.quantile(spans, 0.75)) * 1000 / RATE

    assert width(["CD"]) > 120 > width(["NORM"])
    old = [draw_patient(0, patient_of(0, row)[0]).territory for row in rows_where(table, ["MI"])]
    beats = beat_averages(table, rows_where(table, ["MI"]))
    first = slice(76, 96)
    q = {name: lead(beats, name)[:, first].min(axis=1) for name in ("V2", "aVF")}
    anterior, inferior = np.array(old) == "anterior", np.array(old) == "inferior"
    assert np.median(q["V2"][anterior]) < np.median(q["V2"][inferior]) - 0.1
    assert np.median(q["aVF"][inferior]) < np.median(q["aVF"][anterior]) - 0.1


def test_rhythms_differ_as_they_should(table: pa.Table) -> None:
    def intervals(rhythm: str) -> list[np.ndarray]:
        rows = [row for row, found in enumerate(table.column("rhythm").to_pylist()) if found == rhythm]
        return [np.diff(waves_of(table, row, "QRS")[:, 1]) / RATE for row in rows]

    def rate(rhythm: str) -> float:
        return float(np.median([60 / rr.mean() for rr in intervals(rhythm)]))

    assert rate("sinus_bradycardia") < 60 < rate("sinus") < 100 < rate("sinus_tachycardia")
    irregular = [rr.std() / rr.mean() for rr in intervals("atrial_fibrillation")]
    regular = [rr.std() / rr.mean() for rr in intervals("sinus")]
    assert np.median(irregular) > 0.12 > 0.08 > np.median(regular) > 0.005
    premature = intervals("ventricular_premature_beats")
    assert all(rr.min() < 0.8 * np.median(rr) for rr in premature if len(rr) > 4)
    fibrillating = [r for r, found in enumerate(table.column("rhythm").to_pylist()) if found == "atrial_fibrillation"]
    assert all(len(waves_of(table, row, "P")) == 0 for row in fibrillating)


def test_archive_is_written_whole_and_named_by_its_arguments(tmp_path: Path) -> None:
    facts = simulate(tmp_path / "a", 50, seed=4, shard_records=20, rate=250)
    again = simulate(tmp_path / "b", 50, seed=4, shard_records=20, rate=250)
    other = simulate(tmp_path / "c", 50, seed=5, shard_records=20, rate=250)
    assert facts["archive_id"] == again["archive_id"] != other["archive_id"]
    archive, twin = Archive.open(tmp_path / "a"), Archive.open(tmp_path / "b")
    assert (facts["records"], facts["shards"]) == (50, 3)
    assert [archive.footer(s).rows for s in archive.shards] == [20, 20, 10]
    digests = [archive.footer(s).content_digest for s in archive.shards]
    assert digests == [twin.footer(s).content_digest for s in twin.shards]
    assert archive.label_columns() == ["superclasses", "rhythm"]
    batch = next(archive.batches(archive.shards[1]))
    made = signals_mv(simulate_records(4, 20, 21, rate=250))[0]
    np.testing.assert_array_equal(batch.signal(0), np.rint(made * 1000))


def test_other_rates_give_the_same_patients_and_similar_beats() -> None:
    fast, slow = (simulate_records(9, 0, 8, rate=rate) for rate in (400.0, 100.0))
    assert fast.column("superclasses").equals(slow.column("superclasses"))
    assert signals_mv(slow).shape == (8, 12, 1000)
    for row in range(8):
        np.testing.assert_allclose(waves_of(fast, row, "QRS")[:, 1] / 4, waves_of(slow, row, "QRS")[:, 1], atol=1.5)


@pytest.mark.parametrize(("arguments", "said"), [((0, 0), "0 records"), ((5, -1), "seed"), ((5, 0, 10.0), "10 Hz")])
def test_senseless_arguments_are_told(tmp_path: Path, arguments: tuple, said: str) -> None:
    records, seed, *rate = arguments
    with pytest.raises(UsageError, match=said):
        simulate(tmp_path / "x", records, seed, rate=rate[0] if rate else RATE)
    assert not (tmp_path / "x").exists()
