"""Vectors: as columns and arrays, in a scratch file, and those of a shard's two encoders joined to its features."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.atomic import full_disk_named
from virnuc_assets.storage.schemas import features_schema, vector_dim

_EXAMPLES = 3


class MergeMismatch(VirnucError):
    """An id is missing on one side, or is there twice; nothing is merged."""


def merge_features(frames: pa.Table, dna: pa.Table, protein: pa.Table) -> pa.Table:
    """Features of a shard: the nucleotide vector, then the protein vector, in the order of the frames.

    Embeddings, (n, dim) of each side, may come in any order; all three tables must hold the same ids, each once.
    """
    ids = frames.column("frame_id").to_pylist()
    vectors = []
    for side, embeddings in {"dna": dna, "protein": protein}.items():
        found, remedy = embeddings.column("frame_id").to_pylist(), "Materialize the embeddings of this shard again."
        vectors.append(vectors_of(embeddings)[rows_of(ids, found, f"{side} embeddings", remedy)])
    return features_table(frames, np.concatenate(vectors, axis=1))


def features_table(frames: pa.Table, vectors: np.ndarray) -> pa.Table:
    """Features table of frames and their vectors, (n, dim) float32, row for row."""
    dim = vectors.shape[1]
    known = frames.select([name for name in features_schema(dim).names if name != "vector"])
    return known.append_column("vector", vector_column(vectors)).cast(features_schema(dim))


def vector_column(vectors: np.ndarray) -> pa.FixedSizeListArray:
    """(n, dim) float32 as a column of a table."""
    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def vectors_of(table: pa.Table) -> np.ndarray:
    """The vector column as an array, (n, dim) float32."""
    column = table.column("vector").combine_chunks()
    return np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(-1, vector_dim(table.schema))


class ScratchVectors:
    """Vectors in a file without a name in TMPDIR, which is gone with the process; for more of them than memory has.

    It is read, not mapped: what was read of a mapped file stays in the process's memory.
    """

    def __init__(self) -> None:
        self._file, self.dim, self.count = tempfile.TemporaryFile(), 0, 0  # noqa: SIM115  (closed with the object)

    def write(self, rows: Iterable[int], vectors: np.ndarray) -> None:
        """Keep (n, dim) float32 as these rows, in any order, each once; DiskFull where there is no space for them."""
        scratch = Path(tempfile.gettempdir(), "a scratch file for vectors")
        with full_disk_named(scratch, scratch, "set TMPDIR to a folder of a larger disk"):
            for row, vector in zip(rows, vectors, strict=True):
                if os.pwrite(self._file.fileno(), vector.data, row * vector.nbytes) < vector.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.count, self.dim = self.count + len(vectors), vectors.shape[1]

    def read(self, rows: Sequence[int]) -> np.ndarray:
        """(n, dim) float32 of rows that were written."""
        size = self.dim * np.dtype(np.float32).itemsize
        found = b"".join(os.pread(self._file.fileno(), size, row * size) for row in rows)
        return np.frombuffer(found, np.float32).reshape(len(rows), self.dim)


def rows_of(ids: Sequence[str], found: Sequence[str], what: str, remedy: str) -> list[int]:
    """Row of each id among those found, which must be the same, each once; `what` names them in the message."""
    row_of = {frame_id: row for row, frame_id in enumerate(found)}
    missing = [frame_id for frame_id in ids if frame_id not in row_of]
    extra = row_of.keys() - set(ids)
    if missing or extra or not len(found) == len(ids) == len(row_of):
        raise MergeMismatch(
            f"{what} do not fit the frames: {len(ids)} frames, {len(found)} embeddings; {len(missing)} "
            f"frames without one (e.g. {missing[:_EXAMPLES]}), {len(extra)} embeddings without a frame "
            f"(e.g. {sorted(extra)[:_EXAMPLES]}), {len(found) - len(row_of)} twice. {remedy}"
        )
    return [row_of[frame_id] for frame_id in ids]
