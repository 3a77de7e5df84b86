"""The decision as one self-contained HTML page, and as a few lines of Markdown."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

import jinja2
from markupsafe import Markup

from virnuc_assets.classifier.metrics import LEVELS, GroupAccuracy, Performance
from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.comparison import GroupDrop, usable_rows
from virnuc_assets.migration.criteria import Criterion, speed_ratio
from virnuc_assets.migration.decision import MINIATURE_WARNING, Decision, VariantSummary, not_measured
from virnuc_assets.migration.evidence import MINIATURE_SUFFIX, Evidence
from virnuc_assets.reports import charts, pages
from virnuc_assets.reports.pages import NOTHING, flat, score, signed, times
from virnuc_assets.settings import DecisionSettings
from virnuc_assets.text import markdown_cell

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
GROUP_WORDS = {"lost": "✗ lost more", "worse": "? worse", "no loss shown": "✓ no loss", "too few clusters": "too few"}
GROUP_CLASSES = {"lost": "failed", "worse": "inconclusive", "no loss shown": "met", "too few clusters": "soft"}


def render_html(decision: Decision, evidence: Evidence, links: Sequence[tuple[str, str]] = ()) -> str:
    """Render the report of a decision on this evidence; equal arguments give equal bytes.

    Raises:
        VirnucError: a link (text, address) is none of http, https, file or relative.
    """
    for text, address in links:
        if urlsplit(address).scheme not in ("", "http", "https", "file"):
            raise VirnucError(f"report link {text!r}: expected an http, https or file address, found {address!r}")
    groups, drawn = sorted_groups(decision), curves(decision, evidence, legend=False)
    if groups:
        drawn["drops"] = charts.drops_svg(groups, decision.settings["max_group_drop"])
    if decision.power is not None:
        drawn["power"] = charts.power_svg(decision.power)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            decision=decision,
            roles=decision.variants,
            comparison=decision.comparison,
            confidence=f"{100 * decision.settings['confidence']:g} %",
            styles=charts.styles(decision.variants),
            charts={name: Markup(svg) for name, svg in drawn.items()},  # noqa: S704 -- matplotlib has escaped the names
            groups=groups,
            not_measured=not_measured(decision),
            links=links,
        )
    )


def verdict(decision: Decision) -> str:
    """Outcome, reasons and next step as Markdown."""
    lines = [f"## {decision.outcome}", ""]
    if decision.miniatures:
        lines += [f"**Miniature encoders: {MINIATURE_WARNING}.** ({markdown_cell(', '.join(decision.miniatures))})", ""]
    lines += [f"- {markdown_cell(reason)}" for reason in decision.reasons]
    if decision.next_step:
        lines += ["", f"Next step: {markdown_cell(decision.next_step)}"]
    return "\n".join(lines) + "\n"


def markdown_summary(decision: Decision) -> str:
    """The verdict, and one line for each criterion."""
    lines = [verdict(decision), "| criterion | value | interval | threshold | outcome |", "|---|---|---|---|---|"]
    lines += [
        # A name of words, which narrow terminals can wrap.
        f"| {' | '.join((c.name.replace('_', ' '), value_text(c), interval_text(c), threshold_text(c), c.outcome))} |"
        for c in decision.criteria
    ]
    return "\n".join(lines) + "\n"


@functools.cache
def _environment() -> jinja2.Environment:
    """Templates with the formats of numbers, and the lines of the tables."""
    environment = pages.environment()
    formats = {
        **{"span": span, "times": times, "probability": probability},
        **{"value_text": value_text, "interval_text": interval_text, "threshold_text": threshold_text},
    }
    environment.filters.update(formats)
    views = (performances, imported, accuracy_lines, ablation_lines, description_lines, revision, token_dropout)
    environment.globals.update(
        {view.__name__: view for view in (*views, speed_lines, variant_speed_lines)},
        levels=LEVELS,
        metrics=METRICS,
        main_metrics=MAIN_METRICS,
        outcome_words=OUTCOMES,
        group_words=GROUP_WORDS,
        group_classes=GROUP_CLASSES,
        miniature_warning=MINIATURE_WARNING,
        reasons={name: field.description or "" for name, field in DecisionSettings.model_fields.items()},
    )
    return environment


def curves(decision: Decision, evidence: Evidence, legend: bool) -> dict[str, str]:
    """ROC, precision-recall and reliability as SVG, as `charts` draws them; without those that lack their rows."""
    style_of, variants = charts.styles(decision.variants), evidence.variants.items()
    usable = {role: rows for role, one in variants if (rows := usable_rows(one)[0]) is not None}
    bins = {role: found.calibration.bins for role, found in performances(decision).items()}
    sides = {role: one for role, one in bins.items() if role in ("candidate", "baseline")}
    found = {}
    if usable:
        found["roc"] = charts.roc_svg(usable, style_of, legend)
        found["precision_recall"] = charts.precision_recall_svg(usable, style_of, legend)
    if sides:
        found["reliability"] = charts.reliability_svg(sides, style_of, legend)
    return found


def sorted_groups(decision: Decision) -> list[GroupDrop]:
    """Groups of candidate and baseline, the largest drop first, those that are not tested last."""
    groups = decision.comparison.groups if decision.comparison else ()
    return sorted(groups, key=lambda one: (one.p_lost is None, -one.drop.value))


def performances(decision: Decision) -> dict[str, Performance]:
    """Role → performance, of the variants that have one."""
    found = {role: variant.performance for role, variant in decision.variants.items()}
    return {role: one for role, one in found.items() if one is not None}


def imported(decision: Decision) -> list[str]:
    """Variants whose classifier was not trained here."""
    return [one.variant for one in decision.variants.values() if (one.description or {}).get("origin")]


def accuracy_lines(
    decision: Decision, measure: Literal["groups", "lengths"]
) -> list[tuple[GroupAccuracy, dict[str, GroupAccuracy]]]:
    """One line per group or range of lengths: the first variant's counts, and those of each role."""
    lines: dict[tuple[str, str], dict[str, GroupAccuracy]] = {}
    for role, found in performances(decision).items():
        for one in getattr(found, measure):
            lines.setdefault((one.label, one.group), {})[role] = one
    return [(next(iter(line.values())), line) for line in lines.values()]


def ablation_lines(decision: Decision) -> list[tuple[str, Performance]]:
    """What was trained on → performance: single encoders by side, then the variants with both."""
    names = [(f"{what} only", f"{side}_name") for side, what in (("dna", "DNA"), ("protein", "protein"))]
    alone = {
        f"{what}: {encoder}": decision.ablations[encoder]
        for what, name in names
        for encoder in (getattr(variant, name) for variant in decision.variants.values())
        if encoder in decision.ablations
    }
    both = [
        (f"both: {decision.variants[role].dna_name} + {decision.variants[role].protein_name} ({role})", found)
        for role, found in performances(decision).items()
    ]
    return [*alone.items(), *both] if alone else []


def description_lines(decision: Decision) -> list[tuple[str, list[str]]]:
    """Every fact of the classifiers' descriptions by its dotted name, one value per role."""
    described = [flat(variant.description or {}) for variant in decision.variants.values()]
    names = sorted({name for facts in described for name in facts})
    return [(name, [facts.get(name, NOTHING) for facts in described]) for name in names]


def revision(variant: VariantSummary, side: Literal["dna", "protein"]) -> str:
    """What names an encoder's weights: the hub's revision or the digest of its files."""
    fingerprint = (variant.description or {}).get("encoders", {}).get(side, {})
    return str(fingerprint.get("revision") or fingerprint.get("checkpoint_digest") or NOTHING)


def token_dropout(variant: VariantSummary) -> str:
    """Whether the protein encoder scales its embeddings as with masked tokens; a dash where none does."""
    fingerprint = (variant.description or {}).get("encoders", {}).get("protein", {})
    return {"True": "on", "False": "off"}.get(str(fingerprint.get("token_dropout")), NOTHING)


def speed_lines(decision: Decision) -> list[tuple[str, Mapping[str, Any], dict[str, float]]]:
    """Encoder, its row of the benchmark, and a protein encoder's ratios to the baseline's."""
    measured = decision.benchmark or {}
    proteins = {variant.protein_name for variant in decision.variants.values()}
    base = measured.get(decision.variants["baseline"].protein_name)
    lines = []
    for name, row in sorted(measured.items()):
        compared = ("sequences_per_s", "peak_memory_bytes") if base and name in proteins else ()
        divisors = {measure: (base or row)[measure] for measure in compared}
        lines.append((name, row, {measure: row[measure] / by for measure, by in divisors.items() if by > 0}))
    return lines


def variant_speed_lines(decision: Decision) -> list[tuple[str, str, float, tuple[float | None, float | None], str]]:
    """Variant, what was measured, times faster than the baseline, interval, and "miniature" where it is so."""
    measured, base = decision.benchmark or {}, decision.variants["baseline"]
    lines = []
    for variant in decision.variants.values():
        parts = {"protein encoder": ("protein_name",), "DNA and protein encoder": ("dna_name", "protein_name")}
        for what, sides in parts.items():
            ours, theirs = ([measured.get(getattr(one, side)) for side in sides] for one in (variant, base))
            rows = [row for row in (*ours, *theirs) if row]
            if variant is base or len(rows) < 2 * len(sides):
                continue
            one, other = ([row["round_seconds"] for row in side if row] for side in (ours, theirs))
            ratio, low, high = speed_ratio(one, other, decision.settings["confidence"])
            small = any(row["encoder"].endswith(MINIATURE_SUFFIX) for row in rows)
            lines.append((variant.variant, what, ratio, (low, high), "miniature" if small else ""))
    return lines


def probability(value: float | None) -> str:
    """A test's p; small ones only bounded; a dash where there is none."""
    return "< 0.0001" if value is not None and value < 0.0001 else score(value)


def span(low: float | None, high: float | None) -> str:
    """An interval of a difference; a dash where there is none."""
    return NOTHING if low is None or high is None else f"{signed(low)} to {signed(high)}"


def value_text(criterion: Criterion) -> str:
    """The criterion's point estimate in its unit, with what has to be known of it."""
    text = (times if criterion.unit == "times" else signed)(criterion.value)
    return f"{text} ({criterion.note})" if criterion.note and criterion.value is not None else text


def interval_text(criterion: Criterion) -> str:
    """The criterion's interval in its unit; a dash where there is none."""
    if criterion.unit == "times" and criterion.low is not None:
        return f"{times(criterion.low)} to {times(criterion.high)}"
    return span(criterion.low, criterion.high)


def threshold_text(criterion: Criterion) -> str:
    """The rule in symbols, e.g. "≤ 0.05"."""
    if criterion.threshold is None:
        return "yes or no"
    character = {"<=": "≤", ">=": "≥", ">": ">"}[criterion.comparison]
    return f"{character} {criterion.threshold:g}{'×' if criterion.unit == 'times' else ''}"
