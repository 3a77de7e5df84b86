"""Group `migration`: the encoders measured side by side, and the decision with its report."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from virnuc_assets.assets.per_shard import OWNERS, peak_memory_mb
from virnuc_assets.assets.recipes import branch_fingerprints
from virnuc_assets.assets.reference import current_features, current_frames, current_split, evaluation_recipe
from virnuc_assets.checks import result
from virnuc_assets.encoders.registry import BRANCHES, Branch
from virnuc_assets.errors import VirnucError
from virnuc_assets.launch import GPU_OP_TAGS, GPU_POOL
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import is_made_by, read_table, written_aside
from virnuc_assets.tracking import MlflowTracking

if TYPE_CHECKING:
    from virnuc_assets.migration.evidence import BranchEvidence, Evidence

GROUP = "migration"
BENCHMARK = "encoder_benchmark"
DECISION = "migration_decision"


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """Benchmark and decision."""
    return [_benchmark_asset(workspace), _decision_asset(workspace)]


def _benchmark_asset(workspace: Workspace) -> dg.AssetsDefinition:
    settings = workspace.settings

    @dg.asset(
        name=BENCHMARK,
        deps=[REFERENCE.key("translated_proteins")],
        group_name=GROUP,
        kinds={"json", "pytorch"},
        owners=OWNERS,
        code_version="1",
        pool=GPU_POOL,
        op_tags=GPU_OP_TAGS,
    )
    def encoder_benchmark(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """Sequences a second and peak memory of every language model, on the same reference frames.

        One after the other, each in a fresh process in the same precision; the median of several passes counts.
        """
        from virnuc_assets.encoders.benchmark import benchmark_encoders

        tables = current_frames(context.instance, workspace)
        frames = _benchmark_rows([read_table(path) for path in tables.values()], settings.benchmark.rows)
        measured = benchmark_encoders(
            _language_models(workspace),
            workspace.layout.checkpoints,
            settings.encoding,
            frames,
            settings.benchmark.repeats,
        )
        content = {
            "encoders": _fingerprints(workspace),
            "settings": _benchmark_settings(workspace),
            "measured": measured,
        }
        path = workspace.layout.whole(BENCHMARK, ".json")
        with written_aside(path) as aside:
            aside.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        rates = {
            f"{slot}_sequences_per_s": round(float(found["sequences_per_s"]), 1) for slot, found in measured.items()
        }
        metadata: dict[str, Any] = {
            **rates,
            "measured": measured,
            "peak_memory_mb": peak_memory_mb(),
            "file": dg.MetadataValue.path(path),
        }
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(digest_of(content)))

    return encoder_benchmark


def _language_models(workspace: Workspace) -> dict[str, Any]:
    """Encoders by slot, without the computed ones."""
    specs = {slot: workspace.encoder(slot) for slot in REFERENCE.slots}
    return {slot: spec for slot, spec in specs.items() if spec.architecture != "kmer"}


def _benchmark_settings(workspace: Workspace) -> dict[str, Any]:
    """The settings that a measurement follows from."""
    settings = workspace.settings
    return {"benchmark": settings.benchmark.model_dump(), "encoding": settings.encoding.model_dump()}


def _fingerprints(workspace: Workspace) -> dict[str, Mapping[str, str]]:
    """Fingerprints of all encoders as they are today, by slot."""
    found: dict[str, Mapping[str, str]] = {}
    for branch in BRANCHES.values():
        sides = branch_fingerprints(workspace, branch)
        found |= {branch.dna: sides["dna"], branch.protein: sides["protein"]}
    return found


def _benchmark_rows(tables: list[Any], rows: int) -> dict[str, list[str]]:
    """Frames drawn evenly over all shards, at most `rows`."""
    import pyarrow as pa

    frames = pa.concat_tables(tables)
    step = max(1, frames.num_rows // rows)
    chosen = frames.take(list(range(0, frames.num_rows, step))[:rows])
    return {name: chosen.column(name).to_pylist() for name in ("nucleotides", "protein")}


def _decision_asset(workspace: Workspace) -> dg.AssetsDefinition:
    @dg.asset(
        name=DECISION,
        deps=[*(f"{branch}_evaluation" for branch in BRANCHES), BENCHMARK],
        group_name=GROUP,
        kinds={"html", "mlflow"},
        owners=OWNERS,
        code_version="1",
    )
    def migration_decision(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """May FastESM2_650 replace ESM2-3B here? GO, NO-GO, or NO DECISION with each missing piece named.

        Criteria are those of virnuc.toml; evidence is what the evaluations and the benchmark stored. Missing or stale
        evidence never fails this asset: it is NO DECISION. Where a step before it fails, Dagster skips it; the sensor
        `decision_after_failure` then runs it by itself, so that no older verdict stands.
        """
        from virnuc_assets.migration.report import markdown_summary, render_html
        from virnuc_assets.migration.verdict import decide

        evidence = gather_evidence(context.instance, workspace)
        decision = decide(evidence, workspace.settings.decision)
        params = {"settings_digest": decision.settings_digest, **decision.settings}
        with tracking.run("migration decision", {"outcome": decision.outcome}, params) as run_id:
            values = {criterion.name: criterion.value for criterion in decision.criteria if criterion.value is not None}
            tracking.log_epoch(0, values)
        link = tracking.link(run_id)
        files = {
            workspace.layout.whole(DECISION, ".json"): decision.to_json(),
            workspace.layout.whole(DECISION, ".html"): render_html(
                decision, evidence, [("MLflow run", str(link.url)), ("Dagster", workspace.settings.servers.dagster_url)]
            ),
        }
        for path, text in files.items():
            with written_aside(path) as aside:
                aside.write_text(text, encoding="utf-8")
        metadata = {
            "outcome": decision.outcome,
            "reasons": list(decision.reasons),
            "summary": dg.MetadataValue.md(markdown_summary(decision)),
            "criteria": {criterion.name: criterion.outcome for criterion in decision.criteria},
            "report": dg.MetadataValue.path(workspace.layout.whole(DECISION, ".html")),
            "mlflow_run": link,
        }
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(digest_of(decision.to_json())))

    return migration_decision


def gather_evidence(instance: dg.DagsterInstance, workspace: Workspace) -> "Evidence":
    """What lies on disk for a decision; what is absent or stale is named in it."""
    from virnuc_assets.migration.evidence import Evidence

    settings = workspace.settings.decision
    measured, problems = _stored_benchmark(workspace)
    return Evidence(
        candidate=_branch_evidence(instance, workspace, workspace.branch(settings.candidate)),
        baseline=_branch_evidence(instance, workspace, workspace.branch(settings.baseline)),
        floor=_branch_evidence(instance, workspace, workspace.branch(settings.floor)),
        benchmark=measured,
        benchmark_problems=tuple(problems),
        environment={"profile": workspace.settings.profile},
    )


def _branch_evidence(instance: dg.DagsterInstance, workspace: Workspace, branch: Branch) -> "BranchEvidence":
    from virnuc_assets.classifier.checkpoint import load_classifier
    from virnuc_assets.classifier.fitting import data_digest
    from virnuc_assets.migration.evidence import BranchEvidence

    evaluation = workspace.layout.whole(f"{branch.name}_evaluation")
    absent = BranchEvidence(branch.name, branch.dna, branch.protein)
    try:
        predictions = read_table(evaluation, evaluation_schema())
        _, description = load_classifier(workspace.layout.classifier(branch.name))
        features, split = current_features(instance, workspace, branch), current_split(instance, workspace)
        today = data_digest(features, split, workspace.settings.training)
    except VirnucError as error:  # absent or stale evidence is what the decision has to tell
        return BranchEvidence(**{**vars(absent), "problems": (f"{branch.name}: {error}",)})
    problems = []
    if not is_made_by(evaluation, evaluation_recipe(features, split, description.weights_sha256)):
        problems.append(
            f"{branch.name}_evaluation is stale: not of today's classifier, split and features; materialize it"
        )
    if description.data_digest != today:
        problems.append(f"{branch.name}_classifier is stale: trained on other rows than today's; materialize it")
    facts = {
        "predictions": predictions,
        "description": description.model_dump(mode="json"),
        "problems": tuple(problems),
    }
    return BranchEvidence(**{**vars(absent), **facts})


def _stored_benchmark(workspace: Workspace) -> tuple[Mapping[str, Mapping[str, Any]] | None, list[str]]:
    path = workspace.layout.whole(BENCHMARK, ".json")
    if not path.is_file():
        return None, [f"{BENCHMARK} has not been materialized"]
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        fingerprints = _fingerprints(workspace)
    except VirnucError as error:  # a checkpoint that is gone: what was measured cannot be compared with it
        return content["measured"], [f"{BENCHMARK}: {error}"]
    stale = [slot for slot, today in fingerprints.items() if content["encoders"].get(slot) != today]
    problems = [f"{BENCHMARK} is stale: it measured another {slot} than today's; materialize it" for slot in stale]
    if content["settings"] != _benchmark_settings(workspace):
        problems.append(f"{BENCHMARK} is stale: measured by other benchmark or encoding settings; materialize it")
    return content["measured"], problems


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """Checks of the benchmark and of the decision."""

    @dg.asset_check(asset=BENCHMARK)
    def both_sides_were_measured_alike() -> dg.AssetCheckResult:
        """All encoders were measured on equally many rows, in one precision, on one device."""
        measured, problems = _stored_benchmark(workspace)
        kinds = {(found["sequences"], found["precision"], found["device"]) for found in (measured or {}).values()}
        faults = problems if len(kinds) == 1 else [*problems, f"measured unlike: {sorted(map(str, kinds))}"]
        return result({BENCHMARK: faults} if faults else {}, encoders=len(measured or {}))

    @dg.asset_check(asset=DECISION)
    def decision_rests_on_complete_evidence() -> dg.AssetCheckResult:
        """The stored decision is GO or NO-GO; NO DECISION names what is missing."""
        stored = json.loads(workspace.layout.whole(DECISION, ".json").read_text(encoding="utf-8"))
        faults = stored["reasons"] if stored["outcome"] == "NO DECISION" else []
        return result({DECISION: faults} if faults else {}, outcome=stored["outcome"])

    return [both_sides_were_measured_alike, decision_rests_on_complete_evidence]
