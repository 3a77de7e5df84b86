"""The criteria of the decision: rules fixed beforehand, and what the evidence says about each.

Those about performance can fail. Those about the evidence itself (enough records, dims, equal environment, currency)
cannot: evidence that contradicts itself, or compares unlike things, says nothing about the candidate. It counts as
missing, so the decision is NO DECISION and never a verdict made from it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy.stats import quantile_test

from virnuc_assets.migration.comparison import Comparison, Drop, GroupDrop
from virnuc_assets.migration.evidence import SIDES, Evidence, VariantEvidence
from virnuc_assets.settings import DecisionSettings

Gaps = tuple[str, ...]
Unit = Literal["fraction", "times", ""]
Outcome = Literal["met", "failed", "inconclusive", "missing"]
_HOLDS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}
EQUAL_CONDITIONS = ("precision", "device", "sequences")
SAME_DESCRIPTION = ("chunk_length", "seed", "training", "split_digest")
NOT_RECORDED = "not recorded"
# What makes an encoder the one it is; everything else in a fingerprint is the environment it ran in.
ENCODER_IDENTITY = frozenset({
    "encoder", "alphabet", "architecture", "checkpoint", "revision", "checkpoint_digest",
    "pooling", "max_length", "k", "dim",
})  # fmt: skip
_ONE_CLUSTER = ("all test rows are one cluster of relatives, so no interval can be given; add records",)


@dataclass(frozen=True)
class Rule:
    """What is asked, before any number is seen.

    Attributes:
        name: what is true when it is met.
        question: the same for a reader.
        comparison: how the judged number relates to the threshold; empty where the answer is yes or no.
        threshold: from the settings, fixed beforehand.
        unit: "fraction" (of 1), "times" (a ratio), or "".
    """

    name: str
    question: str
    comparison: Literal["<=", ">=", ">", ""] = ""
    threshold: float | None = None
    unit: Unit = ""


@dataclass(frozen=True, kw_only=True)
class Criterion(Rule):
    """A rule and what the evidence says about it.

    Attributes:
        outcome: "met" where the whole interval holds; "failed" where none of it does; "inconclusive" between;
            "missing" where the evidence does not allow to judge.
        explanation: one sentence with the number that was judged.
        value: the point estimate.
        low: lower bound of its interval.
        high: upper bound of its interval.
        missing: each piece of evidence that is lacking; empty unless the outcome is "missing".
        note: printed next to the number, e.g. "miniature".
    """

    outcome: Outcome
    explanation: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    missing: tuple[str, ...] = ()
    note: str = ""


def judge(
    rule: Rule, value: float, explanation: str, low: float | None = None, high: float | None = None, note: str = ""
) -> Criterion:
    """Hold a number with its interval against the rule; without an interval the number alone decides."""
    if rule.threshold is None or not rule.comparison:
        raise ValueError(f"{rule.name}: a rule without threshold and comparison cannot judge a number")
    ends = (value if low is None else low, value if high is None else high)
    held = [_HOLDS[rule.comparison](end, rule.threshold) for end in ends]
    outcome: Outcome = "met" if all(held) else "inconclusive" if any(held) else "failed"
    return Criterion(**vars(rule), outcome=outcome, explanation=explanation, value=value, low=low, high=high, note=note)


def affirm(rule: Rule, explanation: str) -> Criterion:
    """The evidence itself is sound."""
    return Criterion(**vars(rule), outcome="met", explanation=explanation)


def lack(rule: Rule, pieces: Gaps) -> Criterion:
    """The evidence does not allow to judge; `pieces` names what is lacking."""
    pieces = tuple(dict.fromkeys(pieces))
    return Criterion(**vars(rule), outcome="missing", explanation="; ".join(pieces), missing=pieces)


def accuracy_drop_within_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Is the candidate's accuracy, at worst, no more than the margin below the baseline's?"""
    question = "Is accuracy, at worst, no more than the margin below the baseline's?"
    rule = Rule("accuracy_drop_within_margin", question, "<=", settings.max_accuracy_drop, "fraction")
    return _drop_within_margin(rule, comparison.accuracy_drop if comparison else None, gaps, settings.confidence)


def f1_drop_within_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Is the candidate's F1 of the viral class, at worst, no more than the margin below the baseline's?"""
    question = "Is F1 of the viral class, at worst, no more than the margin below the baseline's?"
    rule = Rule("f1_drop_within_margin", question, "<=", settings.max_f1_drop, "fraction")
    return _drop_within_margin(rule, comparison.f1_drop if comparison else None, gaps, settings.confidence)


def _drop_within_margin(rule: Rule, drop: Drop | None, gaps: Gaps, confidence: float) -> Criterion:
    if drop is None:
        return lack(rule, gaps)
    if drop.low is None or drop.high is None:
        return lack(rule, _ONE_CLUSTER)
    explanation = (
        f"drop {drop.value:+.4f}, {confidence:.0%} interval {drop.low:+.4f} to {drop.high:+.4f}; "
        f"the whole interval must be within {rule.threshold:g}"
    )
    return judge(rule, drop.value, explanation, drop.low, drop.high)


def no_group_lost_more_than_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Does no virus or host group with enough clusters show a loss beyond the margin?

    A safeguard, not a proof of equality: it fails where the evidence says that a group lost more than the margin, and
    stays open where a group is worse beyond chance and its drop beyond the margin. Over all groups together, equal
    models are held up with probability `group_error` at most.
    """
    question = "Does no virus or host group show a loss of accuracy beyond the margin?"
    rule = Rule("no_group_lost_more_than_margin", question, "<=", settings.max_group_drop, "fraction")
    if comparison is None:
        return lack(rule, gaps)
    tested = sorted((one for one in comparison.groups if one.p_lost is not None), key=lambda one: -one.drop.value)
    if not tested:
        few = f"no virus or host group has {settings.min_group_clusters} clusters of unrelated test records or more"
        return lack(rule, (f"{few}, so a loss in one group would not be seen; add reference genomes",))
    outcome: Outcome = "met"
    shown = tested[:1]
    for status, follows in (("lost", "failed"), ("worse", "inconclusive")):
        found = [one for one in tested if one.status == status]
        if found:
            outcome, shown = follows, found  # type: ignore[assignment]
            break
    worst = shown[0].drop
    explanation = "; ".join(_of_group(one) for one in shown)
    if outcome == "met":
        explanation = f"worst of {len(tested)} tested groups: {explanation}"
    return Criterion(
        **vars(rule), outcome=outcome, explanation=explanation, value=worst.value, low=worst.low, high=worst.high
    )


def _of_group(one: GroupDrop) -> str:
    drop = one.drop
    return (
        f"{one.label} / {one.group}: drop {drop.value:+.4f} ({drop.low:+.4f} to {drop.high:+.4f}) over {one.rows} rows "
        f"in {one.clusters} clusters ({one.other_accuracy:.4f} → {one.candidate_accuracy:.4f}); adjusted p of no loss "
        f"{one.p_worse:.3g}, of a loss within the margin {one.p_lost:.3g}"
    )


def kmer_baseline_beaten(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Is the candidate more accurate than composition features alone? Gain = candidate − k-mer baseline."""
    question = "Is it more accurate than composition features without a language model?"
    rule = Rule("kmer_baseline_beaten", question, ">", settings.min_gain_over_kmer_baseline, "fraction")
    if comparison is None:
        return lack(rule, gaps)
    drop = comparison.accuracy_drop
    if drop.low is None or drop.high is None:
        return lack(rule, _ONE_CLUSTER)
    gain, low, high = 0.0 - drop.value, 0.0 - drop.high, 0.0 - drop.low
    explanation = (
        f"gain {gain:+.4f} over {comparison.other}, {settings.confidence:.0%} interval {low:+.4f} to {high:+.4f}; "
        f"the whole interval must be above {rule.threshold:g}"
    )
    return judge(rule, gain, explanation, low, high)


def speedup_reached(evidence: Evidence, settings: DecisionSettings) -> Criterion:
    """Does the candidate's protein encoder embed as many times more sequences a second as asked for?

    Both were measured in alternate rounds; the ratio of each round counts, so a machine that is busy slows both.
    Where rounds contradict each other, the interval of their median reaches over the threshold: inconclusive.
    """
    question = "Is its protein encoder as much faster than the baseline's as asked for?"
    rule = Rule("speedup_reached", question, ">=", settings.min_speedup, "times")
    names = (evidence.candidate.protein_name, evidence.baseline.protein_name)
    gaps = _benchmark_gaps(evidence, names, "sequences_per_s") or _uneven_rounds(evidence, names)
    if gaps or evidence.benchmark is None:
        return lack(rule, gaps)
    ours, theirs = (evidence.benchmark[name] for name in names)
    ratio, low, high = speed_ratio(evidence.benchmark, names[:1], names[1:], settings.confidence)
    if low is None or high is None:
        few = f"{len(ours['round_seconds'])} rounds of the encoder benchmark are too few for an interval"
        return lack(rule, (f"{few}; raise [benchmark] min_rounds",))
    whole = _whole_variants(evidence, settings.confidence)
    explanation = (
        f"{names[0]} {ours['sequences_per_s']:,.1f}, {names[1]} {theirs['sequences_per_s']:,.1f} sequences/s: "
        f"{ratio:.3g}× ({_reach(low, high)} over {len(ours['round_seconds'])} rounds), both on {ours['sequences']} "
        f"sequences a round, {ours['precision']}, {ours['device']}; with the DNA encoders, {whole}"
    )
    return judge(rule, ratio, explanation, low, high, _miniature(ours, theirs))


def memory_within_ratio(evidence: Evidence, settings: DecisionSettings) -> Criterion:
    """Does the candidate's protein encoder need at most the allowed share of the baseline's peak memory?"""
    question = "Does its protein encoder stay within the allowed share of the baseline's peak memory?"
    rule = Rule("memory_within_ratio", question, "<=", settings.max_memory_ratio, "times")
    names = (evidence.candidate.protein_name, evidence.baseline.protein_name)
    gaps = _benchmark_gaps(evidence, names, "peak_memory_bytes")
    if gaps or evidence.benchmark is None:
        return lack(rule, gaps)
    ours, theirs = (evidence.benchmark[name] for name in names)
    peaks = [float(row["peak_memory_bytes"]) for row in (ours, theirs)]
    explanation = (
        f"{names[0]} {peaks[0] / 2**20:,.1f}, {names[1]} {peaks[1] / 2**20:,.1f} MiB at peak: "
        f"{peaks[0] / peaks[1]:.3g}×, both on {ours['sequences']} sequences a round, {ours['precision']}, "
        f"{ours['device']}"
    )
    return judge(rule, peaks[0] / peaks[1], explanation, note=_miniature(ours, theirs))


def speed_ratio(
    benchmark: Mapping[str, Mapping[str, Any]], ours: Sequence[str], theirs: Sequence[str], confidence: float
) -> tuple[float, float | None, float | None]:
    """How many times faster the encoders `ours` go over one round's sequences than `theirs`.

    Returns:
        Median of the rounds' ratios, and its exact interval from order statistics; None where a bound is beyond all
        rounds, because there are too few.
    """
    one, other = (np.sum([benchmark[name]["round_seconds"] for name in names], axis=0) for names in (ours, theirs))
    ratios = other / one
    bounds = quantile_test(ratios, q=float(np.median(ratios)), p=0.5).confidence_interval(confidence)
    low, high = (float(bound) if math.isfinite(bound) else None for bound in (bounds.low, bounds.high))
    return float(np.median(ratios)), low, high


def _whole_variants(evidence: Evidence, confidence: float) -> str:
    ours, theirs = ((one.dna_name, one.protein_name) for one in (evidence.candidate, evidence.baseline))
    measured = evidence.benchmark or {}
    absent = [name for name in (*ours, *theirs) if not measured.get(name, {}).get("round_seconds")]
    if absent:
        return f"not measured ({', '.join(dict.fromkeys(absent))})"
    ratio, low, high = speed_ratio(measured, ours, theirs, confidence)
    return f"{evidence.candidate.variant} over {evidence.baseline.variant}: {ratio:.3g}× ({_reach(low, high)})"


def _reach(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else f"{low:.3g} to {high:.3g}"


def _miniature(*rows: Mapping[str, Any]) -> str:
    return "miniature" if any(str(row.get("encoder", "")).endswith("_miniature") for row in rows) else ""


def _benchmark_gaps(evidence: Evidence, names: tuple[str, str], measure: str) -> Gaps:
    if evidence.benchmark is None:
        return evidence.benchmark_gaps
    absent = [name for name in names if name not in evidence.benchmark]
    if absent:
        return tuple(f"the encoder benchmark has not measured {name}" for name in absent)
    ours, theirs = (evidence.benchmark[name] for name in names)
    unmeasured = [
        f"the encoder benchmark of {name} has no {measure}"
        for name, row in zip(names, (ours, theirs), strict=True)
        if not _is_positive(row.get(measure))
    ]
    unequal = [
        f"the encoder benchmark was not made under equal conditions: {condition} is {ours.get(condition)} "
        f"for {names[0]} and {theirs.get(condition)} for {names[1]}"
        for condition in EQUAL_CONDITIONS
        if ours.get(condition) is None or ours.get(condition) != theirs.get(condition)
    ]
    return (*evidence.benchmark_gaps, *unmeasured, *unequal)


def _uneven_rounds(evidence: Evidence, names: tuple[str, str]) -> Gaps:
    ours, theirs = (len((evidence.benchmark or {})[name].get("round_seconds") or ()) for name in names)
    if ours and ours == theirs:
        return ()
    return (f"the encoder benchmark has {ours} rounds of {names[0]} and {theirs} of {names[1]}; measure again",)


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0


def variant_is_current(role: str, variant: VariantEvidence) -> Criterion:
    """Are the variant's predictions stored, and made from today's inputs?"""
    rule = Rule(f"{role}_is_current", f"Is the {role}'s evidence stored and made from today's inputs?")
    return lack(rule, variant.gaps) if variant.gaps else affirm(rule, f"{variant.variant}: nothing is absent or stale")


def enough_test_records(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Are there enough test rows, and enough unrelated records of both labels, for an interval to be trusted?"""
    rule = Rule("enough_test_records", "Are there enough test rows, from enough unrelated records of both labels?")
    if comparison is None:
        return lack(rule, gaps)
    found = {
        "test rows": (comparison.rows, settings.min_test_rows),
        "clusters of unrelated test records": (comparison.clusters, settings.min_test_clusters),
        "viral clusters": (comparison.viral_clusters, settings.min_clusters_per_label),
        "host clusters": (comparison.host_clusters, settings.min_clusters_per_label),
    }
    lacking = tuple(
        f"too little to decide on: {count:,} {what}, at least {least:,} are asked for; add reference genomes"
        for what, (count, least) in found.items()
        if count < least
    )
    counted = ", ".join(f"{count:,} {what}" for what, (count, _) in found.items())
    return lack(rule, lacking) if lacking else affirm(rule, counted)


def dims_match_encoders(evidence: Evidence) -> Criterion:
    """Are both classifiers exactly as wide as the encoders under them?"""
    rule = Rule("dims_match_encoders", "Are both classifiers exactly as wide as the encoders under them?")
    gaps: list[str] = []
    facts = []
    for variant in (evidence.candidate, evidence.baseline):
        found = variant.description
        if found is None:
            gaps.extend(_undescribed(variant))
            continue
        dna, protein, merged = (found.get(key) for key in ("dna_dim", "protein_dim", "merged_dim"))
        if not (isinstance(dna, int) and isinstance(protein, int) and dna + protein == merged):
            gaps.append(f"{variant.variant}: merged_dim {merged} is not dna_dim {dna} + protein_dim {protein}")
        gaps.extend(_dim_gaps(variant, evidence))
        facts.append(f"{variant.variant}: {dna} + {protein} = {merged}")
    return lack(rule, tuple(gaps)) if gaps else affirm(rule, "; ".join(facts))


def _dim_gaps(variant: VariantEvidence, evidence: Evidence) -> list[str]:
    """Dims of the classifier that the fingerprints or the benchmark contradict, or that neither records."""
    gaps: list[str] = []
    for side, name in zip(SIDES, (variant.dna_name, variant.protein_name), strict=True):
        expected = (variant.description or {}).get(f"{side}_dim")
        known_of = {
            "its fingerprint": variant.fingerprint(side).get("dim"),
            "the encoder benchmark": (evidence.benchmark or {}).get(name, {}).get("dim"),
        }
        known = {source: dim for source, dim in known_of.items() if dim is not None}
        if not known:
            unknown = (f"{variant.variant}: neither fingerprint nor benchmark records the dim of {name}",)
            gaps.extend(evidence.benchmark_gaps or unknown)
        gaps += [
            f"{variant.variant}: {side}_dim is {expected}, but {name} is {dim} wide by {source}"
            for source, dim in known.items()
            if str(dim) != str(expected)
        ]
    return gaps


def same_environment(evidence: Evidence) -> Criterion:
    """Do candidate and baseline differ in the protein encoder only?"""
    question = "Do both sides share chunk length, split, training recipe, DNA encoder, precision and library versions?"
    rule = Rule("same_environment", question)
    ours, theirs = evidence.candidate, evidence.baseline
    undescribed = [gap for side in (ours, theirs) if side.description is None for gap in _undescribed(side)]
    if undescribed:
        return lack(rule, tuple(undescribed))
    compared = {key: (_recorded(ours, key), _recorded(theirs, key)) for key in SAME_DESCRIPTION}
    for side in SIDES:
        left, right = ours.fingerprint(side), theirs.fingerprint(side)
        keys = {"precision"} | left.keys() | right.keys()
        for key in sorted(keys if side == "dna" else keys - ENCODER_IDENTITY):
            compared[f"{side} encoder's {key}"] = (
                str(left.get(key, NOT_RECORDED)),
                str(right.get(key, NOT_RECORDED)),
            )
    gaps = tuple(
        f"not made under equal conditions: {what} is {a} for {ours.variant} and {b} for {theirs.variant}"
        for what, (a, b) in compared.items()
        if a != b or a == NOT_RECORDED
    )
    return lack(rule, gaps) if gaps else affirm(rule, f"equal on both sides: {', '.join(compared)}")


def _undescribed(variant: VariantEvidence) -> Gaps:
    return variant.problems or (f"{variant.variant}: no description of the classifier is stored",)


def _recorded(variant: VariantEvidence, key: str) -> str:
    value = (variant.description or {}).get(key)  # a classifier that was trained elsewhere has null
    return NOT_RECORDED if value is None else str(value)
