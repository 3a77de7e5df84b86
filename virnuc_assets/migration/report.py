"""The decision as one self-contained HTML page, and as a few lines of Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from virnuc_assets.errors import VirnucError
from virnuc_assets.markdown import cell
from virnuc_assets.migration.charts import roc_svg
from virnuc_assets.migration.criterion import Criterion
from virnuc_assets.migration.evidence import Evidence
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
    "tn": "Host called host",
    "fp": "Host called virus",
    "fn": "Virus called host",
    "tp": "Virus called virus",
}
MINIATURE_WARNING = "weights are random: this verdict shows the machinery, not the models"
OUTCOME_WORDS = {"met": "met", "failed": "failed", "missing": "no evidence"}


def render_html(decision: Decision, evidence: Evidence, links: Sequence[tuple[str, str]] = ()) -> str:
    """Render the report; equal arguments give equal bytes.

    Args:
        decision: what `decide` made of the evidence.
        evidence: the same evidence; its predictions are drawn as ROC curves.
        links: (text, address) pairs, e.g. to the MLflow run; http, https, file or relative.

    Raises:
        VirnucError: a link has another scheme.
    """
    for text, address in links:
        if urlsplit(address).scheme not in ("", "http", "https", "file"):
            raise VirnucError(f"report link {text!r}: expected an http, https or file address, found {address!r}")
    rows = {role: usable_rows(branch)[0] for role, branch in evidence.branches.items()}
    usable = {role: table for role, table in rows.items() if table is not None}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("virnuc_assets", "migration"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed)
    return environment.get_template(TEMPLATE).render(
        decision=decision,
        metrics=METRICS,
        outcome_words=OUTCOME_WORDS,
        miniature_warning=MINIATURE_WARNING,
        threshold_text=threshold_text,
        interval_text=interval_text,
        value_text=value_text,
        roc=Markup(roc_svg(usable)) if usable else None,  # noqa: S704 -- our own drawing, no text from tables in it
        not_measured=not_measured(decision),
        links=links,
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


def not_measured(decision: Decision) -> list[str]:
    """What a reader could believe was tested and was not."""
    comparison = decision.comparison
    length = next((b.description.get("chunk_length") for b in decision.branches.values() if b.description), None)
    limits = [f"Chunk lengths other than {length} nt."] if length else []
    limits += [
        "Calls of whole chunks and records: every number here is for single frames.",
        "Variation between trainings: one seed was trained; intervals cover the choice of test records only.",
        "Uncertainty of speed and memory: the benchmark's figures are taken as they are.",
    ]
    for group in comparison.groups if comparison else ():
        if not group.judged:
            limits.append(
                f"{group.label} / {group.group}: {group.rows} test rows, fewer than "
                f"{decision.settings['min_group_rows']}; shown, not judged."
            )
    return limits


def number(value: object) -> str:
    """A metric or a count for a table cell; a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def signed(value: float) -> str:
    """A difference with its sign, four decimals, and a true minus."""
    return f"{value:+.4f}".replace("-", "−")


def _number_of(criterion: Criterion, value: float) -> str:
    return f"{value:.3g}×" if criterion.unit == "times" else signed(value)


def value_text(criterion: Criterion) -> str:
    """The criterion's point estimate in its unit."""
    return "–" if criterion.value is None else _number_of(criterion, criterion.value)


def interval_text(criterion: Criterion) -> str:
    """The criterion's interval in its unit."""
    if criterion.low is None or criterion.high is None:
        return "–"
    return f"{_number_of(criterion, criterion.low)} to {_number_of(criterion, criterion.high)}"


def threshold_text(criterion: Criterion) -> str:
    """The rule in signs, e.g. "≤ 0.05"."""
    if criterion.threshold is None:
        return "yes or no"
    sign = {"<=": "≤", ">=": "≥", ">": ">"}[criterion.comparison]
    return f"{sign} {criterion.threshold:g}{'×' if criterion.unit == 'times' else ''}"
