"""Group `migration`: the encoders measured side by side, and the decision with its report."""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from virnuc_assets.assets.ablations import ABLATIONS
from virnuc_assets.assets.benchmark import BENCHMARK, MIGRATION_GROUP, benchmark_asset, benchmark_check
from virnuc_assets.assets.evidence import gather_evidence
from virnuc_assets.assets.virnucpro import NAME as IMPORTED
from virnuc_assets.checks import result
from virnuc_assets.defs.automation import decision_condition
from virnuc_assets.defs.sharded_asset import DATA_VERSION, OWNERS
from virnuc_assets.defs.whole_asset import code_version, inputs_of, latest, whole_result
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.tracking import MlflowTracking

if TYPE_CHECKING:
    from virnuc_assets.migration.decision import Decision
    from virnuc_assets.migration.evidence import Evidence

DECISION = "migration_decision"


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """Benchmark and decision."""
    return [benchmark_asset(workspace), _decision_asset(workspace)]


def _decision_asset(workspace: Workspace) -> dg.AssetsDefinition:
    settings = workspace.settings
    evaluated = [variant.name for variant in workspace.variants()] + ([IMPORTED] if settings.virnucpro else [])

    @dg.asset(
        name=DECISION,
        deps=[*(f"{name}_evaluation" for name in evaluated), ABLATIONS, BENCHMARK],
        group_name=MIGRATION_GROUP,
        kinds={"html", "mlflow"},
        owners=OWNERS,
        code_version=code_version("3", settings.decision, settings.evaluation),
        automation_condition=decision_condition(),
    )
    def migration_decision(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """May FastESM2_650 replace ESM2-3B here? GO, NO-GO, or NO DECISION with each missing piece named.

        Criteria are those of virnuc.toml; evidence is what the evaluations and the benchmark stored. Missing or stale
        evidence never fails this asset: it is NO DECISION. Where a step before it fails, Dagster skips it; its
        automation condition then requests it by itself, so that no older verdict stands. Evidence, tables and pages are
        in one folder, from which `virnuc decide --from` computes all of it again.
        """
        from virnuc_assets.reports.decision_report import markdown_summary

        inputs, evidence = inputs_of(context), gather_evidence(context.instance, workspace)
        basis = digest_of([evidence.digest(), context.assets_def.code_versions_by_key[context.asset_key]])
        folder, made = workspace.layout.whole(DECISION).parent, latest(context.instance, context.asset_key)
        written = {name: value.value for name, value in made.metadata.items()} if made else {}
        if made and (written.get("basis"), written.get("files")) == (basis, _files_digest(folder)):
            return whole_result(inputs, (made.tags or {})[DATA_VERSION], made.metadata)  # same evidence and criteria
        decision, run_id = _decide(tracking, workspace, evidence, folder, context.run.run_id)
        metadata = {
            "outcome": decision.outcome,
            "reasons": list(decision.reasons),
            "summary": dg.MetadataValue.md(markdown_summary(decision)),
            "criteria": {criterion.name: criterion.outcome for criterion in decision.criteria},
            "settings_digest": decision.settings_digest,
            "basis": basis,
            "files": _files_digest(folder),
            "report": dg.MetadataValue.path(str(workspace.layout.whole(DECISION, ".html"))),
            "mlflow_run": tracking.link(run_id),
        }
        return whole_result(inputs, digest_of(decision.to_json()), metadata)

    return migration_decision


def _decide(
    tracking: MlflowTracking, workspace: Workspace, evidence: "Evidence", folder: Path, dagster_run_id: str
) -> tuple["Decision", str]:
    """Write the decision's folder, log it in an MLflow run and move the aliases; returns the decision and the run."""
    from virnuc_assets.reports.decision_bundle import Bundle, write_bundle

    settings, runs = workspace.settings, _training_runs(tracking, evidence)
    with tracking.run("migration decision", {"dagster.run_id": dagster_run_id}, {}) as run_id:
        links = {"MLflow run of the decision": run_id}
        links |= {f"MLflow run of {role}'s classifier": found for role, found in runs.items()}
        addresses = [(text, str(tracking.link(found).url)) for text, found in links.items()]
        addresses.append(("Dagster run", f"{settings.servers.dagster_url}/runs/{dagster_run_id}"))
        decision = write_bundle(folder, Bundle(evidence, settings.decision, settings.evaluation, tuple(addresses)))
        _track(tracking, decision, runs, run_id)
    _move_aliases(tracking, decision, evidence)
    return decision, run_id


def _files_digest(folder: Path) -> str:
    """Digest of the files of a decision's folder; of none where there is no folder."""
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    return digest_of([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files if path.is_file()])


def _training_runs(tracking: MlflowTracking, evidence: "Evidence") -> dict[str, str]:
    """Role → MLflow run that trained its classifier, where there is one."""
    digests = {r: b.description["weights_sha256"] for r, b in evidence.variants.items() if b.description}
    found = {role: tracking.find_training(digest) for role, digest in digests.items()}
    return {role: run_id for role, run_id in found.items() if run_id is not None}


def _track(tracking: MlflowTracking, decision: "Decision", runs: dict[str, str], run_id: str) -> None:
    """The open run tells the verdict and points at the classifiers' runs, and they at it."""
    tracking.log_params({"settings_digest": decision.settings_digest, **decision.settings})
    tracking.log_epoch(0, {c.name: c.value for c in decision.criteria if c.value is not None})
    tracking.tag(run_id, {"outcome": decision.outcome, **{f"virnuc.run.{role}": found for role, found in runs.items()}})
    for found in runs.values():
        tracking.tag(found, {"virnuc.run.decision": run_id})


def _move_aliases(tracking: MlflowTracking, decision: "Decision", evidence: "Evidence") -> None:
    """`candidate` and `baseline` are what was compared; `serving` moves to the candidate on GO.

    Where nothing serves yet, a NO-GO leaves the baseline serving; NO DECISION moves nothing that serves.
    """
    described = {role: variant.description for role, variant in evidence.variants.items() if variant.description}
    digests = {role: str(description["weights_sha256"]) for role, description in described.items()}
    for role in ("candidate", "baseline"):
        if role in digests and tracking.version_of(digests[role]):
            tracking.move_alias(role, digests[role])
    if decision.outcome == "GO":
        tracking.move_alias("serving", digests["candidate"])
    elif decision.outcome == "NO-GO" and tracking.digest_of_alias("serving") is None:
        tracking.move_alias("serving", digests["baseline"])


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """Checks of the benchmark and of the decision."""

    @dg.asset_check(asset=DECISION)
    def decision_rests_on_complete_evidence() -> dg.AssetCheckResult:
        """The stored decision is GO or NO-GO; NO DECISION names what is missing."""
        stored = json.loads(workspace.layout.whole(DECISION, ".json").read_text(encoding="utf-8"))
        faults = stored["reasons"] if stored["outcome"] == "NO DECISION" else []
        return result({DECISION: faults} if faults else {}, outcome=stored["outcome"])

    @dg.asset_check(asset=DECISION)
    def decision_is_reproduced() -> dg.AssetCheckResult:
        """Computed again from the stored evidence and prediction tables, every page is the same, byte for byte."""
        from virnuc_assets.reports.decision_bundle import recompute

        _, faults = recompute(workspace.layout.whole(DECISION).parent)
        return result({DECISION: faults} if faults else {})

    @dg.asset_check(asset=DECISION)
    def serving_variant_is_promoted(tracking: MlflowTracking) -> dg.AssetCheckResult:
        """The classifier that calls samples is the one that the registry's alias `serving` names.

        The settings say which variant serves; the alias says which one a decision, or a person, let serve.
        """
        from virnuc_assets.classifier.checkpoint import ClassifierMismatch, load_classifier

        variant = workspace.settings.serving.variant
        promoted = tracking.digest_of_alias("serving")
        told = "no classifier is promoted yet" if promoted is None else f"classifier {promoted} is promoted"
        try:
            serves: str | None = load_classifier(workspace.layout.classifier(variant))[1].weights_sha256
        except ClassifierMismatch as error:  # the decision has told so already; it is no reason for this run to fail
            serves, told = None, f"{told}; {error}"
        return dg.AssetCheckResult(
            passed=serves is not None and serves == promoted,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{variant} serves by virnuc.toml, with classifier {serves or 'none'}; {told}",
        )

    checks = [decision_rests_on_complete_evidence, decision_is_reproduced, serving_variant_is_promoted]
    return [benchmark_check(workspace), *checks]
