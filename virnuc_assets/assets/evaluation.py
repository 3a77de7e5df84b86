"""Scores the test rows of a branch with its classifier; asset and check are part of group `classifiers`."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.per_shard import OWNERS, made_table
from virnuc_assets.assets.recipes import branch_fingerprints
from virnuc_assets.assets.reference import SPLIT, current_features, current_split, evaluation_recipe
from virnuc_assets.checks import result
from virnuc_assets.encoders.registry import Branch
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.schemas import evaluation_schema
from virnuc_assets.storage.tables import content_digest, read_recipe, read_table
from virnuc_assets.tracking import MlflowTracking


def evaluation_asset(workspace: Workspace, branch: Branch) -> dg.AssetsDefinition:
    """The evaluation of one branch."""

    @dg.asset(
        name=f"{branch.name}_evaluation",
        deps=[f"{branch.name}_classifier", REFERENCE.key(f"{branch.name}_features"), SPLIT],
        group_name="classifiers",
        kinds={"parquet", "mlflow"},
        owners=OWNERS,
        code_version="1",
    )
    def evaluation(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """Scores of all test frames, none of whose relatives was trained on, with the metrics they amount to.

        The test metrics join the MLflow run that trained the classifier.
        """
        from virnuc_assets.classifier.calling import ServingClassifier
        from virnuc_assets.classifier.datasets import evaluation_table, rows_of_split, scores_of, truth_of
        from virnuc_assets.classifier.metrics import classification_metrics, group_accuracies

        features = current_features(context.instance, workspace, branch)
        split = current_split(context.instance, workspace)
        classifier = ServingClassifier.load(
            workspace.layout.classifier(branch.name),
            branch_fingerprints(workspace, branch),
            read_recipe(next(iter(features.values())))["dims"],
            workspace.settings.sequences.chunk_length,
        )
        recipe = evaluation_recipe(features, split, classifier.digest)

        def batches() -> Iterator[pa.Table]:
            rows = rows_of_split(features.values(), classifier.features_schema, read_table(split), "test")
            yield evaluation_table(rows, classifier.predictions(rows), read_table(split), evaluation_schema())

        path = workspace.layout.whole(f"{branch.name}_evaluation")
        outcome = made_table(path, recipe, batches)
        table = read_table(path, evaluation_schema())
        scores = scores_of(table)
        metrics = classification_metrics(truth_of(table), scores)
        groups = group_accuracies(truth_of(table), scores, table.column("group").to_pylist())
        tested = {f"test_{name}": value for name, value in metrics.items()}
        tags = {"table.evaluation": outcome.data_version, "table.split": content_digest(split)}
        run_id = tracking.log_to_training(classifier.digest, tested, tags)
        by_group = {f"{group.label} {group.group}": f"{group.correct} of {group.rows}" for group in groups}
        return outcome.with_metadata(**metrics, correct_by_group=by_group, mlflow_run=tracking.link(run_id)).as_result()

    return evaluation


def evaluation_check(workspace: Workspace, branch: Branch) -> dg.AssetChecksDefinition:
    """The test rows are exactly those of the split."""

    @dg.asset_check(asset=f"{branch.name}_evaluation", name="every_test_row_is_scored", blocking=True)
    def check() -> dg.AssetCheckResult:
        """As many frames of every test record are scored as the split counts, and no other record's."""
        table = read_table(workspace.layout.whole(f"{branch.name}_evaluation"), evaluation_schema())
        found = {row["values"]: row["counts"] for row in table.column("record_id").value_counts().to_pylist()}
        split = read_table(workspace.layout.whole(SPLIT)).to_pylist()
        planned = {row["record_id"]: row["rows"] for row in split if row["split"] == "test"}
        faults = {
            record: [f"{planned.get(record, 0)} test rows planned, {found.get(record, 0)} scored"]
            for record in sorted(planned.keys() | found.keys())
            if planned.get(record) != found.get(record)
        }
        return result(faults, rows=table.num_rows)

    return check
