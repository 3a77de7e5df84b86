"""VirNucPro's training loop, stated plainly (upstream: train.py): a dataset that walks its files for every row.

Upstream loads each file once and then reads it by row through DataLoader workers; its progress bar is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

Sample = tuple[Tensor, Tensor]


class FileRows(Dataset[Sample]):
    """Rows of some files, one label a file."""

    def __init__(self, files: Sequence[Tensor], labels: Sequence[int]) -> None:
        self.files, self.labels = files, labels

    def __len__(self) -> int:
        return sum(rows.size(0) for rows in self.files)

    def __getitem__(self, index: int) -> Sample:
        before = 0
        for rows, label in zip(self.files, self.labels, strict=True):
            if index < before + rows.size(0):
                return rows[index - before], torch.tensor(label)
            before += rows.size(0)
        raise IndexError(index)


class PlainLoop:
    """Epochs of a model; what it takes from one to the next is the optimizer's momentum."""

    def __init__(self, model: nn.Module, dataset: FileRows, workers: int, rate: float, momentum: float) -> None:
        self.model, self._dataset, self._workers = model, dataset, workers
        self._optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum)
        self._criterion = nn.CrossEntropyLoss()

    def epoch(self, order: Sequence[int], batch_rows: int) -> float:
        """Train on rows in an order; returns the mean loss over batches."""
        self.model.train()
        running = 0.0
        loader = DataLoader(self._dataset, batch_rows, sampler=order, num_workers=self._workers)
        for features, labels in loader:
            self._optimizer.zero_grad()
            loss = self._criterion(self.model(features), labels)
            loss.backward()
            self._optimizer.step()
            running += loss.item()
        return running / len(loader)
