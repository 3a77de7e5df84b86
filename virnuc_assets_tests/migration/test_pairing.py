"""Both sides must have scored exactly the same test rows; anything else is named with its count."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from virnuc_assets.migration.comparison import pair

from .evidence_fakes import description, fingerprint, replaced, right, rows, variant

TABLE = rows(right(10), right(10))


def gaps_of(candidate: pa.Table | None, baseline: pa.Table | None) -> tuple[str, ...]:
    paired, gaps = pair(variant("fastesm2", candidate), variant("esm2_3b", baseline))
    assert (paired is None) == bool(gaps)
    return gaps


def test_rows_are_put_side_by_side_by_frame_id() -> None:
    candidate = rows(right(6, wrong=1), right(4))
    baseline = rows(right(6), right(4, wrong=2)).take([9, 0, 8, 1, 7, 2, 6, 3, 5, 4])
    paired, gaps = pair(variant("fastesm2", candidate), variant("esm2_3b", baseline))
    assert paired is not None and gaps == ()
    # Sorted by frame_id: host0 chunks 1-4, viral0 chunks 1-5, viral1 chunk 1.
    frames = paired.levels["frame"]
    assert frames.viral.tolist() == [False] * 4 + [True] * 6
    assert frames.candidate.tolist() == [False] * 4 + [True] * 5 + [False]
    assert frames.other.tolist() == [False, False, True, True] + [True] * 6
    assert paired.cluster.tolist() == [0] * 4 + [1] * 5 + [2]
    assert paired.group_names == (("host", "bacteria"), ("viral", "phage"))
    assert paired.group.tolist() == [0] * 4 + [1] * 6
    assert len(paired.levels["record"].viral) == 3


def test_the_k_mer_baseline_is_paired_by_the_chunks_that_both_have_scored() -> None:
    """Its row is of another frame than the candidate's; a chunk of two frames is one row, by VirNucPro's rule."""
    candidate = rows(right(6, wrong=2), right(4))
    second = replaced(candidate.slice(5, 1), "frame_id", {0: "viral1_chunk_1R2"})
    for column, value in (("score_other", 0.05), ("score_virus", 0.95), ("call", "virus")):
        second = replaced(second, column, {0: value})
    candidate = pa.concat_tables([candidate, second])  # the frame that is sure makes viral1_chunk_1 a virus
    kmer = rows(right(8), right(4, wrong=1))
    kmer = replaced(kmer, "frame_id", {row: f"{id}R3" for row, id in enumerate(kmer["chunk_id"].to_pylist())})
    composed = description("kmer", encoders={"dna": {}, "protein": fingerprint("kmer_protein", architecture="kmer")})
    baseline = variant("kmer", kmer.slice(1), description=composed)  # without viral0_chunk_1
    paired, gaps = pair(variant("fastesm2", candidate), baseline)
    assert paired is not None and gaps == ()
    # Sorted: host0 chunks 1-4, viral0 chunks 2-5, viral1 chunk 1.
    chunks = paired.levels["frame"]
    assert chunks.viral.tolist() == [False] * 4 + [True] * 5
    assert chunks.candidate.tolist() == [False] * 4 + [True, True, True, False, True]
    assert chunks.other.tolist() == [False, False, False, True] + [True] * 5
    assert paired.cluster.tolist() == [0] * 4 + [1] * 4 + [2]
    apart = variant("kmer", kmer.filter(pc.equal(kmer["record_id"], "none")), description=composed)
    assert pair(variant("fastesm2", candidate), apart)[0] is None


def test_rows_of_one_side_only_are_counted_and_shown() -> None:
    assert gaps_of(TABLE.slice(3), TABLE.slice(0, 19)) == (
        "fastesm2 (17 test rows) and esm2_3b (19) did not score the same rows: 1 only in fastesm2 (e.g. "
        "host1_chunk_5F1); 3 only in esm2_3b (e.g. viral0_chunk_1F1, viral0_chunk_2F1, viral0_chunk_3F1); "
        "evaluate both on one split",
    )


@pytest.mark.parametrize("fact", ["chunk_id", "record_id", "cluster", "label", "group"])
def test_facts_on_which_the_sides_differ_are_counted_and_shown(fact: str) -> None:
    (gap,) = gaps_of(TABLE, replaced(TABLE, fact, dict.fromkeys(range(5), "host")))
    before = TABLE[fact][0].as_py()
    assert f"disagree on the {fact} of 5 of 20 test rows (e.g. viral0_chunk_1F1: {before} and host" in gap


def test_rows_without_a_group_are_grouped_by_label() -> None:
    table = replaced(TABLE, "group", dict.fromkeys(range(20)))
    paired, _ = pair(variant("fastesm2", table), variant("esm2_3b", table))
    assert paired is not None
    assert paired.group_names == (("host", "(no group)"), ("viral", "(no group)"))


def test_absent_tables_and_tables_of_one_label_are_gaps() -> None:
    assert gaps_of(None, None) == (
        "fastesm2: no predictions on the test rows are stored",
        "esm2_3b: no predictions on the test rows are stored",
    )
    one_label = "fastesm2: stored predictions are not usable: expected rows of both labels, found "
    assert gaps_of(TABLE.slice(0, 0), TABLE) == (f"{one_label}no rows",)
    assert gaps_of(TABLE.slice(0, 10), TABLE) == (f"{one_label}10 rows, all labelled viral",)


def test_what_the_caller_knows_of_an_absent_table_is_the_gap() -> None:
    stale = variant("esm2_3b", None, problems=("esm2_3b_evaluation has not been materialized",))
    assert pair(variant("fastesm2", TABLE), stale)[1] == ("esm2_3b_evaluation has not been materialized",)
