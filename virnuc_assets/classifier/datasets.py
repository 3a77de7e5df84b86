"""Draws and gathers the feature rows of a split from the shards' tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.sampling import balanced_rows, counted
from virnuc_assets.split.assignment import Split
from virnuc_assets.storage.schemas import evaluation_schema, frames_schema
from virnuc_assets.storage.tables import read_table, read_windows

# Rows whose names and groups are read at once; vectors are not.
_WINDOW_ROWS = 65_536


def counted_records(frames: Iterable[Path]) -> pa.Table:
    """Training rows of every record: record_id, label, group, rows; records without rows are left out."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for path in frames:
        table = read_table(path).select(["record_id", "label", "group"])
        counts.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    rows = [
        {"record_id": record, "label": label, "group": group, "rows": count}
        for (record, label, group), count in sorted(counts.items())
    ]
    text = pa.string()
    return pa.Table.from_pylist(
        rows, schema=pa.schema({"record_id": text, "label": text, "group": text, "rows": pa.int64()})
    )


def records_of_split(split_table: pa.Table, split: Split) -> list[str]:
    """Records that lie in a split."""
    return [row["record_id"] for row in split_table.to_pylist() if row["split"] == split]


def rows_of_split(features: Iterable[Path], schema: pa.Schema, split_table: pa.Table, split: Split) -> pa.Table:
    """Feature rows whose record lies in a split, in the order of shards and frames."""
    wanted = pa.array(records_of_split(split_table, split), pa.string())
    tables = (read_table(path, schema) for path in features)
    return pa.concat_tables([schema.empty_table(), *(t.filter(pc.is_in(t["record_id"], wanted)) for t in tables)])


@dataclass(frozen=True)
class Drawn:
    """Balanced rows of a split.

    Attributes:
        positions: for each table the ascending positions of its rows, (m,) int64.
        labels: (n,) int64, 0 host, 1 viral, in the order of tables and positions.
        counts: "label group" → rows drawn.
        available: "label group" → rows of the split.
    """

    positions: Mapping[Path, np.ndarray]
    labels: np.ndarray
    counts: Mapping[str, int]
    available: Mapping[str, int]


def draw(features: Iterable[Path], schema: pa.Schema, records: Iterable[str], seed: int) -> Drawn:
    """As many host as viral rows of some records, host groups as equal as they allow; vectors are not read.

    The order of the rows decides, not how they are spread over tables.

    Raises:
        SamplingError: one of the labels has no rows.
        TableMismatch: a table is not as the schema says.
    """
    wanted = pa.array(list(records), pa.string())
    positions: dict[Path, np.ndarray] = {}
    known: dict[str, list[np.ndarray]] = {"label": [np.array([], np.str_)], "group": [np.array([], np.str_)]}
    for path in features:
        table = pa.concat_tables(read_windows(path, _WINDOW_ROWS, schema, columns=["record_id", *known]))
        positions[path] = np.flatnonzero(pc.is_in(table["record_id"], wanted).to_numpy())
        for name, parts in known.items():
            parts.append(table[name].take(positions[path]).to_numpy().astype(np.str_))
    labels, groups = (np.concatenate(parts) for parts in known.values())
    drawn = balanced_rows(labels, groups, seed)
    ends = np.cumsum([len(rows) for rows in positions.values()])
    for (path, rows), end in zip(positions.items(), ends.tolist(), strict=True):
        start = end - len(rows)
        first, last = np.searchsorted(drawn.indices, [start, end])
        positions[path] = rows[drawn.indices[first:last] - start]
    viral = (labels[drawn.indices] == "viral").astype(np.int64)
    return Drawn(positions, viral, drawn.counts, counted(labels, groups))


def proteins_of_split(
    frames: Iterable[Path], split_table: pa.Table, split: Split, seed: int
) -> tuple[list[str], list[int]]:
    """Proteins of balanced frames of a split, and for each 1 where its record is viral, 0 where it is a host's.

    Raises:
        SamplingError: one of the labels has no rows.
        TableMismatch: a table is not as the schema says.
    """
    drawn = draw(frames, frames_schema(), records_of_split(split_table, split), seed)
    proteins = [
        protein
        for path, rows in drawn.positions.items()
        for protein in read_table(path, frames_schema()).column("protein").take(pa.array(rows)).to_pylist()
    ]
    return proteins, drawn.labels.tolist()


def scores_of(table: pa.Table) -> np.ndarray:
    """(n, 2) float32: score_other, score_virus."""
    return np.stack([table.column(name).to_numpy() for name in ("score_other", "score_virus")], axis=1)


def evaluation_table(
    features: pa.Table, predictions: pa.Table, split_table: pa.Table, length_of: Mapping[str, int]
) -> pa.Table:
    """Predictions of test rows with label, group, the cluster of relatives and the length in nt of their record."""
    schema, records = evaluation_schema(), features.column("record_id").to_pylist()
    cluster_of = {row["record_id"]: row["cluster"] for row in split_table.to_pylist()}
    known = {
        "record_length_nt": pa.array([length_of[record] for record in records], pa.int64()),
        "cluster": pa.array([cluster_of[record] for record in records], pa.string()),
        "label": features.column("label"),
        "group": features.column("group"),
    }
    columns = {name: known[name] if name in known else predictions.column(name) for name in schema.names}
    return pa.table(columns, schema=schema)
