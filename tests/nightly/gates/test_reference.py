"""The sample of the reference period: of sound records, one a patient, whatever the tables were."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet
import pytest

from ecgscale.errors import EcgscaleError
from ecgscale.nightly.gates.reference import Reference
from tests.worlds.formula.explained_rows import OUTPUTS, explained, quarantined, reference


def test_the_sample_does_not_depend_on_how_records_lie_in_tables() -> None:
    rows = explained(500)
    whole = Reference.of([rows], "m", OUTPUTS, seed=3, most=100)
    pieces = [rows.slice(first, 37) for first in range(0, 500, 37)]
    again = Reference.of(reversed(pieces), "m", OUTPUTS, seed=3, most=100)
    assert len(whole) == 100
    assert whole.rows.combine_chunks() == again.rows.combine_chunks()
    assert whole.to_parquet_bytes() == again.to_parquet_bytes()


def test_another_seed_draws_others() -> None:
    first, second = (Reference.of([explained(500)], "m", OUTPUTS, seed=seed, most=50) for seed in (0, 1))
    assert first.rows != second.rows


def test_one_record_a_patient() -> None:
    rows = explained(300, patient_id=[f"p{i // 3}" for i in range(300)])
    assert len(Reference.of([rows.slice(0, 100), rows.slice(100)], "m", OUTPUTS)) == 100


def test_records_without_a_patient_stand_for_themselves() -> None:
    rows = explained(50, patient_id=pa.nulls(50, pa.string()))
    assert len(Reference.of([rows, rows.drop_columns(["site"])], "m", OUTPUTS)) == 50


def test_quarantined_records_are_left_out() -> None:
    found = Reference.of([explained(40), quarantined(20, 1)], "m", OUTPUTS)
    assert (len(found), found.records) == (40, 40)
    with pytest.raises(EcgscaleError, match="no explained record"):
        Reference.of([quarantined(5)], "m", OUTPUTS)
    with pytest.raises(EcgscaleError, match="no explained record"):
        Reference.of([], "m", OUTPUTS)


def test_it_is_read_back_and_holds_no_ids() -> None:
    found = reference(200)
    data = found.to_parquet_bytes()
    read = Reference.from_bytes(data)
    assert read.rows.combine_chunks() == found.rows.combine_chunks()
    assert (read.model_id, read.output_names, read.seed, read.records) == ("k4-0", OUTPUTS, 0, 200)
    assert not {"record_id", "patient_id", "acquired_at"} & set(read.rows.column_names)
    assert b"p99-" not in data


def test_other_bytes_are_refused() -> None:
    with pytest.raises(EcgscaleError, match="drift reference is damaged"):
        Reference.from_bytes(b"PAR1 and no more")
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(explained(3), sink)
    with pytest.raises(EcgscaleError, match="no drift reference"):
        Reference.from_bytes(bytes(sink.getvalue()))
