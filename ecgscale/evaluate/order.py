"""How predictable is the order of clusters? Likelihoods of held-out sequences under models with and without a memory.

bag       each segment's cluster for itself, with the frequencies of the records that fitted (add one half)
markov    the cluster given the one before (add one half of the bag)
hmm       a hidden Markov model with categorical outputs (hmmlearn), fitted by expectation maximisation

Bits a segment, so that records of any length count alike by what they hold; lower is better. A model with a memory that
is no better than the bag on real sequences, or as good on shuffled ones, has found no order.
"""

from __future__ import annotations

import importlib.util
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.errors import UsageError
from ecgscale.evaluate.sequences import Sequences

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
