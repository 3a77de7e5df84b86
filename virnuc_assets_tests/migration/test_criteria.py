"""Every performance criterion: met, failed and missing, at its threshold and beside it."""

from __future__ import annotations

from typing import Any

import pytest

from virnuc_assets.migration import criteria
from virnuc_assets.migration.comparison import Comparison, Drop, GroupDrop
from virnuc_assets.migration.criterion import Criterion, Rule, judge
from virnuc_assets.settings import DecisionSettings

from .evidence_fakes import benchmark, evidence, measured

SETTINGS = DecisionSettings()
GAPS = ("esm2_3b: no predictions on the test rows are stored",)


def comparison(drop: Drop, groups: tuple[GroupDrop, ...] = (), other: str = "esm2_3b") -> Comparison:
    return Comparison(other, 100, 50, 50, 20, 20, 10, 10, drop, drop, groups, ())


def group(name: str, value: float, judged: bool = True, reach: float | None = 0.0) -> GroupDrop:
    """A group whose interval reaches so far to both sides; None for one of a single cluster."""
    drop = Drop(value, None, None) if reach is None else Drop(value, value - reach, value + reach)
    return GroupDrop("host", name, 40, 1 if reach is None else 5, 0.9 - value, 0.9, drop, judged)


@pytest.mark.parametrize("criterion", [criteria.accuracy_drop_within_margin, criteria.f1_drop_within_margin])
@pytest.mark.parametrize(
    ("drop", "outcome"),
    [
        (Drop(0.01, -0.02, 0.05), "met"),
        (Drop(0.01, -0.02, 0.0501), "inconclusive"),  # the estimate is within the margin, its upper bound is not
        (Drop(0.0501, -0.02, 0.1), "failed"),
        (Drop(-0.3, -0.4, -0.2), "met"),
        (Drop(0.2, 0.1, 0.3), "failed"),
        (Drop(0.0, None, None), "missing"),
    ],
)
def test_drops_fail_by_the_estimate_and_are_met_by_the_upper_bound(criterion: Any, drop: Drop, outcome: str) -> None:
    found = criterion(comparison(drop), (), SETTINGS)
    assert (found.name, found.outcome, found.threshold) == (criterion.__name__, outcome, 0.05)
    if outcome != "missing":
        assert (found.value, found.low, found.high) == (drop.value, drop.low, drop.high)


def test_accuracy_and_f1_have_their_own_margins_and_drops() -> None:
    settings = DecisionSettings(max_accuracy_drop=0.01, max_f1_drop=0.2)
    both = Comparison("esm2_3b", 9, 5, 4, 3, 3, 2, 1, Drop(0.02, 0.0, 0.02), Drop(0.1, 0.1, 0.15), (), ())
    assert criteria.accuracy_drop_within_margin(both, (), settings).outcome == "failed"
    assert criteria.f1_drop_within_margin(both, (), settings).outcome == "met"


@pytest.mark.parametrize(
    "criterion",
    [
        criteria.accuracy_drop_within_margin,
        criteria.f1_drop_within_margin,
        criteria.no_group_worse_than_margin,
        criteria.floor_beaten,
    ],
)
def test_without_paired_rows_the_gap_is_named(criterion: Any) -> None:
    found = criterion(None, GAPS, SETTINGS)
    assert (found.outcome, found.missing, found.value) == ("missing", GAPS, None)


def test_the_worst_group_is_named_and_judged() -> None:
    groups = (group("archaea", 0.02), group("fungi", 0.1), group("plant", -0.1), group("rare", 0.9, judged=False))
    found = criteria.no_group_worse_than_margin(comparison(Drop(0, 0, 0), groups), (), SETTINGS)
    assert (found.outcome, found.value) == ("met", 0.1)
    assert "worst of 3 groups: host / fungi: drop +0.1000 (+0.1000 to +0.1000) over 40 rows" in found.explanation
    worse = (*groups, group("protozoa", 0.11), group("bacteria", 0.2, reach=None))
    found = criteria.no_group_worse_than_margin(comparison(Drop(0, 0, 0), worse), (), SETTINGS)
    assert (found.outcome, found.value) == ("failed", 0.2)
    assert found.explanation.startswith("host / bacteria: drop +0.2000 (one cluster, no interval) over 40 rows in 1 ")
    assert "; host / protozoa: drop +0.1100" in found.explanation and "fungi" not in found.explanation


def test_a_group_whose_interval_reaches_beyond_the_margin_is_open() -> None:
    groups = (group("archaea", 0.02, reach=0.2), group("fungi", 0.03), group("plant", 0.05, reach=None))
    found = criteria.no_group_worse_than_margin(comparison(Drop(0, 0, 0), groups), (), SETTINGS)
    assert (found.outcome, found.value) == ("inconclusive", 0.02)
    assert "host / archaea: drop +0.0200 (-0.1800 to +0.2200)" in found.explanation
    failed = criteria.no_group_worse_than_margin(comparison(Drop(0, 0, 0), (*groups, group("x", 0.5))), (), SETTINGS)
    assert failed.outcome == "failed" and "archaea" not in failed.explanation


def test_groups_that_are_all_too_small_are_no_evidence() -> None:
    few = comparison(Drop(0, 0, 0), (group("rare", 0.0, judged=False),))
    found = criteria.no_group_worse_than_margin(few, (), SETTINGS)
    assert found.missing == ("no group has 20 test rows or more; add records",)


@pytest.mark.parametrize(
    ("gain", "outcome"),
    [(0.02, "met"), (0.01, "inconclusive"), (0.001, "inconclusive"), (0.0, "failed"), (-1, "failed")],
)
def test_the_floor_is_beaten_where_the_whole_interval_is_above_the_threshold(gain: float, outcome: str) -> None:
    found = criteria.floor_beaten(comparison(Drop(-gain, -gain - 0.02, -gain + 0.01), other="kmer"), (), SETTINGS)
    assert (found.outcome, found.value) == (outcome, gain)
    assert (found.low, found.high) == (pytest.approx(gain - 0.01), pytest.approx(gain + 0.02))
    assert "over kmer" in found.explanation


def speed(ours: object, theirs: object = 10.0, **changes: object) -> Criterion:
    rates = benchmark()
    rates["fastesm2"] |= {"sequences_per_s": ours, **changes}
    rates["esm2_3b"] |= {"sequences_per_s": theirs}
    return criteria.speedup_reached(evidence(benchmark=rates), SETTINGS)


def test_speedup() -> None:
    assert (speed(30.0).outcome, speed(30.0).value) == ("met", 3.0)
    assert (speed(20.0).outcome, speed(20.0).value) == ("met", 2.0)
    assert (speed(19.0).outcome, speed(19.0).value) == ("failed", 1.9)


@pytest.mark.parametrize(
    ("found", "piece"),
    [
        (speed(None), "the encoder benchmark of fastesm2 has no sequences_per_s"),
        (speed(30.0, theirs=0.0), "the encoder benchmark of esm2_3b has no sequences_per_s"),
        (speed(float("nan")), "the encoder benchmark of fastesm2 has no sequences_per_s"),
        (speed(30.0, precision="fp16"), "precision is fp16 for fastesm2 and fp32 for esm2_3b"),
        (speed(30.0, device="cuda"), "device is cuda for fastesm2 and cpu for esm2_3b"),
        (speed(30.0, sequences=8), "sequences is 8 for fastesm2 and 256 for esm2_3b"),
    ],
)
def test_speed_that_was_not_measured_alike_is_no_evidence(found: Criterion, piece: str) -> None:
    assert found.outcome == "missing"
    assert len(found.missing) == 1 and piece in found.missing[0]


@pytest.mark.parametrize("criterion", [criteria.speedup_reached, criteria.memory_within_ratio])
def test_an_absent_or_stale_benchmark_is_no_evidence(criterion: Any) -> None:
    assert criterion(evidence(benchmark=None), SETTINGS).missing == ("no encoder benchmark is stored",)
    told = evidence(benchmark=None, benchmark_problems=("encoder_benchmark has not been materialized",))
    assert criterion(told, SETTINGS).missing == ("encoder_benchmark has not been materialized",)
    assert criterion(evidence(benchmark_problems=("it is stale",)), SETTINGS).missing == ("it is stale",)
    half = evidence(benchmark={"fastesm2": benchmark()["fastesm2"]})
    assert criterion(half, SETTINGS).missing == ("the encoder benchmark has not measured esm2_3b",)


@pytest.mark.parametrize(("mib", "outcome"), [(10, "met"), (20, "met"), (21, "failed")])
def test_memory(mib: int, outcome: str) -> None:
    rates = {**benchmark(), "fastesm2": measured("fastesm2", 30.0, mib * 2**20)}
    found = criteria.memory_within_ratio(evidence(benchmark=rates), SETTINGS)
    assert (found.outcome, found.value) == (outcome, mib / 20)
    assert f"fastesm2 {mib}.0, esm2_3b 20.0 MiB at peak" in found.explanation


def test_a_rule_without_threshold_judges_no_number() -> None:
    with pytest.raises(ValueError, match="without threshold"):
        judge(Rule("any", "Any?"), 1.0, "one")
