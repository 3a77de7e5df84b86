"""The decision: evidence and settings in, GO, NO-GO or NO DECISION with its reasons out; a pure function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from virnuc_assets.classifier.metrics import Performance, performance
from virnuc_assets.classifier.record_rule import RecordRule
from virnuc_assets.migration import criteria
from virnuc_assets.migration.comparison import Comparison, GroupDrop, compare, pair, usable_rows
from virnuc_assets.migration.criteria import Criterion
from virnuc_assets.migration.evidence import MINIATURE_SUFFIX, Evidence, VariantEvidence, plain
from virnuc_assets.migration.frame_rules import FrameRules, compare_rules
from virnuc_assets.migration.power import Power, power
from virnuc_assets.settings import DecisionSettings, EvaluationSettings

Outcome = Literal["GO", "NO-GO", "NO DECISION"]
MAIN_CRITERIA = ("accuracy_drop_within_margin", "f1_drop_within_margin")
MINIATURE_WARNING = "weights are random: this verdict shows the machinery, not the models"


@dataclass(frozen=True)
class VariantSummary:
    """What the report shows of one variant; `performance` is None where its predictions are absent or unusable."""

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

    GO if all criteria are met; NO-GO if one fails and no evidence is missing; NO DECISION if evidence is missing, or if
    no criterion fails and an interval reaches over its threshold.
    """

    outcome: Outcome
    reasons: tuple[str, ...]  # each missing piece of evidence, or each criterion that is not met, or that all are
    criteria: tuple[Criterion, ...]  # in the order of the report
    variants: Mapping[str, VariantSummary]  # by role: "candidate", "baseline", "kmer_baseline", a variant's name
    comparisons: Mapping[str, Comparison]  # by role; absent where the rows could not be paired
    power: Power | None  # None without a comparison, or with one cluster only
    next_step: str  # how the drop could be won back; empty where there is nothing to win
    ablations: Mapping[str, Performance]  # encoder → a classifier of that encoder's vectors alone
    frame_rules: FrameRules | None  # None without its table, or where that has one label only
    benchmark: Mapping[str, Mapping[str, Any]] | None
    miniatures: tuple[str, ...]  # encoders whose weights are random
    settings: Mapping[str, Any]  # of the decision, as plain values
    settings_digest: str
    evaluation: Mapping[str, Any]  # settings of the evaluation, as plain values
    environment: Mapping[str, str]

    @property
    def comparison(self) -> Comparison | None:
        """The candidate against the baseline."""
        return self.comparisons.get("baseline")

    def to_json(self) -> str:
        """As `canonical`."""
        return canonical(self, indent=2) + "\n"


def decide(evidence: Evidence, settings: DecisionSettings, evaluation: EvaluationSettings) -> Decision:
    """Judge all criteria; lack of evidence never raises, it is named and makes NO DECISION."""
    candidate = evidence.candidate
    pairs = {role: pair(candidate, variant) for role, variant in evidence.variants.items() if variant is not candidate}
    comparisons = {
        role: compare(rows, evidence.variants[role].variant, settings)
        for role, (rows, _) in pairs.items()
        if rows is not None
    }
    paired, gaps = pairs["baseline"]
    comparison = comparisons.get("baseline")
    judged = (
        criteria.accuracy_drop_within_margin(comparison, gaps, settings),
        criteria.f1_drop_within_margin(comparison, gaps, settings),
        criteria.no_group_lost_more_than_margin(comparison, gaps, settings),
        criteria.kmer_baseline_beaten(comparisons.get("kmer_baseline"), pairs["kmer_baseline"][1], settings),
        *criteria.faster_and_no_larger(evidence, settings),
        criteria.enough_test_records(comparison, gaps, settings),
        criteria.dims_match_encoders(evidence),
        criteria.same_environment(evidence),
        *(
            criteria.variant_is_current(role, evidence.variants[role])
            for role in ("candidate", "baseline", "kmer_baseline")
        ),
    )
    outcome, reasons = conclude(judged)
    asked = settings.model_dump(mode="json")
    return Decision(
        outcome=outcome,
        reasons=reasons,
        criteria=judged,
        variants={role: _summary(variant, evaluation) for role, variant in evidence.variants.items()},
        comparisons=comparisons,
        power=None if paired is None else power(paired, settings),
        next_step=_next_step(evidence, judged, settings),
        ablations={name: performance(table, None, evaluation) for name, table in sorted(evidence.ablations.items())},
        frame_rules=None if evidence.frame_rules is None else compare_rules(evidence.frame_rules, settings),
        benchmark=evidence.benchmark,
        miniatures=evidence.miniatures,
        settings=asked,
        settings_digest=hashlib.sha256(canonical(asked).encode()).hexdigest(),
        evaluation=evaluation.model_dump(mode="json"),
        environment=evidence.environment,
    )


def _next_step(evidence: Evidence, judged: tuple[Criterion, ...], settings: DecisionSettings) -> str:
    """Fine-tuning, where accuracy or F1 is not within its margin by so little that fine-tuning could win it."""
    missed = [one for one in judged if one.name in MAIN_CRITERIA and one.outcome in ("failed", "inconclusive")]
    encoder = evidence.candidate.encoder_name("protein").removesuffix(MINIATURE_SUFFIX)
    far = any((one.value or 0.0) - (one.threshold or 0.0) > settings.finetuning_gain for one in missed)
    if not missed or far or encoder.startswith("finetuned_"):
        return ""
    found = " and ".join(f"{one.name} ({one.value:+.4f}, margin {one.threshold:g})" for one in missed)
    return (
        f"{found}: not within the margin, by no more than the {settings.finetuning_gain:g} that fine-tuning is "
        f'taken to win. Set [finetuning] encoders = ["{encoder}"] in virnuc.toml, launch the job '
        f"finetune_{encoder}, make a variant of finetuned_{encoder} the candidate, and decide again."
    )


def conclude(judged: tuple[Criterion, ...]) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome and reasons from the criteria: what is missing comes before what failed, that before what is open."""
    if missing := tuple(dict.fromkeys(lack for criterion in judged for lack in criterion.missing)):
        return "NO DECISION", missing
    if failed := tuple(f"{c.name} is not met: {c.explanation}" for c in judged if c.outcome == "failed"):
        return "NO-GO", failed
    over = "is open, the interval reaches over the threshold"
    if still_open := tuple(f"{c.name} {over}: {c.explanation}" for c in judged if c.outcome != "met"):
        return "NO DECISION", still_open
    return "GO", (f"all {len(judged)} criteria are met",)


def _summary(variant: VariantEvidence, evaluation: EvaluationSettings) -> VariantSummary:
    rows, _ = usable_rows(variant)
    described = variant.description or {}
    rule = described.get("record_rule") and RecordRule.model_validate(described["record_rule"])
    return VariantSummary(
        variant=variant.variant,
        dna_name=variant.dna_name,
        protein_name=variant.protein_name,
        dna_encoder=variant.encoder_name("dna"),
        protein_encoder=variant.encoder_name("protein"),
        description=variant.description,
        problems=variant.problems,
        performance=None if rows is None else performance(rows, described.get("temperature"), evaluation, rule),
    )


def canonical(value: object, indent: int | None = None) -> str:
    """JSON with sorted keys, numbers that are not finite as null; equal values, equal bytes."""
    return json.dumps(plain(value), sort_keys=True, indent=indent, ensure_ascii=False, allow_nan=False)


def not_measured(decision: Decision) -> list[str]:
    """Each limit as a sentence."""
    described = [variant.description for variant in decision.variants.values() if variant.description]
    limits = [f"The models themselves: {MINIATURE_WARNING}."] if decision.miniatures else []
    limits += [f"Chunk lengths other than {one['chunk_length']} nt." for one in described[:1]]
    limits += [
        "Whether calls of whole chunks and records are good enough: they are shown, but criteria judge frames only.",
        "Variation between trainings: each classifier was trained with one seed; "
        "intervals cover the choice of test records only.",
        "Speed and memory elsewhere: the benchmark's figures hold for the machine, the precision and the sequences "
        "that they were taken with; peak memory has no interval.",
        "Virus and host groups that have no test record.",
    ]
    if not decision.ablations:
        limits.append("What each encoder alone is worth: no ablations of today's features are stored.")
    groups = decision.comparison.groups if decision.comparison else ()
    named: dict[str, list[GroupDrop]] = {
        f"Groups of fewer than {decision.settings['min_group_clusters']} clusters, in which a loss would not be seen": [
            one for one in groups if one.status == "too few clusters"
        ],
        "Groups that showed no loss, but whose interval does not rule out one beyond the margin": [
            one
            for one in groups
            if one.status == "no loss shown" and (one.drop.high or 0.0) > decision.settings["max_group_drop"]
        ],
    }
    for what, found in named.items():
        if found:
            names = ", ".join(f"{one.label} / {one.group} ({one.clusters:,} clusters)" for one in found)
            limits.append(f"{what}: {names}.")
    limits += [
        f"What {variant.variant} was trained on: its classifier was imported ({variant.description['origin']}), "
        "so the test records may have been among its training rows, which flatters it."
        for variant in decision.variants.values()
        if variant.description and variant.description.get("origin")
    ]
    return limits
