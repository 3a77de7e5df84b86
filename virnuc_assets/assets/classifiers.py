"""Group `classifiers`: the split by relatives, a classifier for each variant, and its evaluation on the test rows."""

from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.assets.ablations import ablations_asset, ablations_check
from virnuc_assets.assets.evaluation import evaluation_asset, evaluation_check
from virnuc_assets.assets.finetuning import require_no_leak
from virnuc_assets.assets.reference import SPLIT, current_features, current_split
from virnuc_assets.assets.split import split_asset, split_check
from virnuc_assets.assets.trainings import training_place
from virnuc_assets.checks import result
from virnuc_assets.defs.automation import retraining_condition
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import encoder_version, variant_fingerprints
from virnuc_assets.defs.sharded_asset import OWNERS
from virnuc_assets.defs.whole_asset import code_version, inputs_of, whole_result
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.resources import Workspace
from virnuc_assets.tracking import TRAINING_TAG, MlflowTracking

GROUP = "classifiers"
# Of a classifier's description, on its page.
_SHOWN = ("dna_dim", "protein_dim", "merged_dim", "best_epoch", "temperature", "data_digest", "encoders")


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The split, and a classifier and an evaluation for each variant."""
    assets = [split_asset(workspace)]
    for variant in workspace.variants():
        assets += [_classifier_asset(workspace, variant), evaluation_asset(workspace, variant)]
    return [*assets, ablations_asset(workspace)]


def _classifier_asset(workspace: Workspace, variant: Variant) -> dg.AssetsDefinition:
    encoders = [encoder_version(workspace, name) for name in (variant.dna, variant.protein)]

    @dg.asset(
        name=f"{variant.name}_classifier",
        deps=[REFERENCE.key(f"{variant.name}_features"), SPLIT],
        group_name=GROUP,
        kinds={"pytorch", "mlflow"},
        owners=OWNERS,
        code_version=code_version("3", workspace.settings.training, *encoders),
        automation_condition=retraining_condition(workspace.settings.automation.retrain_cron),
        description=f"VirNucPro's MLP on {variant.dna} + {variant.protein} features, stopped on validation rows.\n\n"
        "Logged in MLflow with its dims, an entry an epoch, and registered; no alias moves.",
    )
    def classifier(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        from virnuc_assets.classifier.training import Fit

        inputs, split = inputs_of(context), current_split(context.instance, workspace)
        require_no_leak(workspace, variant, split)
        fit = Fit(
            variant=variant,
            encoders=variant_fingerprints(workspace, variant),
            features=current_features(context.instance, workspace, variant),
            split=split,
            chunk_length=workspace.settings.sequences.chunk_length,
            training=workspace.settings.training,
        )
        folder = workspace.layout.classifier(variant.name)
        with training_place(workspace, variant.name, context.log.info) as scratch:
            description = fit.found_in(folder)
            reused = description is not None and tracking.version_of(description.weights_sha256) is not None
            if description is None or not reused:
                description = _train(tracking, workspace, fit, scratch, context.run.run_id)
        run_id = tracking.find_training(description.weights_sha256)
        metadata = {
            "trained_anew": not reused,
            **{name: getattr(description, name) for name in _SHOWN},
            **fit.row_counts,
            "digest": description.weights_sha256,
            "training": workspace.settings.training.model_dump(),
            "folder": dg.MetadataValue.path(str(folder)),
            "mlflow_run": tracking.link(run_id or ""),
        }
        return whole_result(inputs, description.weights_sha256, metadata)

    return classifier


def _train(tracking: MlflowTracking, workspace: Workspace, fit: Any, scratch: Path, dagster_run_id: str) -> Any:  # noqa: ANN401
    """Train inside an MLflow run; the classifier is saved and registered only after the last epoch.

    The scratch folder is this training's alone, so a run that still counts as running is one that was killed.
    """
    from virnuc_assets.classifier.checkpoint import save_classifier
    from virnuc_assets.encoders.machine import resolve_device

    training = f"{workspace.settings.profile}/{fit.variant.name}"
    tracking.end_killed_trainings(training)
    tags = {"variant": fit.variant.name, "protein_encoder": workspace.encoder(fit.variant.protein).name}
    marks = {TRAINING_TAG: training, "dagster.run_id": dagster_run_id}
    with tracking.run(f"{fit.variant.name} classifier", {**tags, **marks}, fit.params()):
        device = resolve_device(workspace.settings.encoding.device)
        trained = fit.train(scratch, tracking.log_epoch, str(device))
        folder = workspace.layout.classifier(fit.variant.name)
        description = save_classifier(folder, trained.model, fit.describe(trained))
        tracking.log_model(trained.model, fit.example(), description.weights_sha256, tags)
    return description


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """Checks of the split and of every classifier."""
    checks = [split_check(workspace)]
    for variant in workspace.variants():
        checks += [_currency_check(workspace, variant), evaluation_check(workspace, variant)]
    return [*checks, ablations_check(workspace)]


def _currency_check(workspace: Workspace, variant: Variant) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=f"{variant.name}_classifier", name="trained_on_current_features")
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """The classifier on disk was trained on the features, the split and the settings of today."""
        from virnuc_assets.classifier.checkpoint import load_classifier
        from virnuc_assets.classifier.training import data_digest

        features = current_features(context.instance, workspace, variant)
        today = data_digest(features, current_split(context.instance, workspace), workspace.settings.training)
        _, description = load_classifier(workspace.layout.classifier(variant.name))
        faults = {} if description.data_digest == today else {variant.name: ["trained on other rows than today's"]}
        return result(faults, trained_on=description.data_digest, today=today)

    return check
