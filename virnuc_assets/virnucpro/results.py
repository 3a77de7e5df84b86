"""The two result files of VirNucPro's prediction.py, column by column, for people whose scripts read them.

Byte for byte as VirNucPro writes them, but for ids that a spreadsheet would read as formulas (`text`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.sample_calls import EVEN, SampleCalls
from virnuc_assets.storage.digests import one_array
from virnuc_assets.text import csv_field, spreadsheet_cell

FRAMES_FILE = "prediction_results.txt"
CHUNKS_FILE = "prediction_results_highestscore.csv"


def written_frames(folder: Path, predictions: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Write tables of `predictions_schema` as `prediction_results.txt`, tab separated, while they pass."""
    with (folder / FRAMES_FILE).open("w", encoding="utf-8") as handle:
        handle.write("Sequence_ID\tPrediction\tscore1\tscore2\n")
        for window in predictions:
            ids, calls = map(spreadsheet_cell, window["frame_id"].to_pylist()), window["call"].to_pylist()
            # Iterating over float32 arrays gives float32 scalars, whose shortest decimals VirNucPro prints.
            scores = (window[column].to_numpy() for column in ("score_other", "score_virus"))
            handle.writelines("\t".join(map(str, row)) + "\n" for row in zip(ids, calls, *scores, strict=True))
            yield window


def write_chunks(folder: Path, calls: SampleCalls, names: pa.ChunkedArray) -> None:
    """Write all scored chunks as `prediction_results_highestscore.csv`, tab separated.

    They are in the order of their ids, as pandas' groupby sorted them; `names` are the records' ids, one per record.
    """
    with (folder / CHUNKS_FILE).open("w", encoding="utf-8") as handle:
        handle.write("Modified_ID\tIs_Virus\n")
        for group in _in_order(calls, names):
            handle.writelines(f"{csv_field(chunk_id)}\t{viral}\n" for chunk_id, viral in sorted(group))


def _in_order(calls: SampleCalls, names: pa.ChunkedArray) -> Iterator[list[tuple[str, bool]]]:
    """Ids of scored chunks and whether they are viral, in groups that follow each other in the order of the ids.

    To sort the records is enough, and takes no memory for the chunks: all ids of one record begin alike, and only where
    that beginning is also one of another record (`a_chunk_` of `a_chunk_1_chunk_`) do their chunks mix.
    """
    begins = pc.binary_join_element_wise(one_array(names), "_chunk_", "")
    group, beginning = list[tuple[str, bool]](), ""
    for record in pc.array_sort_indices(begins).to_numpy():
        probability = calls.probability[calls.chunks_of(record)]
        if len(scored := np.flatnonzero(~np.isnan(probability))):
            begin = begins[int(record)].as_py()
            if not (beginning and begin.startswith(beginning)):
                yield group
                group, beginning = [], begin
            viral = (probability[scored] >= EVEN).tolist()
            group += [(f"{begin}{number + 1}", call) for number, call in zip(scored.tolist(), viral, strict=True)]
    yield group
