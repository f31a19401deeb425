"""Forests carried to the data by dask say what forests in memory say."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ecgscale.encoders.spec import OutputSpec
from ecgscale.evaluate.forests import OutOfCore, SurrogateForest
from ecgscale.evaluate.surrogate.surrogate import SurrogateRequest, explained_records, score_surrogate
from ecgscale.io.objects import open_objects
from ecgscale.io.settings import VARIABLE, StorageSettings, use_storage
from tests.worlds.formula.explained import CLASSES, LABELS, SMALL, YEARS, K, explanations


@pytest.mark.parametrize(
    ("target", "output"), [("labels", LABELS), ("group", CLASSES), ("years", YEARS)], ids=lambda value: str(value)[:9]
)
def test_out_of_core_is_in_memory(tmp_path: Path, target: str, output: OutputSpec) -> None:
    table = explanations(quarantined=7)
    if output is YEARS:
        table = table.drop(["prediction"]).rename_columns({"value": "prediction"})
    files = [str(tmp_path / f"{i}.parquet") for i in range(3)]
    for i, file in enumerate(files):
        pq.write_table(table.slice(80 * i, 80), file)
    request = SurrogateRequest(folds="patients:3", n_bootstrap=20, forests=replace(SMALL, trees=20, fit_records=100))
    within = score_surrogate(explained_records(table, target, output, request), request)
    data = explained_records(table.drop(["proportions"]), target, output, request)
    features = OutOfCore.over(files, data.table.column("record_id").to_pylist(), K, "synchronous")
    outside = score_surrogate(data, request, features=features)
    assert outside.scores == within.scores
    assert outside.out_of_fold.equals(within.out_of_fold)


def test_records_are_found_in_their_files(tmp_path: Path) -> None:
    table = explanations(quarantined=3, n=30)
    pq.write_table(table, tmp_path / "a.parquet")
    ids = [f"r{i}" for i in (20, 5, 11)]
    features = OutOfCore.over([str(tmp_path / "a.parquet")], ids, K)
    wanted = np.array(table.column("proportions").to_pylist(), dtype=object)[[11, 20]]
    np.testing.assert_array_equal(features.fitting(np.array([2, 0])), np.stack(wanted))


def test_files_in_a_store_are_read_as_the_settings_of_storage_say(
    s3_root: str, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither pyarrow's own client nor a worker of dask elsewhere knows the endpoint from the environment."""
    table, file = explanations(quarantined=3, n=30), f"{s3_root}/a.parquet"
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    open_objects(s3_root).put("a.parquet", sink.getvalue().to_pybytes())
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    use_storage(StorageSettings(endpoint=s3_endpoint))
    ids = [f"r{i}" for i in range(3, 30)]
    features, records = OutOfCore.over([file], ids, K, _somewhere_else), np.arange(27)
    x = features.fitting(records)
    np.testing.assert_array_equal(x, np.stack(table.column("proportions").to_pylist()[3:]))
    forest = SurrogateForest("regression", SMALL).fit(x, x[:, 0])
    np.testing.assert_array_equal(features.ask(forest, records), forest.predict(x))


def _somewhere_else(*asked: Any, **options: Any) -> Any:
    """dask's scheduler in a process whose environment does not say where the store is."""
    os.environ.pop(VARIABLE)
    return dask.get(*asked, **options)
