"""The ledger: for every input record what became of it, so that nothing is dropped without being counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.sequences.planning import Piece, whole_records
from virnuc_assets.sequences.translation import CODON_NT
from virnuc_assets.storage.schemas import LEDGER_COUNTS, ledger_schema

_COUNTED = [name for name in LEDGER_COUNTS if name != "chunks"]


def ledger_table(pieces: Sequence[Piece], counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    """A line for every piece, in its order; a record without any kept frame is skipped, with its reason.

    Args:
        pieces: planned, so the `chunks` of a line are those that must be accounted for.
        counts: chunks and frames of each record by fate, as `open_frames` found them.
    """
    found = [counts.get(piece.record_id, {}) if piece.fate == "planned" else {} for piece in pieces]
    return _lines(pieces, {name: [count.get(name, 0) for count in found] for name in _COUNTED})


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
    return _lines(records, {name: chosen[f"{name}_sum"].fill_null(0).to_pylist() for name in _COUNTED})


def _lines(pieces: Sequence[Piece], counts: Mapping[str, Sequence[int]]) -> pa.Table:
    fates = [
        _disposed(piece, dict(zip(counts, count, strict=True)))
        for piece, count in zip(pieces, zip(*counts.values(), strict=True), strict=True)
    ]
    columns = {
        "record_id": [piece.record_id for piece in pieces],
        "length_nt": [piece.length_nt for piece in pieces],
        "disposition": [disposition for disposition, _ in fates],
        "reason": [reason for _, reason in fates],
        "evidence": [piece.evidence for piece in pieces],
        "chunks": [piece.chunks for piece in pieces],
        **counts,
    }
    return pa.table({name: columns[name] for name in ledger_schema().names}, schema=ledger_schema())


def _disposed(piece: Piece, count: Mapping[str, int]) -> tuple[str, str | None]:
    """Disposition and reason."""
    if piece.fate != "planned":
        return piece.fate, piece.reason
    if count["frames_kept"]:
        return "scored", None
    return "skipped", _reason(piece.length_nt, count)


def _reason(length_nt: int, count: Mapping[str, int]) -> str:
    """Why a record has no kept frame."""
    if length_nt == 0:
        return "empty record"
    if length_nt < CODON_NT:
        return "too short for a codon"
    if count["frames_dropped_no_cds"]:
        return "no CDS evidence"
    if count["frames_dropped_ambiguous"]:
        return "ambiguous letters or stops" if count["frames_dropped_stop"] else "ambiguous letters in every chunk"
    return "no open frame" if count["frames_dropped_stop"] else "no unambiguous codon"
