"""Calls of frames, chunks and records from scores (upstream: prediction.py). Reads tables, needs no model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.calibration import calibrated

VIRUS, OTHERS = "virus", "others"
# VirNucPro stops at the chunk; our call of a sequence: virus if at least this share of its scored chunks is.
MIN_VIRAL_FRACTION = 0.5


def frame_calls(scores: np.ndarray) -> list[str]:
    """Call of each row of (n, 2) scores; VirNucPro's argmax takes the first of equals, so a tie is "others"."""
    return [VIRUS if virus > other else OTHERS for other, virus in scores]


def chunk_calls(predictions: pa.Table) -> pa.Table:
    """VirNucPro's call of a chunk: virus if its highest score_virus is at least its highest score_other.

    Returns:
        chunk_id, record_id, score_other, score_virus (each the highest), call; in order of first appearance.
    """
    highest = _aggregated(predictions, ["chunk_id", "record_id"], [("score_other", "max"), ("score_virus", "max")])
    table = highest.rename_columns({"score_other_max": "score_other", "score_virus_max": "score_virus"})
    call = pc.if_else(pc.greater_equal(table["score_virus"], table["score_other"]), VIRUS, OTHERS)
    return table.select(["chunk_id", "record_id", "score_other", "score_virus"]).append_column("call", call)


def _aggregated(table: pa.Table, keys: Sequence[str], what: Sequence[tuple[str, str]]) -> pa.Table:
    """Aggregates by group, in order of first appearance, which Arrow does not keep."""
    numbered = table.append_column("row", pa.array(np.arange(table.num_rows)))
    found = numbered.group_by(keys, use_threads=False).aggregate([*what, ("row", "min")])
    return found.sort_by("row_min").drop_columns("row_min")


def chunk_probability(chunks: pa.Table) -> np.ndarray:
    """(n,) float64: a chunk's highest score_virus over the sum of both its highest scores; 0.5 and more is virus."""
    other, virus = (chunks[name].to_numpy().astype(np.float64) for name in ("score_other", "score_virus"))
    return np.asarray(virus / (other + virus))


def are_viral(viral_fraction: np.ndarray) -> np.ndarray:
    """(n,) bool: which records are viral, by the share of viral chunks among those scored (NaN where none is)."""
    return np.asarray(viral_fraction >= MIN_VIRAL_FRACTION)


def record_calls(chunks: pa.Table) -> pa.Table:
    """Our call of a record from those of its scored chunks (`chunk_calls`), in order of first appearance."""
    viral = pc.cast(pc.equal(chunks["call"], VIRUS), pa.int64())
    counted = chunks.select(["record_id"]).append_column("viral", viral)
    table = _aggregated(counted, ["record_id"], [("viral", "count"), ("viral", "sum")])
    fraction = pc.divide(pc.cast(table["viral_sum"], pa.float64()), pc.cast(table["viral_count"], pa.float64()))
    call = pc.if_else(pa.array(are_viral(fraction.to_numpy())), VIRUS, OTHERS)
    return pa.table(
        {
            "record_id": table["record_id"],
            "chunks": table["viral_count"],
            "viral_chunks": table["viral_sum"],
            "viral_fraction": fraction,
            "call": call,
        }
    )


def calibrated_scores(table: pa.Table, temperature: float | None) -> pa.Table:
    """The table with calibrated probabilities as scores; no call changes."""
    virus = calibrated(table["score_other"].to_numpy(), table["score_virus"].to_numpy(), temperature or 1.0)
    for name, values in (("score_other", 1.0 - virus), ("score_virus", virus)):
        table = table.set_column(table.column_names.index(name), name, pa.array(values, pa.float64()))
    return table
