"""The ledger: a line for every input record, with what became of it and why."""

import pyarrow as pa
import pytest

from virnuc_assets.sequences.ledger import ledger_table, merged_ledger, unbalanced_records
from virnuc_assets.sequences.planning import Piece
from virnuc_assets.storage.schemas import ledger_schema


def piece(record_id: str, length_nt: int, chunks: int) -> Piece:
    return Piece("s-000001", record_id, length_nt, 0, chunks)


def line(record_id: str, length_nt: int, disposition: str, reason: str | None, *counts: int) -> dict[str, object]:
    """A ledger line; counts are chunks, kept, then dropped for stop, empty, ambiguous, no CDS."""
    names = ("chunks", "frames_kept", "frames_dropped_stop", "frames_dropped_empty", "frames_dropped_ambiguous")
    numbers = dict(zip((*names, "frames_dropped_no_cds"), counts, strict=True))
    return {"record_id": record_id, "length_nt": length_nt, "disposition": disposition, "reason": reason, **numbers}


def disposed(length_nt: int, **counts: int) -> tuple[str, str | None]:
    row = ledger_table([piece("r", length_nt, 1)], {"r": counts}).to_pylist()[0]
    return row["disposition"], row["reason"]


def test_a_line_for_every_piece_in_file_order() -> None:
    pieces = [piece("z", 700, 2), piece("empty", 0, 0), piece("a", 2, 1)]
    counts = {
        "a": {"chunks": 1, "frames_dropped_empty": 6},
        "z": {"chunks": 2, "frames_kept": 3, "frames_dropped_stop": 9},
    }
    table = ledger_table(pieces, counts)
    assert table.schema == ledger_schema()
    assert table.to_pylist() == [
        line("z", 700, "scored", None, 2, 3, 9, 0, 0, 0),
        line("empty", 0, "skipped", "empty record", 0, 0, 0, 0, 0, 0),
        line("a", 2, "skipped", "too short for a codon", 1, 0, 0, 6, 0, 0),
    ]


def test_one_kept_frame_is_scored() -> None:
    assert disposed(500, chunks=1, frames_kept=1, frames_dropped_stop=2, frames_dropped_no_cds=3) == ("scored", None)


@pytest.mark.parametrize(
    ("length_nt", "counts", "word"),
    [
        (0, {}, "empty"),
        (1, {"frames_dropped_empty": 6}, "short"),
        (2, {"frames_dropped_empty": 6}, "short"),
        (500, {"frames_dropped_stop": 6}, "open frame"),
        (500, {"frames_dropped_stop": 2, "frames_dropped_no_cds": 4}, "CDS"),
        (500, {"frames_dropped_ambiguous": 6}, "ambiguous"),
        (500, {"frames_dropped_empty": 6}, "codon"),
    ],
)
def test_a_skipped_record_says_why(length_nt: int, counts: dict[str, int], word: str) -> None:
    disposition, reason = disposed(length_nt, chunks=int(length_nt > 0), **counts)
    assert disposition == "skipped"
    assert reason is not None
    assert word in reason


def test_all_reasons_differ() -> None:
    reasons = {
        disposed(0),
        disposed(2, frames_dropped_empty=6),
        disposed(9, frames_dropped_empty=6),
        disposed(9, frames_dropped_stop=6),
        disposed(9, frames_dropped_ambiguous=6),
        disposed(9, frames_dropped_no_cds=6),
    }
    assert len(reasons) == 6


def test_three_bases_are_not_too_short() -> None:
    assert disposed(3, chunks=1, frames_dropped_stop=2, frames_dropped_empty=4) == ("skipped", "no open frame")


def shard(record_id: str, **counts: int) -> pa.Table:
    return ledger_table([piece(record_id, 9000, counts["chunks"])], {record_id: counts})


def test_ledgers_of_shards_add_up_to_one_line_a_record() -> None:
    """b is spread over three shards; one of them alone would say that it was skipped."""
    first = ledger_table(
        [piece("a", 100, 1), piece("b", 9000, 2)],
        {"a": {"chunks": 1, "frames_dropped_stop": 6}, "b": {"chunks": 2, "frames_kept": 5, "frames_dropped_stop": 7}},
    )
    second = shard("b", chunks=3, frames_dropped_stop=12, frames_dropped_ambiguous=6)
    third = ledger_table(
        [piece("b", 9000, 1), piece("c", 0, 0)], {"b": {"chunks": 1, "frames_kept": 1, "frames_dropped_no_cds": 5}}
    )
    assert second.to_pylist()[0]["disposition"] == "skipped"
    assert merged_ledger([first, second, third]).to_pylist() == [
        line("a", 100, "skipped", "no open frame", 1, 0, 6, 0, 0, 0),
        line("b", 9000, "scored", None, 6, 6, 19, 0, 6, 5),
        line("c", 0, "skipped", "empty record", 0, 0, 0, 0, 0, 0),
    ]


def test_a_record_without_a_frame_in_any_shard_stays_skipped() -> None:
    merged = merged_ledger([shard("r", chunks=1, frames_dropped_stop=6), shard("r", chunks=2, frames_dropped_stop=12)])
    assert merged.to_pylist() == [line("r", 9000, "skipped", "no open frame", 3, 0, 18, 0, 0, 0)]


def test_no_ledgers_make_an_empty_one() -> None:
    assert merged_ledger([]).schema == ledger_schema()
    assert merged_ledger([]).num_rows == 0


def test_unbalanced_records_are_named() -> None:
    pieces = [piece("good", 900, 2), piece("lost", 900, 2), piece("twice", 900, 2)]
    counts = {
        "good": {"chunks": 2, "frames_kept": 3, "frames_dropped_stop": 9},
        "lost": {"chunks": 2, "frames_kept": 3, "frames_dropped_stop": 8},
        "twice": {"chunks": 2, "frames_kept": 4, "frames_dropped_stop": 9},
    }
    assert unbalanced_records(ledger_table(pieces, counts)) == ["lost", "twice"]
