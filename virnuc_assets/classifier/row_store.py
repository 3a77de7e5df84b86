"""Feature rows that are gathered by index from a mapped file, so that a training needs no memory for them.

Feature tables are Parquet and cannot be read by row. What was drawn of them is streamed once, a window at a time,
into one plain array in a scratch folder that vanishes with the training; the page cache then holds what fits, and a
GPU holds all of it where that fits there.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from filelock import FileLock
from torch import Tensor

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.places import writer
from virnuc_assets.storage.tables import read_windows

# Only bounds memory: some megabytes of vectors.
WINDOW_ROWS = 1024
# What a GPU's free memory may hold of rows; the rest is for batches and libraries.
_RESIDENT_SHARE = 0.8


class RowStoreError(VirnucError):
    """Rows that cannot be copied: too little room, or tables that changed since they were drawn from."""


@dataclass(frozen=True)
class Rows:
    """Feature rows with their truth.

    Attributes:
        features: (n, d) float32; may be memory-mapped.
        labels: (n,) int64, 0 host, 1 viral.
    """

    features: np.ndarray
    labels: np.ndarray


def store_rows(path: Path, positions: Mapping[Path, np.ndarray], schema: pa.Schema, columns: slice) -> np.ndarray:
    """Copy rows of feature tables into a file, in the order of tables and positions.

    Args:
        path: of the new `.npy` file.
        positions: for each table the ascending positions of its rows, (m,) int64.
        schema: of the tables.
        columns: of the vectors.

    Returns:
        (n, d) float32, memory-mapped, read-only.

    Raises:
        RowStoreError: the disk has too little room, or a table has fewer rows than were drawn from.
        TableMismatch: a table is not as the schema says.
    """
    width = len(range(schema.field("vector").type.list_size)[columns])
    shape = (sum(map(len, positions.values())), width)
    needed, free = 4 * shape[0] * width, shutil.disk_usage(path.parent).free
    if needed > free:
        raise RowStoreError(
            f"{path.parent}: the {shape[0]} rows of a training take {needed} bytes for its duration, {free} are free; "
            "make room, or draw fewer rows"
        )
    with path.open("wb") as handle:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(handle, header)
        for table, rows in positions.items():
            written = 0
            for block in rows_at(table, rows, schema):
                written += len(block)
                handle.write(np.ascontiguousarray(block[:, columns], dtype="<f4").data)
            if written != len(rows):
                raise RowStoreError(f"{table}: {len(rows)} rows were drawn, {written} are left; it changed meanwhile")
    stored: np.ndarray = np.load(path, mmap_mode="r")
    return stored


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
    folder is alive, and removes what a killed one left.
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


class RowSource:
    """Rows for a device: held there where they fit, else gathered from where they lie."""

    def __init__(self, features: np.ndarray, device: torch.device) -> None:
        """(n, d) float32; on the CPU they are used in place, mapped or not."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # they are only read
            self._features = torch.from_numpy(features)
        if device.type == "cuda" and features.nbytes <= _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
            self._features = self._features.to(device)
        self.device = device

    @property
    def held_on(self) -> torch.device:
        """Where the rows are, and their indices must be."""
        return self._features.device

    def gather(self, index: Tensor, out: Tensor) -> Tensor:
        """Rows in the order of (b,) int64 indices, written to (b, d) on the device."""
        if self.held_on == out.device:
            return torch.index_select(self._features, 0, index, out=out)
        return out.copy_(self._features.index_select(0, index))

    def windows(self) -> Iterator[Tensor]:
        """All rows in order, some at a time, on the device."""
        for window in torch.split(self._features, WINDOW_ROWS):
            yield window.to(self.device)
