"""The ledger: for every input record what became of it, so that nothing is dropped without being counted.

Made, summed and checked column by column, however many records it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.planning import Piece, whole_records
from virnuc_assets.sequences.translation import CODON_NT, FRAMES_PER_CHUNK
from virnuc_assets.storage.schemas import FATES, LEDGER_COUNTS, ledger_schema

_COUNTED = [name for name in LEDGER_COUNTS if name != "chunks"]


def ledger_table(pieces: Sequence[Piece], counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    """One line per piece, in their order; a record without any kept frame is skipped, with its reason.

    Args:
        pieces: planned, so the `chunks` of a line are those that must be accounted for.
        counts: chunks and frames of each record by fate, as `open_frames` found them.
    """
    found = [counts.get(piece.record_id, {}) if piece.fate == "planned" else {} for piece in pieces]
    return _lines(pieces, {name: np.array([count.get(name, 0) for count in found], np.int64) for name in _COUNTED})


def merged_ledger(pieces: Iterable[Piece], ledgers: Iterable[pa.Table]) -> pa.Table:
    """One line per record, in the order of the pieces, from the ledgers of its shards; counts are added.

    The chunks to be accounted for are those of the plan, so a shard without its ledger is a fault of the sums.
    """
    lines = pa.concat_tables([ledger_schema().empty_table(), *ledgers])
    lines = lines.filter(pc.greater(lines["chunks"], 0))  # records that are not planned may have the id of one that is
    sums = lines.group_by("record_id", use_threads=False).aggregate([(name, "sum") for name in _COUNTED])
    row_of = {record_id: row for row, record_id in enumerate(sums["record_id"].to_pylist())}
    records = whole_records(pieces)
    rows = [row_of.get(record.record_id) if record.fate == "planned" else None for record in records]
    chosen = sums.take(pa.array(rows, pa.int64()))
    return _lines(records, {name: chosen[f"{name}_sum"].fill_null(0).to_numpy() for name in _COUNTED})


def _lines(pieces: Sequence[Piece], counts: Mapping[str, np.ndarray]) -> pa.Table:
    lengths = np.array([piece.length_nt for piece in pieces], np.int64)
    ambiguous, stopped = counts["frames_dropped_ambiguous"] > 0, counts["frames_dropped_stop"] > 0
    why_not = {  # the first that holds
        "empty record": lengths == 0,
        "too short for a codon": lengths < CODON_NT,
        "no CDS evidence": counts["frames_dropped_no_cds"] > 0,
        "ambiguous letters or stops": ambiguous & stopped,
        "ambiguous letters in every chunk": ambiguous,
        "no open frame": stopped,
    }
    reasons = np.select(list(why_not.values()), list(why_not), "no unambiguous codon").tolist()
    dispositions = []
    for row, (piece, kept) in enumerate(zip(pieces, counts["frames_kept"].tolist(), strict=True)):
        if piece.fate != "planned":
            reasons[row] = piece.reason
        elif kept:
            reasons[row] = None
        dispositions.append(piece.fate if piece.fate != "planned" else "scored" if kept else "skipped")
    columns = {
        "record_id": [piece.record_id for piece in pieces],
        "length_nt": lengths,
        "disposition": dispositions,
        "reason": reasons,
        "evidence": [piece.evidence for piece in pieces],
        "chunks": [piece.chunks for piece in pieces],
        **counts,
    }
    return pa.table({name: columns[name] for name in ledger_schema().names}, schema=ledger_schema())


def ledger_totals(ledger: pa.Table) -> dict[str, int]:
    """Records by disposition and reason, chunks and frames by fate; those that did not occur are left out."""
    records: Counter[str] = Counter()
    for group in ledger.group_by(["disposition", "reason"]).aggregate([([], "count_all")]).to_pylist():
        records[f"records_{group['disposition']}"] += group["count_all"]
        if group["reason"]:
            records[f"records_{group['disposition']}: {group['reason']}"] += group["count_all"]
    sums = {name: pc.sum(ledger[name]).as_py() or 0 for name in LEDGER_COUNTS}
    found = {**dict(sorted(records.items())), **sums}
    return {"records": ledger.num_rows, **{name: total for name, total in found.items() if total}}


def require_scored(totals: Mapping[str, int], source: str) -> None:
    """Raise unless at least one record was scored, by what `ledger_totals` counted.

    Raises:
        VirnucError: none was; the message gives the reason that most records have.
    """
    if not totals.get("records_scored"):
        reasons = [(count, name.partition(": ")[2]) for name, count in totals.items() if ": " in name]
        count, reason = max(reasons, key=lambda pair: pair[0])
        raise VirnucError(
            f"{source}: none of {totals['records']} records could be scored; most frequent reason ({count}): {reason}"
        )


def ledger_faults(ledger: pa.Table) -> list[str]:
    """What does not add up, a sentence each; nothing where every record, chunk and frame is accounted for once."""
    chunks, frames = (np.sum([ledger[f"{what}_{fate}"] for fate in FATES], axis=0) for what in ("chunks", "frames"))
    scored = ledger["disposition"].to_numpy() == "scored"
    wrong = (chunks != ledger["chunks"].to_numpy()) | (frames != FRAMES_PER_CHUNK * chunks)
    wrong |= scored != (ledger["frames_kept"].to_numpy() > 0)
    wrong |= scored == ledger["reason"].is_valid().to_numpy()
    return [fault for line in ledger.filter(pa.array(wrong)).to_pylist() for fault in _faults(line)]


def _faults(line: Mapping[str, Any]) -> Iterator[str]:
    record, kept, scored = line["record_id"], line["frames_kept"], line["disposition"] == "scored"
    chunks, frames = (sum(line[f"{what}_{fate}"] for fate in FATES) for what in ("chunks", "frames"))
    if chunks != line["chunks"]:
        yield f"{record}: {line['chunks']} chunks planned, {chunks} accounted for"
    if frames != FRAMES_PER_CHUNK * chunks:
        yield f"{record}: {chunks} chunks have {FRAMES_PER_CHUNK * chunks} frames, {frames} accounted for"
    if scored != (kept > 0):
        yield f"{record}: {line['disposition']} with {kept} kept frames"
    if scored == (line["reason"] is not None):
        yield f"{record}: {line['disposition']} for the reason {line['reason']!r}"


def shard_ledger_faults(ledger: pa.Table, pieces: Sequence[Piece], frames: int) -> list[str]:
    """As `ledger_faults`, and whether a shard's ledger has a line for each piece and counts its table's frames."""
    faults = ledger_faults(ledger)
    lines = list(zip(ledger["record_id"].to_pylist(), ledger["chunks"].to_pylist(), strict=True))
    if lines != (planned := [(piece.record_id, piece.chunks) for piece in pieces]):
        faults.append(f"the ledger has {len(lines)} lines, {len(planned)} pieces are planned, or they differ")
    if frames != (kept := pc.sum(ledger["frames_kept"]).as_py() or 0):
        faults.append(f"ledger counts {kept} kept frames, the table holds {frames}")
    return faults
