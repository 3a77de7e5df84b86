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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock

from virnuc_assets.errors import VirnucError
from virnuc_assets.split.assignment import Split
from virnuc_assets.storage.atomic import full_disk_named
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.places import writer
from virnuc_assets.storage.schemas import evaluation_schema, frames_schema
from virnuc_assets.storage.tables import read_table, read_windows

# Rows whose vectors are read at once: some megabytes.
WINDOW_ROWS = 1024
# Rows whose names and groups are read at once.
_NAME_ROWS = 65_536


class SamplingError(VirnucError):
    """Rows from which no balanced set can be drawn."""


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


@dataclass(frozen=True)
class LabelledRows:
    """Feature rows with their truth.

    Attributes:
        features: (n, d) float32; may be memory-mapped.
        labels: (n,) int64, 0 host, 1 viral.
    """

    features: np.ndarray
    labels: np.ndarray


def counted_records(frames: Iterable[Path]) -> pa.Table:
    """Training rows of every record: record_id, label, group, rows; records without rows are left out."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for path in frames:
        table = read_table(path, columns=["record_id", "label", "group"])
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
        table = pa.concat_tables(read_windows(path, _NAME_ROWS, schema, columns=["record_id", *known]))
        positions[path] = np.flatnonzero(pc.is_in(table["record_id"], wanted).to_numpy())
        for name, parts in known.items():
            parts.append(table[name].take(positions[path]).to_numpy().astype(np.str_))
    labels, groups = (np.concatenate(parts) for parts in known.values())
    chosen = balanced_rows(labels, groups, seed)
    ends = np.cumsum([len(rows) for rows in positions.values()])
    for (path, rows), end in zip(positions.items(), ends.tolist(), strict=True):
        start = end - len(rows)
        first, last = np.searchsorted(chosen, [start, end])
        positions[path] = rows[chosen[first:last] - start]
    kinds = np.char.add(np.char.add(labels, " "), groups)
    return Drawn(positions, (labels[chosen] == "viral").astype(np.int64), _counted(kinds[chosen]), _counted(kinds))


def balanced_rows(labels: np.ndarray, groups: np.ndarray, seed: int) -> np.ndarray:
    """All rows of the rarer label and as many of the other, drawn without replacement.

    Args:
        labels: "viral" or "host", one per row.
        groups: virus or host group, one per row.
        seed: decides which rows are left out.

    Returns:
        (m,) int64, ascending positions in the rows given.

    Raises:
        SamplingError: one of the labels has no rows, or another label occurs.
    """
    found = _counted(labels)
    if set(found) != {"viral", "host"}:
        raise SamplingError(
            f"expected rows of both labels, viral and host; found {found}. Look at the split of the records."
        )
    wanted = min(found.values())
    generator = np.random.default_rng(seed)
    drawn = [generator.choice(np.flatnonzero(labels == "viral"), wanted, replace=False)]
    host = labels == "host"
    quotas = equal_quotas(_counted(groups[host]), wanted)
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


def _counted(names: np.ndarray) -> dict[str, int]:
    found, counts = np.unique(names, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


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
        for protein in read_table(path, frames_schema(), columns=["protein"])
        .column("protein")
        .take(pa.array(rows))
        .to_pylist()
    ]
    return proteins, drawn.labels.tolist()


def store_rows(path: Path, positions: Mapping[Path, np.ndarray], schema: pa.Schema, columns: slice) -> np.ndarray:
    """Copy rows of feature tables into a file, in the order of tables and positions.

    Args:
        path: of the new file.
        positions: for each table the ascending positions of its rows, (m,) int64.
        schema: of the tables.
        columns: of the vectors.

    Returns:
        (n, d) float32, memory-mapped, read-only.

    Raises:
        DiskFull: the disk has too little room.
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
    for window in read_windows(table, WINDOW_ROWS, schema, columns=["vector"]) if len(rows) else ():
        inside = rows[np.searchsorted(rows, first) : np.searchsorted(rows, first + window.num_rows)]
        if len(inside):
            yield vectors_of(window)[inside - first]
        first += window.num_rows


@contextlib.contextmanager
def scratch_beside(folder: Path) -> Iterator[Path]:
    """A scratch folder for the training of what `folder` holds; one training at a time, a second one waits.

    The lock ends with its process, however that ends. So whoever holds it knows that no other training of this
    folder is running, and removes what a killed one left.
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
