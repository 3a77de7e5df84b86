"""The ledger: a line for every input record, with what became of it and why."""

import pyarrow as pa
import pytest

from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.ledger import (
    ledger_faults,
    ledger_table,
    ledger_totals,
    merged_ledger,
    shard_ledger_faults,
)
from virnuc_assets.sequences.planning import Segment, table_of
from virnuc_assets.storage.schemas import LEDGER_COUNTS, ledger_schema


def segment(
    record_id: str,
    length_nt: int,
    chunks: int,
    number: int = 1,
    first_chunk: int = 0,
    shard: int = 1,
    source: str = "s",
) -> Segment:
    key = f"viral-{shard:04d}"
    return Segment(source, key, record_id, number, length_nt, "digest", first_chunk, first_chunk + chunks)


def table(segments: list[Segment], counts: dict[str, dict[str, int]]) -> pa.Table:
    counted = [{"record_id": name, **dict.fromkeys(LEDGER_COUNTS, 0), **found} for name, found in counts.items()]
    schema = pa.schema([("record_id", pa.string()), *((name, pa.int64()) for name in LEDGER_COUNTS)])
    return ledger_table(table_of(segments), pa.Table.from_pylist(counted, schema=schema))


def line(record_id: str, length_nt: int, disposition: str, reason: str | None, **counts: int) -> dict[str, object]:
    """A ledger line; counts that are not named are 0."""
    words = {"disposition": disposition, "reason": reason, "evidence": None}
    return {"record_id": record_id, "length_nt": length_nt, **words, **dict.fromkeys(LEDGER_COUNTS, 0), **counts}


def test_a_line_for_every_piece_in_file_order() -> None:
    """One that is not planned has its reason, and not the counts of the record with its id."""
    failed = segment("z", 700, 0, number=4)._replace(status="failed", reason="names two")
    segments = [segment("z", 700, 2), segment("empty", 0, 0), segment("a", 2, 1), failed]
    z = {"chunks_kept": 2, "frames_kept": 3, "frames_dropped_stop": 9}
    a = {"chunks_dropped_empty": 1, "frames_dropped_empty": 6}
    found = table(segments, {"a": a, "z": z})
    assert found.schema == ledger_schema()
    assert found.to_pylist() == [
        line("z", 700, "scored", None, chunks=2, **z),
        line("empty", 0, "skipped", "empty record"),
        line("a", 2, "skipped", "too short for a codon", chunks=1, **a),
        line("z", 700, "failed", "names two"),
    ]
    assert ledger_faults(found) == []


@pytest.mark.parametrize(
    ("length_nt", "counts", "reason"),
    [
        (3, {"frames_dropped_stop": 2, "frames_dropped_empty": 4}, "no open frame"),
        (500, {"frames_dropped_stop": 2, "frames_dropped_no_cds": 4}, "no CDS evidence"),
        (500, {"frames_dropped_stop": 2, "frames_dropped_ambiguous": 4}, "ambiguous bases or stops"),
        (500, {"frames_dropped_ambiguous": 6}, "ambiguous bases in every chunk"),
        (500, {"frames_dropped_empty": 6}, "no unambiguous codon"),
    ],
)
def test_a_skipped_record_says_why(length_nt: int, counts: dict[str, int], reason: str) -> None:
    row = table([segment("r", length_nt, 1)], {"r": counts}).to_pylist()[0]
    assert (row["disposition"], row["reason"]) == ("skipped", reason)


def stops(chunks: int) -> dict[str, int]:
    return {"chunks_dropped_stop": chunks, "frames_dropped_stop": 6 * chunks}


def test_ledgers_of_shards_add_up_to_one_line_a_record() -> None:
    """b is spread over three shards; one of them alone would say that it was skipped. c is in another file."""
    segments = [
        segment("a", 100, 1),
        segment("b", 9000, 2, 2),
        segment("b", 9000, 3, 2, 2, shard=3),
        segment("b", 9000, 1, 2, 5, shard=2),
        segment("c", 0, 0, 2, source="t", shard=2),
    ]
    found = [
        {"a": stops(1), "b": {"chunks_kept": 2, "frames_kept": 5, "frames_dropped_stop": 7}},
        {"b": {"chunks_kept": 1, "frames_kept": 1, "frames_dropped_no_cds": 5}},
        {"b": {**stops(2), "chunks_dropped_ambiguous": 1, "frames_dropped_ambiguous": 6}},
    ]
    shards = [segments[:2], segments[3:], segments[2:3]]
    ledgers = [table(shard, counts) for shard, counts in zip(shards, found, strict=True)]
    assert ledgers[2].to_pylist()[0]["disposition"] == "skipped"
    kept = {"chunks": 6, "chunks_kept": 3, "chunks_dropped_stop": 2, "chunks_dropped_ambiguous": 1}
    frames = {"frames_kept": 6, "frames_dropped_stop": 19, "frames_dropped_ambiguous": 6, "frames_dropped_no_cds": 5}
    merged = merged_ledger(table_of(segments), ledgers)
    assert merged.to_pylist() == [
        line("a", 100, "skipped", "no open frame", chunks=1, **stops(1)),
        line("b", 9000, "scored", None, **kept, **frames),
        line("c", 0, "skipped", "empty record"),
    ]
    assert ledger_faults(merged) == []
    assert merged_ledger(table_of([]), []).schema == ledger_schema()
    assert ledger_faults(merged_ledger(table_of(segments), ledgers[:2])) == ["b: 6 chunks planned, 3 accounted for"]
    with pytest.raises(VirnucError, match="a ledger of 1 lines is not that of a planned shard of 2 records"):
        merged_ledger(table_of(segments), [ledgers[0], ledgers[2]])
    assert ledger_totals(merged) == {
        "records": 3,
        "records_scored": 1,
        "records_skipped": 2,
        "records_skipped: empty record": 1,
        "records_skipped: no open frame": 1,
        **{**kept, "chunks": 7, "chunks_dropped_stop": 3},
        **{**frames, "frames_dropped_stop": 25},
    }


def test_what_does_not_add_up_is_named() -> None:
    good = {"chunks_kept": 2, "frames_kept": 3, "frames_dropped_stop": 9}
    counts = {
        "good": good,
        "lost": {**good, "frames_dropped_stop": 8},
        "twice": {**good, "frames_kept": 4},
        "gone": {},
    }
    found = table([segment(name, 900, 2) for name in counts], counts)
    assert ledger_faults(found) == [
        "lost: 2 chunks have 12 frames, 11 accounted for",
        "twice: 2 chunks have 12 frames, 13 accounted for",
        "gone: 2 chunks planned, 0 accounted for",
    ]
    lines = found.to_pylist()
    lines[0] |= {"disposition": "skipped"}
    assert ledger_faults(pa.Table.from_pylist(lines[:1], schema=ledger_schema())) == [
        "good: skipped with 3 kept frames",
        "good: skipped for the reason None",
    ]


def test_a_ledger_of_other_pieces_or_other_frames_is_reported() -> None:
    segments = [segment("a", 900, 2), segment("b", 0, 0)]
    found = table(segments, {"a": {"chunks_kept": 2, "frames_kept": 3, "frames_dropped_stop": 9}})
    assert shard_ledger_faults(found, table_of(segments), 3) == []
    assert shard_ledger_faults(found, table_of(segments), 4) == ["ledger counts 3 kept frames, the table holds 4"]
    for others in (segments[:1], segments[::-1], [segment("a", 900, 1), segment("b", 0, 0)]):
        assert len(shard_ledger_faults(found, table_of(others), 3)) == 1
