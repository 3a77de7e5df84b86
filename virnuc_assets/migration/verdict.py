"""The decision: evidence and settings in, GO, NO-GO or NO DECISION with its reasons out; a pure function."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from virnuc_assets.classifier.metrics import Performance, performance
from virnuc_assets.migration import criteria, soundness
from virnuc_assets.migration.comparison import Comparison, compare
from virnuc_assets.migration.criterion import Criterion
from virnuc_assets.migration.evidence import Evidence, VariantEvidence
from virnuc_assets.migration.pairing import pair, usable_rows
from virnuc_assets.settings import DecisionSettings, EvaluationSettings

Outcome = Literal["GO", "NO-GO", "NO DECISION"]


@dataclass(frozen=True)
class VariantSummary:
    """What the report tells of one variant; `performance` is None where its predictions are absent or unusable."""

    variant: str
    dna_name: str
    protein_name: str
    dna_encoder: str
    protein_encoder: str
    description: Mapping[str, Any] | None
    problems: tuple[str, ...]
    performance: Performance | None


@dataclass(frozen=True)
class Decision:
    """The verdict with everything it rests on; holds only plain values, so it can be written and compared.

    Attributes:
        outcome: GO if all criteria are met; NO-GO if one fails and no evidence is missing; NO DECISION if evidence
            is missing, or if no criterion fails and an interval is too wide to tell.
        reasons: each missing piece of evidence, or each criterion that is not met, or that all are.
        criteria: all criteria, in the order of the report.
        variants: role ("candidate", "baseline", "floor", a variant's name) → summary with its performance.
        comparisons: role → the candidate against it; absent where the rows could not be paired.
        ablations: encoder → performance of a classifier of that encoder's vectors alone.
        benchmark: as given in the evidence.
        miniatures: names of encoders whose weights are random.
        settings: the criteria's thresholds, as plain values.
        settings_digest: SHA-256 of the settings.
        evaluation: how test rows are told apart, as plain values.
        environment: as given in the evidence.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    criteria: tuple[Criterion, ...]
    variants: Mapping[str, VariantSummary]
    comparisons: Mapping[str, Comparison]
    ablations: Mapping[str, Performance]
    benchmark: Mapping[str, Mapping[str, Any]] | None
    miniatures: tuple[str, ...]
    settings: Mapping[str, Any]
    settings_digest: str
    evaluation: Mapping[str, Any]
    environment: Mapping[str, str]

    @property
    def comparison(self) -> Comparison | None:
        """The candidate against the baseline."""
        return self.comparisons.get("baseline")

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, numbers that are not finite as null; equal decisions, equal bytes."""
        return canonical(dataclasses.asdict(self), indent=2) + "\n"


def decide(evidence: Evidence, settings: DecisionSettings, evaluation: EvaluationSettings) -> Decision:
    """Judge all criteria; lack of evidence never raises, it is named and makes NO DECISION."""
    candidate = evidence.candidate
    pairs = {role: pair(candidate, variant) for role, variant in evidence.variants.items() if variant is not candidate}
    comparisons = {
        role: compare(paired, evidence.variants[role].variant, settings)
        for role, (paired, _) in pairs.items()
        if paired is not None
    }
    comparison, gaps = comparisons.get("baseline"), pairs["baseline"][1]
    judged = (
        criteria.accuracy_drop_within_margin(comparison, gaps, settings),
        criteria.f1_drop_within_margin(comparison, gaps, settings),
        criteria.no_group_worse_than_margin(comparison, gaps, settings),
        criteria.floor_beaten(comparisons.get("floor"), pairs["floor"][1], settings),
        criteria.speedup_reached(evidence, settings),
        criteria.memory_within_ratio(evidence, settings),
        soundness.enough_test_records(comparison, gaps, settings),
        soundness.dims_match_encoders(evidence),
        soundness.same_environment(evidence),
        *(soundness.variant_is_current(role, evidence.variants[role]) for role in ("candidate", "baseline", "floor")),
    )
    outcome, reasons = conclude(judged)
    plain = settings.model_dump(mode="json")
    return Decision(
        outcome=outcome,
        reasons=reasons,
        criteria=judged,
        variants={role: _summary(variant, evaluation) for role, variant in evidence.variants.items()},
        comparisons=comparisons,
        ablations={name: performance(table, None, evaluation) for name, table in sorted(evidence.ablations.items())},
        benchmark=evidence.benchmark,
        miniatures=evidence.miniatures,
        settings=plain,
        settings_digest=hashlib.sha256(canonical(plain).encode()).hexdigest(),
        evaluation=evaluation.model_dump(mode="json"),
        environment=evidence.environment,
    )


def conclude(judged: tuple[Criterion, ...]) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome and reasons from the criteria: what is missing comes before what failed, that before what is open."""
    missing = tuple(dict.fromkeys(piece for criterion in judged for piece in criterion.missing))
    if missing:
        return "NO DECISION", missing
    failed = tuple(f"{c.name} is not met: {c.explanation}" for c in judged if c.outcome == "failed")
    if failed:
        return "NO-GO", failed
    still_open = tuple(
        f"{c.name} cannot be told from so few unrelated records: {c.explanation}" for c in judged if c.outcome != "met"
    )
    if still_open:
        return "NO DECISION", still_open
    return "GO", (f"all {len(judged)} criteria are met",)


def _summary(variant: VariantEvidence, evaluation: EvaluationSettings) -> VariantSummary:
    rows, _ = usable_rows(variant)
    temperature = (variant.description or {}).get("temperature")
    return VariantSummary(
        variant=variant.variant,
        dna_name=variant.dna_name,
        protein_name=variant.protein_name,
        dna_encoder=variant.encoder_name("dna"),
        protein_encoder=variant.encoder_name("protein"),
        description=variant.description,
        problems=variant.problems,
        performance=None if rows is None else performance(rows, temperature, evaluation),
    )


def canonical(value: object, indent: int | None = None) -> str:
    """JSON with sorted keys; equal values, equal bytes."""
    return json.dumps(_plain(value), sort_keys=True, indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
