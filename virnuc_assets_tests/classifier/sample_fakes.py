"""Samples written by hand: what each chunk's frames scored, as the tables that the calls follow from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from virnuc_assets.classifier.calls import frame_calls
from virnuc_assets.classifier.sample_calls import CallCollector, SampleCalls
from virnuc_assets.storage.schemas import ledger_schema, predictions_schema


class FakeRecord(NamedTuple):
    """A record, and score_virus of the open frames of each of its chunks, by the frame's name; none if not planned."""

    record_id: str
    length_nt: int
    chunks: Sequence[Mapping[str, float]] = ()
    source: str = "a.fasta"


def fake_ledger(records: Sequence[FakeRecord]) -> pa.Table:
    rows = []
    for record in records:
        kept, frames = sum(map(bool, record.chunks)), sum(map(len, record.chunks))
        rows.append(
            {
                "source": record.source,
                "record_id": record.record_id,
                "length_nt": record.length_nt,
                "disposition": "scored" if kept else "skipped",
                "reason": None if kept else "no open frame",
                **{name: 0 for name in ledger_schema().names[5:]},
                "chunks": len(record.chunks),
                "chunks_kept": kept,
                "chunks_dropped_stop": len(record.chunks) - kept,
                "frames_kept": frames,
                "frames_dropped_stop": 6 * len(record.chunks) - frames,
            }
        )
    return pa.Table.from_pylist(rows, schema=pa.schema([("source", pa.string()), *ledger_schema()]))


def fake_predictions(records: Sequence[FakeRecord]) -> pa.Table:
    rows = [
        (f"{record.record_id}_chunk_{number}{frame}", f"{record.record_id}_chunk_{number}", record.record_id, virus)
        for record in records
        for number, frames in enumerate(record.chunks, start=1)
        for frame, virus in frames.items()
    ]
    virus = np.array([row[3] for row in rows], np.float32)
    scores = np.stack([1 - virus, virus], axis=1)
    columns = [[row[place] for row in rows] for place in range(3)]
    return pa.table([*columns, scores[:, 0], scores[:, 1], frame_calls(scores)], schema=predictions_schema())


def fake_collector(
    records: Sequence[FakeRecord],
    chunk_length: int = 500,
    temperature: float | None = None,
    min_confidence: float = 0.6,
    **classifier: Any,
) -> CallCollector:
    """Records are uncertain where chunks are."""
    limits = (chunk_length, min_confidence, 1 - min_confidence)
    return CallCollector(fake_ledger(records), *limits, temperature, **classifier)


def fake_calls(records: Sequence[FakeRecord], *given: Any, **more: Any) -> SampleCalls:
    collector = fake_collector(records, *given, **more)
    for row, record in enumerate(records):
        collector.add(np.array([row]), fake_predictions([record]))
    return collector.calls()
