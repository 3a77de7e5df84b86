"""Gathers the feature rows of a split from the shards' tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.sampling import balanced_rows
from virnuc_assets.classifier.split import Split
from virnuc_assets.classifier.training import Rows
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import read_table


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


def rows_of_split(features: Iterable[Path], schema: pa.Schema, split_table: pa.Table, split: Split) -> pa.Table:
    """Feature rows whose record lies in a split, in the order of shards and frames."""
    wanted = {row["record_id"] for row in split_table.to_pylist() if row["split"] == split}
    parts = [schema.empty_table()]
    for path in features:
        table = read_table(path, schema)
        parts.append(
            table.filter(pa.array([record in wanted for record in table.column("record_id").to_pylist()], pa.bool_()))
        )
    return pa.concat_tables(parts)


def balanced(table: pa.Table, seed: int) -> tuple[Rows, Mapping[str, int]]:
    """As many host as viral rows, host groups as equal as they allow; and how many of each were drawn."""
    drawn = balanced_rows(table.column("label").to_pylist(), table.column("group").to_pylist(), seed)
    chosen = table.take(drawn.indices)
    return Rows(vectors_of(chosen), truth_of(chosen)), drawn.counts


def truth_of(table: pa.Table) -> np.ndarray:
    """(n,) int64: 1 for viral rows, 0 for host rows."""
    return np.array([label == "viral" for label in table.column("label").to_pylist()], dtype=np.int64)


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
