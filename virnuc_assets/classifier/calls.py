"""Calls of frames, chunks and records from scores (upstream: prediction.py); reads tables, needs no model."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

VIRUS, OTHERS = "virus", "others"
# A sequence is called by us, VirNucPro stops at the chunk: virus if at least this share of its scored chunks is.
MIN_VIRAL_FRACTION = 0.5


def frame_calls(scores: np.ndarray) -> list[str]:
    """Call of each row of (n, 2) scores; VirNucPro's argmax takes the first of equals, so a tie is "others"."""
    return [VIRUS if virus > other else OTHERS for other, virus in scores]


def chunk_calls(predictions: pa.Table) -> pa.Table:
    """VirNucPro's call of a chunk: virus if its highest score_virus is at least its highest score_other.

    Args:
        predictions: chunk_id, record_id, score_other, score_virus, one row a frame.

    Returns:
        chunk_id, record_id, score_other, score_virus (each the highest), call; in order of first appearance.
    """
    # Threads would change the order of the groups.
    grouped = predictions.group_by(["chunk_id", "record_id"], use_threads=False)
    highest = grouped.aggregate([("score_other", "max"), ("score_virus", "max")])
    table = highest.rename_columns({"score_other_max": "score_other", "score_virus_max": "score_virus"})
    call = pc.if_else(pc.greater_equal(table["score_virus"], table["score_other"]), VIRUS, OTHERS)
    return table.select(["chunk_id", "record_id", "score_other", "score_virus"]).append_column("call", call)


def chunk_probability(chunks: pa.Table) -> np.ndarray:
    """(n,) float64: a chunk's highest score_virus over the sum of both its highest scores; 0.5 and more is virus."""
    other, virus = (chunks[name].to_numpy().astype(np.float64) for name in ("score_other", "score_virus"))
    return np.asarray(virus / (other + virus))


def record_calls(chunks: pa.Table) -> pa.Table:
    """Our call of a record from those of its scored chunks.

    Args:
        chunks: as `chunk_calls` returns them.

    Returns:
        record_id, chunks, viral_chunks (int64), viral_fraction (float64), call; in order of first appearance.
    """
    viral = pc.cast(pc.equal(chunks["call"], VIRUS), pa.int64())
    counted = chunks.select(["record_id"]).append_column("viral", viral)
    table = counted.group_by("record_id", use_threads=False).aggregate([("viral", "count"), ("viral", "sum")])
    fraction = pc.divide(pc.cast(table["viral_sum"], pa.float64()), pc.cast(table["viral_count"], pa.float64()))
    call = pc.if_else(pc.greater_equal(fraction, MIN_VIRAL_FRACTION), VIRUS, OTHERS)
    return pa.table(
        {
            "record_id": table["record_id"],
            "chunks": table["viral_count"],
            "viral_chunks": table["viral_sum"],
            "viral_fraction": fraction,
            "call": call,
        }
    )
