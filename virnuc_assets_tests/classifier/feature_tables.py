"""Small features tables with a split, and a fit of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.training import BOTH, Fit, Sides
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.settings import TrainingSettings
from virnuc_assets.split.assignment import split_schema
from virnuc_assets.storage.schemas import features_schema
from virnuc_assets.storage.tables import write_table

DNA, PROTEIN = 6, 10
ENCODERS = {side: {"encoder": side, "precision": "fp32"} for side in ("dna", "protein")}
GROUPS = ("phage", "bacteria", "phage", "plant", "+ssRNA", "fungi", "+ssRNA", "bacteria")
"""Of records r0, r1, ...: the even ones are viral."""
RECORDS = 24
ROWS = [(7 * row + row // 50) % RECORDS for row in range(500)]
"""The record of each row."""
SETTINGS = TrainingSettings(hidden=8, learning_rate=0.05, max_epochs=4, patience=4)


def split_of(record: int) -> str:
    return ("train", "train", "validation", "test")[record // 2 % 4]


def feature_rows(records: Sequence[int], dim: int = DNA + PROTEIN, protein_informs: bool = True) -> pa.Table:
    """Rows of some records in order; viral rows lie higher along the protein's columns, or along the DNA's."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(len(records), dim)).astype(np.float32)
    telling = slice(DNA, None) if protein_informs else slice(DNA)
    vectors[:, telling] += 1.5 * (np.array(records) % 2 == 0)[:, None].astype(np.float32)
    ids = [f"r{record}_{row}" for row, record in enumerate(records)]
    columns = {
        "frame_id": ids,
        "chunk_id": ids,
        "record_id": [f"r{record}" for record in records],
        "label": ["host" if record % 2 else "viral" for record in records],
        "group": [GROUPS[record % 8] for record in records],
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dim),
    }
    return pa.table(columns, schema=features_schema(dim))


def write_shards(folder: Path, rows: pa.Table, sizes: Sequence[int], dna: int = DNA) -> dict[str, Path]:
    """The rows in order, as tables of such sizes, the last of which takes what is left."""
    dims = {"dna": dna, "protein": rows.schema.field("vector").type.list_size - dna}
    tables, start = {}, 0
    for shard, size in enumerate([*sizes, rows.num_rows]):
        path = folder / f"{shard:03}.parquet"
        write_table(path, rows.slice(start, size), {"table": "features", "dims": dims})
        tables[path.stem] = path
        start += size
    return tables


def write_split(path: Path, records: int) -> Path:
    columns = {
        "record_id": [f"r{record}" for record in range(records)],
        "label": ["host" if record % 2 else "viral" for record in range(records)],
        "group": [GROUPS[record % 8] for record in range(records)],
        "cluster": [f"r{record}" for record in range(records)],
        "split": [split_of(record) for record in range(records)],
        "rows": [1] * records,
    }
    schema = split_schema()
    table = pa.table({name: columns.get(name, [""] * records) for name in schema.names}, schema=schema)
    write_table(path, table, {"table": "split"})
    return path


def fit_of(tables: dict[str, Path], split: Path, training: TrainingSettings = SETTINGS, sides: Sides = BOTH) -> Fit:
    return Fit(Variant("b", "dna_name", "protein_name"), ENCODERS, tables, split, 500, training, sides)
