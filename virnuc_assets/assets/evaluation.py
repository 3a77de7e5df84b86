"""Scores the test rows of a variant with its classifier; asset and check are part of group `classifiers`."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.finetuning import require_no_leak
from virnuc_assets.assets.reference import SPLIT, current_features, current_split, evaluation_recipe, record_lengths
from virnuc_assets.checks import result
from virnuc_assets.defs.automation import retraining_condition
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import variant_fingerprints
from virnuc_assets.defs.sharded_asset import OWNERS, made_table
from virnuc_assets.defs.whole_asset import code_version, inputs_of, whole_result
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import content_digest, read_recipe, read_table
from virnuc_assets.tracking import MlflowTracking

if TYPE_CHECKING:
    from virnuc_assets.classifier.metrics import GroupAccuracy, Performance


def evaluation_asset(workspace: Workspace, variant: Variant) -> dg.AssetsDefinition:
    """The evaluation of one variant."""

    @dg.asset(
        name=f"{variant.name}_evaluation",
        deps=[f"{variant.name}_classifier", REFERENCE.key(f"{variant.name}_features"), SPLIT],
        group_name="classifiers",
        kinds={"parquet", "mlflow"},
        owners=OWNERS,
        code_version=code_version("2", workspace.settings.evaluation),
        automation_condition=retraining_condition(workspace.settings.automation.retrain_cron),
    )
    def evaluation(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """Scores of all test frames, none of whose relatives was trained on, with the metrics they amount to.

        Metrics of frames, chunks and records; calibration, abstain band, groups and lengths. They join the MLflow run
        that trained the classifier.
        """
        from virnuc_assets.classifier.datasets import evaluation_table, rows_of_split
        from virnuc_assets.classifier.metrics import performance
        from virnuc_assets.classifier.scoring import ServingClassifier

        inputs, features = inputs_of(context), current_features(context.instance, workspace, variant)
        split = current_split(context.instance, workspace)
        require_no_leak(workspace, variant, split)
        classifier = ServingClassifier.load(
            workspace.layout.classifier(variant.name),
            variant_fingerprints(workspace, variant),
            read_recipe(next(iter(features.values())))["dims"],
            workspace.settings.sequences.chunk_length,
        )
        recipe = evaluation_recipe(features, split, classifier.digest)

        def batches() -> Iterator[pa.Table]:
            rows = rows_of_split(features.values(), classifier.features_schema, read_table(split), "test")
            yield evaluation_table(rows, classifier.predictions(rows), read_table(split), record_lengths(workspace))

        path = workspace.layout.whole(f"{variant.name}_evaluation")
        outcome = made_table(path, recipe, batches)
        table = read_table(path, evaluation_schema())
        measured = performance(table, classifier.description.temperature, workspace.settings.evaluation)
        metrics = flat_metrics(measured)
        tags = {"table.evaluation": outcome.data_version, "table.split": content_digest(split)}
        run_id = tracking.log_to_training(classifier.digest, {f"test_{k}": v for k, v in metrics.items()}, tags)
        facts = {**group_counts(measured), "mlflow_run": tracking.link(run_id)}
        return whole_result(inputs, outcome.data_version, {**outcome.metadata, **metrics, **facts})

    return evaluation


def flat_metrics(measured: "Performance") -> dict[str, float]:
    """A performance as names and numbers: frames' metrics by their plain names, those of other levels with theirs."""
    flat = dict(measured.levels["frame"])
    for level in ("chunk", "record"):
        flat |= {f"{level}_{name}": value for name, value in measured.levels[level].items()}
    calibration, abstention = measured.calibration, measured.abstention
    flat |= {"brier_calibrated": calibration.brier, "ece_calibrated": calibration.ece}
    if calibration.temperature is not None:
        flat["temperature"] = calibration.temperature
    flat["chunks_called_share"] = abstention.called / abstention.chunks
    return flat if abstention.accuracy is None else flat | {"chunks_called_accuracy": abstention.accuracy}


def group_counts(measured: "Performance") -> dict[str, dict[str, str]]:
    """Frames of each group, and records of each range of lengths, called right."""
    return {"correct_by_group": _counts(measured.groups), "correct_by_record_length": _counts(measured.lengths)}


def _counts(groups: Iterable["GroupAccuracy"]) -> dict[str, str]:
    return {f"{one.label} {one.group}": f"{one.correct} of {one.rows}" for one in groups}


def evaluation_check(workspace: Workspace, variant: Variant) -> dg.AssetChecksDefinition:
    """The test rows are exactly those of the split."""

    @dg.asset_check(asset=f"{variant.name}_evaluation", name="every_test_row_is_scored", blocking=True)
    def check() -> dg.AssetCheckResult:
        """As many frames of every test record are scored as the split counts, and no other record's."""
        table = read_table(workspace.layout.whole(f"{variant.name}_evaluation"), evaluation_schema())
        return result(miscounted_records(workspace, table), rows=table.num_rows)

    return check


def miscounted_records(workspace: Workspace, scored: pa.Table) -> dict[str, list[str]]:
    """Records of which other rows are scored than the split counts for the test side."""
    found = {row["values"]: row["counts"] for row in scored.column("record_id").value_counts().to_pylist()}
    split = read_table(workspace.layout.whole(SPLIT)).to_pylist()
    planned = {row["record_id"]: row["rows"] for row in split if row["split"] == "test"}
    return {
        record: [f"{planned.get(record, 0)} test rows planned, {found.get(record, 0)} scored"]
        for record in sorted(planned.keys() | found.keys())
        if planned.get(record) != found.get(record)
    }
