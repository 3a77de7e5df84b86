"""Open frames: which are kept, with what evidence, and that all others are counted."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.sequences import frame_table
from virnuc_assets.sequences.frame_rule import STOP_FREE, FrameRule
from virnuc_assets.sequences.frame_table import Truth, open_frames
from virnuc_assets.storage.schemas import LEDGER_COUNTS, STATUSES, chunks_schema, frames_schema

from .plain import PlainTruth, plain_frames, plain_table

# F1 MA, F2 WP, F3 GL, R1 *A, R2 RP, R3 GH
SIX_CODON_PAIRS = "ATGGCCTA"
LONGER_THAN_ANY = 1000


def chunks(*rows: tuple[str, str]) -> pa.Table:
    """Chunks table from (record id, sequence); the number of a chunk counts within its record."""
    numbers: dict[str, int] = {}
    lines = []
    for record_id, sequence in rows:
        numbers[record_id] = numbers.get(record_id, 0) + 1
        ids = {"chunk_id": f"{record_id}_chunk_{numbers[record_id]}", "record_id": record_id}
        lines.append({**ids, "start_nt": 0, "end_nt": len(sequence), "sequence": sequence})
    return pa.Table.from_pylist(lines, schema=chunks_schema())


def truth(**proteins: tuple[str, ...]) -> Truth:
    return Truth("viral", dict.fromkeys(["r", "other", *"xyz"], "dsDNA phage"), proteins)


def kept(table: pa.Table) -> list[str]:
    return table.column("frame_id").to_pylist()


def counts(table: pa.Table, record_id: str = "r") -> dict[str, int]:
    """Frames of a record by what became of them, and all chunks."""
    (found,) = (row for row in table.to_pylist() if row["record_id"] == record_id)
    frames = {status: found[f"frames_{status}"] for status in STATUSES if found[f"frames_{status}"]}
    return {"chunks": sum(found[f"chunks_{status}"] for status in STATUSES), **frames}


def test_a_sample_chunk_gives_its_stop_free_frames_and_no_truth() -> None:
    frames, counted = open_frames(chunks(("r", SIX_CODON_PAIRS)), None)
    unknown = {"label": None, "group": None, "annotated": None}
    same = {"chunk_id": "r_chunk_1", "record_id": "r", **unknown}
    assert frames.schema == frames_schema()
    assert frames.to_pylist() == [
        {"frame_id": "r_chunk_1F1", "strand": "+", "frame": 1, "nucleotides": "ATGGCCT", "protein": "MA", **same},
        {"frame_id": "r_chunk_1F2", "strand": "+", "frame": 2, "nucleotides": "TGGCCTA", "protein": "WP", **same},
        {"frame_id": "r_chunk_1F3", "strand": "+", "frame": 3, "nucleotides": "GGCCTA", "protein": "GL", **same},
        {"frame_id": "r_chunk_1R2", "strand": "-", "frame": 2, "nucleotides": "AGGCCAT", "protein": "RP", **same},
        {"frame_id": "r_chunk_1R3", "strand": "-", "frame": 3, "nucleotides": "GGCCAT", "protein": "GH", **same},
    ]
    assert counts(counted) == {"chunks": 1, "kept": 5, "dropped_stop": 1}


@pytest.mark.parametrize("sequence", ["A", "AC", "NNNNNNNNN", "RYKMSWBDH"])
def test_empty_proteins_are_no_frames(sequence: str) -> None:
    frames, counted = open_frames(chunks(("r", sequence)), None)
    assert frames == open_frames(chunks(), None)[0] == frames_schema().empty_table()
    assert counts(counted) == {"chunks": 1, "dropped_empty": 6}


def test_a_frame_of_an_annotated_record_needs_one_of_its_own_proteins() -> None:
    """MA is part of KMAK, GL begins GLL, GH is a whole protein; WP is not there, RP only backwards."""
    table = chunks(("r", SIX_CODON_PAIRS), ("other", SIX_CODON_PAIRS))
    frames, counted = open_frames(table, truth(r=("KMAK", "GLL", "PRW", "GH"), other=("WP",)))
    assert kept(frames) == ["r_chunk_1F1", "r_chunk_1F3", "r_chunk_1R3", "other_chunk_1F2"]
    assert counts(counted) == {"chunks": 1, "kept": 3, "dropped_stop": 1, "dropped_no_cds": 2}
    # WP, GL and RP would be found where one protein ends and the next begins.
    frames, counted = open_frames(chunks(("r", SIX_CODON_PAIRS)), truth(r=("MW", "PG", "LR", "P")))
    assert counts(counted) == {"chunks": 1, "dropped_stop": 1, "dropped_no_cds": 5}


def test_a_chunk_without_a_kept_frame_has_the_reason_that_went_furthest() -> None:
    rows = [("r", SIX_CODON_PAIRS), ("r", "GGCGNCGGC"), ("r", "TAACTAACTAACTTAGTTAGTTAG"), ("r", "AC"), ("r", "TGGGG")]
    (found,) = open_frames(chunks(*rows), truth(r=("WG",)))[1].to_pylist()
    assert {name: found[name] for name in found if name.startswith("chunks_")} == {
        f"chunks_{status}": 1 for status in STATUSES
    }


RULES = (STOP_FREE, *(FrameRule("longest_orf", min_orf_aa) for min_orf_aa in (1, 3)))
SEQUENCES = st.text("ACGT", min_size=1, max_size=40) | st.text("ACGTNR", min_size=1, max_size=40)
PROTEINS = st.dictionaries(st.sampled_from("xyz"), st.lists(st.text("MAWPGLRHK", min_size=1, max_size=4), min_size=1))


@pytest.mark.parametrize("window", [2, 1024])
@given(st.dictionaries(st.sampled_from("zyxr"), SEQUENCES), st.none() | PROTEINS, st.sampled_from(RULES))
def test_rows_and_counts_agree_with_a_plain_statement(
    window: int, records: dict[str, str], proteins: dict[str, list[str]] | None, rule: FrameRule
) -> None:
    """Of samples, and of reference with and without annotation; chunks of any lengths, in windows of any size."""
    plain = None if proteins is None else PlainTruth("viral", "dsDNA phage", proteins)
    known = None if proteins is None else truth(**{name: tuple(found) for name, found in proteins.items()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frame_table, "_WINDOW", window)
        frames, counted = open_frames(chunks(*records.items()), known, rule)
    min_orf_aa = rule.min_orf_aa if rule.finds_stretches else None
    assert frames.to_pylist() == plain_table(list(records.items()), LONGER_THAN_ANY, plain, min_orf_aa)
    assert counted["record_id"].to_pylist() == list(records)
    for count in counted.to_pylist():
        record_id = count.pop("record_id")
        assert set(count) <= set(LEDGER_COUNTS)
        assert sum(count[f"chunks_{status}"] for status in STATUSES) == 1
        assert sum(count[f"frames_{status}"] for status in STATUSES) == 6
        if known is None:
            empty = [name for name, _, protein in plain_frames(records[record_id]) if not protein]
            assert count["frames_dropped_empty"] == len(empty)
        assert count["frames_kept"] == frames.column("record_id").to_pylist().count(record_id)
