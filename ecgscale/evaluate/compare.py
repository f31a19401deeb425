"""Two networks (or two fits) on the same recordings: which clusters are the same, where they differ, what flips.

agreement    the share of time in matched pairs of clusters: one to one, so that as much time as can be is in them
ami          mutual information adjusted for chance, which needs no matching: splits and merges keep it high
predictions  label by label, for outputs of the same name: how often both say the same, Cohen's κ, who says yes alone

Beside agreement and ami stands what moving B's clusters round gives (`joined`). Intervals are of resampled patients, in
groups. Every file is read twice: the second time, with the matching known, record by record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ecgscale.clusters.matching import match_by_time
from ecgscale.errors import UsageError
from ecgscale.evaluate.joined import Answers, Asked, Pair, Tally, common_answers, compared_records, counted_pairs
from ecgscale.evaluate.localise.localisation import adjusted_information
from ecgscale.evaluate.localise.shifts import AgainstShifts, against_shifts
from ecgscale.evaluate.metrics import Weights, interval, patient_weights
from ecgscale.evaluate.published import Published, open_published
from ecgscale.evaluate.written import Written, evaluation_name, write_evaluation
from ecgscale.passes.spread import HERE, Spread
from ecgscale.progress import SILENT, Progress, Stage
from ecgscale.store.presence import announced
from ecgscale.words import counted

KIND = "compare"
TASKS = 64
TOP = 20

Answer = TypeVar("Answer")
Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Compared:
    """What A and B have in common; counts of records by who has them, and `seconds` that both explained.

    clusters: a row a pair that meets or is matched: `a`, `b` (null: no partner), `seconds`, `jaccard`, its shares of
    either cluster's time (`of_a`, `of_b`), `matched`. `records`: as `joined.RECORDS`, the most different first.
    predictions: None where no output is shared.
    """

    records: int
    only_a: int
    only_b: int
    other_shard: int
    quarantined_by_a: int
    quarantined_by_b: int
    seconds: float
    agreement: AgainstShifts
    ami: AgainstShifts
    matched: list[dict[str, Any]]
    alone_a: list[int]
    alone_b: list[int]
    predictions: dict[str, Any] | None
    most_different: list[dict[str, Any]]
    resampled: str
    remarks: tuple[str, ...]
    clusters: pa.Table = field(repr=False)
    table: pa.Table = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """For `--json` and the report; the tables lie beside."""
        return {each.name: getattr(self, each.name) for each in fields(self) if each.repr}


@announced("ecgscale compare", existing=True)
def compare_published(
    root: str | Path,
    other: str | Path,
    *,
    dataset: str | None = None,
    other_dataset: str | None = None,
    n_bootstrap: int = 1000,
    seed: int = 0,
    spread: Spread = HERE,
    progress: Progress = SILENT,
) -> Written[Compared]:
    """Compare what is served below `root` (or `dataset`) with what is below `other`; writes
    ROOT/evaluations/<dataset>/compare-<other dataset>.json with the tables clusters and records, below `root` alone.

    Raises `UsageError` when nothing is published, or when the two have no record in common.
    """
    a, b = open_published(root, dataset), open_published(other, other_dataset)
    answers, why = common_answers(a.spec.output, b.spec.output)
    asked = Asked((a.model.n_clusters, b.model.n_clusters), (a.spec.output, b.spec.output), answers, seed)
    found = compare(asked, _pairs(a, b), n_bootstrap, spread, progress)
    remarks = [*_of_archives(a, b), *found.remarks, *([why] if why else [])]
    found = replace(found, remarks=tuple(remarks))
    facts = {"a": _side(a), "b": _side(b), **found.to_dict()}
    tables = {"clusters": found.clusters, "records": found.table}
    settings = {"n_bootstrap": n_bootstrap, "seed": seed}
    name = evaluation_name(KIND, b.dataset_id)
    return Written(found, facts, write_evaluation(root, a.dataset_id, name, facts, tables, settings=settings))


def _side(published: Published) -> dict[str, Any]:
    content, model = published.manifest.content, published.model
    return {
        "root": str(published.root),
        "dataset_id": published.dataset_id,
        "encoder_id": content.identity.encoder_id,
        "model_id": content.identity.model_id,
        "clusters": model.n_clusters,
        "archive_id": content.archive.archive_id,
        "archive": content.archive.path,
    }


def _pairs(a: Published, b: Published) -> list[Pair]:
    """Files of shards of the same key, and those of one side alone."""
    at = [{shard.key: own.found.store.location(shard.file) for shard in own.manifest.content.shards} for own in (a, b)]
    return [Pair(key, at[0].get(key), at[1].get(key)) for key in sorted(at[0].keys() | at[1].keys())]


def _of_archives(a: Published, b: Published) -> list[str]:
    own, other = a.manifest.content, b.manifest.content
    if own.archive.archive_id != other.archive.archive_id:
        return [f"the archives differ ({own.archive.path}, {other.archive.path}): records are joined by record_id"]
    digests = {shard.key: shard.content_digest for shard in other.shards}
    changed = sum(digests.get(shard.key, shard.content_digest) != shard.content_digest for shard in own.shards)
    return [f"{counted(changed, 'shard')} changed between the two explanations"] if changed else []


def compare(
    asked: Asked, pairs: Sequence[Pair], n_bootstrap: int = 1000, spread: Spread = HERE, progress: Progress = SILENT
) -> Compared:
    """Compare the files of these pairs; `UsageError` when they have no explained record in common."""
    tally = Tally.empty(asked)
    with progress.stage("time in common", len(pairs), "shards") as stage:
        for part in _spread(counted_pairs, asked, pairs, spread, stage):
            tally.add(part)
    moved = _elsewhere(tally, pairs)
    for part in _spread(counted_pairs, asked, moved, spread):
        tally.add(part)
    numbers, n_moved = tally.numbers, sum(len(pair.ids or ()) for pair in moved)
    only_a, only_b = (sum(map(len, left.values())) - n_moved for left in tally.left)
    if not numbers["records"]:
        raise UsageError(
            f"no explained record is in both: {only_a:,} are in A alone, {only_b:,} in B alone. Records are joined by "
            "record_id; give two ROOTs of the same archive"
        )
    together = tally.time.sum(axis=0)
    matching = match_by_time(together)
    partners = tuple(matching.get(k, -1) for k in range(asked.clusters[0]))
    found = []
    with progress.stage("records", len(pairs) + len(moved), "shards") as stage:
        found = _spread(compared_records, replace(asked, partners=partners), [*pairs, *moved], spread, stage)
    table = pa.concat_tables(found)
    table = table.sort_by([("apart", "descending"), ("record_id", "ascending"), ("source_shard", "ascending")])
    groups = np.flatnonzero(tally.time.any(axis=(1, 2)))
    weights = patient_weights(groups.tolist(), n_bootstrap, asked.seed) if len(groups) else np.zeros((0, 0))
    by_group, moved_round = tally.time[groups], np.concatenate([together[None], tally.moved])
    clusters = _clusters(together / tally.rate, matching)
    return Compared(
        records=numbers["records"],
        only_a=only_a,
        only_b=only_b,
        other_shard=n_moved,
        quarantined_by_a=numbers["quarantined_by_a"],
        quarantined_by_b=numbers["quarantined_by_b"],
        seconds=float(together.sum() / tally.rate),
        agreement=against_shifts(
            np.array([agreed(one, match_by_time(one)) for one in moved_round]),
            agreed(np.tensordot(weights, by_group, axes=1), matching),
        ),
        ami=against_shifts(
            adjusted_information(moved_round), adjusted_information(np.tensordot(weights, by_group, axes=1))
        ),
        matched=[row for row in clusters.to_pylist() if row["matched"]],
        alone_a=[k for k in range(asked.clusters[0]) if k not in matching],
        alone_b=[k for k in range(asked.clusters[1]) if k not in matching.values()],
        predictions=_predictions(asked.answers, tally, groups, weights, table) if asked.answers else None,
        most_different=table.slice(0, TOP).drop_columns(["patient_id"]).to_pylist(),
        resampled=f"{len(groups)} groups of {'patients' if numbers['patients_known'] else 'records'}",
        remarks=tuple(_remarks(numbers, only_a, only_b, n_moved)),
        clusters=clusters,
        table=table,
    )


def _spread(
    function: Callable[[Asked, Sequence[Pair]], Answer],
    asked: Asked,
    pairs: Sequence[Pair],
    spread: Spread,
    stage: Stage | None = None,
) -> list[Answer]:
    """The answers for all pairs, in at most TASKS parts: what comes back does not grow with the archive."""
    size = max(-(-len(pairs) // TASKS), 1)
    tasks = [tuple(pairs[i : i + size]) for i in range(0, len(pairs), size)]
    more: dict[str, Any] = {"stage": stage} if stage is not None else {}
    return spread.map(function, asked, tasks, weights=[len(task) for task in tasks], **more)


def _elsewhere(tally: Tally, pairs: Sequence[Pair]) -> list[Pair]:
    """Records that lie in shards of other keys: a pair for every two files that have some, those ids alone.

    A record that several shards of one side have is nobody's partner.
    """
    where = [{pair.key: file for pair in pairs if (file := (pair.a, pair.b)[i]) is not None} for i in range(2)]
    homes: list[dict[str, str | None]] = [{}, {}]
    for home, left in zip(homes, tally.left, strict=True):
        for key, names in left.items():
            for name in names:
                home[name] = None if name in home else key
    found: dict[tuple[str, str], list[str]] = {}
    for name, own in homes[0].items():
        other = homes[1].get(name)
        if own is not None and other is not None:
            found.setdefault((own, other), []).append(name)
    return [Pair(a, where[0][a], where[1][b], frozenset(names)) for (a, b), names in sorted(found.items())]


def agreed(together: NDArray, matching: dict[int, int]) -> Scores:
    """(…,) the share of (…, K, K′) time that is in matched pairs."""
    total = together.sum(axis=(-1, -2))
    inside = together[..., list(matching), list(matching.values())].sum(axis=-1)
    return np.asarray(inside / np.where(total > 0, total, np.nan))


def _clusters(seconds: Scores, matching: dict[int, int]) -> pa.Table:
    """One row a pair of clusters that meet, the longest first, and one for each without any time."""
    of_a, of_b = seconds.sum(axis=1), seconds.sum(axis=0)
    rows = [
        {
            "a": i,
            "b": j,
            "seconds": seconds[i, j],
            "jaccard": seconds[i, j] / (of_a[i] + of_b[j] - seconds[i, j]),
            "of_a": seconds[i, j] / of_a[i],
            "of_b": seconds[i, j] / of_b[j],
            "matched": matching.get(i) == j,
        }
        for i, j in np.argwhere(seconds > 0).tolist()
    ]
    rows.sort(key=lambda row: (not row["matched"], -row["seconds"], row["a"], row["b"]))
    number, share = pa.int16(), pa.float64()
    kinds = {"a": number, "b": number, **dict.fromkeys(("seconds", "jaccard", "of_a", "of_b"), share)}
    return pa.Table.from_pylist(rows, pa.schema({**kinds, "matched": pa.bool_()}))


def _predictions(
    answers: Answers, tally: Tally, groups: NDArray[np.int64], weights: Weights, table: pa.Table
) -> dict[str, Any]:
    """What both say of the same: `agreement` over labels (or classes), and each label by itself."""
    if answers.kind == "regression":
        n, a, b, size, square = np.moveaxis(
            np.concatenate([tally.values.sum(axis=0)[None], weights @ tally.values[groups]]), 1, 0
        )
        n = np.where(n > 0, n, np.nan)
        scores = {"difference": (b - a) / n, "absolute": size / n, "root_mean_square": np.sqrt(square / n)}
        return {"kind": answers.kind, "names": list(answers.names), **{k: _scored(v) for k, v in scores.items()}}
    said = np.concatenate([tally.said.sum(axis=0)[None], np.tensordot(weights, tally.said[groups], axes=1)])
    # Of classes, each is a label against the others.
    each = said if answers.kind == "multilabel" else _one_against_others(said[:, 0])
    same = np.trace(said, axis1=-2, axis2=-1) / np.maximum(said.sum(axis=(-1, -2)), 1)
    agreement, kappa = np.trace(each, axis1=-2, axis2=-1) / np.maximum(each.sum(axis=(-1, -2)), 1), _kappa(each)
    off = np.concatenate([tally.apart.sum(axis=0)[None], weights @ tally.apart[groups]]) / 1e6
    off = off / np.maximum(said[:, 0].sum(axis=(-1, -2)), 1)[:, None]
    labels = {
        name: {
            "agreement": _scored(agreement[:, i]),
            "kappa": _scored(kappa[:, i]),
            "probability_apart": _scored(off[:, i]),
            "yes_a": int(each[0, i, 1].sum()),
            "yes_b": int(each[0, i, :, 1].sum()),
            "only_a": int(each[0, i, 1, 0]),
            "only_b": int(each[0, i, 0, 1]),
        }
        for i, name in enumerate(answers.names)
    }
    flipped = int(sum(bool(flips) for flips in table.column("flips").to_pylist()))
    return {"kind": answers.kind, "agreement": _scored(same.mean(axis=1)), "flipped": flipped, "labels": labels}


def _one_against_others(said: NDArray) -> NDArray:
    """(…, C, C) answers of C classes as (…, C, 2, 2) of no and yes to each."""
    yes, a, b = np.diagonal(said, axis1=-2, axis2=-1), said.sum(axis=-1), said.sum(axis=-2)
    neither = said.sum(axis=(-1, -2))[..., None] - a - b + yes
    return np.stack([np.stack([neither, b - yes], axis=-1), np.stack([a - yes, yes], axis=-1)], axis=-2)


def _kappa(said: NDArray) -> Scores:
    """Cohen's κ of (…, C, C) answers; NaN where chance alone would agree always."""
    total = np.maximum(said.sum(axis=(-1, -2)), 1)
    same = np.trace(said, axis1=-2, axis2=-1) / total
    chance = (said.sum(axis=-1) * said.sum(axis=-2)).sum(axis=-1) / total.astype(np.float64) ** 2
    some = chance < 1 - 1e-12
    return np.where(some, (same - chance) / np.where(some, 1 - chance, 1), np.nan)


def _scored(values: Scores) -> dict[str, Any]:
    """The first as it is, and the interval of the others."""
    value = float(values[0])
    pair = interval(lambda rows: rows[:, 0], values[1:, None]) if len(values) > 1 else None
    return {"value": value if np.isfinite(value) else None, "interval": pair}


def _remarks(numbers: dict[str, int], only_a: int, only_b: int, moved: int) -> list[str]:
    said = []
    for name, n in (("A", only_a), ("B", only_b)):
        if n:
            said.append(f"{counted(n, 'record')} in {name} alone: left out")
    if moved:
        said.append(f"{counted(moved, 'record')} in other shards: joined by record_id")
    for name, n in (("A", numbers["quarantined_by_a"]), ("B", numbers["quarantined_by_b"])):
        if n:
            said.append(f"{counted(n, 'record')} quarantined by {name} and explained by the other: left out")
    if n := numbers["other_patient"]:
        said.append(
            f"{counted(n, 'record')} of the same id, but of another patient: these may not be the same recordings"
        )
    return said
