"""Joins the nucleotide and the protein embeddings of a shard into its features, by frame_id."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.schemas import features_schema, vector_dim

_EXAMPLES = 3


class MergeMismatch(VirnucError):
    """An id is missing on one side, or stands there twice; nothing is merged."""


def merge_features(frames: pa.Table, dna: pa.Table, protein: pa.Table) -> pa.Table:
    """Features of a shard: the nucleotide vector, then the protein vector, in the order of the frames.

    Args:
        frames: frames table; tells rows, order and labels.
        dna: embeddings of the nucleotides, (n, dna dim), in any order.
        protein: embeddings of the proteins, (n, protein dim), in any order.

    Raises:
        MergeMismatch: the three tables do not hold the same ids, each once; counts and examples are named.
    """
    ids = frames.column("frame_id").to_pylist()
    sides = [_aligned(ids, dna, "dna"), _aligned(ids, protein, "protein")]
    return features_table(frames, np.concatenate(sides, axis=1))


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


def rows_of(ids: Sequence[str], found: Sequence[str], what: str, remedy: str) -> list[int]:
    """Row of each id among those found.

    Raises:
        MergeMismatch: both do not hold the same ids, each once; `what` names those found in the message.
    """
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


def _aligned(ids: list[str], embeddings: pa.Table, side: str) -> np.ndarray:
    found = embeddings.column("frame_id").to_pylist()
    remedy = "Materialize the embeddings of this shard again."
    return vectors_of(embeddings)[rows_of(ids, found, f"{side} embeddings", remedy)]
