"""Open frames: which are kept, with what evidence, and that all others are counted."""

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest
from Bio import SeqIO
from hypothesis import given
from hypothesis import strategies as st

from virnuc_assets.sequences.chunk_table import ChunkReader
from virnuc_assets.sequences.frame_table import Truth, open_frames
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.planning import plan_source
from virnuc_assets.storage.schemas import FATES, LEDGER_COUNTS, chunks_schema, frames_schema

from .plain import biopython_open_frames, plain_frames

LAMBDA = Path(__file__).parents[2] / "data" / "genomes" / "viral" / "lambda.fna.gz"
LAMBDA_ID = "gi|9626243|ref|NC_001416.1|"
# F1 MA, F2 WP, F3 GL, R1 *A, R2 RP, R3 GH
SIX_CODON_PAIRS = "ATGGCCTA"


def chunks(*rows: tuple[str, str]) -> pa.Table:
    """Chunks table from (record id, sequence); the number of a chunk counts within its record."""
    numbers: dict[str, int] = {}
    lines = []
    for record_id, sequence in rows:
        numbers[record_id] = numbers.get(record_id, 0) + 1
        lines.append(
            {
                "chunk_id": f"{record_id}_chunk_{numbers[record_id]}",
                "record_id": record_id,
                "start_nt": 0,
                "end_nt": len(sequence),
                "sequence": sequence,
            }
        )
    return pa.Table.from_pylist(lines, schema=chunks_schema())


def truth(**proteins: tuple[str, ...]) -> Truth:
    return Truth("viral", dict.fromkeys(["r", "other", "annotated", "bare", *"xyz"], "dsDNA phage"), proteins)


def kept(table: pa.Table) -> list[str]:
    return table.column("frame_id").to_pylist()


def counts(found: Mapping[str, int]) -> dict[str, int]:
    """Frames by fate, and all chunks."""
    frames = {fate: found[f"frames_{fate}"] for fate in FATES if found[f"frames_{fate}"]}
    return {"chunks": sum(found[f"chunks_{fate}"] for fate in FATES), **frames}


def test_a_sample_chunk_gives_its_stop_free_frames_and_no_truth() -> None:
    found = open_frames(chunks(("r", SIX_CODON_PAIRS)), None)
    unknown = {"label": None, "group": None, "annotated": None}
    same = {"chunk_id": "r_chunk_1", "record_id": "r", **unknown}
    assert found.table.schema == frames_schema()
    assert found.table.to_pylist() == [
        {"frame_id": "r_chunk_1F1", "strand": "+", "frame": 1, "nucleotides": "ATGGCCT", "protein": "MA", **same},
        {"frame_id": "r_chunk_1F2", "strand": "+", "frame": 2, "nucleotides": "TGGCCTA", "protein": "WP", **same},
        {"frame_id": "r_chunk_1F3", "strand": "+", "frame": 3, "nucleotides": "GGCCTA", "protein": "GL", **same},
        {"frame_id": "r_chunk_1R2", "strand": "-", "frame": 2, "nucleotides": "AGGCCAT", "protein": "RP", **same},
        {"frame_id": "r_chunk_1R3", "strand": "-", "frame": 3, "nucleotides": "GGCCAT", "protein": "GH", **same},
    ]
    assert counts(found.counts["r"]) == {"chunks": 1, "kept": 5, "dropped_stop": 1}


def test_a_stop_anywhere_closes_a_frame() -> None:
    """F1 begins, is broken in its middle, or ends with a stop."""
    for sequence in ("TAAGGCGGC", "GGCTAGGGC", "GGCGGCTGA"):
        assert "r_chunk_1F1" not in kept(open_frames(chunks(("r", sequence)), None).table)


def test_frames_follow_chunks_and_chunks_their_order() -> None:
    found = open_frames(chunks(("b", "GGCGG"), ("a", "GGCGG"), ("b", "GGCGG")), None)
    names = ["F1", "F2", "F3", "R1", "R2", "R3"]
    assert kept(found.table) == [
        f"{chunk}{name}" for chunk in ("b_chunk_1", "a_chunk_1", "b_chunk_2") for name in names
    ]


@pytest.mark.parametrize("sequence", ["A", "AC", "NNNNNNNNN", "RYKMSWBDH"])
def test_empty_proteins_are_no_frames(sequence: str) -> None:
    found = open_frames(chunks(("r", sequence)), None)
    assert found.table.num_rows == 0
    assert found.table.schema == frames_schema()
    assert counts(found.counts["r"]) == {"chunks": 1, "dropped_empty": 6}


def test_no_chunks_no_frames() -> None:
    assert open_frames(chunks(), None).table.schema == frames_schema()


@pytest.mark.parametrize("code", "NRYMKSWHBVD")
@pytest.mark.parametrize("place", [0, 4, 8])
def test_an_ambiguity_code_leaves_the_chunk_out_of_reference_data_only(code: str, place: int) -> None:
    spoilt = "GGCGGCGGC"[:place] + code + "GGCGGCGGC"[place + 1 :]
    table = chunks(("r", "GGCGGCGGC"), ("r", spoilt))
    reference = open_frames(table, truth())
    assert {row["chunk_id"] for row in reference.table.to_pylist()} == {"r_chunk_1"}
    assert counts(reference.counts["r"]) == {"chunks": 2, "kept": 6, "dropped_ambiguous": 6}
    sample = open_frames(table, None)
    assert {row["chunk_id"] for row in sample.table.to_pylist()} == {"r_chunk_1", "r_chunk_2"}
    assert "dropped_ambiguous" not in counts(sample.counts["r"])


def test_a_frame_of_an_annotated_record_needs_one_of_its_own_proteins() -> None:
    """MA lies inside KMAK, GL begins GLL, GH is a whole protein; WP is not there, RP only backwards."""
    found = open_frames(chunks(("r", SIX_CODON_PAIRS)), truth(r=("KMAK", "GLL", "PRW", "GH")))
    assert kept(found.table) == ["r_chunk_1F1", "r_chunk_1F3", "r_chunk_1R3"]
    assert counts(found.counts["r"]) == {"chunks": 1, "kept": 3, "dropped_stop": 1, "dropped_no_cds": 2}
    assert set(found.table.column("annotated").to_pylist()) == {True}


def test_no_frame_matches_across_the_border_of_two_proteins() -> None:
    """WP, GL and RP would be found where one protein ends and the next begins."""
    found = open_frames(chunks(("r", SIX_CODON_PAIRS)), truth(r=("MW", "PG", "LR", "P")))
    assert kept(found.table) == []
    assert counts(found.counts["r"]) == {"chunks": 1, "dropped_stop": 1, "dropped_no_cds": 5}


def test_proteins_of_another_record_are_no_evidence() -> None:
    table = chunks(("r", SIX_CODON_PAIRS), ("other", SIX_CODON_PAIRS))
    found = open_frames(table, truth(r=("MA",), other=("WP", "GH")))
    assert kept(found.table) == ["r_chunk_1F1", "other_chunk_1F2", "other_chunk_1R3"]


def test_a_record_without_annotation_keeps_its_stop_free_frames_and_says_so() -> None:
    table = chunks(("annotated", SIX_CODON_PAIRS), ("bare", SIX_CODON_PAIRS))
    found = open_frames(table, truth(annotated=("MA",)))
    marks = [(row["record_id"], row["annotated"]) for row in found.table.to_pylist()]
    assert marks == [("annotated", True)] + [("bare", False)] * 5


def test_reference_frames_carry_label_and_group() -> None:
    known = Truth("host", {"a": "fungi", "b": "plant"})
    found = open_frames(chunks(("b", SIX_CODON_PAIRS), ("a", SIX_CODON_PAIRS)), known)
    told = [(row["record_id"], row["label"], row["group"]) for row in found.table.to_pylist()]
    assert told == [("b", "host", "plant")] * 5 + [("a", "host", "fungi")] * 5


def test_a_chunk_without_a_kept_frame_has_the_reason_that_went_furthest() -> None:
    rows = [("r", SIX_CODON_PAIRS), ("r", "GGCGNCGGC"), ("r", "TAACTAACTAACTTAGTTAGTTAG"), ("r", "AC"), ("r", "TGGGG")]
    found = open_frames(chunks(*rows), truth(r=("WG",))).counts["r"]
    by_chunk = {name: number for name, number in found.items() if name.startswith("chunks_") and number}
    assert by_chunk == {
        "chunks_kept": 1,
        "chunks_dropped_no_cds": 1,
        "chunks_dropped_ambiguous": 1,
        "chunks_dropped_stop": 1,
        "chunks_dropped_empty": 1,
    }


@given(
    st.lists(st.tuples(st.sampled_from("xyz"), st.text("ACGTN", min_size=1, max_size=40)), max_size=8),
    st.sampled_from([None, truth(), truth(x=("MA", "G")), truth(x=("L",), y=("K", "R"))]),
)
def test_every_frame_is_kept_or_counted_as_dropped(rows: list[tuple[str, str]], known: Truth | None) -> None:
    found = open_frames(chunks(*rows), known)
    assert set(found.counts) == {record_id for record_id, _ in rows}
    for record_id, count in found.counts.items():
        assert set(count) <= set(LEDGER_COUNTS)
        mine = [sequence for name, sequence in rows if name == record_id]
        assert sum(count[f"chunks_{fate}"] for fate in FATES) == len(mine)
        assert sum(count[f"frames_{fate}"] for fate in FATES) == 6 * len(mine)
        assert count["frames_kept"] == found.table.column("record_id").to_pylist().count(record_id)


@given(st.lists(st.text("ACGTN", min_size=1, max_size=50), max_size=5))
def test_samples_agree_with_a_plain_statement(sequences: list[str]) -> None:
    expected = [
        (f"r_chunk_{number}{name}", nucleotides, protein)
        for number, sequence in enumerate(sequences, start=1)
        for name, nucleotides, protein in plain_frames(sequence)
        if protein and "*" not in protein
    ]
    rows = open_frames(chunks(*(("r", sequence) for sequence in sequences)), None).table.to_pylist()
    assert [(row["frame_id"], row["nucleotides"], row["protein"]) for row in rows] == expected


@pytest.mark.parametrize(("chunk_length", "chunk_rows"), [(500, 98), (300, 162)])
def test_lambda_agrees_with_biopython(chunk_length: int, chunk_rows: int) -> None:
    with open_source(LAMBDA) as source:
        record = SeqIO.read(source.text, "fasta")
    assert (record.id, len(record.seq), set(record.seq)) == (LAMBDA_ID, 48_502, set("ACGT"))
    plan = plan_source(LAMBDA, "lambda", chunk_length, shard_chunks=10_000)
    table = ChunkReader(LAMBDA, plan.sha256, chunk_length).table(plan.pieces)
    assert table.num_rows == chunk_rows
    rows = open_frames(table, None).table.to_pylist()
    found = [(row["frame_id"], row["strand"], row["frame"], row["nucleotides"], row["protein"]) for row in rows]
    assert found == biopython_open_frames(LAMBDA_ID, str(record.seq), chunk_length)
    assert {len(row["protein"]) for row in rows} == {chunk_length // 3, chunk_length // 3 - (chunk_length % 3 == 0)}
