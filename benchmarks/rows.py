"""Rows to measure on: frames of the bundled genomes, made by the package's own sequence code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.cli.single_file import Framed
from virnuc_assets.sequences.catalogue import read_catalogue
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import write_table

CHUNK_LENGTH = 500
_SHORT_AA = 20
_SEED = 0


def genome_frames(genomes: Path) -> pa.Table:
    """Open frames of all bundled genomes cut into chunks of 500 nt, in a seeded random order."""
    sources = read_catalogue(genomes)
    windows = [w for source in sources for w in Framed(source.fasta, CHUNK_LENGTH).windows(lambda done, total: None)]
    frames = pa.concat_tables(windows)
    return frames.take(np.random.default_rng(_SEED).permutation(frames.num_rows))


def write_short_frames(path: Path, frames: pa.Table, rows: int) -> None:
    """Write a frames table with the first 20 aa of each frame's protein; frames return where there are too few."""
    taken = frames.take(np.arange(rows) % frames.num_rows)
    proteins = pa.array([protein[:_SHORT_AA].ljust(_SHORT_AA, "A") for protein in taken.column("protein").to_pylist()])
    table = taken.set_column(frames_schema().get_field_index("protein"), "protein", proteins)
    write_table(path, table.cast(frames_schema()), {"table": "frames"})
