"""Evaluations written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pyarrow as pa

from virnuc_assets.storage.schemas import evaluation_schema

# Record, its length in nt, cluster, label, group; then score_virus of the frames of each of its chunks.
Evaluated = tuple[str, int, str, str, str | None, Sequence[Sequence[float]]]


def evaluated(records: Iterable[Evaluated]) -> pa.Table:
    """Their rows (`evaluation_schema`) in order; a frame is called virus if its score is above one half."""
    rows = [
        {
            "frame_id": f"{record}_chunk_{number}F{frame}",
            "chunk_id": f"{record}_chunk_{number}",
            "record_id": record,
            "record_length_nt": length_nt,
            "cluster": cluster,
            "label": label,
            "group": group,
            "score_other": 1.0 - virus,
            "score_virus": virus,
            "call": "virus" if virus > 0.5 else "others",
        }
        for record, length_nt, cluster, label, group, chunks in records
        for number, scores in enumerate(chunks, start=1)
        for frame, virus in enumerate(scores, start=1)
    ]
    return pa.Table.from_pylist(rows, schema=evaluation_schema())
