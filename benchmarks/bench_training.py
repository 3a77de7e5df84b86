"""Training: ours, and a plain statement of VirNucPro's loop (upstream: train.py), over the same feature tables.

Tables are drawn, as wide as the candidate's features, one label per shard as upstream. All loops start from the same
weights, take the same rows in the same order, and alternate epoch by epoch. Reading the tables is no part of an epoch.
The plain loop reads rows through DataLoader workers, one per core, as upstream does with twelve; the same loop without
workers is faster where cores are few.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from joblib import cpu_count
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import Figures, Limits, alternate, median, run, speedup
from virnuc_assets.classifier.checkpoint import Mlp
from virnuc_assets.classifier.datasets import LabelledRows, draw, store_rows
from virnuc_assets.classifier.training import EpochLoop
from virnuc_assets.settings import TrainingSettings
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import features_schema
from virnuc_assets.storage.tables import read_table, write_table

OPTIONS = {
    "shards": (200, "feature tables; an even number"),
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


def measure(given: argparse.Namespace, scratch: Path) -> tuple[Figures, Limits]:
    """Alternate epochs of three loops."""
    settings = TrainingSettings()
    torch.set_num_threads(cpu_count())
    rows, files = _data(scratch, given)

    def timed(loop: EpochLoop | PlainLoop) -> Figures:
        start = time.perf_counter()
        loss = loop.epoch(settings.learning_rate)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "per_s": len(files) / seconds, "loss": loss}

    def model() -> Mlp:
        torch.manual_seed(settings.seed)
        return Mlp(given.columns, settings.hidden, settings.dropout)

    plain, alone = (PlainLoop(model(), files, workers, settings) for workers in (cpu_count(), 0))
    loops: dict[str, EpochLoop | PlainLoop] = {
        "plain_": plain,
        "": EpochLoop(model(), rows, settings),
        "plain_no_workers_": alone,
    }
    found = alternate(given.epochs, {name: partial(timed, loop) for name, loop in loops.items()})
    differences = [abs(one["loss"] - other["loss"]) for one, other in zip(found[""], found["plain_"], strict=True)]
    figures = {
        "cores": cpu_count(),
        "rows": len(files),
        **speedup("epoch_speedup", found[""], found["plain_"]),
        **speedup("epoch_speedup_over_no_workers", found[""], found["plain_no_workers_"]),
        **{f"{name}rows_per_s": median(rounds) for name, rounds in found.items()},
        **{f"{name}epoch_seconds": median(rounds, "seconds") for name, rounds in found.items()},
        "max_loss_difference": max(differences),
    }
    return figures, {}


def _data(folder: Path, given: argparse.Namespace) -> tuple[LabelledRows, FileRows]:
    """The same rows for both."""
    generator, schema = np.random.default_rng(0), features_schema(given.columns)
    tables = [folder / f"{shard:04}.parquet" for shard in range(given.shards)]
    for shard, path in enumerate(tables):
        viral = shard % 2 == 0
        vectors = generator.normal(size=(given.rows, given.columns)).astype(np.float32) + np.float32(_SHIFT * viral)
        ids = [f"{path.stem}_{row}" for row in range(given.rows)]
        label, group = ("viral", "phage") if viral else ("host", f"group {shard % 7}")
        columns = [ids, ids, *([name] * given.rows for name in (path.stem, label, group))]
        vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), given.columns)
        write_table(path, pa.table([*map(pa.array, columns), vector], schema=schema), {"table": "features"})
    drawn = draw(tables, schema, [path.stem for path in tables], seed=0)
    features = store_rows(folder / "train.rows", drawn.positions, schema, slice(None))
    files = [torch.tensor(vectors_of(read_table(path))[drawn.positions[path]]) for path in tables]
    return LabelledRows(features, drawn.labels), FileRows(files, [1 - shard % 2 for shard in range(given.shards)])


if __name__ == "__main__":
    raise SystemExit(run("bench-training", __doc__, OPTIONS, measure))
