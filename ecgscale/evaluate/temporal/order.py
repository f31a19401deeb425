"""How predictable is the order of clusters? Likelihoods of held-out sequences under models with and without a memory.

bag       each segment's cluster for itself, with the frequencies of the records that fitted (add one half)
markov    the cluster given the one before (add one half of the bag)
hmm       a hidden Markov model with categorical outputs (hmmlearn), fitted by expectation maximisation

Bits a segment, so that records of any length count alike by what they hold; lower is better. A model with a memory that
is no better than the bag on real sequences, or as good on shuffled ones, has found no order.

Recordings as sequences of clusters, one symbol a segment, and what can be counted in them.

bag       share of time in each cluster: no order at all
dwell     mean length of a cluster's segments in seconds, and how many there are a second
ngrams    how often cluster b comes after a (all pairs), and c after a, b (the commonest triples), over segments

`shuffled` puts the segments of every record into a random order: bag and dwell stay as they are, and what ngrams tell
of the shuffled sequences is what they tell without any order in time.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ecgscale.errors import UsageError

TRIPLES = 200
"""Triples of clusters that are counted: the commonest over all records, whatever their labels."""


@dataclass(frozen=True)
class Sequences:
    """N records: clusters and seconds of their segments, those of record i at offsets[i]:offsets[i + 1]."""

    cluster: NDArray[np.int64]
    seconds: NDArray[np.float64]
    offsets: NDArray[np.int64]
    n_clusters: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) segments a record."""
        return np.diff(self.offsets)

    @property
    def record(self) -> NDArray[np.int64]:
        """Which record each segment belongs to."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def of(self, record: int) -> NDArray[np.int64]:
        """The clusters of one record in order."""
        return self.cluster[self.offsets[record] : self.offsets[record + 1]]


def sequences_of(explanations: pa.Table, n_clusters: int) -> Sequences:
    """The segments of N explained records (columns segments, sampling_rate)."""
    column = explanations.column("segments")
    each = pc.list_flatten(column)
    start, stop, cluster = (pc.struct_field(each, name).to_numpy() for name in ("start", "stop", "cluster"))
    lengths = pc.list_value_length(column).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rate = np.repeat(explanations.column("sampling_rate").to_numpy().astype(np.float64), lengths)
    return Sequences(cluster.astype(np.int64), (stop - start) / rate, offsets, n_clusters)


def shuffled(sequences: Sequences, seed: int) -> Sequences:
    """The segments of every record in a random order, each with its length."""
    draw = np.random.default_rng([seed, 8]).random(len(sequences.cluster))
    order = np.lexsort((draw, sequences.record))
    return replace(sequences, cluster=sequences.cluster[order], seconds=sequences.seconds[order])


def bag(sequences: Sequences) -> NDArray[np.float64]:
    """(N, K): share of time in each cluster."""
    time = _sums(sequences, sequences.seconds)
    return time / np.maximum(time.sum(axis=1, keepdims=True), 1e-12)


def dwell(sequences: Sequences) -> NDArray[np.float64]:
    """(N, 2K): mean seconds of a cluster's segments (0 where it does not occur), and segments a second."""
    time, count = _sums(sequences, sequences.seconds), _sums(sequences, np.ones_like(sequences.seconds))
    return np.concatenate([time / np.maximum(count, 1), count / np.maximum(time.sum(axis=1, keepdims=True), 1e-12)], 1)


def ngrams(sequences: Sequences) -> NDArray[np.float64]:
    """(N, K² + triples): shares of a record's neighbouring pairs and triples of segments; for triples see TRIPLES."""
    return np.concatenate([_grams(sequences, 2, None), _grams(sequences, 3, TRIPLES)], axis=1)


def _grams(sequences: Sequences, n: int, most: int | None) -> NDArray[np.float64]:
    k, total = sequences.n_clusters, len(sequences.cluster)
    starts = np.arange(max(total - n + 1, 0))
    starts = starts[sequences.record[starts] == sequences.record[starts + n - 1]]
    code = sum(sequences.cluster[starts + i] * k ** (n - 1 - i) for i in range(n))
    record = sequences.record[starts]
    code = np.asarray(code, np.int64)
    kept = np.arange(k**n)
    if most is not None and k**n > most:
        kept = np.sort(np.argsort(-np.bincount(code, minlength=k**n), kind="stable")[:most])
    place = np.full(k**n, -1, np.int64)
    place[kept] = np.arange(len(kept))
    some = place[code] >= 0
    cells = record[some] * len(kept) + place[code[some]]
    counts = np.bincount(cells, minlength=len(sequences) * len(kept)).reshape(len(sequences), len(kept))
    return np.asarray(counts / np.maximum(sequences.lengths - n + 1, 1)[:, None])


def _sums(sequences: Sequences, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K): sums of `weights` over the segments of each record and cluster."""
    cells = sequences.record * sequences.n_clusters + sequences.cluster
    size = len(sequences) * sequences.n_clusters
    return np.asarray(np.bincount(cells, weights, minlength=size).reshape(len(sequences), -1), np.float64)


KINDS = ("bag", "markov", "hmm")
STATES = 6
ITERATIONS = 20
_SMOOTHING = 0.5
_HMM_RECORDS = 500
"""Records that one hidden Markov model is fitted on: some ten thousand segments, for a few hundred parameters."""


@dataclass(frozen=True)
class OrderModel:
    """Log-likelihoods in nats of whole sequences under a model of one of the kinds."""

    kind: str
    parameters: Any

    def log_likelihood(self, sequences: Sequences, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(len(rows),) log-likelihood of each of these records."""
        if self.kind == "hmm":
            return np.array([self.parameters.score(sequences.of(row)[:, None]) for row in rows.tolist()])
        bag, after = self.parameters
        each = bag[sequences.cluster]
        if after is not None:
            first, second = _pairs(sequences)
            each[second] = after[sequences.cluster[first], sequences.cluster[second]]
        return np.asarray(np.bincount(sequences.record, each, minlength=len(sequences))[rows], np.float64)


def fit_bag(sequences: Sequences, rows: NDArray[np.int64]) -> OrderModel:
    """Frequencies of clusters over the segments of these records."""
    return OrderModel("bag", (np.log(_frequencies(sequences, rows)), None))


def fit_markov(sequences: Sequences, rows: NDArray[np.int64]) -> OrderModel:
    """Frequencies of a record's first cluster and of each cluster after each."""
    frequencies, k = _frequencies(sequences, rows), sequences.n_clusters
    first, second = _pairs(sequences)
    inside = np.isin(sequences.record[first], rows)
    code = sequences.cluster[first[inside]] * k + sequences.cluster[second[inside]]
    counts = np.bincount(code, minlength=k * k).reshape(k, k)
    after = counts + _SMOOTHING * k * frequencies
    return OrderModel("markov", (np.log(frequencies), np.log(after / after.sum(axis=1, keepdims=True))))


def fit_hmm(sequences: Sequences, rows: NDArray[np.int64], seed: int, states: int = STATES) -> OrderModel:
    """A hidden Markov model of `states` states; at most _HMM_RECORDS of the records, drawn."""
    from hmmlearn.hmm import CategoricalHMM

    if len(rows) > _HMM_RECORDS:
        rows = np.sort(np.random.default_rng([seed, 9]).permutation(rows)[:_HMM_RECORDS])
    own = [sequences.of(row) for row in rows.tolist()]
    own = [clusters for clusters in own if len(clusters)]
    model = CategoricalHMM(
        states,
        emissionprob_prior=1 + _SMOOTHING,
        n_features=sequences.n_clusters,
        n_iter=ITERATIONS,
        tol=1e-3 * sum(map(len, own)),  # a thousandth of a nat a segment
        random_state=seed,
        implementation="scaling",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few sequences for many parameters: the held-out likelihood says so better
        model.fit(np.concatenate(own)[:, None], [len(clusters) for clusters in own])
    # Expectation maximisation leaves zeros, under which an unseen cluster or step would be impossible.
    for name in ("startprob_", "transmat_", "emissionprob_"):
        p = getattr(model, name) + 1e-6
        setattr(model, name, p / p.sum(axis=-1, keepdims=True))
    return OrderModel("hmm", model)


def has_hmmlearn() -> bool:
    """Whether hidden Markov models can be fitted here."""
    return importlib.util.find_spec("hmmlearn") is not None


def fit_order(kind: str, sequences: Sequences, rows: NDArray[np.int64], seed: int) -> OrderModel:
    """A model of one of KINDS for these records."""
    if kind == "hmm":
        return fit_hmm(sequences, rows, seed)
    if kind in KINDS:
        return (fit_bag if kind == "bag" else fit_markov)(sequences, rows)
    raise UsageError(f"no model of order {kind!r}; there are {', '.join(KINDS)}")


def bits_per_segment(
    log_likelihood: NDArray[np.float64], sequences: Sequences, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(len(rows),) −log₂ p a segment of these records; NaN for one without segments."""
    lengths = sequences.lengths[rows]
    return np.where(lengths > 0, -log_likelihood / np.log(2) / np.maximum(lengths, 1), np.nan)


def _frequencies(sequences: Sequences, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    chosen = np.isin(sequences.record, rows)
    counts = np.bincount(sequences.cluster[chosen], minlength=sequences.n_clusters) + _SMOOTHING
    return np.asarray(counts / counts.sum())


def _pairs(sequences: Sequences) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers of neighbouring segments of one record: (the first of each pair, the second)."""
    first = np.flatnonzero(sequences.record[:-1] == sequences.record[1:])
    return first, first + 1
