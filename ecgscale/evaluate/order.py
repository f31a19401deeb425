"""Recordings as sequences of clusters, what can be counted in them, and how predictable their order is.

One symbol a segment. Features of a record:

bag       share of time in each cluster: no order at all
dwell     mean length of a cluster's segments in seconds, and how many there are a second
ngrams    how often cluster b comes after a (all pairs), and c after a, b (the commonest triples), over segments

`shuffled` puts the segments of every record into a random order: bag and dwell stay as they are, and what ngrams tell
of the shuffled sequences is what they tell without any order in time.

Likelihoods of held-out sequences under models with and without a memory:

bag       each segment's cluster for itself, with the frequencies of the records that fitted (add one half)
markov    the cluster given the one before (add one half of the bag)
hmm       a hidden Markov model with categorical outputs (hmmlearn), fitted by expectation maximisation

Bits a segment, so that records of any length count alike by what they hold; lower is better. A model with a memory that
is no better than the bag on real sequences, or as good on shuffled ones, has found no order.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TRIPLES = 200
"""Triples of clusters that are counted: the commonest over all records, whatever their labels."""

KINDS = ("bag", "markov", "hmm")
STATES = 6
ITERATIONS = 20
_SMOOTHING = 0.5
_HMM_RECORDS = 500
"""Records that one hidden Markov model is fitted on: some ten thousand segments, for a few hundred parameters."""


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

    def grams(self, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Every n neighbouring segments of one record: the number of the first, and their clusters as digits to the
        base K."""
        first = np.arange(max(len(self.cluster) - n + 1, 0))
        record = self.record
        first = first[record[first] == record[first + n - 1]]
        digits = tuple(self.cluster[first + i] for i in range(n))
        return first, np.asarray(np.ravel_multi_index(digits, (self.n_clusters,) * n), np.int64)


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


def _sums(sequences: Sequences, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, K): sums of `weights` over the segments of each record and cluster."""
    cells = sequences.record * sequences.n_clusters + sequences.cluster
    size = len(sequences) * sequences.n_clusters
    return np.asarray(np.bincount(cells, weights, minlength=size).reshape(len(sequences), -1), np.float64)


def ngrams(sequences: Sequences) -> NDArray[np.float64]:
    """(N, K² + triples): shares of a record's neighbouring pairs and triples of segments; for triples see TRIPLES."""
    return np.concatenate([_gram_shares(sequences, 2, None), _gram_shares(sequences, 3, TRIPLES)], axis=1)


def _gram_shares(sequences: Sequences, n: int, most: int | None) -> NDArray[np.float64]:
    first, code = sequences.grams(n)
    there = sequences.n_clusters**n
    kept = np.arange(there)
    if most is not None and there > most:
        kept = np.sort(np.argsort(-np.bincount(code, minlength=there), kind="stable")[:most])
    place = np.full(there, -1, np.int64)
    place[kept] = np.arange(len(kept))
    some = place[code] >= 0
    cells = sequences.record[first[some]] * len(kept) + place[code[some]]
    counts = np.bincount(cells, minlength=len(sequences) * len(kept)).reshape(len(sequences), len(kept))
    return np.asarray(counts / np.maximum(sequences.lengths - n + 1, 1)[:, None])


Likelihood = Callable[[Sequences, NDArray[np.int64]], NDArray[np.float64]]
"""Log-likelihoods in nats of some records (numbers) of some sequences, each as a whole."""


def has_hmmlearn() -> bool:
    """Whether hidden Markov models can be fitted here."""
    return importlib.util.find_spec("hmmlearn") is not None


def fit_order(kind: str, sequences: Sequences, rows: NDArray[np.int64], seed: int) -> Likelihood:
    """A model of one of KINDS, fitted on these records."""
    return _fit_hmm(sequences, rows, seed) if kind == "hmm" else _fit_chain(sequences, rows, kind == "markov")


def _fit_chain(sequences: Sequences, rows: NDArray[np.int64], memory: bool) -> Likelihood:
    """Frequencies of clusters over the segments, and with a `memory` those of each cluster after each."""
    k, chosen = sequences.n_clusters, np.isin(sequences.record, rows)
    counts = np.bincount(sequences.cluster[chosen], minlength=k) + _SMOOTHING
    frequencies = counts / counts.sum()
    first, code = sequences.grams(2)
    inside = np.isin(sequences.record[first], rows)
    after = np.bincount(code[inside], minlength=k * k).reshape(k, k) + _SMOOTHING * k * frequencies
    log_first, log_after = np.log(frequencies), np.log(after / after.sum(axis=1, keepdims=True))

    def likelihood(sequences: Sequences, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        each = log_first[sequences.cluster]
        if memory:
            first, code = sequences.grams(2)
            each[first + 1] = log_after.ravel()[code]
        return np.asarray(np.bincount(sequences.record, each, minlength=len(sequences))[rows], np.float64)

    return likelihood


def _fit_hmm(sequences: Sequences, rows: NDArray[np.int64], seed: int) -> Likelihood:
    """A hidden Markov model of STATES states; at most _HMM_RECORDS of the records, drawn."""
    from hmmlearn.hmm import CategoricalHMM

    if len(rows) > _HMM_RECORDS:
        rows = np.sort(np.random.default_rng([seed, 9]).permutation(rows)[:_HMM_RECORDS])
    own = [clusters for row in rows.tolist() if len(clusters := sequences.of(row))]
    model = CategoricalHMM(
        STATES,
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
    return lambda scored, rows: np.array([model.score(scored.of(row)[:, None]) for row in rows.tolist()])


def bits_per_segment(
    log_likelihood: NDArray[np.float64], sequences: Sequences, rows: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(len(rows),) −log₂ p a segment of these records; NaN for one without segments."""
    lengths = sequences.lengths[rows]
    return np.where(lengths > 0, -log_likelihood / np.log(2) / np.maximum(lengths, 1), np.nan)
