"""Training: ours, and a plain statement of VirNucPro's loop (upstream: train.py), over the same feature tables.

Tables are drawn, as wide as the candidate's features, one label per shard as upstream. All loops start from the same
weights, take the same rows in the same order, and alternate epoch by epoch; a figure is the median over epochs, a
speedup the median of the ratios of two epochs that followed each other. Reading the tables is no part of an epoch: the
plain loop loads them whole, ours copies them into its mapped file (`store_seconds`). The plain loop reads rows through
DataLoader workers, one per core, as upstream does with twelve; the same loop without workers is faster where cores are
few.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from joblib import cpu_count
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from benchmarks.common import Figures, T, options, publish
from virnuc_assets.classifier.checkpoint import Mlp
from virnuc_assets.classifier.datasets import LabelledRows, draw, store_rows
from virnuc_assets.classifier.training import EpochLoop
from virnuc_assets.settings import TrainingSettings
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import features_schema
from virnuc_assets.storage.tables import read_table, write_table

CANDIDATE_COLUMNS = 768 + 1280
HOSTS = ("archaea", "bacteria", "fungi", "invertebrate", "plant", "protozoa", "vertebrate")
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
        self.model, self._dataset, self._workers, self._batch_rows = model, dataset, workers, settings.batch_rows
        self._optimizer = torch.optim.SGD(model.parameters(), lr=settings.learning_rate, momentum=settings.momentum)
        self._criterion = nn.CrossEntropyLoss()

    def epoch(self, order: Sequence[int]) -> float:
        """Train on rows in an order; returns the mean loss over batches."""
        self.model.train()
        running = 0.0
        loader = DataLoader(self._dataset, self._batch_rows, sampler=order, num_workers=self._workers)
        for features, labels in loader:
            self._optimizer.zero_grad()
            loss = self._criterion(self.model(features), labels)
            loss.backward()
            self._optimizer.step()
            running += loss.item()
        return running / len(loader)


def main() -> int:
    """Measure, print a table, write the figures."""
    given, settings = _arguments(), TrainingSettings()
    torch.set_num_threads(cpu_count())
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="training-", dir=given.out.parent) as scratch:
        rows, files, store_seconds = _data(Path(scratch), given)
        figures: Figures = {
            "cores": cpu_count(),
            "plain_workers": cpu_count(),
            "shards": given.shards,
            "dim": given.columns,
            "rows": len(files),
            "batch_rows": settings.batch_rows,
            "epochs": given.epochs,
            "store_seconds": store_seconds,
        }
        figures |= _alternating_epochs(rows, files, settings, given.epochs)
    return publish(figures, given.out)


def _arguments() -> argparse.Namespace:
    parser = options("bench-training", __doc__)
    parser.add_argument("--shards", type=int, default=200, help="feature tables; an even number (default 200)")
    parser.add_argument("--rows", type=int, default=320, help="rows per shard (default 320)")
    parser.add_argument("--columns", type=int, default=CANDIDATE_COLUMNS, help=f"default {CANDIDATE_COLUMNS}")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each loop (default 5)")
    return parser.parse_args()


def _data(folder: Path, given: argparse.Namespace) -> tuple[LabelledRows, FileRows, float]:
    """The same rows for both, and the seconds that ours took to copy them."""
    generator, schema = np.random.default_rng(0), features_schema(given.columns)
    tables = [folder / f"{shard:04}.parquet" for shard in range(given.shards)]
    for shard, path in enumerate(tables):
        viral = shard % 2 == 0
        vectors = generator.normal(size=(given.rows, given.columns)).astype(np.float32) + np.float32(_SHIFT * viral)
        label, group = ("viral", "phage") if viral else ("host", HOSTS[shard // 2 % len(HOSTS)])
        ids = [f"{path.stem}_{row}" for row in range(given.rows)]
        columns = [ids, ids, *([name] * given.rows for name in (path.stem, label, group))]
        vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), given.columns)
        write_table(path, pa.table([*map(pa.array, columns), vector], schema=schema), {"table": "features"})
    start = time.perf_counter()
    drawn = draw(tables, schema, [path.stem for path in tables], seed=0)
    features = store_rows(folder / "train.rows", drawn.positions, schema, slice(None))
    seconds = time.perf_counter() - start
    files = [torch.tensor(vectors_of(read_table(path))[drawn.positions[path]]) for path in tables]
    labels = [1 - shard % 2 for shard in range(given.shards)]
    return LabelledRows(features, drawn.labels), FileRows(files, labels), seconds


def _model(rows: LabelledRows, settings: TrainingSettings) -> Mlp:
    torch.manual_seed(settings.seed)
    return Mlp(rows.features.shape[1], settings.hidden, settings.dropout)


def _alternating_epochs(rows: LabelledRows, files: FileRows, settings: TrainingSettings, epochs: int) -> Figures:
    plain, alone = (PlainLoop(_model(rows, settings), files, workers, settings) for workers in (cpu_count(), 0))
    ours = EpochLoop(_model(rows, settings), rows, settings)
    generator = torch.Generator().manual_seed(settings.seed)
    times: list[tuple[float, float, float]] = []
    losses: list[tuple[float, float]] = []  # plain, ours; each draws a dropout of its own
    for _ in range(epochs):
        order = torch.randperm(len(files), generator=generator).tolist()  # as EpochLoop draws it
        plain_seconds, plain_loss = _timed(plain.epoch, order)
        our_seconds, our_loss = _timed(ours.epoch, settings.learning_rate)
        alone_seconds, _ = _timed(alone.epoch, order)
        times.append((plain_seconds, our_seconds, alone_seconds))
        losses.append((plain_loss, our_loss))
    prefixes = ("plain_", "", "plain_no_workers_")
    medians = dict(zip(prefixes, map(statistics.median, zip(*times, strict=True)), strict=True))
    steps = len(files) / settings.batch_rows
    return {
        "epoch_speedup": statistics.median(plain / ours for plain, ours, _ in times),
        "epoch_speedup_over_no_workers": statistics.median(alone / ours for _, ours, alone in times),
        "epoch_seconds": medians[""],
        "plain_epoch_seconds": medians["plain_"],
        **{f"{prefix}rows_per_s": len(files) / median for prefix, median in medians.items()},
        **{f"{prefix}step_ms": 1e3 * median / steps for prefix, median in medians.items()},
        "first_loss": losses[0][1],
        "last_loss": losses[-1][1],
        "max_loss_difference": max(abs(plain - ours) for plain, ours in losses),
    }


def _timed(run: Callable[[T], float], argument: T) -> tuple[float, float]:
    start = time.perf_counter()
    result = run(argument)
    return time.perf_counter() - start, result


if __name__ == "__main__":
    raise SystemExit(main())
