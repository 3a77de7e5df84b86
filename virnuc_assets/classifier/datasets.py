"""Rows of a split: drawn in balance from the shards' tables without reading vectors, and copied out for a training.

As many host as viral rows are drawn, the host rows as equally as possible over the host groups. Feature tables are
Parquet and cannot be read by row, so what was drawn is streamed once into a plain file in a scratch folder. It is
mapped, so that a training needs no memory for its rows, and vanishes with the training.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from virnuc_assets.errors import VirnucError
from virnuc_assets.split.assignment import Split
from virnuc_assets.storage.atomic import full_disk_named
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.places import writer
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import read_table, read_windows

# Rows whose vectors are read at once: some megabytes.
WINDOW_ROWS = 1024
# Of a draw without balance: so many rows of composition are 250 MB in memory, and more change a linear model little.
MAX_ROWS = 100_000
RUN_ROWS = 64  # the longest window but a whole record that a record rule is fitted on
_KNOWN = ["record_id", "label", "group"]


@dataclass(frozen=True)
class Drawn:
    """Balanced rows of a split."""

    positions: Mapping[Path, np.ndarray]  # (m,) int64, ascending, of each table with such rows
    labels: np.ndarray  # (n,) int64, 0 host, 1 viral, in the order of tables and positions
    counts: Mapping[str, int]  # "label group" → rows drawn
    available: Mapping[str, int]  # "label group" → rows of the split


@dataclass(frozen=True)
class LabelledRows:
    """Feature rows with their truth."""

    features: np.ndarray  # (n, d) float32; may be memory-mapped
    labels: np.ndarray  # (n,) int64, 0 host, 1 viral


def counted_records(frames: Iterable[Path]) -> pa.Table:
    """Training rows of every record: record_id, label, group, rows; records without rows are left out."""
    schema, counts = pa.schema([*((name, pa.string()) for name in _KNOWN), ("rows", pa.int64())]), Counter[Any]()
    for path in frames:
        table = read_table(path, columns=_KNOWN)
        counts.update(zip(*(column.to_pylist() for column in table.columns), strict=True))
    rows = [dict(zip(schema.names, (*known, count), strict=True)) for known, count in sorted(counts.items())]
    return pa.Table.from_pylist(rows, schema=schema)


def records_of_split(split_table: pa.Table, split: Split) -> list[str]:
    """Records of a split."""
    records: list[str] = split_table["record_id"].filter(pc.equal(split_table["split"], split)).to_pylist()
    return records


def rows_of_split(
    features: Iterable[Path], schema: pa.Schema, split_table: pa.Table, split: Split
) -> Iterator[pa.Table]:
    """Feature rows whose record is in a split, in the order of shards and frames, in windows; none is empty."""
    wanted = pa.array(records_of_split(split_table, split), pa.string())
    for path in features:
        for window in read_windows(path, WINDOW_ROWS, schema):
            rows = window.filter(pc.is_in(window["record_id"], wanted))
            if rows.num_rows:
                yield rows


def draw(
    features: Iterable[Path], schema: pa.Schema | None, records: Iterable[str], seed: int, balanced: bool = True
) -> Drawn:
    """As many host as viral rows of some records, host groups as equal as they allow; vectors are not read.

    Without balance all rows, or a seeded draw of `MAX_ROWS` in runs of `RUN_ROWS`. The order of the rows decides, not
    how they are spread over tables.

    Raises:
        VirnucError: one of the labels has no rows.
        TableMismatch: a table is not as the schema says.
    """
    tables = {path: read_table(path, schema, columns=_KNOWN).to_pandas() for path in features}
    rows = pd.concat(tables, names=["table", "position"])
    rows = rows[rows["record_id"].isin(list(records))].astype({"label": str, "group": str})
    if balanced:
        chosen = rows.iloc[balanced_rows(rows["label"].to_numpy(str), rows["group"].to_numpy(str), seed)]
    else:
        chosen = rows if len(rows) <= MAX_ROWS else rows[_drawn_runs(rows["record_id"], seed)]
    positions = {
        path: found.index.get_level_values("position").to_numpy() for path, found in chosen.groupby("table", sort=False)
    }
    return Drawn(positions, (chosen["label"] == "viral").to_numpy(np.int64), _by_kind(chosen), _by_kind(rows))


def _drawn_runs(records: pd.Series, seed: int) -> pd.Series:
    """Which rows are in `MAX_ROWS` drawn in runs: neighbours stay together, since they err together."""
    runs = records + " " + (records.groupby(records).cumcount() // RUN_ROWS).astype(str)
    drawn = np.random.default_rng(seed).permutation(runs.unique())[: MAX_ROWS // RUN_ROWS]
    return runs.isin(drawn)


def _by_kind(rows: pd.DataFrame) -> dict[str, int]:
    kinds: dict[str, int] = (rows["label"] + " " + rows["group"]).value_counts().sort_index().to_dict()
    return kinds


def balanced_rows(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """Ascending positions of all rows of the rarer label and as many of the other, drawn without replacement.

    Labels are "viral" or "host", one per row.

    Raises:
        VirnucError: one of the labels has no rows, or another label occurs.
    """
    found, host = Counter(labels.tolist()), labels == "host"
    if set(found) != {"viral", "host"}:
        raise VirnucError(
            f"expected rows of both labels, viral and host; found {dict(found)}. Check the split of the records."
        )
    generator, wanted = np.random.default_rng(seed), min(found.values())
    drawn = [generator.choice(np.flatnonzero(labels == "viral"), wanted, replace=False)]
    quotas = equal_quotas(Counter(groups[host].tolist()), wanted)
    for group in sorted(quotas):
        drawn.append(generator.choice(np.flatnonzero(host & (groups == group)), quotas[group], replace=False))
    return np.sort(np.concatenate(drawn))


def equal_quotas(available: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Shares of `wanted` as equal as the available rows allow; groups that have too few give all they have."""
    quotas, left = {}, wanted
    ascending = sorted(available.items(), key=lambda item: (item[1], item[0]))
    for done, (group, rows) in enumerate(ascending):
        quotas[group] = min(rows, left // (len(ascending) - done))
        left -= quotas[group]
    return quotas


def proteins_of_split(
    frames: Iterable[Path], split_table: pa.Table, split: Split, seed: int
) -> tuple[list[str], list[int]]:
    """Proteins of balanced frames of a split (see `draw`), and for each whether its record is viral (1) or not (0)."""
    drawn = draw(frames, None, records_of_split(split_table, split), seed)
    proteins = []
    for path, rows in drawn.positions.items():
        proteins += read_table(path, columns=["protein"])["protein"].take(pa.array(rows)).to_pylist()
    return proteins, drawn.labels.tolist()


def store_rows(path: Path, positions: Mapping[Path, np.ndarray], schema: pa.Schema, columns: slice) -> np.ndarray:
    """Copy some columns of feature rows (`Drawn.positions`) into a new file; (n, d) float32, memory-mapped, in order.

    Raises:
        DiskFull: the disk is full.
        TableMismatch: a table is not as the schema says.
    """
    width = len(range(schema.field("vector").type.list_size)[columns])
    with full_disk_named(path, path), path.open("wb") as handle:
        for table, rows in positions.items():
            for block in rows_at(table, rows, schema):
                handle.write(np.ascontiguousarray(block[:, columns]).data)
    return np.memmap(path, np.float32, "r", shape=(sum(map(len, positions.values())), width))


def rows_at(table: Path, rows: np.ndarray, schema: pa.Schema) -> Iterator[np.ndarray]:
    """Vectors at ascending positions of a table, (m, dim) float32 each."""
    first = 0
    for window in read_windows(table, WINDOW_ROWS, schema, columns=["vector"]):
        inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + window.num_rows)]
        if len(inside):
            yield vectors_of(window)[inside - first]
        first += window.num_rows


@contextlib.contextmanager
def scratch_next_to(folder: Path) -> Iterator[Path]:
    """A scratch folder for the training of what `folder` holds; one training at a time, a second one waits.

    The lock ends with its process, however that ends, so what is found under it was left by a killed training.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        for left in folder.parent.glob(f".{folder.name}.*.rows"):
            shutil.rmtree(left)
        for left in folder.glob(".*.partial"):
            left.unlink()
        name = f".{folder.name}.{writer()}."
        with tempfile.TemporaryDirectory(prefix=name, suffix=".rows", dir=folder.parent) as scratch:
            yield Path(scratch)


def evaluation_table(
    features: pa.Table, predictions: pa.Table, split_table: pa.Table, length_of: Mapping[str, int]
) -> pa.Table:
    """Predictions of test rows with label, group, the cluster of relatives and the length in nt of their record."""
    schema, records = evaluation_schema(), features["record_id"]
    columns = {
        **{name: predictions[name] for name in predictions.column_names},
        "record_length_nt": pa.array([length_of[record] for record in records.to_pylist()], pa.int64()),
        "cluster": split_table["cluster"].take(
            pc.index_in(records, value_set=split_table["record_id"].combine_chunks())
        ),
        "label": features["label"],
        "group": features["group"],
    }
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)
