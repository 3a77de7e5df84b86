"""The criteria about performance: accuracy, F1, groups, the floor, speed and memory.

These can fail. The criteria about the evidence itself are in `soundness`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from virnuc_assets.migration.comparison import Comparison, Drop, GroupDrop
from virnuc_assets.migration.criterion import Criterion, Rule, judge, lack
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.settings import DecisionSettings

Gaps = tuple[str, ...]
EQUAL_CONDITIONS = ("precision", "device", "sequences")


def drop_within_margin(rule: Rule, drop: Drop | None, gaps: Gaps, confidence: float) -> Criterion:
    """Judge a drop (baseline − candidate) and the upper bound of its interval against the margin."""
    if drop is None:
        return lack(rule, gaps)
    if drop.low is None or drop.high is None:
        return lack(rule, ("all test rows are one cluster of relatives, so no interval can be given; add records",))
    explanation = (
        f"drop {drop.value:+.4f}, {confidence:.0%} interval {drop.low:+.4f} to {drop.high:+.4f}; "
        f"the whole interval must stay within {rule.threshold:g}"
    )
    return judge(rule, drop.value, explanation, drop.low, drop.high)


def accuracy_drop_within_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Is the candidate's accuracy, at worst, no more than the margin below the baseline's?"""
    question = "Is accuracy, at worst, no more than the margin below the baseline's?"
    rule = Rule("accuracy_drop_within_margin", question, "<=", settings.max_accuracy_drop, "fraction")
    return drop_within_margin(rule, comparison.accuracy_drop if comparison else None, gaps, settings.confidence)


def f1_drop_within_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Is the candidate's F1 of the viral class, at worst, no more than the margin below the baseline's?"""
    question = "Is F1 of the viral class, at worst, no more than the margin below the baseline's?"
    rule = Rule("f1_drop_within_margin", question, "<=", settings.max_f1_drop, "fraction")
    return drop_within_margin(rule, comparison.f1_drop if comparison else None, gaps, settings.confidence)


def no_group_worse_than_margin(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Does no group with enough rows lose more accuracy than the margin?

    A group of one cluster has no interval and is judged by its drop alone; the report says so.
    """
    question = "Does no virus or host group lose more accuracy than the margin?"
    rule = Rule("no_group_worse_than_margin", question, "<=", settings.max_group_drop, "fraction")
    if comparison is None:
        return lack(rule, gaps)
    judged = [
        (group, judge(rule, group.drop.value, _of_group(group), group.drop.low, group.drop.high))
        for group in sorted(comparison.groups, key=lambda group: -group.drop.value)
        if group.judged
    ]
    if not judged:
        return lack(rule, (f"no group has {settings.min_group_rows} test rows or more; add records",))
    for outcome in ("failed", "inconclusive"):
        told = [(group, found) for group, found in judged if found.outcome == outcome]
        if told:
            explanation = "; ".join(found.explanation for _, found in told)
            worst = told[0][0].drop
            return judge(rule, worst.value, explanation, worst.low, worst.high)
    worst_group, found = judged[0]
    explanation = f"worst of {len(judged)} groups: {found.explanation}"
    return judge(rule, worst_group.drop.value, explanation, worst_group.drop.low, worst_group.drop.high)


def _of_group(group: GroupDrop) -> str:
    drop = group.drop
    spread = "one cluster, no interval" if drop.low is None else f"{drop.low:+.4f} to {drop.high:+.4f}"
    return (
        f"{group.label} / {group.group}: drop {drop.value:+.4f} ({spread}) over {group.rows} rows in "
        f"{group.clusters} cluster{'s' if group.clusters > 1 else ''} "
        f"({group.other_accuracy:.4f} → {group.candidate_accuracy:.4f})"
    )


def floor_beaten(comparison: Comparison | None, gaps: Gaps, settings: DecisionSettings) -> Criterion:
    """Is the candidate more accurate than composition features alone? Gain = candidate − floor."""
    question = "Is it more accurate than composition features without a language model?"
    rule = Rule("floor_beaten", question, ">", settings.min_gain_over_floor, "fraction")
    if comparison is None:
        return lack(rule, gaps)
    drop = comparison.accuracy_drop
    if drop.low is None or drop.high is None:
        return lack(rule, ("all test rows are one cluster of relatives, so no interval can be given; add records",))
    gain, low, high = 0.0 - drop.value, 0.0 - drop.high, 0.0 - drop.low
    explanation = (
        f"gain {gain:+.4f} over {comparison.other}, {settings.confidence:.0%} interval {low:+.4f} to {high:+.4f}; "
        f"the whole interval must stay above {rule.threshold:g}"
    )
    return judge(rule, gain, explanation, low, high)


def speedup_reached(evidence: Evidence, settings: DecisionSettings) -> Criterion:
    """Does the candidate's protein encoder embed as many times more sequences a second as asked for?"""
    question = "Is its protein encoder as much faster than the baseline's as asked for?"
    rule = Rule("speedup_reached", question, ">=", settings.min_speedup, "times")
    return _ratio(rule, evidence, "sequences_per_s", "sequences/s", per=1)


def memory_within_ratio(evidence: Evidence, settings: DecisionSettings) -> Criterion:
    """Does the candidate's protein encoder need at most the allowed share of the baseline's peak memory?"""
    question = "Does its protein encoder stay within the allowed share of the baseline's peak memory?"
    rule = Rule("memory_within_ratio", question, "<=", settings.max_memory_ratio, "times")
    return _ratio(rule, evidence, "peak_memory_bytes", "MiB at peak", per=2**20)


def _ratio(rule: Rule, evidence: Evidence, measure: str, unit: str, per: int) -> Criterion:
    """Candidate / baseline of one measured quantity, only where both were measured under equal conditions."""
    names = (evidence.candidate.protein_name, evidence.baseline.protein_name)
    gaps = _benchmark_gaps(evidence, names, measure)
    if gaps or evidence.benchmark is None:
        return lack(rule, gaps)
    ours, theirs = (evidence.benchmark[name] for name in names)
    ratio = float(ours[measure]) / float(theirs[measure])
    explanation = (
        f"{names[0]} {float(ours[measure]) / per:,.1f}, {names[1]} {float(theirs[measure]) / per:,.1f} {unit}: "
        f"{ratio:.3g}×, both on {ours['sequences']} sequences, {ours['precision']}, {ours['device']}"
    )
    return judge(rule, ratio, explanation)


def _benchmark_gaps(evidence: Evidence, names: tuple[str, str], measure: str) -> tuple[str, ...]:
    if evidence.benchmark is None:
        return evidence.benchmark_gaps
    absent = [name for name in names if name not in evidence.benchmark]
    if absent:
        return tuple(f"the encoder benchmark has not measured {name}" for name in absent)
    ours, theirs = (evidence.benchmark[name] for name in names)
    unmeasured = [
        f"the encoder benchmark of {name} has no {measure}"
        for name, row in zip(names, (ours, theirs), strict=True)
        if not _is_positive(row, measure)
    ]
    unequal = [
        f"the encoder benchmark was not made under equal conditions: {condition} is {ours.get(condition)} "
        f"for {names[0]} and {theirs.get(condition)} for {names[1]}"
        for condition in EQUAL_CONDITIONS
        if ours.get(condition) is None or ours.get(condition) != theirs.get(condition)
    ]
    return (*evidence.benchmark_gaps, *unmeasured, *unequal)


def _is_positive(row: Mapping[str, Any], measure: str) -> bool:
    value = row.get(measure)
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
