"""One criterion of the decision: a rule fixed beforehand, and the outcome when a number meets it."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Literal

Unit = Literal["fraction", "times", ""]
Outcome = Literal["met", "failed", "inconclusive", "missing"]
_HOLDS = {"<=": operator.le, ">=": operator.ge, ">": operator.gt}


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
        outcome: "met"; "failed"; "inconclusive" where the estimate holds and its interval reaches beyond the
            threshold; "missing" where the evidence does not allow to judge.
        explanation: one sentence with the number that was judged.
        value: the point estimate.
        low: lower bound of its interval.
        high: upper bound of its interval.
        missing: each piece of evidence that is lacking; empty unless the outcome is "missing".
    """

    outcome: Outcome
    explanation: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    missing: tuple[str, ...] = ()


def judge(rule: Rule, value: float, explanation: str, low: float | None = None, high: float | None = None) -> Criterion:
    """Hold a number against the rule: it fails by its estimate, and is met if its interval's worse end holds."""
    if rule.threshold is None or not rule.comparison:
        raise ValueError(f"{rule.name}: a rule without threshold and comparison cannot judge a number")
    holds, worse_end = _HOLDS[rule.comparison], high if rule.comparison == "<=" else low
    outcome: Outcome = "met" if holds(value, rule.threshold) else "failed"
    if outcome == "met" and worse_end is not None and not holds(worse_end, rule.threshold):
        outcome = "inconclusive"
    return Criterion(**vars(rule), outcome=outcome, explanation=explanation, value=value, low=low, high=high)


def affirm(rule: Rule, explanation: str) -> Criterion:
    """The evidence itself is sound."""
    return Criterion(**vars(rule), outcome="met", explanation=explanation)


def lack(rule: Rule, pieces: tuple[str, ...]) -> Criterion:
    """The evidence does not allow to judge; `pieces` names what is lacking."""
    pieces = tuple(dict.fromkeys(pieces))
    return Criterion(**vars(rule), outcome="missing", explanation="; ".join(pieces), missing=pieces)
