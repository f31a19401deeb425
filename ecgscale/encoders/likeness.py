"""Does a contract fit real recordings? What the network's own weights and answers tell of it.

A batch norm remembers the variance that its input had in training. Recordings that reach it under the right contract
have the same; in other units, or without the normalisation of the training, they have another. And outputs that all lie
between 0 and 1 were through a sigmoid or a softmax already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ecgscale.archive.reader import Archive
from ecgscale.encoders.inputs import arranged
from ecgscale.encoders.listening import prediction_of
from ecgscale.encoders.preprocess import prepare_batch
from ecgscale.encoders.spec import EncoderSpec, InputSpec
from ecgscale.errors import EncoderError, UsageError
from ecgscale.words import counted

RECORDS = 32
_BATCH = 8
_OFF = 0.7
"""Powers of ten between a variance and that which is remembered: beyond, they are not of one contract."""


@dataclass(frozen=True)
class Form:
    """What most of the first recordings of an archive are like."""

    leads: tuple[str, ...]
    sampling_rate: float
    seconds: float


@dataclass(frozen=True)
class Likeness:
    """What a network says of real recordings under a contract.

    off: log10 of the variance that reaches its first batch norm over that which this remembers, the median of its
    channels; None where there is no batch norm, or none was trained
    low, high: the smallest and the largest output
    """

    records: int
    off: float | None
    norm: str
    low: float
    high: float
    scale: str

    @property
    def warnings(self) -> list[str]:
        """What should make one hesitate."""
        found = []
        of = f"over {counted(self.records, 'recording')} of the archive"
        within = self.low >= 0 and self.high <= 1
        if self.scale == "logit" and within:
            found.append(
                f"all outputs lie within 0 and 1 ({self.low:.3f} to {self.high:.3f}) {of}: a sigmoid or softmax ends "
                'the network, and with scale = "logit" probabilities would be through a second one. Put scale = '
                '"probability" under [output]'
            )
        if self.scale == "probability" and not within:
            found.append(
                f'outputs go from {self.low:.3f} to {self.high:.3f} {of} and are no probabilities: put scale = "logit" '
                "under [output]"
            )
        if self.off is not None and abs(self.off) > _OFF:
            factor = 10 ** (-self.off / 2)
            found.append(
                f"recordings reach batch norm {self.norm!r} with 10^{self.off:+.1f} of the variance that it remembers "
                f"from training: the network learned from signals {factor:.3g} times as large, or normalised. See "
                "millivolt and normalisation under [input]"
            )
        return found


def usual_form(archive: Archive) -> Form:
    """Leads, rate and length of most of the first recordings. `UsageError` for an archive without any."""
    forms: Counter[Form] = Counter()
    for shard in archive.shards[:4]:
        for raw in archive.batches(shard, columns=[], batch_records=64):
            for i, leads in enumerate(raw.leads):
                if leads and raw.sampling_rate[i] > 0:
                    samples = int(raw.offsets[i + 1] - raw.offsets[i]) // len(leads)
                    rate = float(raw.sampling_rate[i])
                    forms[Form(tuple(leads), rate, round(samples / rate, 3))] += 1
            break
    if not forms:
        raise UsageError(f"{archive.path} has no recordings that a network could be tried on")
    return forms.most_common(1)[0][0]


def recordings_of(archive: Archive, spec: InputSpec, records: int = RECORDS) -> NDArray[np.float32]:
    """The first usable recordings as the network would see them, (at most `records`, leads, D)."""
    found: list[NDArray[np.float32]] = []
    reasons: Counter[str] = Counter()
    for shard in archive.shards:
        for raw in archive.batches(shard, columns=[], batch_records=records):
            prepared = prepare_batch(raw, spec, 1)
            found.append(prepared.x[prepared.usable])
            reasons.update(state for state in prepared.status if state != "ok")
            if sum(map(len, found)) >= records:
                return np.concatenate(found)[:records]
    if not sum(map(len, found)):
        why = ", ".join(f"{state} ({n})" for state, n in reasons.most_common(3)) or "it is empty"
        raise UsageError(f"no recording of {archive.path} fits [input]: {why}")
    return np.concatenate(found)


def likeness(make: Callable[[], nn.Module], spec: EncoderSpec, archive: Archive) -> Likeness:
    """Run recordings of `archive` through the network under its contract. `make` builds it, with its weights."""
    module, x = make().eval(), torch.from_numpy(recordings_of(archive, spec.input))
    x = x[..., : spec.input.seen_at_once]  # the first window, where it has windows
    found = next(
        (
            (name, one)
            for name, one in module.named_modules()
            if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d) and one.running_var is not None
        ),
        None,
    )
    seen: list[torch.Tensor] = []
    if found is not None:
        found[1].register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].double()))
    outputs = []
    try:
        with torch.inference_mode():
            for batch in x.split(_BATCH):
                outputs.append(prediction_of(module(arranged(batch, spec.input.layout)), spec, len(batch)).double())
    except EncoderError:
        raise
    except Exception as error:  # anything may go wrong in somebody else's network; the cause is chained
        raise EncoderError(f"{spec.factory} does not run on recordings of {archive.path}: {error}") from error
    values = torch.cat(outputs)
    return Likeness(
        len(x),
        _off(found[1], seen) if found else None,
        found[0] if found else "",
        float(values.min()),
        float(values.max()),
        spec.output.scale,
    )


def _off(norm: Any, seen: list[torch.Tensor]) -> float | None:
    remembered = norm.running_var.double()
    if not seen or bool((remembered == 1).all()):  # as it is drawn
        return None
    values = torch.cat(seen).transpose(0, 1).flatten(1)
    ratio = torch.log10((values.var(1) + norm.eps) / (remembered + norm.eps))
    return float(ratio.median())
