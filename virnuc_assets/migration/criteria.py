"""The criteria of the decision: rules fixed beforehand, and what the evidence says about each.

Those about performance can fail. Those about the evidence itself (enough records, dims, equal environment, currency)
cannot: evidence that contradicts itself, or compares unlike things, says nothing about the candidate. It counts as
missing, so the decision is NO DECISION and never a verdict made from it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import quantile_test

from virnuc_assets.migration.comparison import Comparison, Drop, GroupDrop
from virnuc_assets.migration.evidence import MINIATURE_SUFFIX, SIDES, Evidence, Gaps, VariantEvidence
from virnuc_assets.settings import DecisionSettings

Outcome = Literal["met", "failed", "inconclusive", "missing"]
_HOLDS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}
SAME_DESCRIPTION = ("chunk_length", "seed", "training", "split_digest")
_FRAME_RULE = {"frame_rule": "stop_free", "min_orf_aa": 0}  # of a description that is older than the other rule
NOT_RECORDED = "not recorded"
# What makes an encoder the one it is; everything else in a fingerprint is the environment it ran in.
ENCODER_IDENTITY = frozenset({
    "encoder", "alphabet", "architecture", "checkpoint", "revision", "checkpoint_digest",
    "pooling", "max_length", "k", "dim",
})  # fmt: skip
_ONE_CLUSTER = ("all test rows are one cluster of relatives, so no interval can be given; add records",)


@dataclass(frozen=True)
class Criterion:
    """A rule that is fixed before any number is seen, and what the evidence says about it.

    Its outcome is "met" where the whole interval holds; "failed" where none of it does; "inconclusive" between;
    "missing" where the evidence does not allow to judge.
    """

    name: str  # what is true when it is met
    question: str  # the same for a reader
    comparison: Literal["<=", ">=", ">", ""] = ""  # of the number and the threshold; empty for yes or no
    threshold: float | None = None  # from the settings
    unit: Literal["fraction", "times", ""] = ""
    outcome: Outcome = "missing"
    explanation: str = ""  # one sentence with the number that was judged
    value: float | None = None
    low: float | None = None  # bounds of its interval
    high: float | None = None
    missing: Gaps = ()  # each piece of evidence that is lacking
    note: str = ""  # printed next to the number, e.g. "miniature"

    def judged(
        self, explanation: str, value: float, low: float | None = None, high: float | None = None, note: str = ""
    ) -> Criterion:
        """A number with its interval held against the rule; without an interval the number alone decides."""
        ends = (value if low is None else low, value if high is None else high)
        held = [_HOLDS[self.comparison](end, self.threshold or 0.0) for end in ends]
        outcome: Outcome = "met" if all(held) else "inconclusive" if any(held) else "failed"
        return replace(self, outcome=outcome, explanation=explanation, value=value, low=low, high=high, note=note)

    def sound(self, explanation: str, gaps: Sequence[str] = ()) -> Criterion:
        """Met, unless there are gaps."""
        return self.lacking(gaps) if gaps else replace(self, outcome="met", explanation=explanation)

    def lacking(self, gaps: Sequence[str]) -> Criterion:
        """The evidence does not allow to judge; `gaps` names what is lacking."""
        missing = tuple(dict.fromkeys(gaps))
        return replace(self, outcome="missing", explanation="; ".join(missing), missing=missing)


def accuracy_drop_within_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """By the interval's upper bound."""
    question = "Is accuracy, at worst, no more than the margin below the baseline's?"
    rule = Criterion("accuracy_drop_within_margin", question, "<=", settings.max_accuracy_drop, "fraction")
    return _drop_within_margin(rule, comparison.accuracy_drop if comparison else None, gaps, settings.confidence)


def f1_drop_within_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Likewise."""
    question = "Is F1 of the viral class, at worst, no more than the margin below the baseline's?"
    rule = Criterion("f1_drop_within_margin", question, "<=", settings.max_f1_drop, "fraction")
    return _drop_within_margin(rule, comparison.f1_drop if comparison else None, gaps, settings.confidence)


def _drop_within_margin(rule: Criterion, drop: Drop | None, gaps: Gaps, confidence: float) -> Criterion:
    if drop is None or drop.low is None or drop.high is None:
        return rule.lacking(_ONE_CLUSTER if drop else gaps)
    explanation = (
        f"drop {drop.value:+.4f}, {confidence:.0%} interval {drop.low:+.4f} to {drop.high:+.4f}; "
        f"the whole interval must be within {rule.threshold:g}"
    )
    return rule.judged(explanation, drop.value, drop.low, drop.high)


def kmer_baseline_beaten(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Gain = candidate − k-mer baseline."""
    question = "Is it more accurate than composition features without a language model?"
    rule = Criterion("kmer_baseline_beaten", question, ">", settings.min_gain_over_kmer_baseline, "fraction")
    drop = comparison.accuracy_drop if comparison else None
    if comparison is None or drop is None or drop.low is None or drop.high is None:
        return rule.lacking(_ONE_CLUSTER if drop else gaps)
    gain, low, high = 0.0 - drop.value, 0.0 - drop.high, 0.0 - drop.low
    explanation = (
        f"gain {gain:+.4f} over {comparison.other}, {settings.confidence:.0%} interval {low:+.4f} to {high:+.4f}; "
        f"the whole interval must be above {rule.threshold:g}"
    )
    return rule.judged(explanation, gain, low, high)


def no_group_lost_more_than_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Of groups with enough clusters. A safeguard, not a proof of equality.

    It fails where the evidence says that a group lost more than the margin, and stays open where a group is worse
    beyond chance and its drop beyond the margin. Over all groups together, equal models are held up with probability
    `group_error` at most.
    """
    question = "Does no virus or host group show a loss of accuracy beyond the margin?"
    rule = Criterion("no_group_lost_more_than_margin", question, "<=", settings.max_group_drop, "fraction")
    if comparison is None:
        return rule.lacking(gaps)
    tested = sorted((one for one in comparison.groups if one.p_lost is not None), key=lambda one: -one.drop.value)
    if not tested:
        few = f"no virus or host group has {settings.min_group_clusters} clusters of unrelated test records or more"
        return rule.lacking((f"{few}, so a loss in one group would not be seen; add reference genomes",))
    lost, worse = ([one for one in tested if one.status == status] for status in ("lost", "worse"))
    outcome: Outcome = "failed" if lost else "inconclusive" if worse else "met"
    shown = lost or worse or tested[:1]
    explanation = "; ".join(_of_group(one) for one in shown)
    if outcome == "met":
        explanation = f"worst of {len(tested)} tested groups: {explanation}"
    return replace(rule, outcome=outcome, explanation=explanation, **vars(shown[0].drop))


def _of_group(one: GroupDrop) -> str:
    drop = one.drop
    return (
        f"{one.label} / {one.group}: drop {drop.value:+.4f} ({drop.low:+.4f} to {drop.high:+.4f}) over {one.rows} rows "
        f"in {one.clusters} clusters ({one.other_accuracy:.4f} → {one.candidate_accuracy:.4f}); adjusted p of no loss "
        f"{one.p_worse:.3g}, of a loss within the margin {one.p_lost:.3g}"
    )


def faster_and_no_larger(evidence: Evidence, settings: DecisionSettings) -> tuple[Criterion, Criterion]:
    """Speed and peak memory of the protein encoders, as the benchmark has measured both."""
    question = "Is its protein encoder as much faster than the baseline's as asked for?"
    speed = Criterion("speedup_reached", question, ">=", settings.min_speedup, "times")
    question = "Does its protein encoder stay within the allowed share of the baseline's peak memory?"
    memory = Criterion("memory_within_ratio", question, "<=", settings.max_memory_ratio, "times")
    names, measured = (evidence.candidate.protein_name, evidence.baseline.protein_name), evidence.benchmark or {}
    gaps = evidence.benchmark_gaps
    if evidence.benchmark is not None:
        absent = [name for name in names if name not in measured]
        gaps += tuple(f"the encoder benchmark has not measured {name}" for name in absent)
    if gaps:
        return speed.lacking(gaps), memory.lacking(gaps)
    ours, theirs = (measured[name] for name in names)
    alike = f"both on {ours['sequences']} sequences a round, {ours['precision']}, {ours['device']}"
    small = any(row["encoder"].endswith(MINIATURE_SUFFIX) for row in (ours, theirs))
    note = "miniature" if small else ""
    peaks = [float(row["peak_memory_bytes"]) for row in (ours, theirs)]
    if min(peaks) > 0:
        explanation = (
            f"{names[0]} {peaks[0] / 2**20:,.1f}, {names[1]} {peaks[1] / 2**20:,.1f} MiB at peak: "
            f"{peaks[0] / peaks[1]:.3g}×, {alike}"
        )
        memory = memory.judged(explanation, peaks[0] / peaks[1], note=note)
    else:
        memory = memory.lacking(("the peak memory of an encoder could not be measured on this system",))
    # The ratio of each round counts, so a machine that is busy slows both. Where rounds contradict each other, the
    # interval of their median reaches over the threshold: inconclusive.
    rounds = len(ours["round_seconds"])
    ratio, low, high = speed_ratio([ours["round_seconds"]], [theirs["round_seconds"]], settings.confidence)
    if low is None or high is None:
        few = f"{rounds} rounds of the encoder benchmark are too few for an interval"
        return speed.lacking((f"{few}; raise [benchmark] min_rounds",)), memory
    explanation = (
        f"{names[0]} {ours['sequences_per_s']:,.1f}, {names[1]} {theirs['sequences_per_s']:,.1f} sequences/s: "
        f"{ratio:.3g}× ({_reach(low, high)} over {rounds} rounds), {alike}; with the DNA encoders, "
        f"{_whole_variants(evidence, settings.confidence)}"
    )
    return speed.judged(explanation, ratio, low, high, note), memory


def speed_ratio(
    ours: Sequence[Sequence[float]], theirs: Sequence[Sequence[float]], confidence: float
) -> tuple[float, float | None, float | None]:
    """How many times faster some encoders, of which each round's seconds are given, are together than others.

    Returns:
        Median of the rounds' ratios, and its exact interval from order statistics; None where a bound is beyond all
        rounds, because there are too few.
    """
    ratios = np.sum(theirs, axis=0) / np.sum(ours, axis=0)
    bounds = quantile_test(ratios, q=float(np.median(ratios)), p=0.5).confidence_interval(confidence)
    low, high = (float(bound) if math.isfinite(bound) else None for bound in (bounds.low, bounds.high))
    return float(np.median(ratios)), low, high


def _whole_variants(evidence: Evidence, confidence: float) -> str:
    ours, theirs = ((one.dna_name, one.protein_name) for one in (evidence.candidate, evidence.baseline))
    seconds = {name: row["round_seconds"] for name, row in (evidence.benchmark or {}).items()}
    if absent := [name for name in dict.fromkeys((*ours, *theirs)) if name not in seconds]:
        return f"not measured ({', '.join(absent)})"
    ratio, low, high = speed_ratio([seconds[name] for name in ours], [seconds[name] for name in theirs], confidence)
    return f"{evidence.candidate.variant} over {evidence.baseline.variant}: {ratio:.3g}× ({_reach(low, high)})"


def _reach(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{low:.3g} to {high:.3g}"


def variant_is_current(role: str, variant: VariantEvidence) -> Criterion:
    """Are the variant's predictions stored, and made from today's inputs?"""
    rule = Criterion(f"{role}_is_current", f"Is the {role}'s evidence stored and made from today's inputs?")
    return rule.sound(f"{variant.variant}: nothing is absent or stale", variant.gaps)


def enough_test_records(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Whether an interval can be trusted."""
    rule = Criterion("enough_test_records", "Are there enough test rows, from enough unrelated records of both labels?")
    if comparison is None:
        return rule.lacking(gaps)
    found = {
        "test rows": (comparison.rows, settings.min_test_rows),
        "clusters of unrelated test records": (comparison.clusters, settings.min_test_clusters),
        "viral clusters": (comparison.viral_clusters, settings.min_clusters_per_label),
        "host clusters": (comparison.host_clusters, settings.min_clusters_per_label),
    }
    lacking = [
        f"too little to decide on: {count:,} {what}, at least {least:,} are asked for; add reference genomes"
        for what, (count, least) in found.items()
        if count < least
    ]
    return rule.sound(", ".join(f"{count:,} {what}" for what, (count, _) in found.items()), lacking)


def dims_match_encoders(evidence: Evidence) -> Criterion:
    """By the classifiers' descriptions and what the benchmark has measured."""
    rule = Criterion("dims_match_encoders", "Are both classifiers exactly as wide as the encoders under them?")
    gaps, facts = list[str](), list[str]()
    for variant in (evidence.candidate, evidence.baseline):
        if variant.description is None:
            gaps.extend(_undescribed(variant))
            continue
        dna, protein, merged = (variant.description[f"{part}_dim"] for part in ("dna", "protein", "merged"))
        if dna + protein != merged:
            gaps.append(f"{variant.variant}: merged_dim {merged} is not dna_dim {dna} + protein_dim {protein}")
        facts.append(f"{variant.variant}: {dna} + {protein} = {merged}")
        for side, name, dim in (("dna", variant.dna_name, dna), ("protein", variant.protein_name, protein)):
            measured = (evidence.benchmark or {}).get(name, {}).get("dim")
            if measured is None:
                unknown = (f"{variant.variant}: the encoder benchmark has no dim of {name}",)
                gaps.extend(evidence.benchmark_gaps or unknown)
            elif measured != dim:
                gaps.append(f"{variant.variant}: {side}_dim is {dim}, but {name} is {measured} wide")
    return rule.sound("; ".join(facts), gaps)


def same_environment(evidence: Evidence) -> Criterion:
    """Do candidate and baseline differ in the protein encoder only?"""
    question = (
        "Do both sides share chunk length, frame rule, split, training settings, DNA encoder, precision and library "
        "versions?"
    )
    rule = Criterion("same_environment", question)
    ours, theirs = evidence.candidate, evidence.baseline
    if undescribed := [gap for side in (ours, theirs) if side.description is None for gap in _undescribed(side)]:
        return rule.lacking(undescribed)
    described = [_FRAME_RULE | dict(side.description or {}) for side in (ours, theirs)]
    compared = {key: [one.get(key) for one in described] for key in (*SAME_DESCRIPTION, *_FRAME_RULE)}
    for side in SIDES:
        left, right = ours.fingerprint(side), theirs.fingerprint(side)
        keys = {"precision"} | left.keys() | right.keys()
        for key in sorted(keys if side == "dna" else keys - ENCODER_IDENTITY):
            compared[f"{side} encoder's {key}"] = [left.get(key), right.get(key)]
    recorded = {  # a classifier that was trained elsewhere has null
        what: [NOT_RECORDED if value is None else str(value) for value in values] for what, values in compared.items()
    }
    gaps = [
        f"not made under equal conditions: {what} is {a} for {ours.variant} and {b} for {theirs.variant}"
        for what, (a, b) in recorded.items()
        if a != b or a == NOT_RECORDED
    ]
    return rule.sound(f"equal on both sides: {', '.join(compared)}", gaps)


def _undescribed(variant: VariantEvidence) -> Gaps:
    return variant.problems or (f"{variant.variant}: no description of the classifier is stored",)
