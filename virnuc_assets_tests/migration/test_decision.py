"""GO, NO-GO and NO DECISION, each reached for its reasons or by planted truth; equal evidence decides equally."""

from __future__ import annotations

import json
import re

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from virnuc_assets.migration.criteria import Criterion
from virnuc_assets.migration.decision import Decision, conclude, decide
from virnuc_assets.settings import DecisionSettings

from .evidence_fakes import EVALUATION, SETTINGS, SLOTS, evidence, right, rows, variant

GOOD = rows(right(50), right(50))
CRITERIA = [
    "accuracy_drop_within_margin",
    "f1_drop_within_margin",
    "no_group_lost_more_than_margin",
    "kmer_baseline_beaten",
    "speedup_reached",
    "memory_within_ratio",
    "enough_test_records",
    "dims_match_encoders",
    "same_environment",
    "candidate_is_current",
    "baseline_is_current",
    "kmer_baseline_is_current",
]


def test_go() -> None:
    decision = decide(evidence(), SETTINGS, EVALUATION)
    assert decision.outcome == "GO"
    assert decision.reasons == ("all 12 criteria are met",)
    assert [criterion.name for criterion in decision.criteria] == CRITERIA
    accuracies = {}
    for role, variant_summary in decision.variants.items():
        assert variant_summary.performance is not None
        accuracies[role] = variant_summary.performance.levels["frame"]["accuracy"]
    assert accuracies == {"candidate": 1.0, "baseline": 1.0, "kmer_baseline": 0.8}
    assert decision.miniatures == ("dnabert_s_miniature", "esm2_3b_miniature", "fastesm2_650_miniature")


def test_no_go_names_each_failed_criterion_and_the_group() -> None:
    worse = evidence(candidate=variant("fastesm2", rows(right(50), [True, False] * 25)))
    decision = decide(worse, SETTINGS, EVALUATION)
    assert decision.outcome == "NO-GO"
    failed = [criterion.name for criterion in decision.criteria if criterion.outcome == "failed"]
    assert failed == ["accuracy_drop_within_margin", "f1_drop_within_margin", "no_group_lost_more_than_margin"]
    assert [reason.split(" is not met: ")[0] for reason in decision.reasons] == failed
    assert re.search(r"host / bacteria: drop \+0\.5000 \(.*\) over 50 rows in 10 clusters", decision.reasons[2])


def test_a_missing_baseline_is_no_decision_and_is_named_once() -> None:
    reason = "esm2_3b_evaluation has not been materialized"
    absent = variant("esm2_3b", None, description=None, problems=(reason,))
    decision = decide(evidence(baseline=absent), SETTINGS, EVALUATION)
    assert (decision.outcome, decision.reasons) == ("NO DECISION", (reason,))
    assert decision.comparison is None and list(decision.comparisons) == ["kmer_baseline"]
    assert decision.variants["baseline"].performance is None


def test_a_stale_baseline_is_no_decision_though_it_has_numbers() -> None:
    reason = "stale: classifier trained on features digest X, features are now Y"
    decision = decide(evidence(baseline=variant("esm2_3b", GOOD, problems=(reason,))), SETTINGS, EVALUATION)
    assert (decision.outcome, decision.reasons) == ("NO DECISION", (reason,))
    assert decision.comparison is not None


def test_each_missing_piece_is_named() -> None:
    without = {"baseline": variant("esm2_3b", None), "kmer_baseline": variant("kmer", None), "benchmark": None}
    decision = decide(evidence(**without), SETTINGS, EVALUATION)
    assert decision.reasons == (
        "esm2_3b: no predictions on the test rows are stored",
        "kmer: no predictions on the test rows are stored",
        "no encoder benchmark is stored",
    )


def test_missing_comes_before_failed_and_failed_before_open() -> None:
    rule = Criterion("drop", "Small?", "<=", 0.1)
    met, failed, wide = rule.judged("none", 0.0), rule.judged("large", 0.2), rule.judged("wide", 0.0, -0.3, 0.3)
    missing = rule.lacking(("a piece", "a piece"))
    assert conclude((met, Criterion("sound", "Sound?").sound("it is"))) == ("GO", ("all 2 criteria are met",))
    assert conclude((met, wide)) == ("NO DECISION", ("drop is open, the interval reaches over the threshold: wide",))
    assert conclude((wide, failed)) == ("NO-GO", ("drop is not met: large",))
    assert conclude((failed, missing, missing)) == ("NO DECISION", ("a piece",))


@settings(max_examples=5, deadline=None)
@given(st.permutations(range(100)), st.permutations(range(100)))
def test_row_order_decides_nothing(ours: list[int], theirs: list[int]) -> None:
    def decision(candidate: pa.Table, baseline: pa.Table) -> str:
        changes = {"candidate": variant("fastesm2", candidate), "baseline": variant("esm2_3b", baseline)}
        return decide(evidence(**changes), SETTINGS, EVALUATION).to_json()

    candidate, baseline = rows(right(50, wrong=4), right(50, wrong=3)), rows(right(50, wrong=2), right(50))
    assert decision(candidate.take(ours), baseline.take(theirs)) == decision(candidate, baseline)


def test_json_is_plain_and_complete() -> None:
    given = evidence(environment={"python": "3.11", "nothing": float("nan")})
    text = decide(given, SETTINGS, EVALUATION).to_json()
    stored = json.loads(text)
    assert stored["environment"] == {"python": "3.11", "nothing": None}
    assert [criterion["name"] for criterion in stored["criteria"]] == CRITERIA
    assert stored["comparisons"]["baseline"]["accuracy_drop"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert stored["settings"]["min_test_rows"] == 100
    assert text == decide(given, SETTINGS, EVALUATION).to_json()
    other = decide(given, DecisionSettings(max_f1_drop=0.04), EVALUATION)
    assert other.settings_digest != stored["settings_digest"] and len(other.settings_digest) == 64


def next_step(wrong_in_each: int) -> str:
    """Where so many of ten rows are wrong in each of ten host clusters, of 200 rows; the margin is 0.04."""
    worse = rows(right(100), right(10, wrong=wrong_in_each) * 10, per_cluster=10)
    sides = {"candidate": variant("fastesm2", worse), "baseline": variant("esm2_3b", rows(right(100), right(100), 10))}
    lax = SETTINGS.model_copy(update={"max_accuracy_drop": 0.04})
    return decide(evidence(**sides), lax, EVALUATION).next_step


def test_a_small_loss_has_fine_tuning_as_its_next_step_a_large_one_and_none_have_no_step() -> None:
    step = next_step(1)
    assert step.startswith("accuracy_drop_within_margin (+0.0500, margin 0.04)")
    assert 'encoders = ["fastesm2_650"]' in step and "launch the job finetune_fastesm2_650" in step
    assert next_step(5) == "" == next_step(0)


def planted(viral: list[bool], host: list[bool], **changes: object) -> Decision:
    """What is decided of a candidate of which so many rows are right, against a baseline that is right in all."""
    sides = [rows(viral, host, per_cluster=10), *(rows(right(len(viral)), right(len(host)), 10),) * 2]
    roles = zip(("candidate", "baseline", "kmer_baseline"), SLOTS, sides, strict=True)
    lax = {"min_gain_over_kmer_baseline": -1.0, "bootstrap_rounds": 1000, "power_studies": 20, **changes}
    given = evidence(**{role: variant(name, table) for role, name, table in roles})
    return decide(given, DecisionSettings.model_validate(lax), EVALUATION)


def test_a_candidate_degraded_in_one_host_group_is_no_go_and_the_group_is_named() -> None:
    """Two rows of ten in all clusters of a group: 2 % over all rows, which the overall margins alone would let pass."""
    decision = planted(right(900), right(10, wrong=2) * 10)
    assert decision.outcome == "NO-GO"
    (reason,) = decision.reasons
    assert reason.startswith("no_group_lost_more_than_margin is not met: host / bacteria: drop +0.2000 (")
    assert "phage" not in reason


def test_a_candidate_without_an_error_on_twenty_rows_is_never_go() -> None:
    decision = planted(right(10), right(10))
    assert decision.outcome == "NO DECISION"
    assert (
        "too little to decide on: 20 test rows, at least 200 are asked for; add reference genomes" in decision.reasons
    )


def test_a_drop_within_the_margin_is_open_on_few_clusters_and_go_on_many() -> None:
    """One cluster in thirty all wrong is a drop of some 3 %; from 60 clusters nobody can tell it from 5 %."""
    wrong = [cluster % 30 > 0 for cluster in range(600) for _ in range(10)]
    decisions = [planted(wrong[:size], wrong[:size], max_group_drop=1.0, max_f1_drop=1.0) for size in (300, 6000)]
    assert [decision.outcome for decision in decisions] == ["NO DECISION", "GO"]
    assert decisions[0].reasons[0].startswith("accuracy_drop_within_margin is open, the interval reaches over the thr")
