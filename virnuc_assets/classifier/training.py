"""Trains the MLP by VirNucPro's recipe, with early stopping on rows of no relative of a training or test record.

Upstream: train.py. There the test rows decide when to stop, the best weights are kept by reference (so that the
last ones are saved), and nothing is saved unless the patience runs out; none of this is done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812  (the field's name for it)

from virnuc_assets.classifier.mlp import Mlp
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import TrainingSettings

OnEpoch = Callable[[int, Mapping[str, float]], None]
# Only bounds memory: rows of validation are scored independently of each other.
_VALIDATION_ROWS = 4096


class TrainingError(VirnucError):
    """Rows that cannot be trained on, or a training that diverged."""


@dataclass(frozen=True)
class Rows:
    """Feature rows with their truth.

    Attributes:
        features: (n, d) float32.
        labels: (n,) int64, 0 host, 1 viral.
    """

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class TrainedClassifier:
    """The best epoch's model, in eval mode on the CPU, and the way to it.

    Attributes:
        model: weights of `best_epoch`.
        best_epoch: 1-based epoch of the lowest validation loss.
        history: one mapping an epoch: train_loss, validation_loss, validation_accuracy, learning_rate.
    """

    model: Mlp
    best_epoch: int
    history: list[dict[str, float]]


def train(
    rows: Rows,
    validation: Rows,
    settings: TrainingSettings,
    on_epoch: OnEpoch | None = None,
    device: str = "cpu",
) -> TrainedClassifier:
    """Train until the validation loss has not fallen for `patience` epochs, or for `max_epochs`.

    The seed decides weights, order and dropout; the caller's random state is left as it was. A last batch of one
    row, which BatchNorm cannot normalise, is joined to the batch before it.

    Args:
        rows: what is trained on.
        validation: what decides the best epoch; no relatives of `rows`.
        settings: the recipe.
        on_epoch: called after every epoch with its 1-based number and its entry of the history.
        device: where to train; all features are held there.

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
        return _train(rows, validation, settings, on_epoch or (lambda epoch, metrics: None), torch.device(device))


def _train(
    rows: Rows, validation: Rows, settings: TrainingSettings, on_epoch: OnEpoch, device: torch.device
) -> TrainedClassifier:
    model = Mlp(rows.features.shape[1], settings.hidden, settings.dropout).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, settings.step_epochs, settings.step_gamma)
    features, labels = _on(device, rows)
    validation_tensors = _on(device, validation)
    order = torch.Generator().manual_seed(settings.seed)
    history: list[dict[str, float]] = []
    best_epoch, best_loss, best_weights = 0, math.inf, model.state_dict()
    for epoch in range(1, settings.max_epochs + 1):
        learning_rate = schedule.get_last_lr()[0]
        loss = torch.zeros((), dtype=torch.float64, device=device)
        model.train()
        for batch in batches(torch.randperm(len(labels), generator=order), settings.batch_rows):
            batch = batch.to(device)
            optimizer.zero_grad()
            batch_loss = F.cross_entropy(model(features[batch]), labels[batch])
            batch_loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss += batch_loss.detach() * len(batch)
        schedule.step()
        metrics = {"train_loss": float(loss) / len(labels), **_validate(model, *validation_tensors)}
        metrics["learning_rate"] = float(learning_rate)
        if not all(map(math.isfinite, metrics.values())):
            raise TrainingError(f"epoch {epoch}: a loss is not finite: {metrics}; lower learning_rate")
        history.append(metrics)
        on_epoch(epoch, metrics)
        if metrics["validation_loss"] < best_loss:
            best_epoch, best_loss, best_weights = epoch, metrics["validation_loss"], deepcopy(model.state_dict())
        elif epoch - best_epoch >= settings.patience:
            break
    model.load_state_dict(best_weights)
    return TrainedClassifier(model.cpu().eval(), best_epoch, history)


def batches(order: torch.Tensor, batch_rows: int) -> list[torch.Tensor]:
    """Cut an order of rows into batches; a single last row goes with the batch before it."""
    cut = list(torch.split(order, batch_rows))
    if len(cut) > 1 and len(cut[-1]) == 1:
        cut[-2:] = [torch.cat(cut[-2:])]
    return cut


@torch.inference_mode()  # type: ignore[untyped-decorator]
def _validate(model: Mlp, features: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Mean loss over rows (upstream: over batches, which weighs the last batch's rows more), and accuracy."""
    model.eval()
    logits = torch.cat([model(part) for part in torch.split(features, _VALIDATION_ROWS)])  # (n, 2)
    return {
        "validation_loss": float(F.cross_entropy(logits.double(), labels)),
        "validation_accuracy": float((logits.argmax(dim=1) == labels).double().mean()),
    }


def _on(device: torch.device, rows: Rows) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(rows.features, device=device), torch.tensor(rows.labels, device=device)


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
    if bad := np.flatnonzero(~np.isfinite(features).all(axis=1)).tolist():
        raise TrainingError(
            f"{name} rows: {len(bad)} of {len(labels)} rows hold values that are not finite, e.g. {bad[:5]}"
        )
