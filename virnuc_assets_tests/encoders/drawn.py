"""Sequences drawn by rule, tables of frames that hold them, and the miniatures of the registry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.encoders.embedding import Progress, embed_windows
from virnuc_assets.encoders.loading import Encoder
from virnuc_assets.encoders.registry import AMINO_ACIDS, ENCODERS, MINIATURE, NUCLEOTIDES
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import write_table

MINIATURES = [spec for spec in ENCODERS.values() if spec.checkpoint == MINIATURE]


def drawn(alphabet: str, lengths: list[int], seed: int = 0) -> list[str]:
    """A random sequence of each length."""
    generator = np.random.default_rng(seed)
    bases = list(NUCLEOTIDES if alphabet == "dna" else AMINO_ACIDS)
    return ["".join(generator.choice(bases, size=length)) for length in lengths]


def write_frames(path: Path, sequences: list[str], column: str = "protein") -> pa.Table:
    """A frames table with these sequences, written and returned; what else a frame has is made up."""
    count = len(sequences)
    columns = {"frame_id": [f"{path.stem}_{row}_F1" for row in range(count)], column: sequences}
    arrays = [
        pa.array(columns.get(field.name, ["A" if pa.types.is_string(field.type) else 0] * count)).cast(field.type)
        for field in frames_schema()
    ]
    table = pa.Table.from_arrays(arrays, schema=frames_schema())
    write_table(path, table, {"table": "frames"})
    return table


def embed_frames(encoder: Encoder, frames: pa.Table | pa.RecordBatch, progress: Progress | None = None) -> pa.Table:
    """`embed_windows` of frames that are in memory, in windows of the encoder's size."""
    starts = range(0, max(frames.num_rows, 1), encoder.window_rows)
    windows = (frames.slice(start, encoder.window_rows) for start in starts)
    return pa.concat_tables(embed_windows(encoder, windows, progress))
