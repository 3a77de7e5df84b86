"""Group `migration`: the encoders measured on this machine, the evidence, and the decision with its report."""

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.defs.assets.classifiers import ABLATIONS, current_ablations
from virnuc_assets.defs.assets.finetuning import asset_name
from virnuc_assets.defs.assets.frame_rules import FRAME_RULES, stored_frame_rules
from virnuc_assets.defs.assets.virnucpro import NAME as IMPORTED
from virnuc_assets.defs.assets.virnucpro import imported_provenance, imported_variant
from virnuc_assets.defs.automation import decision_condition
from virnuc_assets.defs.launchers.steps import GPU_POOL, gpu_op_tags
from virnuc_assets.defs.metadata import result, shown_pictures, shown_table
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import (
    FRAMES,
    current_features,
    current_frames,
    current_split,
    encoder_fingerprint,
    encoder_version,
    evaluation_provenance,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import (
    DATA_VERSION,
    OWNERS,
    code_version,
    inputs_of,
    latest,
    peak_memory_mb,
    whole_result,
)
from virnuc_assets.defs.tracking import MlflowTracking, Table
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.evidence import Evidence, VariantEvidence
from virnuc_assets.storage.atomic import atomic_write
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import content_digest, is_made_by, read_rows, read_table, require_content
from virnuc_assets.workstation.device_lock import DeviceLock

if TYPE_CHECKING:
    from virnuc_assets.classifier.checkpoint import ClassifierDescription
    from virnuc_assets.migration.decision import Decision

GROUP = "migration"
BENCHMARK = "encoder_benchmark"
DECISION = "migration_decision"
_ROUNDS = "round_seconds"  # of an encoder's measurement; shown is only how many there were


def build(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """Benchmark and decision, with their checks."""
    decision = [_decision_asset(workspace), *_decision_checks(workspace)]
    return [_benchmark_asset(workspace), _benchmark_check(workspace), *decision]


class MeasureEncoders(dg.Config):
    """Whether to measure again what was measured, e.g. because the machine was busy."""

    again: bool = False


def _benchmark_asset(workspace: Workspace) -> dg.AssetsDefinition:
    settings, layout = workspace.settings, workspace.layout
    encoders = {name: encoder_version(workspace, name) for name in workspace.encoder_names()}

    @dg.asset(
        name=BENCHMARK,
        deps=[REFERENCE.key(FRAMES), *map(asset_name, settings.finetuning.encoders)],
        group_name=GROUP,
        kinds={"json", "pytorch"},
        owners=OWNERS,
        code_version=digest_of(["3", _benchmark_settings(workspace), encoders]),
        pool=GPU_POOL,
        op_tags=gpu_op_tags(settings),
    )
    def encoder_benchmark(context: dg.AssetExecutionContext, config: MeasureEncoders) -> dg.MaterializeResult[Any]:
        """Sequences a second and peak memory of every language model, on the same reference frames.

        Each in a fresh process, in the same precision; they take turns in short rounds. What was
        measured of today's encoders by today's settings is kept, unless the run's config says `again: true`.

        If its check fails, an encoder or a setting changed since: materialize it again on an idle machine.
        """
        from virnuc_assets.migration.benchmark import benchmark_encoders

        inputs, path = inputs_of(context), layout.whole(BENCHMARK, ".json")
        stored, problems = stored_benchmark(workspace)
        if config.again or stored is None or problems:
            tables = list(current_frames(context.instance, workspace).values())
            frames = _benchmark_rows(tables, settings.benchmark.rows)
            models = {name: workspace.encoder(name) for name in workspace.encoder_names()}
            with DeviceLock(layout.locks, settings.encoding.device, context.log.info).computing():
                stored = benchmark_encoders(models, layout.checkpoints, settings.encoding, frames, settings.benchmark)
            made_of = {"encoders": _fingerprints(workspace), "settings": _benchmark_settings(workspace)}
            content = {**made_of, "measured": stored}
            text = json.dumps({**content, "digest": digest_of(content)}, indent=2, sort_keys=True)
            with atomic_write(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")
        metadata = {
            **{f"{name}_sequences_per_s": round(float(one["sequences_per_s"]), 1) for name, one in stored.items()},
            "measured": shown_table(
                {"name": name, **{key: one[key] for key in one if key != _ROUNDS}, "rounds": len(one[_ROUNDS])}
                for name, one in stored.items()
            ),
            "file": dg.MetadataValue.path(str(path)),
            "peak_memory_mb": peak_memory_mb(),
        }
        return whole_result(inputs, digest_of(stored), metadata)

    return encoder_benchmark


def _benchmark_settings(workspace: Workspace) -> dict[str, Any]:
    settings = workspace.settings
    return {"benchmark": settings.benchmark.model_dump(), "encoding": settings.encoding.model_dump()}


def _fingerprints(workspace: Workspace) -> dict[str, Mapping[str, str]]:
    return {name: encoder_fingerprint(workspace, name) for name in workspace.encoder_names()}


def _benchmark_rows(tables: list[Path], rows: int) -> dict[str, list[str]]:
    """Frames drawn evenly over all shards, at most `rows`."""
    names = ["nucleotides", "protein"]
    step, start, chosen = max(1, sum(map(read_rows, tables)) // rows), 0, []
    for path in tables:
        table = read_table(path, columns=names)
        chosen.append(table.take(pa.array(range(-start % step, table.num_rows, step), pa.int64())))  # may be none
        start += table.num_rows
    drawn: dict[str, list[str]] = pa.concat_tables(chosen)[:rows].to_pydict()
    return drawn


def stored_benchmark(workspace: Workspace) -> tuple[Mapping[str, Mapping[str, Any]] | None, list[str]]:
    """What was measured, None if nothing is stored, and what is absent, altered or stale of it."""
    path = workspace.layout.whole(BENCHMARK, ".json")
    if not path.is_file():
        return None, [f"{BENCHMARK} has not been materialized"]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        digest = content.pop("digest")
    except (ValueError, KeyError, AttributeError) as error:
        return None, [f"{path}: not an encoder benchmark ({error!r}); materialize {BENCHMARK}"]
    if digest_of(content) != digest:
        return None, [f"{path}: altered since it was measured; materialize {BENCHMARK}"]
    try:
        fingerprints = _fingerprints(workspace)
    except VirnucError as error:  # a checkpoint that is gone: what was measured cannot be compared with it
        return content["measured"], [f"{BENCHMARK}: {error}"]
    stale = [name for name, today in fingerprints.items() if content["encoders"].get(name) != today]
    problems = [f"{BENCHMARK} is stale: it measured another {name} than today's; materialize it" for name in stale]
    if content["settings"] != _benchmark_settings(workspace):
        problems.append(f"{BENCHMARK} is stale: measured by other benchmark or encoding settings; materialize it")
    return content["measured"], problems


def _benchmark_check(workspace: Workspace) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=BENCHMARK)
    def both_sides_were_measured_alike() -> dg.AssetCheckResult:
        """All encoders were measured on equally many rows, in one precision, on one device."""
        measured, problems = stored_benchmark(workspace)
        kinds = {(found["sequences"], found["precision"], found["device"]) for found in (measured or {}).values()}
        faults = problems if len(kinds) == 1 else [*problems, f"measured unlike: {sorted(map(str, kinds))}"]
        return result({BENCHMARK: faults}, encoders=len(measured or {}))

    return both_sides_were_measured_alike


def gather_evidence(instance: dg.DagsterInstance, workspace: Workspace) -> Evidence:
    """The stored evidence for a decision today; what is absent, altered or stale is named, never raised."""
    from virnuc_assets.reports.decision_bundle import library_versions

    settings = workspace.settings.decision
    measured, problems = stored_benchmark(workspace)
    found = {name: variant_evidence(instance, workspace, workspace.variant(name)) for name in settings.variants}
    also_compared = [found[name] for name in settings.also_compared]
    if workspace.settings.virnucpro is not None:
        also_compared.append(variant_evidence(instance, workspace, imported_variant(workspace)))
    try:
        ablations = current_ablations(instance, workspace)
    except VirnucError:  # nothing is judged by them, so their absence is no gap
        ablations = {}
    try:
        frame_rules = stored_frame_rules(instance, workspace)
    except VirnucError:  # likewise
        frame_rules = None
    versions = {"profile": workspace.settings.profile, "python": platform.python_version(), **library_versions()}
    return Evidence(
        candidate=found[settings.candidate],
        baseline=found[settings.baseline],
        kmer_baseline=found[settings.kmer_baseline],
        also_compared=tuple(also_compared),
        ablations=ablations,
        frame_rules=frame_rules,
        benchmark=measured,
        benchmark_problems=tuple(problems),
        environment=versions,
    )


def variant_evidence(instance: dg.DagsterInstance, workspace: Workspace, variant: Variant) -> VariantEvidence:
    """Evaluation and classifier of a variant, one of the settings or the imported one."""
    from virnuc_assets.classifier.checkpoint import load_classifier

    names = (variant.name, variant.dna, variant.protein)
    evaluation = workspace.layout.evaluation(variant.name)
    try:
        predictions = read_table(evaluation, evaluation_schema())
        _, description = load_classifier(workspace.layout.classifier(variant.name))
        problems = _stale(instance, workspace, variant, evaluation, description)
        require_content(evaluation)
    except VirnucError as error:  # absent or stale evidence is what the decision has to say
        return VariantEvidence(*names, problems=(f"{variant.name}: {error}",))
    return VariantEvidence(*names, predictions, description.model_dump(mode="json"), tuple(problems))


def _stale(
    instance: dg.DagsterInstance,
    workspace: Workspace,
    variant: Variant,
    evaluation: Path,
    description: "ClassifierDescription",
) -> list[str]:
    """Names what of a variant was made from other inputs than today's; reads its inputs, as one may be altered."""
    from virnuc_assets.classifier.training import data_digest

    name = f"{variant.name}_evaluation"
    if variant.name == IMPORTED:
        current = is_made_by(evaluation, imported_provenance(instance, workspace))
        return [] if current else [f"{name} is stale: not of today's files, split and frames; materialize it"]
    features, split = current_features(instance, workspace, variant), current_split(instance, workspace)
    for table in (split, *features.values()):
        require_content(table)
    problems = []
    if not is_made_by(evaluation, evaluation_provenance(features, split, description.weights_sha256)):
        problems.append(f"{name} is stale: not of today's classifier, split and features; materialize it")
    if description.data_digest != data_digest(features, split, workspace.settings.training, workspace.settings.split):
        problems.append(f"{variant.name}_classifier is stale: trained on other rows than today's; materialize it")
    return problems


def _decision_asset(workspace: Workspace) -> dg.AssetsDefinition:
    settings = workspace.settings
    evaluated = [variant.name for variant in workspace.variants()] + ([IMPORTED] if settings.virnucpro else [])

    @dg.asset(
        name=DECISION,
        deps=[*(f"{name}_evaluation" for name in evaluated), ABLATIONS, FRAME_RULES, BENCHMARK],
        group_name=GROUP,
        kinds={"html", "mlflow"},
        owners=OWNERS,
        code_version=code_version("4", settings.decision, settings.evaluation),
        automation_condition=decision_condition(),
    )
    def migration_decision(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """May FastESM2_650 replace ESM2-3B here? GO, NO-GO, or NO DECISION with all that is missing named.

        Criteria are those of virnuc.toml; evidence is what the evaluations and the benchmark stored. Missing or stale
        evidence never fails this asset: it is NO DECISION. Where a step before it fails, Dagster skips it; its
        automation condition then requests it by itself, so that no older verdict remains. Evidence, tables and pages
        are in one folder, from which `virnuc decide --from` computes all of it again.

        If a check fails, read its faults: materialize what is missing or stale, or, where the pages are not
        reproduced, restore the folder or decide again.
        """
        from virnuc_assets.reports.decision_bundle import REPORT_FILE

        inputs, evidence = inputs_of(context), gather_evidence(context.instance, workspace)
        basis = digest_of([evidence.digest(), context.assets_def.code_versions_by_key[context.asset_key]])
        folder, made = workspace.layout.whole(DECISION).parent, latest(context.instance, context.asset_key)
        written = {name: value.value for name, value in made.metadata.items()} if made else {}
        if made and (written.get("basis"), written.get("files")) == (basis, _files_digest(folder)):
            return whole_result(inputs, (made.tags or {})[DATA_VERSION], made.metadata)  # same evidence and criteria
        decision, run_id = _decide(tracking, workspace, evidence, folder, context.run.run_id)
        metadata = {
            **_shown_decision(decision, evidence),
            "settings_digest": decision.settings_digest,
            "basis": basis,
            "files": _files_digest(folder),
            "report": dg.MetadataValue.path(str(workspace.layout.whole(DECISION, ".html"))),
            "open_report": tracking.link(run_id, REPORT_FILE),
            "mlflow_run": tracking.link(run_id),
        }
        return whole_result(inputs, digest_of(decision.to_json()), metadata)

    return migration_decision


def _shown_decision(decision: "Decision", evidence: Evidence) -> dict[str, Any]:
    """The verdict for its page; values of the criteria as numbers, which plot over time."""
    from virnuc_assets.reports.decision_report import curves, threshold_text, verdict

    values = {criterion.name: criterion.value for criterion in decision.criteria if criterion.value is not None}
    return {
        "outcome": decision.outcome,
        "summary": dg.MetadataValue.md(verdict(decision)),
        "criteria": shown_table(
            {"name": one.name, "outcome": one.outcome, "value": one.value, "low": one.low, "high": one.high}
            | {"rule": threshold_text(one)}
            for one in decision.criteria
        ),
        "criteria_met": sum(criterion.outcome == "met" for criterion in decision.criteria),
        **values,
        "curves": shown_pictures(curves(decision, evidence, legend=True)),
        "variants": shown_table(_shown_variants(decision)),
    }


def _shown_variants(decision: "Decision") -> Iterator[dict[str, Any]]:
    """By role: dims and revisions of the encoders, and how good the classifier is on the test rows."""
    from virnuc_assets.reports.decision_report import MAIN_METRICS, revision

    for role, variant in decision.variants.items():
        described, found = variant.description or {}, variant.performance
        yield {
            "role": role,
            "variant": variant.variant,
            "dna_encoder": variant.dna_encoder,
            "dna_dim": described.get("dna_dim"),
            "dna_revision": revision(variant, "dna"),
            "protein_encoder": variant.protein_encoder,
            "protein_dim": described.get("protein_dim"),
            "protein_revision": revision(variant, "protein"),
            **{name: found.levels["frame"][name] if found else None for name in MAIN_METRICS},
        }


def _decide(
    tracking: MlflowTracking, workspace: Workspace, evidence: Evidence, folder: Path, dagster_run_id: str
) -> tuple["Decision", str]:
    """Write the decision's folder, log it in an MLflow run and move the aliases; returns the decision and the run."""
    from virnuc_assets.reports.decision_bundle import REPORT_FILE, Bundle, write_bundle
    from virnuc_assets.reports.decision_report import verdict

    settings = workspace.settings
    digests = {
        role: str(variant.description["weights_sha256"])
        for role, variant in evidence.variants.items()
        if variant.description
    }
    trainings = {role: found for role, digest in digests.items() if (found := tracking.find_training(digest))}
    with tracking.run("migration decision", dagster_run_id, {}, {}) as run_id:
        links = {"MLflow run of the decision": run_id}
        links |= {f"MLflow run of {role}'s classifier": found for role, found in trainings.items()}
        addresses = [(text, tracking.address(found)) for text, found in links.items()]
        addresses.append(("Dagster run", tracking.dagster_run(dagster_run_id)))
        decision = write_bundle(folder, Bundle(evidence, settings.decision, settings.evaluation, tuple(addresses)))
        tracking.log_params({"settings_digest": decision.settings_digest, **decision.settings})
        tracking.log_epoch(0, {c.name: c.value for c in decision.criteria if c.value is not None})
        of_roles = {f"virnuc.run.{role}": found for role, found in trainings.items()}
        tracking.tag(run_id, {"outcome": decision.outcome, "mlflow.note.content": verdict(decision), **of_roles})
        names = [f"{one.variant}_evaluation" for one in evidence.variants.values() if one.predictions is not None]
        tables = [Table(name, content_digest(workspace.layout.whole(name)), "test") for name in names]
        tracking.log_tables(run_id, tables)
        tracking.log_files(run_id, {REPORT_FILE: (folder / REPORT_FILE).read_text(encoding="utf-8")})
        for found in trainings.values():
            tracking.tag(found, {"virnuc.run.decision": run_id})
    _move_aliases(tracking, decision.outcome, digests)
    return decision, run_id


def _files_digest(folder: Path) -> str:
    """Digest of the files of a decision's folder; of none where there is no folder."""
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    return digest_of([[path.name, hashlib.sha256(path.read_bytes()).hexdigest()] for path in files if path.is_file()])


def _move_aliases(tracking: MlflowTracking, outcome: str, digests: Mapping[str, str]) -> None:
    """`candidate` and `baseline` are what was compared; `serving` moves to the candidate on GO.

    Where nothing serves yet, a NO-GO leaves the baseline serving; NO DECISION moves nothing that serves.
    """
    for role in ("candidate", "baseline"):
        if role in digests and tracking.version_of(digests[role]):
            tracking.move_alias(role, digests[role])
    if outcome == "GO":
        tracking.move_alias("serving", digests["candidate"])
    elif outcome == "NO-GO" and tracking.digest_of_alias("serving") is None:
        tracking.move_alias("serving", digests["baseline"])


def stored_decision(workspace: Workspace) -> dict[str, Any]:
    """The decision as it is stored; refused where there is none, or its file is damaged."""
    path = workspace.layout.whole(DECISION, ".json")
    try:
        stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if missing := {"outcome", "reasons", "criteria", "variants"} - set(stored):
            raise ValueError(f"without {', '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError) as error:
        raise VirnucError(f"{path}: no stored decision ({error}); materialize {DECISION} again") from error
    return stored


def _decision_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    @dg.asset_check(asset=DECISION)
    def decision_rests_on_complete_evidence() -> dg.AssetCheckResult:
        """The stored decision is GO or NO-GO; NO DECISION is a warning that names what is missing."""
        try:
            stored = stored_decision(workspace)
        except VirnucError as error:
            return result({DECISION: [str(error)]})
        faults = stored["reasons"] if stored["outcome"] == "NO DECISION" else []
        return result({DECISION: faults}, dg.AssetCheckSeverity.WARN, outcome=stored["outcome"])

    @dg.asset_check(asset=DECISION)
    def decision_is_reproduced() -> dg.AssetCheckResult:
        """Computed again from the stored evidence and prediction tables, every page is the same, byte for byte."""
        from virnuc_assets.reports.decision_bundle import recompute

        _, faults = recompute(workspace.layout.whole(DECISION).parent)
        return result({DECISION: faults})

    @dg.asset_check(asset=DECISION)
    def serving_variant_is_promoted(tracking: MlflowTracking) -> dg.AssetCheckResult:
        """The classifier that calls samples is the one that the registry's alias `serving` names.

        The settings say which variant serves; the alias says which one a decision, or a person, let serve.
        """
        from virnuc_assets.classifier.checkpoint import ClassifierMismatch, load_classifier

        variant = workspace.settings.serving.variant
        promoted = tracking.digest_of_alias("serving")
        state = "no classifier is promoted yet" if promoted is None else f"classifier {promoted} is promoted"
        try:
            serves: str | None = load_classifier(workspace.layout.classifier(variant))[1].weights_sha256
        except ClassifierMismatch as error:  # the decision names it already; it is no reason for this run to fail
            serves, state = None, f"{state}; {error}"
        return dg.AssetCheckResult(
            passed=serves is not None and serves == promoted,
            severity=dg.AssetCheckSeverity.WARN,
            description=f"{variant} serves by virnuc.toml, with classifier {serves or 'none'}; {state}",
        )

    return [decision_rests_on_complete_evidence, decision_is_reproduced, serving_variant_is_promoted]
