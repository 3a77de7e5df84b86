"""The decision: evidence and settings in, GO, NO-GO or NO DECISION with its reasons out; a pure function."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from virnuc_assets.migration import criteria, soundness
from virnuc_assets.migration.comparison import Comparison, compare
from virnuc_assets.migration.criterion import Criterion
from virnuc_assets.migration.evidence import BranchEvidence, Evidence
from virnuc_assets.migration.pairing import pair, usable_rows
from virnuc_assets.settings import DecisionSettings

Outcome = Literal["GO", "NO-GO", "NO DECISION"]


@dataclass(frozen=True)
class BranchSummary:
    """What the report tells of one branch; `metrics` is None where its predictions are absent or unusable."""

    branch: str
    dna_slot: str
    protein_slot: str
    dna_encoder: str
    protein_encoder: str
    description: Mapping[str, Any] | None
    problems: tuple[str, ...]
    metrics: Mapping[str, float] | None


@dataclass(frozen=True)
class Decision:
    """The verdict with everything it rests on; holds only plain values, so it can be written and compared.

    Attributes:
        outcome: GO if all criteria are met, NO-GO if one fails, NO DECISION if any evidence is missing.
        reasons: each missing piece of evidence, or each failed criterion, or that all are met.
        criteria: all criteria, in the order of the report.
        branches: role ("candidate", "baseline", "floor") → summary with the test metrics.
        comparison: candidate against baseline; None where the rows could not be paired.
        floor_comparison: candidate against floor; None where the rows could not be paired.
        benchmark: as given in the evidence.
        miniatures: names of encoders whose weights are random.
        settings: the criteria's thresholds, as plain values.
        settings_digest: SHA-256 of the settings.
        environment: as given in the evidence.
    """

    outcome: Outcome
    reasons: tuple[str, ...]
    criteria: tuple[Criterion, ...]
    branches: Mapping[str, BranchSummary]
    comparison: Comparison | None
    floor_comparison: Comparison | None
    benchmark: Mapping[str, Mapping[str, Any]] | None
    miniatures: tuple[str, ...]
    settings: Mapping[str, Any]
    settings_digest: str
    environment: Mapping[str, str]

    def to_json(self) -> str:
        """Canonical JSON: sorted keys, numbers that are not finite as null; equal decisions, equal bytes."""
        return _canonical(dataclasses.asdict(self), indent=2) + "\n"


def decide(evidence: Evidence, settings: DecisionSettings) -> Decision:
    """Judge all criteria; lack of evidence never raises, it is named and makes NO DECISION."""
    comparison, gaps = _compare(evidence.candidate, evidence.baseline, settings)
    floor_comparison, floor_gaps = _compare(evidence.candidate, evidence.floor, settings)
    judged = (
        criteria.accuracy_drop_within_margin(comparison, gaps, settings),
        criteria.f1_drop_within_margin(comparison, gaps, settings),
        criteria.no_group_worse_than_margin(comparison, gaps, settings),
        criteria.floor_beaten(floor_comparison, floor_gaps, settings),
        criteria.speedup_reached(evidence, settings),
        criteria.memory_within_ratio(evidence, settings),
        soundness.dims_match_encoders(evidence),
        soundness.same_environment(evidence),
        *(soundness.branch_is_current(role, branch) for role, branch in evidence.branches.items()),
    )
    outcome, reasons = conclude(judged)
    plain = settings.model_dump(mode="json")
    return Decision(
        outcome=outcome,
        reasons=reasons,
        criteria=judged,
        branches={role: _summary(branch) for role, branch in evidence.branches.items()},
        comparison=comparison,
        floor_comparison=floor_comparison,
        benchmark=evidence.benchmark,
        miniatures=evidence.miniatures,
        settings=plain,
        settings_digest=hashlib.sha256(_canonical(plain).encode()).hexdigest(),
        environment=evidence.environment,
    )


def conclude(judged: tuple[Criterion, ...]) -> tuple[Outcome, tuple[str, ...]]:
    """Outcome and reasons from the criteria: what is missing comes before what failed."""
    missing = tuple(dict.fromkeys(piece for criterion in judged for piece in criterion.missing))
    if missing:
        return "NO DECISION", missing
    failed = tuple(f"{c.name} is not met: {c.explanation}" for c in judged if c.outcome != "met")
    if failed:
        return "NO-GO", failed
    return "GO", (f"all {len(judged)} criteria are met",)


def _compare(
    candidate: BranchEvidence, other: BranchEvidence, settings: DecisionSettings
) -> tuple[Comparison | None, tuple[str, ...]]:
    paired, gaps = pair(candidate, other)
    return (None, gaps) if paired is None else (compare(paired, other.branch, settings), ())


def _summary(branch: BranchEvidence) -> BranchSummary:
    rows, _ = usable_rows(branch)
    metrics = None
    if rows is not None:
        # Imported here: scikit-learn is heavy, and reading a stored decision does not need it.
        from virnuc_assets.classifier.metrics import classification_metrics

        labels = np.array(rows["label"].to_pylist()) == "viral"  # (n,)
        scores = np.stack([rows["score_other"].to_numpy(), rows["score_virus"].to_numpy()], axis=1)  # (n, 2)
        metrics = classification_metrics(labels, scores)
    return BranchSummary(
        branch=branch.branch,
        dna_slot=branch.dna_slot,
        protein_slot=branch.protein_slot,
        dna_encoder=branch.encoder_name("dna"),
        protein_encoder=branch.encoder_name("protein"),
        description=branch.description,
        problems=branch.problems,
        metrics=metrics,
    )


def _canonical(value: object, indent: int | None = None) -> str:
    return json.dumps(_plain(value), sort_keys=True, indent=indent, ensure_ascii=False, allow_nan=False)


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
