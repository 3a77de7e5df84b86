"""Trains the MLP by VirNucPro's recipe, with early stopping on rows of no relative of a training or test record.

Upstream: train.py. There the test rows decide when to stop, the best weights are kept by reference (so that the
last ones are saved), and nothing is saved unless the patience runs out; none of this is done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from virnuc_assets.classifier.calibration import fit_temperature
from virnuc_assets.classifier.mlp import Mlp
from virnuc_assets.classifier.row_store import WINDOW_ROWS, Rows, RowSource
from virnuc_assets.classifier.step import SgdStep
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import TrainingSettings

OnEpoch = Callable[[int, Mapping[str, float]], None]


class TrainingError(VirnucError):
    """Rows that cannot be trained on, or a training that diverged."""


@dataclass(frozen=True)
class TrainedClassifier:
    """The best epoch's model, in eval mode on the CPU, and the way to it.

    Attributes:
        model: weights of `best_epoch`.
        best_epoch: 1-based epoch of the lowest validation loss.
        history: one mapping an epoch: train_loss, validation_loss, validation_accuracy, learning_rate.
        temperature: at which the model's scores of the validation rows are likeliest.
    """

    model: Mlp
    best_epoch: int
    history: list[dict[str, float]]
    temperature: float


def train(
    rows: Rows,
    validation: Rows,
    settings: TrainingSettings,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
) -> TrainedClassifier:
    """Train until the validation loss has not fallen for `patience` epochs, or for `max_epochs`.

    The seed decides weights, order and dropout, to the bit on one machine; the caller's random state is left as it
    was. A last batch of one row, which BatchNorm cannot normalise, is joined to the batch before it.

    Args:
        rows: what is trained on.
        validation: what decides the best epoch and the temperature; no relatives of `rows`.
        settings: the recipe.
        on_epoch: called after every epoch with its 1-based number and its entry of the history.
        device: where to train; features are held there where they fit.

    Raises:
        TrainingError: shapes, types or labels are not as `Rows` says, a value is not finite, fewer than two rows,
            or a loss is not finite.
    """
    _require_rows("training", rows, at_least=2)
    _require_rows("validation", validation, at_least=1)
    if rows.features.shape[1] != validation.features.shape[1]:
        raise TrainingError(
            f"training rows are {rows.features.shape[1]} wide, validation rows {validation.features.shape[1]}"
        )
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(settings.seed)
        model = Mlp(rows.features.shape[1], settings.hidden, settings.dropout).to(device)
        loop = EpochLoop(model, rows, settings)
    return _train(loop, validation, settings, on_epoch or (lambda epoch, metrics: None))


class EpochLoop:
    """Epochs of a model over rows in shuffled batches; what it takes from one to the next is its momentum."""

    def __init__(self, model: Mlp, rows: Rows, settings: TrainingSettings) -> None:
        """Train on the model's device. The seed of dropout is drawn from torch's own generator."""
        self.model, self._batch_rows = model, settings.batch_rows
        weight = model.hidden_layer.weight
        self._source = RowSource(rows.features, weight.device)
        self._truth = F.one_hot(torch.tensor(rows.labels), 2).t().to(weight)  # (2, n)
        self._order = torch.Generator().manual_seed(settings.seed)
        dropout = torch.Generator(weight.device).manual_seed(int(torch.randint(2**31, ())))
        self._step = SgdStep(model, settings.momentum, dropout)
        self._batch = weight.new_empty((settings.batch_rows + 1, model.dim)).detach()

    def epoch(self, rate: float) -> float:
        """Train on every row once; returns the mean loss over rows, each as it was before its batch's step."""
        order = torch.randperm(self._truth.shape[1], generator=self._order)
        truth = self._truth.index_select(1, order.to(self._truth.device))  # (2, n)
        logits = torch.empty_like(truth)
        order = order.to(self._source.held_on)
        end = 0
        for size in batch_sizes(len(order), self._batch_rows):
            start, end = end, end + size
            batch = self._source.gather(order[start:end], self._batch[:size])
            self._step(batch, truth[:, start:end], rate, logits[:, start:end])
        return float(F.cross_entropy(logits.t().double(), truth.t().double()))


def _train(loop: EpochLoop, validation: Rows, settings: TrainingSettings, on_epoch: OnEpoch) -> TrainedClassifier:
    model = loop.model
    source = RowSource(validation.features, model.hidden_layer.weight.device)
    history: list[dict[str, float]] = []
    best_epoch, best_loss, best_weights = 0, math.inf, model.state_dict()
    for epoch in range(1, settings.max_epochs + 1):
        rate = settings.learning_rate * settings.step_gamma ** ((epoch - 1) // settings.step_epochs)
        metrics = {"train_loss": loop.epoch(rate), **_losses(_logits(model, source), validation.labels)}
        metrics["learning_rate"] = rate
        if not all(map(math.isfinite, metrics.values())):
            raise TrainingError(f"epoch {epoch}: a loss is not finite: {metrics}; lower learning_rate")
        history.append(metrics)
        on_epoch(epoch, metrics)
        if metrics["validation_loss"] < best_loss:
            best_epoch, best_loss = epoch, metrics["validation_loss"]
            best_weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        elif epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_weights)
    logits = _logits(model, source).numpy()
    temperature = fit_temperature(logits[:, 1] - logits[:, 0], validation.labels)
    return TrainedClassifier(model.cpu().eval(), best_epoch, history, temperature)


def batch_sizes(rows: int, batch_rows: int) -> list[int]:
    """Rows of every batch; a single last row goes with the batch before it."""
    sizes = [min(batch_rows, rows - start) for start in range(0, rows, batch_rows)]
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _logits(model: Mlp, source: RowSource) -> Tensor:
    """(n, 2) float64 on the CPU, of the model in eval mode."""
    model.eval()
    return torch.cat([model(window).double().cpu() for window in source.windows()])


def _losses(logits: Tensor, labels: np.ndarray) -> dict[str, float]:
    """Mean loss over rows (upstream: over batches, which weighs the last batch's rows more), and accuracy."""
    truth = torch.tensor(labels)
    return {
        "validation_loss": float(F.cross_entropy(logits, truth)),
        "validation_accuracy": float((logits.argmax(dim=1) == truth).double().mean()),
    }


def _require_rows(name: str, rows: Rows, at_least: int) -> None:
    features, labels = rows.features, rows.labels
    sound = features.ndim == 2 and features.dtype == np.float32 and labels.dtype == np.int64
    if not sound or labels.shape != features.shape[:1] or len(labels) < at_least:
        raise TrainingError(
            f"{name} rows: expected (n, d) float32 features and (n,) int64 labels, n at least {at_least}; "
            f"found {features.shape} {features.dtype} and {labels.shape} {labels.dtype}"
        )
    if unknown := sorted(set(np.unique(labels).tolist()) - {0, 1}):
        raise TrainingError(f"{name} rows: labels must be 0 (host) or 1 (viral), found {unknown[:5]}")
    starts = range(0, len(features), WINDOW_ROWS)
    finite = [np.isfinite(features[start : start + WINDOW_ROWS]).all(axis=1) for start in starts]
    if bad := np.flatnonzero(~np.concatenate(finite)).tolist():
        raise TrainingError(
            f"{name} rows: {len(bad)} of {len(labels)} rows hold values that are not finite, e.g. {bad[:5]}"
        )
