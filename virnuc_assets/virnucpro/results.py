"""The two result files of VirNucPro's prediction.py, column by column, for people whose scripts read them.

Byte for byte as VirNucPro writes them, but for ids that a spreadsheet would read as formulas (`text.csv_field`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from virnuc_assets.classifier.calls import VIRUS
from virnuc_assets.text import csv_field, spreadsheet_cell

FRAMES_FILE = "prediction_results.txt"
CHUNKS_FILE = "prediction_results_highestscore.csv"
_BATCH_ROWS = 4096


def written_frames(folder: Path, predictions: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Write `prediction_results.txt`, frames in the order given, while they pass; tab separated.

    Args:
        folder: where the file goes.
        predictions: frame_id, chunk_id, record_id, score_other, score_virus (float32), call.
    """
    with (folder / FRAMES_FILE).open("w", encoding="utf-8") as handle:
        handle.write("Sequence_ID\tPrediction\tscore1\tscore2\n")
        for window in predictions:
            ids, calls = map(spreadsheet_cell, window["frame_id"].to_pylist()), window["call"].to_pylist()
            # Iterating over float32 arrays gives float32 scalars, whose shortest decimals VirNucPro prints.
            scores = (window[column].to_numpy() for column in ("score_other", "score_virus"))
            handle.writelines("\t".join(map(str, row)) + "\n" for row in zip(ids, calls, *scores, strict=True))
            yield window


def write_chunks(folder: Path, chunks: pa.Table) -> None:
    """Write `prediction_results_highestscore.csv`, sorted by id as pandas' groupby left it upstream; tab separated.

    Args:
        folder: where the file goes.
        chunks: as `chunk_calls` returns them, each chunk once.
    """
    with (folder / CHUNKS_FILE).open("w", encoding="utf-8") as handle:
        handle.write("Modified_ID\tIs_Virus\n")
        for batch in chunks.select(["chunk_id", "call"]).sort_by("chunk_id").to_batches(max_chunksize=_BATCH_ROWS):
            rows = zip(batch["chunk_id"].to_pylist(), batch["call"].to_pylist(), strict=True)
            handle.writelines(f"{csv_field(chunk_id)}\t{call == VIRUS}\n" for chunk_id, call in rows)
