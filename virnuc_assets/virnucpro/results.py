"""The two result files of VirNucPro's prediction.py, column by column, for people whose scripts read them.

Byte for byte as VirNucPro writes them, but for ids that a spreadsheet would read as formulas (`foreign_text`).
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from virnuc_assets.classifier.calls import VIRUS, chunk_calls
from virnuc_assets.foreign_text import csv_field, spreadsheet_cell
from virnuc_assets.storage.aside import written_aside

FRAMES_FILE = "prediction_results.txt"
CHUNKS_FILE = "prediction_results_highestscore.csv"


def write_virnucpro_files(folder: Path, predictions: pa.Table) -> tuple[Path, Path]:
    """Write frames in the order given and chunks sorted by id, as pandas' groupby left them upstream.

    Both are tab separated, the `.csv` too. A file appears under its name only when it is whole.

    Args:
        folder: where the files go; made if absent.
        predictions: frame_id, chunk_id, record_id, score_other, score_virus (float32), call.

    Returns:
        Paths of the frames' and the chunks' file.
    """
    frames_path, chunks_path = folder / FRAMES_FILE, folder / CHUNKS_FILE
    ids, calls = map(spreadsheet_cell, predictions["frame_id"].to_pylist()), predictions["call"].to_pylist()
    # Iterating over float32 arrays gives float32 scalars, whose shortest decimals VirNucPro prints.
    scores = (predictions[column].to_numpy() for column in ("score_other", "score_virus"))
    with written_aside(frames_path) as aside, aside.open("w", encoding="utf-8") as handle:
        handle.write("Sequence_ID\tPrediction\tscore1\tscore2\n")
        handle.writelines("\t".join(map(str, row)) + "\n" for row in zip(ids, calls, *scores, strict=True))
    chunks = chunk_calls(predictions).sort_by("chunk_id")
    with written_aside(chunks_path) as aside, aside.open("w", encoding="utf-8") as handle:
        handle.write("Modified_ID\tIs_Virus\n")
        rows = zip(chunks["chunk_id"].to_pylist(), chunks["call"].to_pylist(), strict=True)
        handle.writelines(f"{csv_field(chunk_id)}\t{call == VIRUS}\n" for chunk_id, call in rows)
    return frames_path, chunks_path
