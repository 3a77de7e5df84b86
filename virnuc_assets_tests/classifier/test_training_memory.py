"""A training takes no more memory for more rows, beyond some bytes of each."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from virnuc_assets.storage.schemas import features_schema
from virnuc_assets.storage.tables import TableWriter
from virnuc_assets_tests.classifier.feature_tables import write_split

PROJECT = Path(__file__).parents[2]
DIM, RECORDS, SHARDS, SHARD_ROWS, PART = 2048, 24, 4, 24_000, 1000
BUFFER = 160 << 20
"""Bytes that a training may take beyond its libraries, Arrow's allocator included; its rows are twice as much."""

CHILD = """
import resource, sys
from pathlib import Path
import torch
from virnuc_assets.classifier.training import Fit
from virnuc_assets_tests.classifier.feature_tables import fit_of, SETTINGS
folder = Path(sys.argv[1])
fit = fit_of({path.stem: path for path in sorted((folder / "tables").iterdir())}, folder / "split.parquet",
             SETTINGS.model_copy(update={"max_epochs": 2}))
assert fit.drawn  # reads names alone; Arrow's threads need room of their own and wait for ever without
torch.ones(2000, 2000) @ torch.ones(2000, 2000)  # what libraries set up at their first use
data = int(next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith("VmData")).split()[1])
resource.setrlimit(resource.RLIMIT_DATA, (1024 * data + int(sys.argv[2]),) * 2)
trained = fit.train(folder)
print((folder / "train.rows").stat().st_size, trained.history[-1]["validation_accuracy"])
"""


def write_shard(path: Path, shard: int) -> None:
    """Few wide rows at a time, so that the test itself stays small."""
    generator = np.random.default_rng(shard)
    with TableWriter(
        path, features_schema(DIM), {"table": "features", "dims": {"dna": 768, "protein": DIM - 768}}
    ) as writer:
        for _ in range(0, SHARD_ROWS, PART):
            records = generator.integers(0, RECORDS, PART)
            vectors = generator.random((PART, DIM), dtype=np.float32) + np.float32(0.1) * (records % 2 == 0)[:, None]
            names = [f"r{record}" for record in records]
            label = ["host" if record % 2 else "viral" for record in records]
            vector = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).reshape(-1)), DIM)
            columns = [*map(pa.array, (names, names, names, label, label)), vector]
            writer.write(pa.table(columns, schema=features_schema(DIM)))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the limit counts private memory on Linux alone")
def test_a_training_fits_into_half_of_its_rows(tmp_path: Path) -> None:
    write_split(tmp_path / "split.parquet", RECORDS)
    for shard in range(SHARDS):
        write_shard(tmp_path / "tables" / f"{shard}.parquet", shard)
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(BUFFER)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    stored, accuracy = map(float, done.stdout.split())
    assert stored > 2 * BUFFER
    assert accuracy > 0.9
