"""The ledger: for every input record what became of it, so that nothing is dropped without being counted.

Made, summed and checked column by column, however many records it has.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.planning import rows_at, shard_rows, whole_records
from virnuc_assets.sequences.translation import CODON_NT, FRAMES_PER_CHUNK
from virnuc_assets.storage.schemas import LEDGER_COUNTS, STATUSES, ledger_schema

_SEGMENT = ("length_nt", "status", "reason", "evidence", "first_chunk", "end_chunk")  # what a line has of the plan
_COUNTED = [name for name in LEDGER_COUNTS if name != "chunks"]


def ledger_table(segments: pa.Table, counts: pa.Table) -> pa.Table:
    """One line per row of a plan, in their order; a record without any kept frame is skipped, with its reason.

    The `chunks` of a line are the plan's, which must be accounted for; `counts` are what `open_frames` found.
    """
    planned = pc.equal(segments["status"], "planned")  # records that are not may have the id of one that is
    rows = pc.if_else(planned, pc.index_in(segments["record_id"], value_set=counts["record_id"]), None)
    found = counts.take(rows)
    return _lines(segments, {name: found[name].fill_null(0).cast(pa.int64()) for name in _COUNTED})


def _lines(segments: pa.Table, numbers: Mapping[str, pa.ChunkedArray | pa.Array]) -> pa.Table:
    planned = pc.equal(segments["status"], "planned")
    kept, lengths = pc.greater(numbers["frames_kept"], 0), segments["length_nt"]
    columns = {
        "record_id": segments["record_id"],
        "length_nt": lengths,
        "disposition": pc.if_else(planned, pc.if_else(kept, "scored", "skipped"), segments["status"]),
        "reason": pc.if_else(planned, pc.if_else(kept, None, _reasons(lengths, numbers)), segments["reason"]),
        "evidence": segments["evidence"],
        "chunks": pc.subtract(segments["end_chunk"], segments["first_chunk"]),
        **numbers,
    }
    return pa.table({name: columns[name] for name in ledger_schema().names}, schema=ledger_schema())


def _reasons(lengths: pa.ChunkedArray, counts: Mapping[str, pa.ChunkedArray | pa.Array]) -> pa.ChunkedArray:
    """Why no frame of a record is kept: the first of these that holds."""
    dropped = {name: pc.greater(counts[f"frames_dropped_{name}"], 0) for name in ("ambiguous", "stop", "no_cds")}
    why_not = {
        "empty record": pc.equal(lengths, 0),
        "too short for a codon": pc.less(lengths, CODON_NT),
        "no CDS evidence": dropped["no_cds"],
        "ambiguous bases or stops": pc.and_(dropped["ambiguous"], dropped["stop"]),
        "ambiguous bases in every chunk": dropped["ambiguous"],
        "no open frame": dropped["stop"],
    }
    return pc.case_when(pc.make_struct(*why_not.values()), *why_not, "no unambiguous codon")


class MergedLedger:
    """One line per record of a whole plan, in its order, from the ledgers of its shards; counts are added.

    The chunks to be accounted for are those of the plan, so a shard without its ledger is a fault of the sums.
    """

    def __init__(self, plan: pa.Table) -> None:
        """Count nothing yet; what is in memory is a number per record and count."""
        self._plan = plan.select(["record_id", *_SEGMENT])
        self._record = np.cumsum(pc.equal(plan["first_chunk"], 0)) - 1  # of each row
        records = int(self._record[-1]) + 1 if len(self._record) else 0
        self._sums = {name: np.zeros(records, np.int64) for name in _COUNTED}

    def add(self, rows: np.ndarray, ledger: pa.Table) -> None:
        """Add the ledger of a shard, whose segments are these rows of the plan."""
        if (expected := rows_at(self._plan, rows)["record_id"]) != ledger["record_id"]:
            raise VirnucError(
                f"a ledger of {ledger.num_rows} lines is not that of a planned shard of {len(expected)} records; "
                "materialize translated_proteins again"
            )
        for name, sums in self._sums.items():
            np.add.at(sums, self._record[rows], ledger[name].to_numpy())

    def table(self) -> pa.Table:
        """The ledger of the shards so far."""
        return _lines(whole_records(self._plan), {name: pa.array(sums) for name, sums in self._sums.items()})


def merged_ledger(plan: pa.Table, ledgers: Iterable[pa.Table]) -> pa.Table:
    """The ledger of a whole plan from the ledgers of its shards, in the order of their keys; one is in memory."""
    merged = MergedLedger(plan)
    for rows, ledger in zip(shard_rows(plan).values(), ledgers, strict=False):
        merged.add(rows, ledger)
    return merged.table()


def ledger_totals(ledger: pa.Table) -> dict[str, int]:
    """Records by disposition and reason, chunks and frames by what became of them, as far as they occurred."""
    records: Counter[str] = Counter()
    counted = ledger.group_by(["disposition", "reason"], use_threads=False).aggregate([([], "count_all")])
    for group in counted.to_pylist():
        records[f"records_{group['disposition']}"] += group["count_all"]
        if group["reason"]:
            records[f"records_{group['disposition']}: {group['reason']}"] += group["count_all"]
    sums = {name: pc.sum(ledger[name]).as_py() or 0 for name in LEDGER_COUNTS}
    found = {**dict(sorted(records.items())), **sums}
    return {"records": ledger.num_rows, **{name: total for name, total in found.items() if total}}


def require_scored(totals: Mapping[str, int], source: str) -> None:
    """Raise unless at least one record was scored, with the reason that most records have, by `ledger_totals`."""
    if not totals.get("records_scored"):
        reasons = [(count, name.partition(": ")[2]) for name, count in totals.items() if ": " in name]
        count, reason = max(reasons, key=lambda pair: pair[0])
        raise VirnucError(
            f"{source}: none of {totals['records']} records could be scored; most frequent reason ({count}): {reason}"
        )


def ledger_faults(ledger: pa.Table) -> list[str]:
    """What does not add up, a sentence each; nothing where every record, chunk and frame is accounted for once."""
    chunks, frames = (
        np.sum([ledger[f"{what}_{status}"] for status in STATUSES], axis=0) for what in ("chunks", "frames")
    )
    scored = ledger["disposition"].to_numpy() == "scored"
    wrong = {
        "{chunks} chunks planned, {found} accounted for": chunks != ledger["chunks"].to_numpy(),
        "{found} chunks have {wanted} frames, {frames} accounted for": frames != FRAMES_PER_CHUNK * chunks,
        "{disposition} with {frames_kept} kept frames": scored != (ledger["frames_kept"].to_numpy() > 0),
        "{disposition} for the reason {reason!r}": scored == ledger["reason"].is_valid().to_numpy(),
    }
    faults = list[str]()
    for row in np.flatnonzero(np.any([*wrong.values()], axis=0)).tolist():
        (line,) = ledger.slice(row, 1).to_pylist()
        line |= {"found": chunks[row], "wanted": FRAMES_PER_CHUNK * chunks[row], "frames": frames[row]}
        faults += [f"{line['record_id']}: {fault.format(**line)}" for fault, rows in wrong.items() if rows[row]]
    return faults


def shard_ledger_faults(ledger: pa.Table, segments: pa.Table, frames: int) -> list[str]:
    """As `ledger_faults`, and whether a shard's ledger has a line for each segment and counts its table's frames."""
    faults = ledger_faults(ledger)
    chunks = pc.subtract(segments["end_chunk"], segments["first_chunk"])
    if (ledger["record_id"], ledger["chunks"]) != (segments["record_id"], chunks):
        faults.append(
            f"the ledger has {ledger.num_rows} lines, {segments.num_rows} segments are planned, or they differ"
        )
    if frames != (kept := pc.sum(ledger["frames_kept"]).as_py() or 0):
        faults.append(f"ledger counts {kept} kept frames, the table holds {frames}")
    return faults
