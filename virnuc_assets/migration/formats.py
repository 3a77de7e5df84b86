"""Numbers as the report writes them."""

from __future__ import annotations

import math

from virnuc_assets.migration.criterion import Criterion

NOTHING = "–"
MINUS = "−"


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def score(value: float | None) -> str:
    """A share or a score, four decimals; a dash where there is none."""
    return f"{value:.4f}".replace("-", MINUS) if value is not None and _is_number(value) else NOTHING


def signed(value: float | None) -> str:
    """A difference with its sign, four decimals, and a true minus."""
    return f"{value:+.4f}".replace("-", MINUS) if value is not None and _is_number(value) else NOTHING


def count(value: float | None) -> str:
    """A whole number with thousands set apart."""
    return f"{value:,.0f}" if value is not None and _is_number(value) else NOTHING


def amount(value: float | None) -> str:
    """A measured quantity, one decimal."""
    return f"{value:,.1f}" if value is not None and _is_number(value) else NOTHING


def percent(value: float | None) -> str:
    """A share in percent, one decimal."""
    return f"{100 * value:.1f} %" if value is not None and _is_number(value) else NOTHING


def times(value: float | None) -> str:
    """A ratio, three digits."""
    return f"{value:.3g}×" if value is not None and _is_number(value) else NOTHING


def probability(value: float) -> str:
    """A test's p; small ones only bounded."""
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def span(low: float | None, high: float | None) -> str:
    """An interval of a difference; a dash where there is none."""
    return NOTHING if low is None or high is None else f"{signed(low)} to {signed(high)}"


def value_text(criterion: Criterion) -> str:
    """The criterion's point estimate in its unit."""
    return (times if criterion.unit == "times" else signed)(criterion.value)


def interval_text(criterion: Criterion) -> str:
    """The criterion's interval; only differences have one."""
    return span(criterion.low, criterion.high)


def threshold_text(criterion: Criterion) -> str:
    """The rule in signs, e.g. "≤ 0.05"."""
    if criterion.threshold is None:
        return "yes or no"
    sign = {"<=": "≤", ">=": "≥", ">": ">"}[criterion.comparison]
    return f"{sign} {criterion.threshold:g}{'×' if criterion.unit == 'times' else ''}"
