"""Ours: a FASTA file planned, cut into chunks, translated and written shard by shard, as the assets do it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from virnuc_assets.sequences.cds import occur_inside
from virnuc_assets.sequences.chunk_table import chunk_tables
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_table
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.settings import SequenceSettings
from virnuc_assets.storage.tables import read_table, write_table


def frame_source(fasta: Path, folder: Path, chunk_length: int) -> dict[str, int]:
    """Write the chunks, the frames and the ledger of every shard; returns how many chunks and kept frames there are."""
    counted = {"chunks": 0, "frames": 0}
    plan = plan_source(fasta, "source", chunk_length, SequenceSettings().shard_chunks)
    for number, (segments, table) in enumerate(chunk_tables(plan)):
        chunks = folder / f"chunks-{number}.parquet"
        write_table(chunks, table, {"table": "chunked_fasta"})
        frames, counts = open_frames(read_table(chunks), None)
        write_table(folder / f"frames-{number}.parquet", frames, {"table": "frames"})
        write_table(folder / f"ledger-{number}.parquet", ledger_table(segments, counts), {"table": "ledger"})
        counted["chunks"] += table.num_rows
        counted["frames"] += frames.num_rows
    return counted


def with_evidence(frames: Sequence[str], proteins: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Which proteins of frames occur inside of one of a record's proteins."""
    return occur_inside([frame.encode("ascii") for frame in frames], proteins)
