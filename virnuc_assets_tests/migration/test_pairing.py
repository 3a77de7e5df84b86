"""Both sides must have scored exactly the same test rows; anything else is named with its count."""

from __future__ import annotations

import pyarrow as pa
import pytest

from virnuc_assets.migration.pairing import pair

from .evidence_fakes import replaced, right, rows, variant

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
