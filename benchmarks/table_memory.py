"""Memory beyond the model that embedding a frames table takes, in a process of its own.

Started by `bench_encoders` as `python -m benchmarks.table_memory CHECKPOINT FRAMES DEVICE PASSES`; goes the way of the
embedding assets where no vector is known: windows of the table in, windows of vectors out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from benchmarks import ours
from benchmarks.machine import peak_bytes, reset_peak
from virnuc_assets.encoders.embedding import embed_windows
from virnuc_assets.storage.reuse import KnownVectors, ShardVectors
from virnuc_assets.storage.schemas import embeddings_schema
from virnuc_assets.storage.tables import TableWriter
from virnuc_assets.storage.windows import in_windows


def memory_beyond_model(checkpoint: Path, frames: Path, device: str, passes: int) -> int:
    """Bytes that memory grew by, at its highest, after the model was loaded.

    Args:
        checkpoint: Of one layer.
        frames: The table.
        device: "cpu" or "cuda".
        passes: How often the table is embedded and written. An allocator does not find the same places each time, and
            what libraries set up at their first use stays: for a table of one window the highest of one pass is luck.
    """
    encoder = ours.load(checkpoint, "fp32", device)
    known = KnownVectors(np.empty((0, 2), np.uint64), encoder.fingerprint, sys.stderr.write)  # imports pandas
    reset_peak(encoder.device)
    loaded, spec = peak_bytes(encoder.device), encoder.spec
    for _ in range(passes):
        schema = embeddings_schema(encoder.dim)
        with TableWriter(frames.with_suffix(".vectors"), schema, {"table": "embeddings"}) as writer:
            vectors = ShardVectors(
                frames,
                spec.column,
                spec.max_length,
                known,
                lambda windows: embed_windows(encoder, in_windows(windows, encoder.window_rows)),
            )
            for table in vectors.tables():
                writer.write(table)
    return peak_bytes(encoder.device) - loaded


if __name__ == "__main__":
    bytes_beyond = memory_beyond_model(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    sys.stdout.write(json.dumps({"bytes": bytes_beyond}) + "\n")
