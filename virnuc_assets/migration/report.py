"""The decision as one self-contained HTML page, and as a few lines of Markdown."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from virnuc_assets.classifier.metrics import LEVELS
from virnuc_assets.errors import VirnucError
from virnuc_assets.markdown import cell
from virnuc_assets.migration import charts, formats, views
from virnuc_assets.migration.chart_style import Style, styles
from virnuc_assets.migration.evidence import Evidence
from virnuc_assets.migration.formats import interval_text, threshold_text, value_text
from virnuc_assets.migration.limits import MINIATURE_WARNING, not_measured
from virnuc_assets.migration.pairing import usable_rows
from virnuc_assets.migration.verdict import Decision

TEMPLATE = "report.html.jinja"
METRICS = {
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "average_precision": "Average precision",
    "brier": "Brier score (lower is better)",
    "ece": "Calibration error, ECE (lower is better)",
}
MAIN_METRICS = ("accuracy", "f1", "mcc", "auroc", "average_precision")
OUTCOMES = {"met": "✓ met", "failed": "✗ failed", "inconclusive": "? inconclusive", "missing": "– missing"}
GROUP_OUTCOMES = {"met": "✓ within", "failed": "✗ beyond", "inconclusive": "? open", "not judged": "not judged"}
_FILTERS = (
    *("score", "signed", "span", "count", "amount", "percent", "times", "probability"),
    *("value_text", "interval_text", "threshold_text"),
)


def render_html(decision: Decision, evidence: Evidence, links: Sequence[tuple[str, str]] = ()) -> str:
    """Render the report; equal arguments give equal bytes.

    Args:
        decision: what `decide` made of the evidence.
        evidence: the same evidence; its predictions are drawn as curves.
        links: (text, address) pairs, e.g. to the MLflow run; http, https, file or relative.

    Raises:
        VirnucError: a link has another scheme.
    """
    for text, address in links:
        if urlsplit(address).scheme not in ("", "http", "https", "file"):
            raise VirnucError(f"report link {text!r}: expected an http, https or file address, found {address!r}")
    style_of = styles(decision.variants)
    groups = views.group_lines(decision)
    drawn = _charts(decision, evidence, groups, style_of)
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            decision=decision,
            roles=decision.variants,
            comparison=decision.comparison,
            confidence=f"{100 * decision.settings['confidence']:g} %",
            styles=style_of,
            charts={name: Markup(svg) for name, svg in drawn.items()},  # noqa: S704 -- matplotlib has escaped the names
            groups=groups,
            not_measured=not_measured(decision),
            links=links,
        )
    )


def markdown_summary(decision: Decision) -> str:
    """A short account for a metadata field: outcome, reasons, one line for each criterion."""
    lines = [f"## {decision.outcome}", ""]
    if decision.miniatures:
        lines += [
            f"**Miniature encoders: {MINIATURE_WARNING}.** ({cell(', '.join(decision.miniatures))})",
            "",
        ]
    lines += [f"- {cell(reason)}" for reason in decision.reasons]
    lines += ["", "| criterion | value | interval | threshold | outcome |", "|---|---|---|---|---|"]
    lines += [
        f"| {' | '.join((c.name, value_text(c), interval_text(c), threshold_text(c), c.outcome))} |"
        for c in decision.criteria
    ]
    return "\n".join(lines) + "\n"


@functools.cache
def _environment() -> jinja2.Environment:
    """Templates with the formats of numbers, and the lines of the tables."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("virnuc_assets.migration", "page"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: getattr(formats, name) for name in _FILTERS})
    environment.globals.update(
        levels=LEVELS,
        metrics=METRICS,
        main_metrics=MAIN_METRICS,
        outcome_words=OUTCOMES,
        group_words=GROUP_OUTCOMES,
        miniature_warning=MINIATURE_WARNING,
        views=views,
    )
    return environment


def _charts(
    decision: Decision, evidence: Evidence, groups: list[views.GroupLine], style_of: Mapping[str, Style]
) -> dict[str, str]:
    """Chart → SVG, matplotlib having escaped the groups' names; without those that there is nothing to draw for."""
    rows = {role: usable_rows(variant)[0] for role, variant in evidence.variants.items()}
    usable = {role: table for role, table in rows.items() if table is not None}
    bins = {role: found.calibration.bins for role, found in views.performances(decision).items()}
    sides = {role: one for role, one in bins.items() if role in ("candidate", "baseline")}
    found = {}
    if usable:
        found = {
            "roc": charts.roc_svg(usable, style_of),
            "precision_recall": charts.precision_recall_svg(usable, style_of),
        }
    if sides:
        found["reliability"] = charts.reliability_svg(sides, style_of)
    if groups:
        found["drops"] = charts.drops_svg(views.group_marks(groups), decision.settings["max_group_drop"])
    return found
