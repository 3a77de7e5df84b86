"""Memory beyond the model that embedding a frames table takes, in a process of its own.

Started by `bench_encoders` as `python -m benchmarks.table_memory CHECKPOINT FRAMES DEVICE WARM_UP`; goes the way of the
embedding assets and of `virnuc embed`: windows of the table in, windows of vectors out.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks import ours
from benchmarks.machine import PeakMemory
from virnuc_assets.encoders.embedding import embed, embed_windows
from virnuc_assets.encoders.tuning import CPU_TOKENS
from virnuc_assets.resources import FRAMES_AT_ONCE
from virnuc_assets.settings import EncodingSettings
from virnuc_assets.storage.schemas import embeddings_schema, frames_schema
from virnuc_assets.storage.tables import TableWriter, read_windows


def memory_beyond_model(checkpoint: Path, frames: Path, device: str, warm_up: int) -> int:
    """Bytes that memory grew by, at its highest, after the model was loaded.

    Args:
        checkpoint: Of one layer.
        frames: The table.
        device: "cpu" or "cuda".
        warm_up: Batches before the highest is watched, as many as the true model has layers: so often does one batch
            of that go through a layer, until the allocator has found its places.
    """
    encoding = EncodingSettings.model_validate({"device": device, "token_budget": CPU_TOKENS, "compile": "never"})
    encoder = ours.load(checkpoint, encoding)
    memory = PeakMemory(encoder.device)
    loaded = memory.now()
    proteins = next(read_windows(frames, FRAMES_AT_ONCE)).column("protein").to_pylist()
    batch = proteins[: CPU_TOKENS // (len(proteins[0]) + 2)]
    for _ in range(warm_up):
        embed(encoder, batch)
    memory.reset()
    with TableWriter(frames.with_suffix(".vectors"), embeddings_schema(encoder.dim), {"table": "embeddings"}) as writer:
        for table in embed_windows(encoder, read_windows(frames, FRAMES_AT_ONCE, frames_schema())):
            writer.write(table)
    return memory.highest() - loaded


if __name__ == "__main__":
    bytes_beyond = memory_beyond_model(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    sys.stdout.write(json.dumps({"bytes": bytes_beyond}) + "\n")
