"""Whether a ledger adds up, and what its sums are; both column by column, however many records it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.sequences.planning import Piece
from virnuc_assets.sequences.translation import FRAMES_PER_CHUNK
from virnuc_assets.storage.schemas import FATES, LEDGER_COUNTS


def ledger_faults(ledger: pa.Table) -> list[str]:
    """What does not add up, a sentence each; nothing where every record, chunk and frame is accounted for once."""
    chunks, frames = (_sums(ledger, what) for what in ("chunks", "frames"))
    scored = ledger["disposition"].to_numpy(zero_copy_only=False) == "scored"
    wrong = (chunks != ledger["chunks"].to_numpy()) | (frames != FRAMES_PER_CHUNK * chunks)
    wrong |= scored != (ledger["frames_kept"].to_numpy() > 0)
    wrong |= scored == ledger["reason"].is_valid().to_numpy(zero_copy_only=False)
    return [fault for line in ledger.filter(pa.array(wrong)).to_pylist() for fault in _faults(line)]


def ledger_totals(ledger: pa.Table) -> dict[str, int]:
    """Records by disposition and reason, chunks and frames by fate; those that did not occur are left out."""
    fates = ledger.group_by(["disposition", "reason"]).aggregate([([], "count_all")]).to_pylist()
    records: Counter[str] = Counter()
    for fate in fates:
        records[f"records_{fate['disposition']}"] += fate["count_all"]
        if fate["reason"]:
            records[f"records_{fate['disposition']}: {fate['reason']}"] += fate["count_all"]
    sums = {name: pc.sum(ledger[name]).as_py() or 0 for name in LEDGER_COUNTS}
    found = {**dict(sorted(records.items())), **sums}
    return {"records": ledger.num_rows, **{name: total for name, total in found.items() if total}}


def _sums(ledger: pa.Table, what: str) -> np.ndarray:
    sums: np.ndarray = np.sum([ledger[f"{what}_{fate}"].to_numpy() for fate in FATES], axis=0)
    return sums


def _faults(line: Mapping[str, Any]) -> Iterator[str]:
    """What does not add up in one line."""
    record = line["record_id"]
    chunks = sum(line[f"chunks_{fate}"] for fate in FATES)
    if chunks != line["chunks"]:
        yield f"{record}: {line['chunks']} chunks planned, {chunks} accounted for"
    frames = sum(line[f"frames_{fate}"] for fate in FATES)
    if frames != FRAMES_PER_CHUNK * chunks:
        yield f"{record}: {chunks} chunks have {FRAMES_PER_CHUNK * chunks} frames, {frames} accounted for"
    if (line["disposition"] == "scored") != (line["frames_kept"] > 0):
        yield f"{record}: {line['disposition']} with {line['frames_kept']} kept frames"
    if (line["disposition"] == "scored") == (line["reason"] is not None):
        yield f"{record}: {line['disposition']} for the reason {line['reason']!r}"


def shard_ledger_faults(ledger: pa.Table, pieces: Sequence[Piece], frames: int) -> list[str]:
    """As `ledger_faults`, and whether a shard's ledger has a line for each piece and counts the frames that are there.

    Args:
        ledger: of the shard.
        pieces: of the shard, as planned.
        frames: rows of its frames table.
    """
    faults = ledger_faults(ledger)
    lines = list(zip(ledger.column("record_id").to_pylist(), ledger.column("chunks").to_pylist(), strict=True))
    if lines != (planned := [(piece.record_id, piece.chunks) for piece in pieces]):
        faults.append(f"the ledger has {len(lines)} lines, {len(planned)} pieces are planned, or they differ")
    if frames != (kept := sum(ledger.column("frames_kept").to_pylist())):
        faults.append(f"ledger counts {kept} kept frames, the table holds {frames}")
    return faults
