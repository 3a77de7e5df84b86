"""The decision on a project's tables, without what comes of it."""

from __future__ import annotations

import json
from typing import Any

from virnuc_assets.defs.assets.migration import gather_evidence
from virnuc_assets.migration import decision as verdict
from virnuc_assets_tests.assets.project import Project


def judged(project: Project) -> dict[str, Any]:
    """The decision on the stored evidence, as the asset makes it, without its pages, its run and its checks."""
    settings = project.settings
    evidence = gather_evidence(project.instance, project.workspace)
    decision: dict[str, Any] = json.loads(verdict.decide(evidence, settings.decision, settings.evaluation).to_json())
    return decision


def named(decision: dict[str, Any], *words: str) -> bool:
    """Whether one reason has all the words, and the outcome is NO DECISION."""
    assert decision["outcome"] == "NO DECISION"
    return any(all(word in reason for word in words) for reason in decision["reasons"])
