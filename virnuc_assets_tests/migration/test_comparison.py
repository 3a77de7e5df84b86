"""Both sides must have scored the same test rows; drops are baseline − candidate, with intervals as of a plain loop."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from virnuc_assets.migration.comparison import (
    Comparison,
    Drop,
    McNemar,
    PairedCalls,
    PairedRows,
    bootstrap,
    compare,
    drop_intervals,
    group_tests,
    mcnemar,
    pair,
    student_tails,
)
from virnuc_assets.settings import DecisionSettings

from .evidence_fakes import SETTINGS, description, fingerprint, replaced, right, rows, variant


def paired_rows(candidate: pa.Table, baseline: pa.Table) -> PairedRows:
    paired, gaps = pair(variant("fastesm2", candidate), variant("esm2_3b", baseline))
    assert paired is not None, gaps
    return paired


def compared(candidate: pa.Table, baseline: pa.Table, decision: DecisionSettings = SETTINGS) -> Comparison:
    return compare(paired_rows(candidate, baseline), "esm2_3b", decision)


def plain_f1(truth: np.ndarray, called: np.ndarray) -> float:
    hits, called_or_true = np.sum(truth & called), np.sum(truth) + np.sum(called)
    return float(2 * hits / called_or_true) if called_or_true else 0.0


@st.composite
def random_rows(draw: st.DrawFn) -> PairedRows:
    size = draw(st.integers(2, 40))
    flags = st.lists(st.booleans(), min_size=size, max_size=size).map(np.array)
    clusters = np.array(draw(st.lists(st.integers(0, 6), min_size=size, max_size=size)))
    calls = PairedCalls(draw(flags), draw(flags), draw(flags))
    return PairedRows(
        levels={"frame": calls, "chunk": calls, "record": calls},
        cluster=np.unique(clusters, return_inverse=True)[1],
        group=np.zeros(size, dtype=np.int64),
        group_names=(("viral", "any"),),
    )


def test_drops_and_mcnemar_by_hand() -> None:
    comparison = compared(rows(right(50, wrong=3), right(50)), rows(right(50, wrong=1), right(50)))
    assert comparison.accuracy_drop.value == 0.02
    assert comparison.f1_drop.value == pytest.approx(98 / 99 - 94 / 97, abs=1e-15)
    assert (comparison.rows, comparison.viral_rows, comparison.host_rows) == (100, 50, 50)
    assert (comparison.records, comparison.clusters) == (20, 20)
    assert (comparison.viral_clusters, comparison.host_clusters) == (10, 10)
    # 1.0 − 0.95 is 0.05000000000000004 in floats; the count is what is divided.
    comparison = compared(rows(right(50, wrong=5), right(50)), rows(right(50), right(50)))
    assert comparison.accuracy_drop.value == 0.05
    levels = [(one.level, one.rows, one.only_other_right) for one in comparison.mcnemar]
    assert levels == [("frame", 100, 5), ("chunk", 100, 5), ("record", 20, 1)]


@settings(max_examples=15, deadline=None)
@given(random_rows(), st.integers(0, 5))
def test_interval_is_that_of_a_plain_loop(paired: PairedRows, seed: int) -> None:
    decision = DecisionSettings(bootstrap_rounds=100, seed=seed, confidence=0.9)
    comparison = compare(paired, "esm2_3b", decision)
    clusters = comparison.clusters
    calls, members = paired.levels["frame"], [np.flatnonzero(paired.cluster == cluster) for cluster in range(clusters)]
    drops = []
    for drawn in np.random.default_rng(seed).integers(0, clusters, size=(100, clusters)):
        chosen = np.concatenate([members[cluster] for cluster in drawn])
        truth, ours, theirs = (a[chosen] for a in (calls.viral, calls.candidate, calls.other))
        drops.append(
            [np.mean(theirs == truth) - np.mean(ours == truth), plain_f1(truth, theirs) - plain_f1(truth, ours)]
        )
    for column, drop in enumerate((comparison.accuracy_drop, comparison.f1_drop)):
        if clusters == 1:
            assert drop.low is None and drop.high is None
            continue
        tail = student_tails(np.bincount(paired.cluster)[None].astype(float), 0.9)[0]
        low, high = np.quantile(np.array(drops)[:, column], [tail, 1.0 - tail], method="weibull")
        assert drop.low == pytest.approx(low, abs=1e-12) and drop.high == pytest.approx(high, abs=1e-12)


def test_all_rounds_are_drawn_each_with_as_many_clusters_as_there_are() -> None:
    weights = bootstrap(lambda weights: weights, clusters=5, rounds=600, seed=0)
    assert weights.shape == (600, 5) and (weights.sum(axis=1) == 5).all()
    assert len(np.unique(weights, axis=0)) > 100


def test_groups_by_hand() -> None:
    bacteria, phage = compared(rows(right(50, wrong=5), right(9)), rows(right(50), right(9, wrong=1))).groups
    assert (phage.label, phage.group, phage.rows, phage.clusters) == ("viral", "phage", 50, 10)
    assert (phage.candidate_accuracy, phage.other_accuracy, phage.drop.value) == (0.9, 1.0, 0.1)
    # One of ten equal clusters is all wrong: mean 0.1, standard error 0.1, t(0.975; 9) = 2.262157, P(t > 1) = 0.171718.
    assert (phage.drop.low, phage.drop.high) == (pytest.approx(0.1 - 0.2262157), pytest.approx(0.1 + 0.2262157))
    assert (phage.status, phage.p_worse, phage.p_lost) == ("no loss shown", pytest.approx(0.1717182), 0.5)
    assert (bacteria.group, bacteria.rows, bacteria.clusters, bacteria.status) == ("bacteria", 9, 2, "too few clusters")
    assert (bacteria.drop.value, bacteria.p_worse, bacteria.p_lost) == (-1 / 9, None, None)
    alone, _ = compared(rows(right(50), right(5)), rows(right(50), right(5, wrong=1))).groups
    assert (alone.clusters, alone.drop) == (1, Drop(-0.2, None, None))


@pytest.mark.parametrize(
    ("wrong", "status"),
    # Of 10 clusters of 5 rows: a loss in all of them is certain; in 6 it may be chance that it is beyond the margin.
    [
        ([1] * 10, "lost"),
        ([1] * 6 + [0] * 4, "worse"),
        ([1] * 5 + [0] * 5, "no loss shown"),
        ([0] * 10, "no loss shown"),
    ],
)
def test_a_group_is_lost_worse_or_neither(wrong: list[int], status: str) -> None:
    flags = [flag for count in wrong for flag in right(5, wrong=count)]
    bacteria, phage = compared(rows(flags, right(50)), rows(right(50), right(50))).groups
    assert (phage.status, bacteria.status) == (status, "no loss shown")


def test_p_values_of_groups_are_adjusted_after_holm() -> None:
    """Four groups of six clusters: the smallest p times 4, the next times 3, and none below the one before."""
    generator = np.random.default_rng(1)
    counts = np.zeros((1, 24, 4, 2, 4))
    for cluster in range(24):
        wrong = generator.integers(0, 6, size=2) + [3 - cluster % 4, 0]
        counts[0, cluster, cluster % 4, :, 0], counts[0, cluster, cluster % 4, :, 1] = 20 - wrong, wrong
    alone = [group_tests(counts[:, :, [group]], SETTINGS).p_worse[0, 0] for group in range(4)]
    order = np.argsort(alone)
    expected = np.minimum(np.maximum.accumulate(np.array(alone)[order] * [4, 3, 2, 1]), 1.0)
    found = group_tests(counts, SETTINGS).p_worse[0]
    assert found[order] == pytest.approx(expected, abs=1e-12)
    two_more = np.concatenate([counts, np.zeros((1, 24, 2, 2, 4))], axis=2)  # groups of no cluster count for nothing
    assert group_tests(two_more, SETTINGS).p_worse[0, :4] == pytest.approx(found, abs=1e-12)


def test_mcnemar_by_hand() -> None:
    """Of 8 rows on which the sides differ, the candidate is right on 1: p = 2 (C(8,0) + C(8,1)) / 2**8."""
    viral = np.ones(20, dtype=bool)
    candidate, other = viral.copy(), viral.copy()
    candidate[:7], other[7] = False, False
    assert mcnemar("frame", PairedCalls(viral, candidate, other)) == McNemar("frame", 20, 1, 7, 18 / 256)
    assert mcnemar("frame", PairedCalls(viral, viral, viral)).p == 1.0


def test_studies_together_get_the_intervals_that_each_gets_alone() -> None:
    counts = np.random.default_rng(0).integers(1, 9, size=(3, 12, 2, 4)).astype(float)
    together = drop_intervals(counts, 700, 1, 0.95)
    assert together.shape == (2, 3, 2)
    for study in range(3):
        assert np.array_equal(drop_intervals(counts[[study]], 700, 1, 0.95)[:, 0], together[:, study])
    assert not np.array_equal(drop_intervals(counts, 700, 2, 0.95), together)


def test_tails_are_those_of_student_with_the_effective_number_of_clusters() -> None:
    many, ten, uneven = np.ones((1, 10**6)), np.ones((1, 10)), np.array([[1.0] * 10 + [0.0] * 5])
    assert student_tails(many, 0.95)[0] == pytest.approx(0.025, abs=1e-5)
    assert student_tails(ten, 0.95)[0] == pytest.approx(norm.cdf(-2.262157), abs=1e-6)  # t(0.025; 9)
    assert student_tails(uneven, 0.95)[0] == student_tails(ten, 0.95)[0]


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
