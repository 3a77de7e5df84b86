"""Training side by side in one run: ours, and a plain statement of VirNucPro's loop, over the same feature tables.

Tables are drawn, as wide as the candidate's features, one label a shard as upstream. Both sides start from the same
weights, take the same rows in the same order, and go epoch by epoch in turn; a figure is the median over epochs, a
speedup the median of the ratios of two epochs that followed each other. Reading the tables is no part of an epoch on
either side: the plain loop loads them whole, ours copies them into its mapped file (`store_seconds`). The plain loop
reads rows through DataLoader workers, one a core, as upstream does with twelve; beside it stands the same loop without
workers, which is faster where cores are few.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from joblib import cpu_count
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import SCALES
from benchmarks.plain_training import FileRows, PlainLoop
from virnuc_assets.classifier.checkpoint import Mlp
from virnuc_assets.classifier.datasets import LabelledRows, draw, store_rows
from virnuc_assets.classifier.training import EpochLoop
from virnuc_assets.encoders.machine import cpu_name
from virnuc_assets.settings import TrainingSettings
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import features_schema
from virnuc_assets.storage.tables import read_table, write_table

ROOT = Path(__file__).parents[1]
_MODELS = SCALES["true"].models
CANDIDATE_COLUMNS = _MODELS["dnabert_s"].shape.hidden + _MODELS["650m"].shape.hidden
HOSTS = ("archaea", "bacteria", "fungi", "invertebrate", "plant", "protozoa", "vertebrate")
# Classes lie so far apart along every column that losses fall over epochs and do not vanish.
_SHIFT = 0.02


@dataclass(frozen=True)
class Data:
    """The same rows for both sides."""

    rows: LabelledRows
    files: FileRows
    store_seconds: float


def main() -> int:
    """Measure, print a table, write the figures."""
    given = _arguments()
    console = Console(width=120, highlight=False)
    torch.set_num_threads(cpu_count())
    settings = TrainingSettings()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="training-", dir=given.out.parent) as scratch:
        data = _data(Path(scratch), given.shards, given.rows, given.columns)
        figures = {"cores": float(cpu_count()), "shards": float(given.shards), "dim": float(given.columns)}
        figures |= {"rows": float(len(data.rows.labels)), "batch_rows": float(settings.batch_rows)}
        figures |= {"epochs": float(given.epochs), "store_seconds": data.store_seconds}
        figures |= {"plain_workers": float(cpu_count())}
        figures |= _side_by_side(data, settings, given.epochs)
        figures |= _equal_steps(data, settings)
    given.out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    table = Table("metric", "value", title=f"{cpu_name()}, {cpu_count()} cores")
    for name in sorted(figures):
        table.add_row(name, f"{figures[name]:.6g}")
    console.print(table, f"written to {given.out}")
    return 0


def _data(folder: Path, shards: int, rows: int, columns: int) -> Data:
    generator = np.random.default_rng(0)
    tables = [_write_shard(folder / f"{shard:04}.parquet", shard, rows, columns, generator) for shard in range(shards)]
    start = time.perf_counter()
    drawn = draw(tables, features_schema(columns), [path.stem for path in tables], seed=0)
    features = store_rows(folder / "train.rows", drawn.positions, features_schema(columns), slice(None))
    seconds = time.perf_counter() - start
    files = [torch.tensor(vectors_of(read_table(path))[drawn.positions[path]]) for path in tables]
    return Data(
        LabelledRows(features, drawn.labels), FileRows(files, [1 - shard % 2 for shard in range(shards)]), seconds
    )


def _write_shard(path: Path, shard: int, rows: int, columns: int, generator: np.random.Generator) -> Path:
    viral = shard % 2 == 0
    vectors = generator.normal(size=(rows, columns)).astype(np.float32) + np.float32(_SHIFT * viral)
    label, group = ("viral", "phage") if viral else ("host", HOSTS[shard // 2 % len(HOSTS)])
    names = [f"{path.stem}_{row}" for row in range(rows)]
    known = [names, names, [path.stem] * rows, [label] * rows, [group] * rows]
    vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), columns)
    write_table(path, pa.table([*map(pa.array, known), vector], schema=features_schema(columns)), {"table": "features"})
    return path


def _model(columns: int, settings: TrainingSettings) -> Mlp:
    torch.manual_seed(settings.seed)
    return Mlp(columns, settings.hidden, settings.dropout)


def _twin(data: Data, settings: TrainingSettings, dropout: int) -> EpochLoop:
    """Of the same weights and order, with another dropout: how far apart it ends is noise."""
    model = _model(data.rows.features.shape[1], settings)
    torch.manual_seed(settings.seed + dropout)
    return EpochLoop(model, data.rows, settings)


def _plain(data: Data, settings: TrainingSettings, workers: int) -> PlainLoop:
    model = _model(data.rows.features.shape[1], settings)
    return PlainLoop(model, data.files, workers, settings.learning_rate, settings.momentum)


def _side_by_side(data: Data, settings: TrainingSettings, epochs: int) -> dict[str, float]:
    columns, rows = data.rows.features.shape[1], len(data.rows.labels)
    plain, alone = (_plain(data, settings, workers) for workers in (cpu_count(), 0))
    ours = EpochLoop(_model(columns, settings), data.rows, settings)
    twins = [_twin(data, settings, dropout) for dropout in (1, 2)]
    generator = torch.Generator().manual_seed(settings.seed)
    times: list[tuple[float, float, float]] = []
    losses: list[tuple[float, float]] = []
    spread = 0.0
    for _ in range(epochs):
        order = torch.randperm(rows, generator=generator).tolist()  # as EpochLoop draws it
        plain_seconds, plain_loss = _timed(lambda order=order: plain.epoch(order, settings.batch_rows))  # type: ignore[misc]
        our_seconds, our_loss = _timed(lambda: ours.epoch(settings.learning_rate))
        alone_seconds, _ = _timed(lambda order=order: alone.epoch(order, settings.batch_rows))  # type: ignore[misc]
        times.append((plain_seconds, our_seconds, alone_seconds))
        losses.append((plain_loss, our_loss))
        alike = [our_loss, *(twin.epoch(settings.learning_rate) for twin in twins)]
        spread = max(spread, max(alike) - min(alike))
    plain_median, our_median, alone_median = (statistics.median(side) for side in zip(*times, strict=True))
    steps = rows / settings.batch_rows
    return {
        "epoch_speedup": statistics.median(plain_seconds / our_seconds for plain_seconds, our_seconds, _ in times),
        "epoch_speedup_over_no_workers": statistics.median(alone_seconds / ours for _, ours, alone_seconds in times),
        "epoch_seconds": our_median,
        "plain_epoch_seconds": plain_median,
        "rows_per_s": rows / our_median,
        "plain_rows_per_s": rows / plain_median,
        "plain_no_workers_rows_per_s": rows / alone_median,
        "step_ms": 1e3 * our_median / steps,
        "plain_step_ms": 1e3 * plain_median / steps,
        "plain_no_workers_step_ms": 1e3 * alone_median / steps,
        "first_loss": losses[0][1],
        "last_loss": losses[-1][1],
        "max_loss_difference": max(abs(plain_loss - our_loss) for plain_loss, our_loss in losses),
        "max_loss_difference_of_three_dropouts": spread,
    }


def _equal_steps(data: Data, settings: TrainingSettings) -> dict[str, float]:
    """Without dropout both sides take the same steps: an epoch's loss and weights differ by rounding."""
    still = settings.model_copy(update={"dropout": 0.0})
    ours = EpochLoop(_model(data.rows.features.shape[1], still), data.rows, still)
    plain = _plain(data, still, 0)
    order = torch.randperm(len(data.rows.labels), generator=torch.Generator().manual_seed(still.seed)).tolist()
    difference = abs(plain.epoch(order, still.batch_rows) - ours.epoch(still.learning_rate))
    pairs = zip(plain.model.parameters(), ours.model.parameters(), strict=True)
    weights = max(float((one - other).detach().abs().max()) for one, other in pairs)
    return {"loss_difference_without_dropout": difference, "max_weight_difference_without_dropout": weights}


def _timed(run: Callable[[], float]) -> tuple[float, float]:
    start = time.perf_counter()
    result = run()
    return time.perf_counter() - start, result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-training, or python -m benchmarks.bench_training", description=__doc__
    )
    parser.add_argument("--shards", type=int, default=200, help="feature tables; an even number (default 200)")
    parser.add_argument("--rows", type=int, default=320, help="rows a shard (default 320)")
    parser.add_argument("--columns", type=int, default=CANDIDATE_COLUMNS, help=f"default {CANDIDATE_COLUMNS}")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of each side (default 5)")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "training.json", help="file of figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
