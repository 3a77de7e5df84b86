"""Training: ours, and a plain statement of VirNucPro's loop (upstream: train.py), over the same rows.

Rows are drawn, as wide as the candidate's features, one label per shard as upstream. All loops start from the same
weights and alternate epoch by epoch. The plain loop reads rows through DataLoader workers, one per core, as upstream
does with twelve; the same loop without workers is faster where cores are few.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from joblib import cpu_count
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import Figures, Limits, alternate, median, speedup
from virnuc_assets.classifier.checkpoint import Mlp
from virnuc_assets.classifier.datasets import LabelledRows
from virnuc_assets.classifier.training import EpochLoop
from virnuc_assets.settings import TrainingSettings

OPTIONS = {
    "shards": (200, "files of features"),
    "rows": (320, "rows per shard"),
    "columns": (768 + 1280, "of the features"),
    "epochs": (5, "of each loop"),
}
_SHIFT = 0.02  # of viral vectors in every column: losses fall over epochs and do not vanish


class FileRows(Dataset[tuple[Tensor, Tensor]]):
    """Rows of some files, one label per file; the files are walked for every row, as upstream does."""

    def __init__(self, files: Sequence[Tensor], labels: Sequence[int]) -> None:
        self._files, self._labels = files, labels

    def __len__(self) -> int:
        return sum(rows.size(0) for rows in self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        before = 0
        for rows, label in zip(self._files, self._labels, strict=True):
            if index < before + rows.size(0):
                return rows[index - before], torch.tensor(label)
            before += rows.size(0)
        raise IndexError(index)


class PlainLoop:
    """Epochs of a model; the optimizer keeps its momentum from one to the next. Upstream's progress bar is left out."""

    def __init__(self, model: nn.Module, dataset: FileRows, workers: int, settings: TrainingSettings) -> None:
        self._model, self._criterion = model, nn.CrossEntropyLoss()
        self._loader = DataLoader(dataset, settings.batch_rows, shuffle=True, num_workers=workers)
        self._optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)

    def epoch(self, _: float) -> float:
        """Train on all rows once; returns the mean loss over batches."""
        self._model.train()
        running = 0.0
        for features, labels in self._loader:
            self._optimizer.zero_grad()
            loss = self._criterion(self._model(features), labels)
            loss.backward()
            self._optimizer.step()
            running += loss.item()
        return running / len(self._loader)


def measure(given: argparse.Namespace, _scratch: Path) -> tuple[Figures, Limits]:
    """Alternate epochs of three loops."""
    settings, labels = TrainingSettings(), [1, 0] * (given.shards // 2)
    torch.set_num_threads(cpu_count())
    shape = (len(labels), given.rows, given.columns)
    shards = np.random.default_rng(0).standard_normal(shape, np.float32)
    shards += np.array(labels, np.float32)[:, None, None] * np.float32(_SHIFT)
    files = FileRows(list(torch.from_numpy(shards)), labels)
    rows = LabelledRows(shards.reshape(-1, given.columns), np.repeat(labels, given.rows))

    def timed(loop: EpochLoop | PlainLoop) -> Figures:
        start = time.perf_counter()
        loop.epoch(settings.learning_rate)
        return {"per_s": len(files) / (time.perf_counter() - start)}

    def model() -> Mlp:
        torch.manual_seed(settings.seed)
        return Mlp(given.columns, settings.hidden, settings.dropout)

    loops: dict[str, EpochLoop | PlainLoop] = {
        "plain_": PlainLoop(model(), files, cpu_count(), settings),
        "": EpochLoop(model(), rows, settings),
        "plain_no_workers_": PlainLoop(model(), files, 0, settings),
    }
    found = alternate(given.epochs, {name: partial(timed, loop) for name, loop in loops.items()})
    return {
        "cores": cpu_count(),
        "rows": len(files),
        **speedup("epoch_speedup", found[""], found["plain_"]),
        **speedup("epoch_speedup_over_no_workers", found[""], found["plain_no_workers_"]),
        **{f"{name}rows_per_s": median(rounds) for name, rounds in found.items()},
    }, {}
