"""The ledger: for every input record what became of it, so that nothing is dropped without being counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import pyarrow as pa

from virnuc_assets.sequences.planning import Piece
from virnuc_assets.sequences.translation import FRAMES_PER_CHUNK
from virnuc_assets.storage.schemas import LEDGER_COUNTS, ledger_schema

CODON_NT = 3


def ledger_table(pieces: Iterable[Piece], counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    """A line for every planned piece, in file order; a record without any kept frame is skipped, with its reason."""
    lines = []
    for piece in pieces:
        count = {name: counts.get(piece.record_id, {}).get(name, 0) for name in LEDGER_COUNTS}
        lines.append(
            {"record_id": piece.record_id, "length_nt": piece.length_nt, **_disposed(piece.length_nt, count), **count}
        )
    return pa.Table.from_pylist(lines, schema=ledger_schema())


def merged_ledger(ledgers: Iterable[pa.Table]) -> pa.Table:
    """One line a record from the ledgers of a source's shards; counts are added, the disposition follows from them."""
    lengths: dict[str, int] = {}
    sums: dict[str, Counter[str]] = {}
    for line in (line for ledger in ledgers for line in ledger.to_pylist()):
        lengths[line["record_id"]] = line["length_nt"]
        sums.setdefault(line["record_id"], Counter()).update({name: line[name] for name in LEDGER_COUNTS})
    return ledger_table([Piece("", record_id, length_nt, 0, 0) for record_id, length_nt in lengths.items()], sums)


def unbalanced_records(ledger: pa.Table) -> list[str]:
    """Records whose frames do not add up to six a chunk."""
    return [
        line["record_id"]
        for line in ledger.to_pylist()
        if FRAMES_PER_CHUNK * line["chunks"] != sum(line[name] for name in LEDGER_COUNTS if name.startswith("frames_"))
    ]


def _disposed(length_nt: int, count: Mapping[str, int]) -> dict[str, str | None]:
    if count["frames_kept"]:
        return {"disposition": "scored", "reason": None}
    if length_nt == 0:
        reason = "empty record"
    elif length_nt < CODON_NT:
        reason = "too short for a codon"
    elif count["frames_dropped_no_cds"]:
        reason = "no CDS evidence"
    elif count["frames_dropped_ambiguous"]:
        reason = (
            "ambiguous letters in every chunk" if not count["frames_dropped_stop"] else "ambiguous letters or stops"
        )
    elif count["frames_dropped_stop"]:
        reason = "no open frame"
    else:
        reason = "no unambiguous codon"
    return {"disposition": "skipped", "reason": reason}
