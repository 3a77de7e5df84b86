"""Gathers what lies on disk for a decision; what is absent, altered or stale is named, never raised."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.ablations import current_ablations
from virnuc_assets.assets.benchmark import stored_benchmark
from virnuc_assets.assets.reference import current_features, current_split, evaluation_recipe
from virnuc_assets.assets.virnucpro import imported_evidence
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import is_made_by, read_table, require_content

if TYPE_CHECKING:
    from virnuc_assets.migration.evidence import Evidence, VariantEvidence


def gather_evidence(instance: dg.DagsterInstance, workspace: Workspace) -> Evidence:
    """What a decision is computed from today."""
    from virnuc_assets.migration.bundle import library_versions
    from virnuc_assets.migration.evidence import Evidence

    settings = workspace.settings.decision
    measured, problems = stored_benchmark(workspace)
    found = {name: _variant_evidence(instance, workspace, workspace.variant(name)) for name in settings.variants}
    beside = [found[name] for name in settings.beside]
    if workspace.settings.virnucpro is not None:
        beside.append(imported_evidence(instance, workspace))
    return Evidence(
        candidate=found[settings.candidate],
        baseline=found[settings.baseline],
        floor=found[settings.floor],
        beside=tuple(beside),
        ablations=_ablations(instance, workspace),
        benchmark=measured,
        benchmark_problems=tuple(problems),
        environment={
            "profile": workspace.settings.profile,
            "python": platform.python_version(),
            **library_versions(),
        },
    )


def _variant_evidence(instance: dg.DagsterInstance, workspace: Workspace, variant: Variant) -> VariantEvidence:
    from virnuc_assets.classifier.checkpoint import load_classifier
    from virnuc_assets.classifier.training import data_digest
    from virnuc_assets.migration.evidence import VariantEvidence

    evaluation = workspace.layout.whole(f"{variant.name}_evaluation")
    absent = VariantEvidence(variant.name, variant.dna, variant.protein)
    try:
        predictions = read_table(evaluation, evaluation_schema())
        _, description = load_classifier(workspace.layout.classifier(variant.name))
        features, split = current_features(instance, workspace, variant), current_split(instance, workspace)
        today = data_digest(features, split, workspace.settings.training)
        for table in (evaluation, split, *features.values()):
            require_content(table)
    except VirnucError as error:  # absent or stale evidence is what the decision has to tell
        return VariantEvidence(**{**vars(absent), "problems": (f"{variant.name}: {error}",)})
    problems = []
    if not is_made_by(evaluation, evaluation_recipe(features, split, description.weights_sha256)):
        problems.append(
            f"{variant.name}_evaluation is stale: not of today's classifier, split and features; materialize it"
        )
    if description.data_digest != today:
        problems.append(f"{variant.name}_classifier is stale: trained on other rows than today's; materialize it")
    facts = {
        "predictions": predictions,
        "description": description.model_dump(mode="json"),
        "problems": tuple(problems),
    }
    return VariantEvidence(**{**vars(absent), **facts})


def _ablations(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, pa.Table]:
    """Ablations that are made from today's features; nothing is judged by them, so their absence is no gap."""
    try:
        return current_ablations(instance, workspace)
    except VirnucError:
        return {}
