"""Group `classifiers`: the split by relatives, a classifier for each branch, and its evaluation on the test rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.evaluation import evaluation_asset, evaluation_check
from virnuc_assets.assets.per_shard import OWNERS, made_table
from virnuc_assets.assets.recipes import branch_fingerprints
from virnuc_assets.assets.reference import (
    SPLIT,
    current_features,
    current_frames,
    current_split,
    named_records,
    split_recipe,
)
from virnuc_assets.checks import result
from virnuc_assets.encoders.registry import BRANCHES, Branch
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.storage.tables import read_table
from virnuc_assets.tracking import MlflowTracking

GROUP = "classifiers"


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The split, and a classifier and an evaluation for each branch."""
    assets = [_split_asset(workspace)]
    for branch in BRANCHES.values():
        assets += [_classifier_asset(workspace, branch), evaluation_asset(workspace, branch)]
    return assets


def _split_asset(workspace: Workspace) -> dg.AssetsDefinition:
    settings = workspace.settings.split

    @dg.asset(
        name=SPLIT,
        deps=[REFERENCE.key("translated_proteins"), REFERENCE.key("shard_plan")],
        group_name=GROUP,
        kinds={"parquet"},
        owners=OWNERS,
        code_version="1",
    )
    def train_test_split(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """Deals whole clusters of related records to train, validation and test.

        Relatives are found by shared protein k-mers and joined by the names of the catalogue (same organism, named
        relatives), so that no genome has rows on two sides.
        """
        frames = current_frames(context.instance, workspace)
        recipe = split_recipe(context.instance, workspace)

        def batches() -> Iterator[pa.Table]:
            from virnuc_assets.classifier.datasets import counted_records
            from virnuc_assets.classifier.relatives import cluster_relatives
            from virnuc_assets.classifier.split import assign_splits

            clusters = cluster_relatives(_sequences(workspace), named_records(workspace), settings)
            yield assign_splits(clusters, counted_records(frames.values()), settings)

        path = workspace.layout.whole(SPLIT)
        outcome = made_table(path, recipe, batches)
        rows = read_table(path).to_pylist()
        counts = {
            f"{split}_{label}_rows": sum(row["rows"] for row in rows if (row["split"], row["label"]) == (split, label))
            for split in ("train", "validation", "test")
            for label in ("viral", "host")
        }
        facts = {"records": len(rows), "clusters": len({row["cluster"] for row in rows}), **counts}
        return outcome.with_metadata(**facts, settings=settings.model_dump()).as_result()

    return train_test_split


def _sequences(workspace: Workspace) -> Iterator[tuple[str, bytes]]:
    for source in workspace.catalogue():
        with open_source(source.fasta) as opened:
            for record in read_records(opened):
                yield record.id, bytes(record.sequence)


def _classifier_asset(workspace: Workspace, branch: Branch) -> dg.AssetsDefinition:
    @dg.asset(
        name=f"{branch.name}_classifier",
        deps=[REFERENCE.key(f"{branch.name}_features"), SPLIT],
        group_name=GROUP,
        kinds={"pytorch", "mlflow"},
        owners=OWNERS,
        code_version="1",
        description=f"VirNucPro's MLP on {branch.dna} + {branch.protein} features, stopped on validation rows.\n\n"
        "Logged in MLflow with its dims, an entry an epoch, and registered under the protein encoder's name.",
    )
    def classifier(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        from virnuc_assets.classifier.fitting import Fit

        features = current_features(context.instance, workspace, branch)
        fit = Fit(
            branch=branch,
            encoders=branch_fingerprints(workspace, branch),
            features=features,
            split=current_split(context.instance, workspace),
            chunk_length=workspace.settings.sequences.chunk_length,
            training=workspace.settings.training,
        )
        folder = workspace.layout.classifier(branch.name)
        description = fit.found_in(folder)
        reused = description is not None and tracking.find_training(description.weights_sha256) is not None
        if description is None or not reused:
            description = _train(tracking, workspace, fit, folder)
        run_id = tracking.find_training(description.weights_sha256)
        metadata = {
            "trained_anew": not reused,
            "dna_dim": description.dna_dim,
            "protein_dim": description.protein_dim,
            "merged_dim": description.merged_dim,
            "best_epoch": description.best_epoch,
            "data_digest": description.data_digest,
            "digest": description.weights_sha256,
            "encoders": description.encoders,
            "training": workspace.settings.training.model_dump(),
            "folder": dg.MetadataValue.path(folder),
            "mlflow_run": tracking.link(run_id or ""),
        }
        return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(description.weights_sha256))

    return classifier


def _train(tracking: MlflowTracking, workspace: Workspace, fit: Any, folder: Path) -> Any:  # noqa: ANN401
    """Train inside an MLflow run; the classifier is saved and registered only after the last epoch."""
    from virnuc_assets.classifier.checkpoint import save_classifier

    encoder = workspace.encoder(fit.branch.protein)
    with tracking.run(f"{fit.branch.name} classifier", {"branch": fit.branch.name}, fit.params()):
        trained = fit.train(tracking.log_epoch)
        description = save_classifier(folder, trained.model, fit.describe(trained))
        tracking.log_model(trained.model, fit.example(), encoder.name, description.weights_sha256)
    return description


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """Checks of the split and of every classifier."""
    checks = [_split_check(workspace)]
    for branch in BRANCHES.values():
        checks += [_currency_check(workspace, branch), evaluation_check(workspace, branch)]
    return checks


def _split_check(workspace: Workspace) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=SPLIT, blocking=True)
    def no_relative_in_both_splits() -> dg.AssetCheckResult:
        """No cluster of relatives, and no organism or named group of the catalogue, is on two sides of the split."""
        from virnuc_assets.classifier.split import relatives_in_both_splits, split_schema

        table = read_table(workspace.layout.whole(SPLIT), split_schema())
        faults = {cluster: ["lies in more than one split"] for cluster in relatives_in_both_splits(table)}
        side = {row["record_id"]: row["split"] for row in table.to_pylist()}
        for name, records in named_records(workspace).items():
            if len(sides := sorted({side[record] for record in records if record in side})) > 1:
                faults[name] = [f"has records in {' and '.join(sides)}"]
        return result(faults, records=table.num_rows)

    return no_relative_in_both_splits


def _currency_check(workspace: Workspace, branch: Branch) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=f"{branch.name}_classifier", name="trained_on_current_features")
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """The classifier on disk was trained on the features, the split and the settings of today."""
        from virnuc_assets.classifier.checkpoint import load_classifier
        from virnuc_assets.classifier.fitting import data_digest

        features = current_features(context.instance, workspace, branch)
        today = data_digest(features, current_split(context.instance, workspace), workspace.settings.training)
        _, description = load_classifier(workspace.layout.classifier(branch.name))
        faults = {} if description.data_digest == today else {branch.name: ["trained on other rows than today's"]}
        return result(faults, trained_on=description.data_digest, today=today)

    return check
