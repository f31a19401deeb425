"""The queries of docs/analytics.md, run as they are printed, give what plain loops over the rows give.

The page is read twice: on a disk, where nights have passed over the demo, and with ROOT in an object store.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from ecgscale.archive.synthetic.simulation import simulate
from ecgscale.cli import main
from ecgscale.io.places import upload
from ecgscale.io.settings import s3
from ecgscale.runtime.ray_pool import connect, shut_down
from ecgscale.store import find_dataset, newest_manifest, open_explanations
from tests.e2e.documents import DEMO, REPOSITORY, Reader, blocks_of
from tests.runtime.ray_clusters import SETTINGS
from tests.s3 import new_bucket
from tests.worlds.commands.nights import shard_bytes

PAGE = REPOSITORY / "docs" / "analytics.md"
HERE, CLOUD = f"{DEMO}/results", "s3://hospital/ecg/results"
SENT_AGAIN = 2
Row = dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What the page gave: a reader with its variables and rows, and the rows that were published, those used first."""

    reader: Reader
    ok: list[Row]
    rows: list[Row]

    def sql(self, heading: str, number: int = 0) -> list[tuple[Any, ...]]:
        """Rows of the n-th query under a heading."""
        return self.reader.rows[heading][number]

    def __getitem__(self, name: str) -> Any:
        """A variable of the page."""
        return self.reader.variables[name]


@pytest.fixture(scope="module")
def readings(
    demo_folder: Path, s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Answers]]:
    """The page, read on a disk and over S3."""
    folder = tmp_path_factory.mktemp("analytics")
    shutil.copytree(demo_folder, folder / DEMO)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.chdir(folder)
        pass_two_nights(folder)
        new_bucket(s3_endpoint, patch, "hospital")
        upload(Path(HERE), CLOUD)
        private = connect(2)
        try:
            here = reading(HERE)
            upload(Path(HERE), CLOUD)
            # What the page does for a connection of its own, under "From object storage".
            duckdb.register_filesystem(s3())
            there = reading(CLOUD)
            duckdb.unregister_filesystem("s3")
            yield {"disk": here, "s3": there}
        finally:
            shut_down(private)


@pytest.fixture(params=["disk", "s3"])
def answers(request: pytest.FixtureRequest, readings: dict[str, Answers]) -> Answers:
    """Of one place after the other."""
    place: str = request.param
    return readings[place]


def reading(root: str) -> Answers:
    """Read the page with `root` in its first block; what it makes is made on the disk alone."""
    reader = Reader(None)
    for block in blocks_of(PAGE):
        if root == HERE or block.language in ("python", "sql"):
            reader.run(replace(block, text=block.text.replace(f'root = "{HERE}"', f'root = "{root}"')))
    rows = open_explanations(HERE).to_table().to_pylist()
    return Answers(reader, [row for row in rows if row["status"] == "ok"], rows)


def pass_two_nights(folder: Path) -> None:
    """New recordings on each night, one without a signal and one with a dead lead; two of the demo's are sent again."""
    simulate(folder / "new", 64, 1, 64)
    new = pq.read_table(folder / "new" / "part-00000.parquet")
    old = pq.read_table(folder / DEMO / "archive" / "part-00000.parquet").slice(3, SENT_AGAIN)
    ages = pa.array([41.0 + i for i in range(SENT_AGAIN)], pa.float32())
    again = old.set_column(old.column_names.index("age"), old.schema.field("age"), ages)
    for number, table in ((70, with_faults(new.slice(0, 32))), (71, pa.concat_tables([new.slice(32), again]))):
        (folder / DEMO / "archive" / f"part-{number:05d}.parquet").write_bytes(shard_bytes(table))
        result = CliRunner().invoke(main, ["nightly", f"{DEMO}/demo.toml", "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout.splitlines()[-1])["published"]


def with_faults(table: pa.Table) -> pa.Table:
    """The first recording flat, the first lead of the second."""
    signals = table["signal"].to_pylist()
    signals[0] = [0] * len(signals[0])
    signals[1][: len(signals[1]) // 12] = [0] * (len(signals[1]) // 12)
    at = table.column_names.index("signal")
    return table.set_column(at, table.schema.field("signal"), pa.array(signals, table.schema.field("signal").type))


def labels_of(rows: list[Row]) -> list[str]:
    return sorted({label for row in rows for label in row["superclasses"]})


def shares_of(rows: list[Row]) -> np.ndarray:
    return np.array([row["proportions"] for row in rows])


def segments_of(row: Row) -> list[tuple[float, float, int]]:
    """(begins, ends, cluster) in seconds."""
    rate, first = row["sampling_rate"], row["start_s"]
    return [(first + s["start"] / rate, first + s["stop"] / rate, s["cluster"]) for s in row["segments"]]


def test_the_list_of_files_has_every_record_once_and_a_glob_has_not(answers: Answers) -> None:
    assert len(answers.rows) == 240 + 64
    assert len({row["record_id"] for row in answers.rows}) == len(answers.rows)
    everything = [(len(answers.rows),)]
    assert answers["counted"] == answers.sql("Never a glob") == everything
    folder = Path(HERE, "explanations", find_dataset(HERE).dataset_id, "data")
    assert sum(pq.read_metadata(file).num_rows for file in folder.glob("*.parquet")) > len(answers.rows)
    names = ("in_arrow", "in_polars", "in_dask", "in_ray", "in_native")
    assert {answers[name] for name in names} == {len(answers.rows)}
    assert answers["in_duckdb_by_name"] == answers["in_duckdb"] == everything


def test_what_came_out(answers: Answers) -> None:
    heading = "What came out?"
    expected = [("ok", len(answers.ok)), ("flat_signal", 1)]
    assert answers.sql(heading) == answers["statuses"].rows() == expected
    [(flag, records)] = answers.sql(heading, 1)
    assert (flag.startswith("flat_lead:"), records) == (True, 1)
    assert answers["flags"].rows() == [(flag, records)]


def test_prevalence_by_diagnosis(answers: Answers) -> None:
    shares, given = shares_of(answers.ok), answers.sql("How prevalent is a cluster, by diagnosis?")
    in_polars = {row[:2]: row[2:] for row in answers["prevalence"].rows()}
    assert len(given) == len(in_polars) == 20 * len(labels_of(answers.ok))
    for label, cluster, records, share_of_time, prevalence, elsewhere in given:
        has = np.array([label in row["superclasses"] for row in answers.ok])
        occurs = shares[:, cluster] > 0
        assert records == has.sum()
        expected = [shares[has, cluster].mean(), occurs[has].mean(), occurs[~has].mean()]
        assert [share_of_time, prevalence, elsewhere] == pytest.approx(expected, rel=1e-5)
        assert in_polars[label, cluster] == pytest.approx((records, share_of_time, prevalence), rel=1e-5)
        if label == "MI":
            assert answers["more_often"][cluster] == pytest.approx(prevalence - elsewhere)
        if cluster == answers["cluster"]:
            assert list(answers["cluster_by_diagnosis"].loc[label]) == pytest.approx([records, share_of_time], rel=1e-5)


def test_the_least_certain(answers: Answers) -> None:
    heading = "Of which recordings is the network least sure?"
    ordered = sorted(answers.ok, key=lambda row: (-row["mean_entropy"], row["record_id"]))[:10]
    expected = [row["record_id"] for row in ordered]
    assert [row[0] for row in answers.sql(heading)] == answers["unsure"]["record_id"].to_list() == expected
    assert list(answers["unsure_in_pandas"]) == list(answers["unsure_in_dask"]) == expected
    moments = [(s["entropy"], row["record_id"], s["cluster"]) for row in answers.ok for s in row["segments"]]
    entropy, record_id, cluster = max(moments)
    first = answers.sql(heading, 1)[0]
    assert (first[0], first[3], first[4]) == (record_id, cluster, pytest.approx(entropy, abs=1e-3))
    assert len(answers["seconds"]) == len(answers["one"]["entropy"])


def test_entropy_by_diagnosis_and_device(answers: Answers) -> None:
    heading = "How sure is it, by diagnosis?"
    given = {row[0]: row[1:] for row in answers.sql(heading)}
    assert sorted(given) == labels_of(answers.ok)
    in_polars = {row[0]: row[1:] for row in answers["entropy_by_diagnosis"].rows()}
    for label, printed in given.items():
        entropies = np.array([row["mean_entropy"] for row in answers.ok if label in row["superclasses"]])
        expected = (len(entropies), entropies.mean(), np.median(entropies), np.quantile(entropies, 0.9))
        assert printed == pytest.approx(expected, rel=1e-5)
        assert in_polars[label] == pytest.approx(expected, rel=1e-5)
        assert answers["in_pandas"][label] == pytest.approx(entropies.mean(), rel=1e-5)
        assert answers["in_dask_too"][label] == pytest.approx(entropies.mean(), rel=1e-5)
    by_device: defaultdict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    by_site: defaultdict[str, list[float]] = defaultdict(list)
    for row in answers.ok:
        by_device[row["site"], row["device"]].append((row["mean_entropy"], row["distortion"]))
        by_site[row["site"]].append(row["mean_entropy"])
    for table in (answers.sql(heading, 1), answers["by_device"].rows()):
        assert len(table) == len(by_device)
        for site, device, records, entropy, distortion in table:
            facts = np.array(by_device[site, device])
            assert (records, entropy, distortion) == pytest.approx((len(facts), *facts.mean(axis=0)), rel=1e-5)
    in_ray = dict(answers["by_site"].itertuples(index=False))
    assert in_ray == pytest.approx({site: np.mean(found) for site, found in by_site.items()}, rel=1e-5)


def test_seconds_by_age(answers: Answers) -> None:
    expected = defaultdict(list)
    for row in answers.ok:
        span = (row["valid_stop"] - row["valid_start"]) / row["sampling_rate"]
        expected[int(row["age"] // 10 * 10)].append(np.array(row["proportions"]) * span)
    for printed in (answers.sql("How long in each state, by age?"), answers["seconds_by_age"].rows()):
        assert len(printed) == 20 * len(expected)
        for decade, cluster, records, seconds in printed:
            assert records == len(expected[decade])
            assert seconds == pytest.approx(np.mean(expected[decade], axis=0)[cluster], rel=1e-5, abs=1e-9)
    assert sorted(answers["share_by_age"]) == sorted(expected)
    assert all(share.sum() == pytest.approx(1, abs=1e-5) for share in answers["share_by_age"].values())


def test_visits_and_transitions_and_peaks(answers: Answers) -> None:
    heading = "When was it in state 7?"
    visits = [
        (row["record_id"], begins, ends)
        for row in sorted(answers.ok, key=lambda row: row["record_id"])
        for begins, ends, cluster in segments_of(row)
        if cluster == 7
    ]
    assert visits
    printed = answers.sql(heading)
    assert [row[0] for row in printed] == [row[0] for row in visits]
    assert np.array([row[1:3] for row in printed]) == pytest.approx(np.array([row[1:] for row in visits]))
    assert answers["visits"].select("record_id", "begins", "ends").rows() == [row[:3] for row in printed]
    follows, at_peaks = Counter[tuple[int, int]](), Counter[tuple[str, int]]()
    for row in answers.ok:
        segments = segments_of(row)
        follows.update((one[2], other[2]) for one, other in itertools.pairwise(segments))
        for mark in row["fiducials"]:
            second = mark["peak"] / row["source_sampling_rate"]
            at_peaks.update((mark["wave"], cluster) for begins, ends, cluster in segments if begins <= second < ends)
    ordered = sorted(follows.items(), key=lambda pair: (-pair[1], pair[0]))[:20]
    assert answers.sql(heading, 1) == answers["transitions"].rows() == [(*pair, times) for pair, times in ordered]
    waves = sorted(at_peaks.items(), key=lambda pair: (pair[0][0], -pair[1], pair[0][1]))
    assert answers.sql(heading, 2) == answers["at_peaks"].rows() == [(*place, peaks) for place, peaks in waves]


def test_the_newest_of_each_patient(answers: Answers) -> None:
    newest: dict[str, Row] = {}
    for row in sorted(answers.ok, key=lambda row: (row["acquired_at"], row["record_id"])):
        newest[row["patient_id"]] = row
    expected = sorted(row["record_id"] for row in newest.values())
    assert len(expected) < len(answers.ok)
    assert [row[1] for row in answers.sql("The newest recording of each patient")] == expected
    assert answers["newest"]["record_id"].to_list() == expected
    assert sorted(answers["newest_in_pandas"]["record_id"]) == expected


def test_what_came_when(answers: Answers) -> None:
    printed = answers.sql("What came on which night?")
    in_polars = answers["by_night"].rows()
    assert [row[:1] + row[2:5] for row in printed] == [
        (1, 2, 240 - SENT_AGAIN, 0),
        (2, 1, 32, 1),
        (3, 1, 32 + SENT_AGAIN, 0),
    ]
    assert [row[:5] for row in in_polars] == [row[:5] for row in printed]
    assert all(row[1] == newest_manifest(HERE).created[:10] or row[0] < 3 for row in printed)
    last = [row["mean_entropy"] for row in answers.ok if row["source_shard"] == "part-00071.parquet"]
    assert printed[-1][5] == pytest.approx(np.mean(last), rel=1e-5)
    assert in_polars[-1][5] == pytest.approx(np.mean(last), rel=1e-5)


def test_what_changed_between_models(answers: Answers) -> None:
    heading = "Which recordings changed between two models?"
    after = {row["record_id"]: row for row in answers["after"].to_table().to_pylist()}
    pairs = dict(zip(answers["old_ids"], answers["new_ids"], strict=True))
    assert 0 < len(pairs) < 20, "every cluster persists: the page shows nothing"
    bound = {}
    for row in answers.ok:
        one, other = row["proportions"], after[row["record_id"]]["proportions"]
        bound[row["record_id"]] = 1 - sum(min(one[old], other[new]) for old, new in pairs.items())
    printed = {row[0]: row[1] for row in answers.sql(heading)}
    assert printed == pytest.approx(bound, abs=1e-5)
    assert dict(answers["changed"].select("record_id", "changed").rows()) == pytest.approx(bound, abs=1e-5)
    in_pandas = answers["both_in_pandas"]
    assert dict(zip(in_pandas["record_id"], in_pandas["changed"], strict=True)) == pytest.approx(bound, abs=1e-5)
    stretches: Counter[str] = Counter()
    for record_id, _, _, begins, ends in answers.sql(heading, 1):
        stretches[record_id] += ends - begins
    assert set(stretches) == set(answers["most"]["record_id"].to_pylist())
    for row in answers.ok:
        if row["record_id"] in stretches:
            seconds = seconds_apart(row, after[row["record_id"]], pairs)
            assert stretches[row["record_id"]] == pytest.approx(seconds)
            span = (row["valid_stop"] - row["valid_start"]) / row["sampling_rate"]
            assert bound[row["record_id"]] <= seconds / span + 1e-5


def seconds_apart(one: Row, other: Row, pairs: dict[int, int]) -> float:
    """Time in states that are not counterparts, timestep by timestep."""

    def labels(row: Row) -> np.ndarray:
        return np.concatenate([np.full(s["stop"] - s["start"], s["cluster"]) for s in row["segments"]])

    expected = np.array([pairs.get(int(k), -1) for k in labels(one)])
    return float((expected != labels(other)).sum() / one["sampling_rate"])


def test_both_places_give_the_same(readings: dict[str, Answers]) -> None:
    here, there = readings["disk"].reader, readings["s3"].reader
    assert os.environ["AWS_ENDPOINT_URL"]
    assert there.variables["files"][0].startswith(CLOUD)
    assert here.rows.keys() == there.rows.keys()
    for heading, given in here.rows.items():
        for one, other in zip(given, there.rows[heading], strict=True):
            assert sorted(map(repr, one)) == sorted(map(repr, other)), heading
