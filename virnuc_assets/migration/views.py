"""A decision put into the lines of the report's tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

from virnuc_assets.classifier.metrics import GroupAccuracy, Performance
from virnuc_assets.migration.charts import Mark
from virnuc_assets.migration.comparison import GroupDrop
from virnuc_assets.migration.criteria import EQUAL_CONDITIONS
from virnuc_assets.migration.criterion import Rule, judge
from virnuc_assets.migration.evidence import SIDES
from virnuc_assets.migration.verdict import Decision, VariantSummary

GROUP_CRITERION = "no_group_worse_than_margin"


@dataclass(frozen=True)
class GroupLine:
    """A group and what the group criterion says of it alone."""

    group: GroupDrop
    outcome: Literal["met", "failed", "inconclusive", "not judged"]


def group_lines(decision: Decision) -> list[GroupLine]:
    """Groups of candidate and baseline, the largest drop first, those that are not judged last."""
    if decision.comparison is None:
        return []
    (criterion,) = (one for one in decision.criteria if one.name == GROUP_CRITERION)
    rule = Rule(**{field.name: getattr(criterion, field.name) for field in fields(Rule)})
    lines = []
    for group in sorted(decision.comparison.groups, key=lambda one: (not one.judged, -one.drop.value)):
        outcome = judge(rule, group.drop.value, "", group.drop.low, group.drop.high).outcome
        lines.append(GroupLine(group, outcome if group.judged and outcome != "missing" else "not judged"))
    return lines


def group_marks(lines: list[GroupLine]) -> list[Mark]:
    """The same lines for the chart."""
    return [
        Mark(f"{line.group.group} · {line.group.label}", drop.value, drop.low, drop.high, line.outcome)
        for line in lines
        for drop in [line.group.drop]
    ]


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
    """One line a group or range of lengths: the first variant's counts, and those of each role."""
    of_role = {
        role: {(one.label, one.group): one for one in getattr(found, measure)}
        for role, found in performances(decision).items()
    }
    keys = dict.fromkeys(key for lines in of_role.values() for key in lines)
    table = [{role: lines[key] for role, lines in of_role.items() if key in lines} for key in keys]
    return [(next(iter(line.values())), line) for line in table]


def ablation_lines(decision: Decision) -> list[tuple[str, Performance]]:
    """What was trained on → performance: single encoders by side, then the variants with both."""
    names = {
        side: dict.fromkeys(getattr(variant, f"{side}_name") for variant in decision.variants.values())
        for side in SIDES
    }
    alone = [
        (f"{'DNA' if side == 'dna' else side} only: {name}", decision.ablations[name])
        for side in SIDES
        for name in names[side]
        if name in decision.ablations
    ]
    both = [
        (f"both: {decision.variants[role].dna_name} + {decision.variants[role].protein_name} ({role})", found)
        for role, found in performances(decision).items()
    ]
    return alone + both if alone else []


def description_lines(decision: Decision) -> list[tuple[str, list[str]]]:
    """Every fact of the classifiers' descriptions by its dotted name, one value a role."""
    flat = [_flat(variant.description or {}) for variant in decision.variants.values()]
    names = sorted({name for facts in flat for name in facts})
    return [(name, [facts.get(name, "–") for facts in flat]) for name in names]


def _flat(facts: Mapping[str, Any], before: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in facts.items():
        found |= _flat(value, f"{before}{name}.") if isinstance(value, Mapping) else {f"{before}{name}": str(value)}
    return found


def revision(variant: VariantSummary, side: Literal["dna", "protein"]) -> str:
    """What names an encoder's weights: the hub's revision or the digest of its files."""
    fingerprint = ((variant.description or {}).get("encoders") or {}).get(side) or {}
    return str(fingerprint.get("revision") or fingerprint.get("checkpoint_digest") or "–")


def token_dropout(variant: VariantSummary) -> str:
    """Whether the protein encoder scales its embeddings as with masked tokens; a dash where none does."""
    fingerprint = ((variant.description or {}).get("encoders") or {}).get("protein") or {}
    return {"True": "on", "False": "off"}.get(str(fingerprint.get("token_dropout")), "–")


def speed_lines(decision: Decision) -> list[tuple[str, Mapping[str, Any], dict[str, float]]]:
    """Encoder, its row of the benchmark, and its ratios to the baseline's protein encoder where they are fair."""
    measured = decision.benchmark or {}
    proteins = {variant.protein_name for variant in decision.variants.values()}
    base = measured.get(decision.variants["baseline"].protein_name, {})
    lines = []
    for name, row in sorted(measured.items()):
        fair = name in proteins and all(row.get(name) == base.get(name) for name in EQUAL_CONDITIONS)
        ratios = {name: _ratio(row.get(name), base.get(name)) for name in ("sequences_per_s", "peak_memory_bytes")}
        lines.append((name, row, {name: ratio for name, ratio in ratios.items() if fair and ratio is not None}))
    return lines


def _ratio(ours: object, theirs: object) -> float | None:
    if not isinstance(ours, int | float) or not isinstance(theirs, int | float) or not theirs:
        return None
    return ours / theirs
