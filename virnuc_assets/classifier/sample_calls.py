"""The calls of a sample: one row per record and one value per chunk, from which everything that its user reads is made.

Holds a few bytes per chunk, however many frames a sample has. Reads tables, needs no model.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from virnuc_assets.sequences.planning import chunk_starts

VIRUS, OTHER, UNCERTAIN, NOT_SCORED = "virus", "other", "uncertain", "not scored"


def records_schema() -> pa.Schema:
    """One row per record of a sample's inputs, in their order; `call` is one of the four, `reason` of one not scored.

    probability: calibrated, of virus: the mean of the record's scored chunks; null where none is scored.
    """
    return pa.schema(
        {
            "source": pa.string(),
            "record_id": pa.string(),
            "length_nt": pa.int64(),
            "call": pa.string(),
            "probability": pa.float64(),
            "viral_fraction": pa.float64(),
            "chunks": pa.int64(),
            "chunks_scored": pa.int64(),
            "chunks_viral": pa.int64(),
            "chunks_uncertain": pa.int64(),
            "longest_viral_nt": pa.int64(),
            "reason": pa.string(),
        }
    )


@dataclass(frozen=True)
class SampleCalls:
    """Calls of all records and chunks.

    Attributes:
        records: a row per record, as of `records_schema`.
        offsets: (records + 1,) int64: chunks of record i are `offsets[i]` to `offsets[i + 1]` (half-open).
        probability: (chunks,) float32: calibrated probability of virus of each chunk; NaN where it is not scored.
        frames: (chunks,) uint8: bit i is set where frame i (in the order F1 F2 F3 R1 R2 R3) is open and scored.
        chunk_length: nt.
        min_confidence: a chunk or record whose confidence in either call is below it is uncertain.
    """

    records: pa.Table
    offsets: np.ndarray
    probability: np.ndarray
    frames: np.ndarray
    chunk_length: int
    min_confidence: float

    def chunks_of(self, record: int) -> slice:
        """Where the chunks of a record (its row) are in `probability` and `frames`."""
        return slice(int(self.offsets[record]), int(self.offsets[record + 1]))

    def spans(self, record: int) -> Iterator[tuple[int, int]]:
        """Start and end of each chunk of a record, 0-based and half-open, in nt."""
        length_nt = self.records["length_nt"][record].as_py()
        begins = chunk_starts(0, int(self.offsets[record + 1] - self.offsets[record]), length_nt, self.chunk_length)
        for begin in begins.tolist():
            yield begin, min(begin + self.chunk_length, length_nt)
