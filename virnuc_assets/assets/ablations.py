"""What each encoder alone is worth: classifiers of one side's vectors, on the test rows; of group `classifiers`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.assets.evaluation import flat_metrics, miscounted_records
from virnuc_assets.assets.reference import SPLIT, current_features, current_split, record_lengths
from virnuc_assets.assets.trainings import training_place
from virnuc_assets.checks import result
from virnuc_assets.defs.automation import retraining_condition
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import encoder_version, variant_fingerprints
from virnuc_assets.defs.sharded_asset import OWNERS, made_table
from virnuc_assets.defs.whole_asset import code_version, inputs_of, whole_result
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import ablations_schema, evaluation_schema
from virnuc_assets.storage.tables import read_table, require_content, require_table
from virnuc_assets.tracking import TRAINING_TAG, MlflowTracking

if TYPE_CHECKING:
    from virnuc_assets.classifier.checkpoint import Side
    from virnuc_assets.classifier.training import Fit

ABLATIONS = "ablations"


def ablations_asset(workspace: Workspace) -> dg.AssetsDefinition:
    """The ablations of all variants that read a language model."""
    variants = workspace.variants("samples")
    encoders = [encoder_version(workspace, name) for name in workspace.encoder_names("samples")]

    @dg.asset(
        name=ABLATIONS,
        deps=[*(REFERENCE.key(f"{variant.name}_features") for variant in variants), SPLIT],
        group_name="classifiers",
        kinds={"parquet", "mlflow"},
        owners=OWNERS,
        code_version=code_version("2", workspace.settings.training, workspace.settings.evaluation, *encoders),
        automation_condition=retraining_condition(workspace.settings.automation.retrain_cron),
    )
    def ablations(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """Test scores of classifiers that read one encoder's vectors alone: DNA only, each protein encoder only.

        Same rows, split and recipe as the classifiers of both sides; what these do better is what joining is worth.
        """
        from virnuc_assets.classifier.performance import performance

        inputs, fits = inputs_of(context), _fits(context.instance, workspace)

        def batches() -> Iterator[pa.Table]:
            for name, fit in fits.items():
                with training_place(workspace, f"{name}_alone", context.log.info) as scratch:
                    table = _trained_alone(workspace, tracking, context.run.run_id, name, fit, scratch)
                yield table

        outcome = made_table(workspace.layout.whole(ABLATIONS), _recipe(fits), batches)
        measured = {
            name: performance(table, None, workspace.settings.evaluation)
            for name, table in current_ablations(context.instance, workspace).items()
        }
        metrics = {
            f"{encoder}_{name}": found.levels["frame"][name]
            for encoder, found in measured.items()
            for name in ("accuracy", "f1", "auroc")
        }
        return whole_result(inputs, outcome.data_version, {**outcome.metadata, **metrics})

    return ablations


def ablations_check(workspace: Workspace) -> dg.AssetChecksDefinition:
    """Every encoder is there, on exactly the test rows of the split."""

    @dg.asset_check(asset=ABLATIONS, name="every_test_row_is_scored", blocking=True)
    def check() -> dg.AssetCheckResult:
        """As many frames of every test record are scored by each encoder as the split counts, and no other record's."""
        table = read_table(workspace.layout.whole(ABLATIONS), ablations_schema())
        names = workspace.encoder_names("samples")
        faults = {
            f"{name}: {record}": told
            for name in names
            for record, told in miscounted_records(workspace, table.filter(pc.equal(table["encoder"], name))).items()
        }
        return result(faults, rows=table.num_rows, encoders=names)

    return check


def current_ablations(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, pa.Table]:
    """Test rows scored by each encoder alone, by encoder.

    Raises:
        VirnucError: the table is missing, altered, or not made from today's features, split and recipe.
    """
    path = workspace.layout.whole(ABLATIONS)
    require_table(path, ablations_schema(), _recipe(_fits(instance, workspace)))
    require_content(path)
    table = read_table(path)
    return {
        name: table.filter(pc.equal(table["encoder"], name)).drop_columns("encoder")
        for name in table["encoder"].unique().to_pylist()
    }


def _fits(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, "Fit"]:
    """A fit for each encoder; the nucleotides' encoder is the same in every variant and fitted once."""
    from virnuc_assets.classifier.training import Fit

    fits: dict[str, Fit] = {}
    split = current_split(instance, workspace)
    for variant in workspace.variants("samples"):
        features, encoders = current_features(instance, workspace, variant), variant_fingerprints(workspace, variant)
        sides: dict[Side, str] = {"dna": variant.dna, "protein": variant.protein}
        for side, name in sides.items():
            if name not in fits:
                fits[name] = Fit(
                    variant=variant,
                    encoders=encoders,
                    features=features,
                    split=split,
                    chunk_length=workspace.settings.sequences.chunk_length,
                    training=workspace.settings.training,
                    sides=(side,),
                )
    return fits


def _recipe(fits: Mapping[str, "Fit"]) -> dict[str, Any]:
    digests = {name: fit.data_digest for name, fit in fits.items()}
    return {"table": ABLATIONS, "columns": evaluation_schema().names, "fits": digest_of(digests)}


def _trained_alone(
    workspace: Workspace, tracking: MlflowTracking, dagster_run_id: str, name: str, fit: "Fit", scratch: Path
) -> pa.Table:
    """Train on one side's columns inside an MLflow run, and score the test rows."""
    from virnuc_assets.classifier.calls import frame_calls
    from virnuc_assets.classifier.datasets import evaluation_table, scores_of
    from virnuc_assets.classifier.performance import performance
    from virnuc_assets.encoders.machine import resolve_device

    device = str(resolve_device(workspace.settings.encoding.device))
    training = f"{workspace.settings.profile}/{name}_alone"
    tags = {"ablation": name, TRAINING_TAG: training, "dagster.run_id": dagster_run_id}
    tracking.end_killed_trainings(training)  # the scratch folder is this training's alone
    with tracking.run(f"{name} alone", tags, fit.params()):
        trained = fit.train(scratch, tracking.log_epoch, device)
        scored = fit.scored(trained.model, "test")
        calls = pa.array(frame_calls(scores_of(scored)), pa.string())
        lengths = record_lengths(workspace)
        table = evaluation_table(scored, scored.append_column("call", calls), read_table(fit.split), lengths)
        measured = performance(table, trained.temperature, workspace.settings.evaluation)
        tracking.log_epoch(trained.best_epoch, {f"test_{name}": v for name, v in flat_metrics(measured).items()})
    encoder = pa.array([name] * table.num_rows, pa.string())
    return table.add_column(0, "encoder", encoder)
