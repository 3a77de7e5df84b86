"""Every performance criterion: met, failed and missing, at its threshold and next to it."""

from __future__ import annotations

from typing import Any

import pytest

from virnuc_assets.migration import criteria
from virnuc_assets.migration.comparison import Comparison, Drop, GroupDrop, GroupStatus
from virnuc_assets.migration.criteria import Criterion, dims_match_encoders, faster_and_no_larger, same_environment
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.settings import DecisionSettings

from .evidence_fakes import benchmark, description, evidence, fingerprint, measured, right, rows, variant

SETTINGS = DecisionSettings()
GAPS = ("esm2_3b: no predictions on the test rows are stored",)
TABLE = rows(right(50), right(50))


def comparison(drop: Drop, groups: tuple[GroupDrop, ...] = (), other: str = "esm2_3b") -> Comparison:
    return Comparison(other, 100, 50, 50, 20, 20, 10, 10, drop, drop, groups, ())


def group(name: str, value: float, status: GroupStatus = "no loss shown") -> GroupDrop:
    """A group of 40 rows whose interval reaches 0.01 to both sides."""
    p = None if status == "too few clusters" else 0.5
    return GroupDrop("host", name, 40, 5, 0.9 - value, 0.9, Drop(value, value - 0.01, value + 0.01), status, p, p)


@pytest.mark.parametrize("criterion", [criteria.accuracy_drop_within_margin, criteria.f1_drop_within_margin])
@pytest.mark.parametrize(
    ("drop", "outcome"),
    [
        (Drop(0.01, -0.02, 0.05), "met"),
        (Drop(0.01, -0.02, 0.0501), "inconclusive"),  # the estimate is within the margin, its upper bound is not
        (Drop(0.0501, 0.05, 0.1), "inconclusive"),  # and the other way round
        (Drop(0.06, 0.0501, 0.1), "failed"),
        (Drop(-0.3, -0.4, -0.2), "met"),
        (Drop(0.0, None, None), "missing"),
    ],
)
def test_drops_are_met_or_failed_by_the_whole_interval(criterion: Any, drop: Drop, outcome: str) -> None:
    found = criterion(comparison(drop), (), SETTINGS)
    assert (found.name, found.outcome, found.threshold) == (criterion.__name__, outcome, 0.05)
    if outcome != "missing":
        assert (found.value, found.low, found.high) == (drop.value, drop.low, drop.high)


def test_accuracy_and_f1_have_their_own_margins_and_drops() -> None:
    settings = DecisionSettings(max_accuracy_drop=0.01, max_f1_drop=0.2)
    both = Comparison("esm2_3b", 9, 5, 4, 3, 3, 2, 1, Drop(0.02, 0.011, 0.02), Drop(0.1, 0.1, 0.15), (), ())
    assert criteria.accuracy_drop_within_margin(both, (), settings).outcome == "failed"
    assert criteria.f1_drop_within_margin(both, (), settings).outcome == "met"


def groups_judged(*groups: GroupDrop) -> Criterion:
    return criteria.no_group_lost_more_than_margin(comparison(Drop(0, 0, 0), groups), (), SETTINGS)


def test_groups_that_lost_fail_worse_ones_are_open_and_else_the_worst_tested_one_is_named() -> None:
    small = group("rare", 0.9, "too few clusters")
    met = groups_judged(group("archaea", 0.02), group("fungi", 0.1), group("plant", -0.1), small)
    assert (met.outcome, met.value) == ("met", 0.1)
    assert "worst of 3 tested groups: host / fungi: drop +0.1000 (+0.0900 to +0.1100) over 40 rows" in met.explanation
    worse = groups_judged(group("archaea", 0.02), group("fungi", 0.11, "worse"), group("plant", 0.3))
    assert (worse.outcome, worse.value) == ("inconclusive", 0.11)
    assert worse.explanation.startswith("host / fungi: drop +0.1100") and "plant" not in worse.explanation
    lost = groups_judged(group("fungi", 0.4, "worse"), group("protozoa", 0.2, "lost"), group("bacteria", 0.3, "lost"))
    assert (lost.outcome, lost.value) == ("failed", 0.3)
    assert "; host / protozoa: drop +0.2000" in lost.explanation and "fungi" not in lost.explanation
    assert groups_judged(small).missing == (
        "no virus or host group has 5 clusters of unrelated test records or more, so a loss in one group would not be "
        "seen; add reference genomes",
    )


@pytest.mark.parametrize(
    ("gain", "outcome"), [(0.02, "met"), (0.01, "inconclusive"), (0.0, "inconclusive"), (-0.02, "failed")]
)
def test_the_kmer_baseline_is_beaten_where_the_whole_interval_is_above_the_threshold(gain: float, outcome: str) -> None:
    of_kmer = comparison(Drop(-gain, -gain - 0.02, -gain + 0.01), other="kmer")
    found = criteria.kmer_baseline_beaten(of_kmer, (), SETTINGS)
    assert (found.outcome, found.value) == (outcome, gain)
    assert (found.low, found.high) == (pytest.approx(gain - 0.01), pytest.approx(gain + 0.02))
    assert "over kmer" in found.explanation


def speed(rates: list[float], theirs: list[float] | None = None, **changes: object) -> Criterion:
    """The criterion of a candidate that takes so many seconds in each round, and a baseline that takes ten."""
    measured_of = benchmark()
    measured_of["fastesm2"] |= {"round_seconds": rates, **changes}
    measured_of["esm2_3b"] |= {"round_seconds": theirs or [10.0] * 6}
    return faster_and_no_larger(evidence(benchmark=measured_of), SETTINGS)[0]


def test_speed_is_judged_by_the_interval_of_the_rounds_ratios() -> None:
    fast, slow = speed([4.0] * 6), speed([6.0] * 6)
    assert (fast.outcome, fast.value, fast.low, fast.high) == ("met", 2.5, 2.5, 2.5)
    # With 256 / 50 seconds of the DNA encoder on both sides: 15.12 / 9.12.
    assert "with the DNA encoders, fastesm2 over esm2_3b: 1.66× (1.66 to 1.66)" in fast.explanation
    assert fast.note == speed([4.0] * 6, encoder="fastesm2_650").note == "miniature"  # the baseline still is
    assert (slow.outcome, slow.value) == ("failed", pytest.approx(10 / 6))
    assert speed([5.0] * 6).outcome == "met"  # at the threshold
    contradicting = speed([4.0, 6.0] * 3)
    assert (contradicting.outcome, contradicting.low, contradicting.high) == ("inconclusive", 10 / 6, 2.5)
    busy = [1.0, 3.0, 30.0, 1.0, 7.0, 1.0]  # the machine, in some rounds: no ratio changes
    found = speed([4.0 * load for load in busy], [10.0 * load for load in busy])
    assert (found.outcome, found.low, found.high) == ("met", pytest.approx(2.5), pytest.approx(2.5))
    (gap,) = speed([4.0] * 5, [10.0] * 5).missing
    assert gap == "5 rounds of the encoder benchmark are too few for an interval; raise [benchmark] min_rounds"


@pytest.mark.parametrize(
    ("changes", "gap"),
    [
        ({"benchmark": None}, "no encoder benchmark is stored"),
        ({"benchmark": None, "benchmark_problems": ("never measured",)}, "never measured"),
        ({"benchmark_problems": ("it is stale",)}, "it is stale"),
        ({"benchmark": {"fastesm2": benchmark()["fastesm2"]}}, "the encoder benchmark has not measured esm2_3b"),
    ],
)
def test_an_absent_or_stale_benchmark_is_no_evidence(changes: dict[str, Any], gap: str) -> None:
    assert [one.missing for one in faster_and_no_larger(evidence(**changes), SETTINGS)] == [(gap,)] * 2


@pytest.mark.parametrize(("mib", "outcome"), [(10, "met"), (20, "met"), (21, "failed"), (0, "missing")])
def test_memory(mib: int, outcome: str) -> None:
    rates = {**benchmark(), "fastesm2": measured("fastesm2", 30.0, mib * 2**20)}
    found = faster_and_no_larger(evidence(benchmark=rates), SETTINGS)[1]
    assert (found.outcome, found.value) == (outcome, mib / 20 or None)
    assert f"fastesm2 {mib}.0, esm2_3b 20.0 MiB at peak" in found.explanation or not mib


def with_candidate(**changes: Any) -> Evidence:
    return evidence(candidate=variant("fastesm2", TABLE, description=description("fastesm2", **changes)))


def encoders(dna: dict[str, str] | None = None, protein: dict[str, str] | None = None) -> dict[str, Any]:
    return {"dna": dna or fingerprint("dnabert_s"), "protein": protein or fingerprint("fastesm2")}


def test_dims_that_match_are_named() -> None:
    assert dims_match_encoders(evidence()).explanation == "fastesm2: 12 + 8 = 20; esm2_3b: 12 + 20 = 32"


@pytest.mark.parametrize(
    ("given", "gap"),
    [
        (with_candidate(merged_dim=21), "fastesm2: merged_dim 21 is not dna_dim 12 + protein_dim 8"),
        (with_candidate(protein_dim=20, merged_dim=32), "fastesm2: protein_dim is 20, but fastesm2 is 8 wide"),
        (
            evidence(benchmark={name: row for name, row in benchmark().items() if name != "fastesm2"}),
            "fastesm2: the encoder benchmark has no dim of fastesm2",
        ),
        (evidence(benchmark=None), "no encoder benchmark is stored"),
    ],
)
def test_dims_add_up_and_are_those_of_the_measured_encoders(given: Evidence, gap: str) -> None:
    assert dims_match_encoders(given).missing == (gap,)


@pytest.mark.parametrize("criterion", [dims_match_encoders, same_environment])
def test_a_classifier_without_description(criterion: Any) -> None:
    bare = evidence(baseline=variant("esm2_3b", TABLE, description=None))
    assert criterion(bare).missing == ("esm2_3b: no description of the classifier is stored",)
    reported = evidence(baseline=variant("esm2_3b", None, description=None, problems=("never trained",)))
    assert criterion(reported).missing == ("never trained",)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"chunk_length": 300}, "chunk_length is 300 for fastesm2 and 500 for esm2_3b"),
        ({"seed": 7}, "seed is 7 for fastesm2 and 0 for esm2_3b"),
        ({"seed": None}, "seed is not recorded for fastesm2 and 0 for esm2_3b"),  # trained elsewhere
        ({"split_digest": "split-2"}, "split_digest is split-2 for fastesm2 and split-1 for esm2_3b"),
        ({"training": {"seed": 0, "hidden": 8}}, "training is {'seed': 0, 'hidden': 8} for fastesm2"),
        (
            {"encoders": encoders(dna=fingerprint("dnabert_s", checkpoint_digest="other"))},
            "dna encoder's checkpoint_digest is other for fastesm2 and digest-of-dnabert_s for esm2_3b",
        ),
        (
            {"encoders": encoders(protein=fingerprint("fastesm2", precision="fp16"))},
            "protein encoder's precision is fp16 for fastesm2 and fp32 for esm2_3b",
        ),
        (
            {"encoders": encoders(protein=fingerprint("fastesm2", **{"version.torch": "2.12.0"}))},
            "protein encoder's version.torch is 2.12.0 for fastesm2 and 2.13.0 for esm2_3b",
        ),
    ],
)
def test_unlike_environments_are_named(changes: dict[str, Any], word: str) -> None:
    found = same_environment(with_candidate(**changes))
    assert found.outcome == "missing"
    assert len(found.missing) == 1 and word in found.missing[0]


def test_what_neither_side_records_is_missing_too() -> None:
    silent = {name: variant(name, TABLE, description=description(name, seed=None)) for name in ("fastesm2", "esm2_3b")}
    found = same_environment(evidence(candidate=silent["fastesm2"], baseline=silent["esm2_3b"]))
    gap = "not made under equal conditions: seed is not recorded for fastesm2 and not recorded for esm2_3b"
    assert found.missing == (gap,)
