"""One batch of recordings under every probe: from the network's input to rows of the output.

Masking: what does the network say without the segments of one cluster? What is taken out is bridged by a straight line
in every lead, from the last sample before to the first behind: no step that the network never saw, and no waves either.
Only samples within the valid span are touched.

Occlusion: what does the network say, and into which clusters does it fall, without one lead? The lead's samples within
the valid span become its own mean over them, or zeros; everything else is as it was.

Waves: is what looks alike also alike to the network? One wave of each kind a recording, the middle one that lies within
what was explained. Its latent vector is the mean f(t) over its timesteps; its shape is the signal in all leads of the
network, in millivolts, less its first sample. Shapes are compared by dynamic time warping over all leads together
(dtaidistance), divided by √(length of the longer), so that it is a difference in millivolts. For the null, the same
windows are taken from each recording's course of f(t) moved round by a random amount.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ecgscale.archive.waves import WAVES
from ecgscale.clusters.features import BlockLayout, dense_features
from ecgscale.clusters.model import ClusterModel
from ecgscale.clusters.soft import Assignment, assign
from ecgscale.passes.probe.network import Passed, ProbeNetwork
from ecgscale.passes.probe.schema import DROPOUT, GRADCAM, MASKING, OCCLUSION, RANDOMISATION, ProbeSettings


def bridged(x: NDArray[np.float32], out: NDArray[np.bool_], start: int, stop: int) -> NDArray[np.float32]:
    """(n_leads, D) with the samples that `out` (D,) marks within start … stop replaced by lines; flat at the ends.

    A span that is taken out as a whole is zero.
    """
    masked = x.copy()
    inside = out[start:stop]
    if inside.all():
        masked[:, start:stop] = 0.0
        return masked
    kept, gone = np.flatnonzero(~inside), np.flatnonzero(inside)
    right = np.searchsorted(kept, gone)
    before, behind = kept[np.maximum(right - 1, 0)], kept[np.minimum(right, len(kept) - 1)]
    # Before the first and behind the last kept sample both are the same one.
    before = np.where(right == 0, behind, before)
    behind = np.where(right == len(kept), before, behind)
    part = ((gone - before) / np.maximum(behind - before, 1)).astype(np.float32)
    signal = x[:, start:stop]
    masked[:, start + gone] = signal[:, before] * (1 - part) + signal[:, behind] * part
    return masked


def moved(out: NDArray[np.bool_], start: int, stop: int, shift: int) -> NDArray[np.bool_]:
    """The mask (D,) with its part within start … stop moved round by `shift` samples: as much, as often, elsewhere."""
    rolled = out.copy()
    rolled[start:stop] = np.roll(out[start:stop], shift)
    return rolled


def silenced(x: NDArray[np.float32], lead: int, spans: Spans, how: str) -> NDArray[np.float32]:
    """(n, n_leads, D) with one lead flat within each record's valid span: at its own "mean" there, or at "zeros"."""
    without = x.copy()
    for row, start, stop in zip(without, *spans, strict=True):
        if stop > start:
            row[lead, start:stop] = row[lead, start:stop].mean(dtype=np.float64) if how == "mean" else 0.0
    return without


Spans = tuple[NDArray[np.int32], NDArray[np.int32]]


class BatchProber:
    """Probes batches with one network, its copies with weights out of order, and one cluster model."""

    def __init__(self, network: ProbeNetwork, model: ClusterModel, settings: ProbeSettings) -> None:
        self.network, self.model, self.settings = network, model, settings
        self.steps = max(model.layout.lengths)
        wanted = RANDOMISATION in settings.probes
        self._randomised = list(network.randomised(settings.seed)) if wanted else []

    def rows(self, x: NDArray[np.float32], spans: Spans, seed: int) -> tuple[list[dict[str, Any]], Passed]:
        """A row for each of n ≤ batch records (the columns of the probes asked for), and the plain pass.

        x: (n, n_leads, D); spans: valid start and stop (n,); seed: of what is drawn in this batch.
        """
        asked, n = self.settings.probes, len(x)
        plain = self.network.forward(x)
        target = plain.prediction.argmax(axis=1).astype(np.int64)
        # What masking measures is held against Grad-CAM, so it comes with it.
        if {GRADCAM, MASKING, RANDOMISATION} & set(asked):
            # Outputs stay those of inference: what is probed is held against them to the last bit.
            plain = replace(plain, gradcam=self.network.gradcam(x, target).gradcam)
        found = assign(plain.blocks, self.model, *spans)
        entropy = self._pooled(found)
        rows: list[dict[str, Any]] = [
            {
                "prediction": plain.prediction[i],
                "target": int(target[i]),
                "mean_entropy": float(found.mean_entropy[i]),
                "entropy": entropy[i],
                "gradcam": [cam[i] for cam in plain.gradcam] or None,
            }
            for i in range(n)
        ]
        if DROPOUT in asked and self.network.has_dropout:
            for row, facts in zip(rows, self._dropout(x, spans, seed), strict=True):
                row |= facts
        if MASKING in asked:
            for row, masked in zip(rows, self._masked(x, spans, found, plain, seed), strict=True):
                row["masked"] = masked
        if OCCLUSION in asked:
            for row, occluded in zip(rows, self._occluded(x, spans, found), strict=True):
                row["occluded"] = occluded
        for stage, network in self._randomised:
            for row, facts in zip(rows, self._under(network, x, spans, target), strict=True):
                row.setdefault("randomised", []).append({"stage": stage, **facts})
        return rows, plain

    def _pooled(self, found: Assignment) -> NDArray[np.float32]:
        """(n, steps): mean entropy within each step of the finest layer, NaN where none of it is valid."""
        return pooled(found.entropy, found.labels >= 0, self.steps)

    def _dropout(self, x: NDArray[np.float32], spans: Spans, seed: int) -> list[dict[str, Any]]:
        """Predictions of every pass with dropout on, and how undecided the passes are about each timestep's cluster."""
        n, n_clusters = len(x), self.model.n_clusters
        votes = np.zeros((n, self.model.layout.n_steps, n_clusters), np.int16)
        predictions = []
        valid = np.zeros(votes.shape[:2], bool)
        with self.network.dropping(seed):
            for _ in range(self.settings.dropout_passes):
                passed = self.network.forward(x)
                labels = assign(passed.blocks, self.model, *spans).labels
                valid = labels >= 0
                record, step = np.nonzero(valid)
                votes[record, step, labels[record, step]] += 1
                predictions.append(passed.prediction)
        share = votes / self.settings.dropout_passes
        entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=2) / np.log(max(n_clusters, 2))
        undecided = pooled(entropy, valid, self.steps)
        return [{"dropout": [p[i] for p in predictions], "votes": undecided[i]} for i in range(n)]

    def _masked(
        self, x: NDArray[np.float32], spans: Spans, found: Assignment, plain: Passed, seed: int
    ) -> list[list[dict[str, Any]]]:
        """For each record and its clusters: what the network says without them, and without as much elsewhere."""
        rng = np.random.default_rng([self.settings.seed, seed])
        variants, owners = [], []
        for i in range(len(x)):
            start, stop = int(spans[0][i]), int(spans[1][i])
            for cluster in np.flatnonzero(found.counts[i]).tolist():
                out = found.labels[i] == cluster
                shifts = [0, *rng.integers(1, max(stop - start, 2), self.settings.mask_shifts).tolist()]
                variants += [bridged(x[i], moved(out, start, stop, shift), start, stop) for shift in shifts]
                owners.append((i, cluster))
        said = self.network.predict(np.stack(variants)) if variants else np.zeros((0, 1), np.float32)
        said = said.reshape(len(owners), 1 + self.settings.mask_shifts, -1)
        rows: list[list[dict[str, Any]]] = [[] for _ in range(len(x))]
        for (i, cluster), predictions in zip(owners, said, strict=True):
            inside = found.labels[i] == cluster
            rows[i].append(
                {
                    "cluster": cluster,
                    "share": float(found.counts[i, cluster] / found.counts[i].sum()),
                    "entropy": float(found.entropy[i][inside].mean()),
                    "gradcam": [
                        share_within(cam[i], inside, found.labels[i] >= 0, self.model.layout.borders(b))
                        for b, cam in enumerate(plain.gradcam)
                    ],
                    "prediction": predictions[0],
                    "moved": list(predictions[1:]),
                }
            )
        return rows

    def _occluded(self, x: NDArray[np.float32], spans: Spans, found: Assignment) -> list[list[dict[str, Any]]]:
        """For each record and lead: what the network says without it, which share of the valid time has another cluster
        then, and what each cluster loses of its time (NaN where it had none)."""
        rows: list[list[dict[str, Any]]] = [[] for _ in range(len(x))]
        own, counts = found.labels, found.counts
        for number, lead in enumerate(self.network.spec.input.leads):
            passed = self.network.forward(silenced(x, number, spans, self.settings.silence))
            moved_on = (own >= 0) & (assign(passed.blocks, self.model, *spans).labels != own)
            for i, row in enumerate(rows):
                left = np.bincount(own[i][moved_on[i]], minlength=self.model.n_clusters)
                lost = np.where(counts[i] > 0, left / np.maximum(counts[i], 1), np.nan)
                row.append(
                    {
                        "lead": lead,
                        "prediction": passed.prediction[i],
                        "changed": float(left.sum() / max(counts[i].sum(), 1)),
                        "lost": lost.astype(np.float32),
                    }
                )
        return rows

    def _under(
        self, network: ProbeNetwork, x: NDArray[np.float32], spans: Spans, target: NDArray[np.int64]
    ) -> list[dict[str, Any]]:
        passed = network.gradcam(x, target)
        entropy = self._pooled(assign(passed.blocks, self.model, *spans))
        return [
            {"prediction": passed.prediction[i], "entropy": entropy[i], "gradcam": [cam[i] for cam in passed.gradcam]}
            for i in range(len(x))
        ]


def pooled(values: NDArray[np.floating], valid: NDArray[np.bool_], steps: int) -> NDArray[np.float32]:
    """(n, steps): means of (n, D) values over the valid timesteps of each of `steps` equal stretches, else NaN."""
    edges = -(-np.arange(steps) * values.shape[1] // steps)
    sums = np.add.reduceat(np.where(valid, values, 0.0).astype(np.float64), edges, axis=1)
    counts = np.add.reduceat(valid.astype(np.int64), edges, axis=1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)


def share_within(
    cam: NDArray[np.float32], inside: NDArray[np.bool_], valid: NDArray[np.bool_], borders: NDArray[np.float64]
) -> float:
    """Of a map (L,) spread over D timesteps, the share of its valid mass that lies `inside`; NaN where it has none.

    borders: (L + 1,) of its steps on the time axis
    """
    nearest = np.searchsorted(borders[1:-1], np.arange(len(valid)), side="right")
    spread = cam[nearest].astype(np.float64) * valid
    total = float(spread.sum())
    return float(spread[inside].sum()) / total if total > 0 else float("nan")


PARTNERS = 8
"""Recordings before it in its shard that each one is paired with."""

WINDOW_S = 0.04
"""How far time may be warped."""


@dataclass(frozen=True)
class WaveProbe:
    """One wave of one recording: shape (T, n_leads) float64, latent (1 + S, C) float32, the first row where it is."""

    kind: int
    shape: NDArray[np.float64]
    latent: NDArray[np.float32]


@dataclass(frozen=True)
class ProbedRecord:
    """The waves of a recording that was sampled."""

    record_id: str
    waves: tuple[WaveProbe, ...]


def has_dtaidistance() -> bool:
    """Whether shapes can be compared here."""
    return importlib.util.find_spec("dtaidistance") is not None


def probe_waves(
    x: NDArray[np.float32],
    blocks_CL: Sequence[NDArray[np.float32]],
    layout: BlockLayout,
    steps: tuple[NDArray[np.int64], NDArray[np.int64]],
    kinds: NDArray[np.integer],
    span: tuple[int, int],
    shifts: NDArray[np.int64],
    millivolt: float,
) -> tuple[WaveProbe, ...]:
    """Waves of one recording: x (n_leads, D) as the network sees it, blocks (C_b, L_b) of its activations.

    steps: half-open (first, past) of each annotated wave; span: the valid timesteps; shifts: (S,) timesteps.
    """
    first, past = steps
    start, stop = span
    whole = (first >= start) & (past <= stop) & (past - first >= 2)
    chosen = [(kind, np.flatnonzero(whole & (kinds == kind))) for kind in range(len(WAVES))]
    chosen = [(kind, rows) for kind, rows in chosen if len(rows)]
    if not chosen:
        return ()
    course = dense_features([block[None] for block in blocks_CL], layout)[0, start:stop].astype(np.float64)
    sums = np.concatenate([np.zeros((1, course.shape[1])), np.cumsum(course, axis=0)])
    probes = []
    for kind, rows in chosen:
        row = rows[len(rows) // 2]
        begin, length = int(first[row] - start), int(past[row] - first[row])
        latent = _window_means(sums, np.mod(begin - np.append(0, shifts), stop - start), length)
        shape = x[:, first[row] : past[row]].astype(np.float64).T / millivolt
        probes.append(WaveProbe(kind, np.ascontiguousarray(shape - shape[:1]), latent.astype(np.float32)))
    return tuple(probes)


def _window_means(sums: NDArray[np.float64], begin: NDArray[np.int64], length: int) -> NDArray[np.float64]:
    """(len(begin), C): means over windows of a course whose running sums are `sums` (T + 1, C), going round its end."""
    span = len(sums) - 1
    end = begin + length
    total = sums[np.minimum(end, span)] - sums[begin]
    return np.asarray((total + sums[np.maximum(end - span, 0)]) / length)


def pairs_of(own: ProbedRecord, others: Sequence[ProbedRecord], rate: float) -> list[dict[str, Any]]:
    """How far the waves of a recording are from those of others: rows of the output's `pairs`."""
    from dtaidistance import dtw_ndim

    found = []
    for wave in own.waves:
        for other in others:
            for partner in (partner for partner in other.waves if partner.kind == wave.kind):
                longer = max(len(wave.shape), len(partner.shape))
                # A window narrower than the difference in length would leave no path.
                window = max(round(WINDOW_S * rate), abs(len(wave.shape) - len(partner.shape))) + 1
                distance = dtw_ndim.distance_fast(wave.shape, partner.shape, window=window)
                apart = np.linalg.norm(wave.latent - partner.latent, axis=1)
                found.append(
                    {
                        "other": other.record_id,
                        "wave": WAVES[wave.kind],
                        "dtw_mv": float(distance) / np.sqrt(longer),
                        "latent": float(apart[0]),
                        "shifted": apart[1:].astype(np.float32),
                    }
                )
    return found
