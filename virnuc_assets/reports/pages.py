"""What the pages share: the environment of their templates, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jinja2

NOTHING = "–"
MINUS = "−"


def environment() -> jinja2.Environment:
    """Templates with the formats of numbers; all text is escaped."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader("virnuc_assets.reports", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(score=score, signed=signed, count=count, amount=amount, percent=percent)
    return found


def _number(form: str) -> Callable[[float | None], str]:
    """A format of numbers with a true minus; a dash where there is none."""

    def text(value: float | None) -> str:
        is_number = value is not None and math.isfinite(value)
        return form.format(value).replace("-", MINUS) if is_number else NOTHING

    return text


score, signed = _number("{:.4f}"), _number("{:+.4f}")
count, amount = _number("{:,.0f}"), _number("{:,.1f}")
times = _number("{:.3g}×")


def percent(value: float | None) -> str:
    """A share in percent, one decimal."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def flat(facts: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Facts by their dotted names."""
    found: dict[str, str] = {}
    for name, value in facts.items():
        found |= flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": str(value)}
    return found
