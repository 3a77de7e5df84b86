"""The three files that the user of a sample receives, from predictions that pass in windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.classifier.calls import chunk_calls, sample_records, uncertain_chunks, write_records
from virnuc_assets.storage.layout import RECORDS_FILE
from virnuc_assets.storage.schemas import predictions_schema
from virnuc_assets.virnucpro.results import CHUNKS_FILE, FRAMES_FILE, write_chunks, written_frames

REPORT_FILES = (FRAMES_FILE, CHUNKS_FILE, RECORDS_FILE)


def write_sample_report(
    folder: Path, predictions: Iterable[pa.Table], ledger: pa.Table, temperature: float | None, min_confidence: float
) -> pa.Table:
    """Write VirNucPro's two files and `records.tsv`; returns the records. Frames are not kept, a line per chunk is.

    Args:
        folder: of this machine, where nothing else is written meanwhile; who calls publishes its files together.
        predictions: of all frames, in windows; the frames of a chunk follow each other.
        ledger: of all records.
        temperature: of the classifier's calibration, if it has one.
        min_confidence: in either call, below which a chunk is uncertain.
    """
    uncertain: Counter[str] = Counter()
    chunks = [chunk_calls(predictions_schema().empty_table())]
    for window in of_whole_chunks(written_frames(folder, predictions)):
        chunks.append(chunk_calls(window))
        uncertain += uncertain_chunks(window, temperature, min_confidence)
    called = pa.concat_tables(chunks)
    write_chunks(folder, called)
    records = sample_records(called, ledger, uncertain)
    write_records(folder, records)
    return records


def of_whole_chunks(windows: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in windows that end with the last frame of a chunk."""
    held: pa.Table | None = None
    for window in windows:
        rows = window if held is None else pa.concat_tables([held, window])
        if not rows.num_rows:
            continue
        last = rows["chunk_id"][-1]
        first_of_last = pc.index(rows["chunk_id"], last).as_py()
        if first_of_last:
            yield rows.slice(0, first_of_last)
        held = rows.slice(first_of_last)
    if held is not None:
        yield held
