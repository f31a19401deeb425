"""The training loop: AdamW with a one-cycle rate, small shifts and gains, the best weights on validation kept.

What is validated, kept and returned is a running average of the weights over about two epochs: on a few hundred
records a single epoch's weights, and their batch statistics above all, are too noisy to choose between.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from ecgscale.config import TRAINING
from ecgscale.encoders.targets import LOSSES, Loss, Target, headline, score
from ecgscale.errors import EcgscaleError
from ecgscale.progress import SILENT, Progress

EVALUATION_BATCH = 32
_GAIN_SPREAD = 0.1
_CLIP_NORM = 5.0
_AVERAGED_EPOCHS = 2


@dataclass(frozen=True)
class LoopSettings:
    """How to optimise; `patience` epochs without a better validation loss end it, never in the first half."""

    epochs: int = TRAINING.epochs
    batch_size: int = TRAINING.batch_size
    learning_rate: float = TRAINING.learning_rate
    weight_decay: float = 0.05
    shift_share: float = 0.05  # of the length, to either side
    patience: int = 6
    seed: int = TRAINING.seed


@dataclass
class Outcome:
    """What the loop leaves behind: an epoch's facts a row, and which one the module's weights are from."""

    history: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0


def optimise(
    module: nn.Module,
    x: NDArray[np.float32],
    target: Target,
    train: NDArray[np.intp],
    validation: NDArray[np.intp],
    settings: LoopSettings,
    *,
    device: torch.device,
    progress: Progress = SILENT,
) -> Outcome:
    """Train `module` on rows `train` of x (N, n_leads, D); it ends in eval mode with the best epoch's weights.

    A regression is trained on the standardised target, and the scale is folded into the last linear layer at the end,
    so that the network predicts in the target's own unit. EcgscaleError if the loss is never finite.
    """
    rng = np.random.default_rng(settings.seed)
    scaled = _Standardised.of(target, train)
    loss_of = LOSSES[target.kind]
    per_epoch = math.ceil(len(train) / settings.batch_size)
    rate = settings.learning_rate
    optimiser = torch.optim.AdamW(module.parameters(), rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=settings.epochs * per_epoch)
    average = _Average(module, 1 - 1 / (_AVERAGED_EPOCHS * per_epoch))
    shift = round(settings.shift_share * x.shape[-1])
    outcome, best, best_loss = Outcome(), {}, math.inf
    with progress.stage("train", settings.epochs * len(train), "records") as stage:
        for epoch in range(1, settings.epochs + 1):
            module.train()
            total = 0.0
            for rows in np.array_split(rng.permutation(train), per_epoch):
                batch, wanted = _augmented(x, rows, shift, rng, device), scaled.y[rows].to(device)
                total += _step(module, batch, wanted, loss_of, optimiser) * len(rows)
                schedule.step()
                average.update(module)
                stage.advance(len(rows))
            if not math.isfinite(total):
                progress.say(f"epoch {epoch}: the loss is no longer finite; stopped")
                break
            outputs = predict(average.module, x, validation, device)
            validation_loss = float(loss_of(outputs, scaled.y[validation]))
            scores = score(target.kind, target.names, scaled.back(outputs), target.y[validation])
            facts = {"epoch": epoch, "loss": total / len(train), "validation_loss": validation_loss, **scores}
            outcome.history.append(facts)
            better = validation_loss < best_loss
            if better:
                best_loss, outcome.best_epoch = validation_loss, epoch
                best = {name: value.detach().cpu().clone() for name, value in average.module.state_dict().items()}
            losses = f"loss {facts['loss']:.3f}, on validation {validation_loss:.3f}"
            line = f"epoch {epoch}/{settings.epochs}: {losses}, {headline(target.kind, scores)}"
            stage.note(line)
            progress.say(line + (" (best so far)" if better else ""))
            if epoch - outcome.best_epoch >= settings.patience and epoch > settings.epochs // 2:
                progress.say(f"stopped early: no better validation loss for {settings.patience} epochs")
                break
    if not best:
        raise EcgscaleError("the loss was never finite; train with a smaller --learning-rate, or inspect the archive")
    module.load_state_dict(best)
    scaled.fold_into(module)
    module.eval()
    return outcome


def predict(module: nn.Module, x: NDArray[np.float32], rows: NDArray[np.intp], device: torch.device) -> torch.Tensor:
    """(len(rows), n) outputs in evaluation mode, on the CPU."""
    module.eval()
    outputs = []
    with torch.inference_mode():
        for start in range(0, len(rows), EVALUATION_BATCH):
            batch = torch.from_numpy(x[rows[start : start + EVALUATION_BATCH]]).to(device)
            outputs.append(module(batch).float().cpu())
    return torch.cat(outputs)


def _step(
    module: nn.Module, batch: torch.Tensor, wanted: torch.Tensor, loss_of: Loss, optimiser: torch.optim.Optimizer
) -> float:
    loss = loss_of(module(batch), wanted)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(module.parameters(), _CLIP_NORM)
    optimiser.step()
    return float(loss.detach())


class _Average:
    """Exponential running average of a module's weights and batch statistics; its first steps weigh less."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        self._steps += 1
        keep = min(self._decay, self._steps / (self._steps + 9))
        for mine, new in zip(self.module.state_dict().values(), module.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(new, 1 - keep)
            else:
                mine.copy_(new)


def _augmented(
    x: NDArray[np.float32], rows: NDArray[np.intp], shift: int, rng: np.random.Generator, device: torch.device
) -> torch.Tensor:
    """Rows of x, each moved by up to `shift` samples (zeros come in) and scaled by a gain near 1."""
    batch = torch.from_numpy(x[rows]).to(device)
    length = batch.shape[-1]
    offsets = torch.from_numpy(rng.integers(0, 2 * shift + 1, len(rows))).to(device)
    gains = torch.from_numpy(rng.normal(1.0, _GAIN_SPREAD, len(rows)).astype(np.float32)).to(device)
    windows = functional.pad(batch, (shift, shift)).unfold(-1, length, 1)
    moved = windows[torch.arange(len(rows), device=device), :, offsets]
    return moved * gains[:, None, None]


@dataclass(frozen=True)
class _Standardised:
    """The target as the loss sees it: zero mean and unit spread over the training rows for a regression."""

    y: torch.Tensor
    mean: float
    spread: float

    @classmethod
    def of(cls, target: Target, train: NDArray[np.intp]) -> _Standardised:
        if target.kind != "regression":
            return cls(torch.from_numpy(target.y), 0.0, 1.0)
        mean, spread = float(target.y[train].mean()), float(target.y[train].std())
        return cls(torch.from_numpy((target.y - mean) / spread), mean, spread)

    def back(self, outputs: torch.Tensor) -> NDArray:
        values: NDArray = outputs.numpy() * self.spread + self.mean
        return values

    def fold_into(self, module: nn.Module) -> None:
        """spread · (W h + b) + mean = (spread · W) h + (spread · b + mean)."""
        if (self.mean, self.spread) == (0.0, 1.0):
            return
        *_, last = (layer for layer in module.modules() if isinstance(layer, nn.Linear))
        with torch.no_grad():
            last.weight.mul_(self.spread)
            last.bias.mul_(self.spread).add_(self.mean)
