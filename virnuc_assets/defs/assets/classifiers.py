"""Group `classifiers`: a classifier for each variant, its evaluation on the test rows, and one for each encoder alone.

The split, which belongs to the group, too, is in `split`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.assets import frame_rules
from virnuc_assets.defs.assets.finetuning import require_no_leak
from virnuc_assets.defs.assets.split import split_asset, split_check
from virnuc_assets.defs.metadata import Measured, result, shown_encoders, shown_facts, shown_table
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import (
    CHUNKS,
    contents,
    current_features,
    current_frames,
    current_split,
    encoder_version,
    evaluation_provenance,
    fitting_classifier,
    record_lengths,
    reference_tables,
    variant_fingerprints,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import (
    code_version,
    inputs_of,
    made_table,
    retrained_asset,
    training_place,
    whole_result,
)
from virnuc_assets.defs.tracking import MlflowTracking, Table
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import SPLIT
from virnuc_assets.storage.schemas import ablations_schema, evaluation_schema
from virnuc_assets.storage.tables import content_digest, read_table, require_content

if TYPE_CHECKING:
    from virnuc_assets.classifier.checkpoint import ClassifierDescription
    from virnuc_assets.classifier.training import Fit

ABLATIONS = "ablations"
# Of a classifier's description, on its page.
_SHOWN = ("dna_dim", "protein_dim", "merged_dim", "best_epoch", "inverse_strength", "temperature", "data_digest")


def build(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The split, a classifier and an evaluation for each variant, ablations and frame rules, with their checks."""
    assets = [split_asset(workspace), split_check(workspace)]
    for variant in workspace.variants():
        assets += [_classifier_asset(workspace, variant), _currency_check(workspace, variant)]
        assets += [_evaluation_asset(workspace, variant), evaluation_check(workspace, f"{variant.name}_evaluation")]
    assets += [_ablations_asset(workspace), evaluation_check(workspace, ABLATIONS)]
    return assets + frame_rules.build(workspace)


def _classifier_asset(workspace: Workspace, variant: Variant) -> dg.AssetsDefinition:
    read = [encoder_version(workspace, name) for name in (variant.dna, variant.protein)]
    read += map(str, workspace.rule_of(variant).provenance.values())
    what = f"VirNucPro's MLP on {variant.dna} + {variant.protein} features, stopped on validation rows."
    if variant.is_kmer:
        what = "Logistic regression on the composition of chunks, its penalty chosen out of fold over clusters."

    @retrained_asset(
        workspace,
        name=f"{variant.name}_classifier",
        deps=[REFERENCE.key(f"{variant.name}_features"), SPLIT],
        kinds={"pytorch", "mlflow"},
        code_version=code_version("4", workspace.settings.training, *read),
        description=f"{what} It is logged in MLflow with an entry for each epoch, and registered; no alias moves.\n\n"
        "If its check fails, features, split or settings changed since: materialize it again, then its evaluation.",
    )
    def classifier(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        from virnuc_assets.classifier.record_rule import NO_RULE

        inputs, fit = inputs_of(context), _fit(context.instance, workspace, variant)
        require_no_leak(workspace, variant, fit.split)
        folder = workspace.layout.classifier(variant.name)
        with training_place(workspace, variant.name, context.log.info) as scratch:
            description = fit.found_in(folder)
            reused = description is not None and tracking.version_of(description.weights_sha256) is not None
            if description is None or not reused:
                description = _train(tracking, workspace, fit, scratch, context.run.run_id)
        metadata = {
            "trained": not reused,
            **{name: value for name in _SHOWN if (value := getattr(description, name)) is not None},
            "encoders": shown_encoders(description.encoders, fit.dims),
            **{f"{split}_rows": len(drawn.labels) for split, drawn in fit.drawn.items()},
            "rows_by_group": _drawn_rows(fit),
            "digest": description.weights_sha256,
            "record_rule": description.record_rule.described() if description.record_rule else NO_RULE,
            "training": shown_facts(workspace.settings.training.model_dump()),
            "folder": dg.MetadataValue.path(str(folder)),
            "mlflow_run": tracking.link(tracking.find_training(description.weights_sha256)),
        }
        return whole_result(inputs, description.weights_sha256, metadata)

    return classifier


def _drawn_rows(fit: "Fit") -> dg.TableMetadataValue:
    """Rows of training and validation by label and group: drawn so that labels are balanced, of those available."""
    groups = dict.fromkeys(group for drawn in fit.drawn.values() for group in drawn.available)
    return shown_table(
        {
            "group": group,
            **{
                f"{split}_{what}": counts.get(group, 0)
                for split, drawn in fit.drawn.items()
                for what, counts in (("rows", drawn.counts), ("available", drawn.available))
            },
        }
        for group in groups
    )


def _tables(fit: "Fit") -> list[Table]:
    """What a classifier is trained on."""
    key = REFERENCE.key(f"{fit.variant.name}_features").to_user_string()
    return [Table(key, contents(fit.features), "train"), Table(SPLIT, content_digest(fit.split), "train")]


def _train(
    tracking: MlflowTracking, workspace: Workspace, fit: "Fit", scratch: Path, dagster_run_id: str
) -> "ClassifierDescription":
    """Train inside an MLflow run; after the last epoch the classifier is registered, and then published."""
    from virnuc_assets.classifier.checkpoint import save_classifier
    from virnuc_assets.encoders.machine import resolve_device

    name = fit.variant.name
    tags = {"variant": name, "protein_encoder": workspace.encoder(fit.variant.protein).name}
    training = f"{workspace.settings.profile}/{name}"
    with tracking.training(training, f"{name} classifier", dagster_run_id, tags, fit.params()) as run_id:
        tracking.log_tables(run_id, _tables(fit))
        device = resolve_device(workspace.settings.encoding.device)
        trained = fit.train(scratch, tracking.log_epoch, str(device))

        def register(description: "ClassifierDescription") -> None:
            tracking.log_model(trained.model, fit.example(), description.weights_sha256, tags)

        folder = workspace.layout.classifier(name)
        return save_classifier(folder, trained.model, fit.describe(trained), register, fit.sketch())


def _fit(instance: dg.DagsterInstance, workspace: Workspace, variant: Variant) -> "Fit":
    """What a variant's classifier is trained on today."""
    from virnuc_assets.classifier.novelty import TrainedProteins
    from virnuc_assets.classifier.training import Fit

    rule = workspace.rule_of(variant)
    proteins = TrainedProteins(current_frames(instance, workspace).values(), workspace.settings.split)
    if variant.is_kmer:  # it reads chunks, and frames by its own rule
        chunks = reference_tables(instance, workspace, CHUNKS).values()
        proteins = TrainedProteins(chunks, workspace.settings.split, rule)
    return Fit(
        variant=variant,
        encoders=variant_fingerprints(workspace, variant),
        features=current_features(instance, workspace, variant),
        split=current_split(instance, workspace),
        chunk_length=workspace.settings.sequences.chunk_length,
        training=workspace.settings.training,
        rule=rule,
        proteins=proteins,
    )


def _currency_check(workspace: Workspace, variant: Variant) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=f"{variant.name}_classifier", name="trained_on_current_features")
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """The classifier on disk was trained on the features, the split and the settings of today."""
        from virnuc_assets.classifier.checkpoint import load_classifier

        today = _fit(context.instance, workspace, variant).data_digest
        _, description = load_classifier(workspace.layout.classifier(variant.name))
        faults = {} if description.data_digest == today else {variant.name: ["trained on other rows than today's"]}
        return result(faults, trained_on=description.data_digest, today=today)

    return check


def _evaluation_asset(workspace: Workspace, variant: Variant) -> dg.AssetsDefinition:
    name = f"{variant.name}_evaluation"

    @retrained_asset(
        workspace,
        name=name,
        deps=[f"{variant.name}_classifier", REFERENCE.key(f"{variant.name}_features"), SPLIT],
        kinds={"parquet", "mlflow"},
        code_version=code_version("4", workspace.settings.evaluation),
    )
    def evaluation(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """Scores of all test frames (k-mer baseline: chunks), no relative of which was trained on, and their metrics.

        Metrics of frames, chunks and records, curves, and a card of the model join the MLflow run that trained it.

        If its check fails, the split changed since: materialize it again; if it fails by itself, the classifier first.
        """
        from virnuc_assets.classifier.datasets import evaluation_table, rows_of_split
        from virnuc_assets.reports.model_card import ModelCard

        inputs, features = inputs_of(context), current_features(context.instance, workspace, variant)
        split = current_split(context.instance, workspace)
        require_no_leak(workspace, variant, split)
        encoders = variant_fingerprints(workspace, variant)
        classifier = fitting_classifier(workspace, variant, next(iter(features.values())), encoders)

        def batches() -> Iterator[pa.Table]:
            records, lengths = read_table(split), record_lengths(workspace)
            yield evaluation_schema().empty_table()
            for rows in rows_of_split(features.values(), classifier.features_schema, records, "test"):
                yield evaluation_table(rows, classifier.predictions(rows), records, lengths)

        provenance = evaluation_provenance(features, split, classifier.digest)
        outcome = made_table(workspace.layout.whole(name), provenance, batches)
        found = measured(workspace, name, classifier.description)
        page = {"Asset in Dagster": tracking.dagster_asset(f"{variant.name}_classifier")}
        records, settings = read_table(split).to_pylist(), workspace.settings.split.model_dump(mode="json")
        card = ModelCard(classifier.description, records, settings, found.performance, page)
        run_id = tracking.log_to_training(
            classifier.digest,
            found.test_metrics,
            {"table.evaluation": outcome.data_version, "table.split": content_digest(split)},
            {**found.files, "model_card.md": card.text()},
            Table(name, outcome.data_version, "test"),
            card.summary(),
        )
        metadata = {**found.metadata(), "mlflow_run": tracking.link(run_id), **outcome.metadata}
        return whole_result(inputs, outcome.data_version, metadata)

    return evaluation


def measured(workspace: Workspace, evaluation: str, description: "ClassifierDescription") -> Measured:
    """What a stored evaluation amounts to."""
    table, rule = read_table(workspace.layout.whole(evaluation), evaluation_schema()), description.record_rule
    name, settings = evaluation.removesuffix("_evaluation"), workspace.settings.evaluation
    return Measured.of(name, table, description.temperature, settings, rule)


def evaluation_check(workspace: Workspace, asset: str) -> dg.AssetChecksDefinition:
    """The test rows of an evaluation, or of the ablations, are exactly those of the split."""
    encoders = workspace.encoder_names() if asset == ABLATIONS else []
    composed = any(variant.is_kmer and asset == f"{variant.name}_evaluation" for variant in workspace.variants())

    @dg.asset_check(asset=asset, name="every_test_row_is_scored", blocking=True)
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """As many frames of every test record are scored as the split counts, and no other record's.

        Of the k-mer baseline all chunks of its features; of the ablations all frames by each encoder.
        """
        table = read_table(workspace.layout.whole(asset))
        parts = {f"{name}: ": table.filter(pc.equal(table["encoder"], name)) for name in encoders} or {"": table}
        split = read_table(workspace.layout.split).to_pylist()
        planned = {row["record_id"]: row["rows"] for row in split if row["split"] == "test"}
        if composed:
            tables = reference_tables(context.instance, workspace, asset.replace("_evaluation", "_features")).values()
            records = pa.concat_tables(read_table(path, columns=["record_id"]) for path in tables)["record_id"]
            rows = _counted(records)
            planned = {record: rows[record] for record in planned if record in rows}
        faults = {}
        for prefix, scored in parts.items():
            found = _counted(scored["record_id"])
            for record in sorted(planned.keys() | found.keys()):
                if planned.get(record, 0) != found.get(record, 0):
                    counts = f"{planned.get(record, 0)} test rows planned, {found.get(record, 0)} scored"
                    faults[f"{prefix}{record}"] = [counts]
        return result(faults, rows=table.num_rows)

    return check


def _counted(values: pa.ChunkedArray) -> dict[str, int]:
    """How often each is there."""
    return {each["values"]: each["counts"] for each in values.value_counts().to_pylist()}


def _ablations_asset(workspace: Workspace) -> dg.AssetsDefinition:
    """What each encoder alone is worth, of all variants that read a language model."""
    variants = workspace.language_models()
    encoders = [encoder_version(workspace, name) for name in workspace.encoder_names()]

    @retrained_asset(
        workspace,
        name=ABLATIONS,
        # The classifiers of both come first: in MLflow these runs are shown below theirs.
        deps=[
            *(REFERENCE.key(f"{variant.name}_features") for variant in variants),
            *(f"{variant.name}_classifier" for variant in variants),
            SPLIT,
        ],
        kinds={"parquet", "mlflow"},
        code_version=code_version("2", workspace.settings.training, workspace.settings.evaluation, *encoders),
    )
    def ablations(context: dg.AssetExecutionContext, tracking: MlflowTracking) -> dg.MaterializeResult[Any]:
        """Test scores of classifiers that read one encoder's vectors alone: DNA only, each protein encoder only.

        Same rows, split and settings as the classifiers of both; what those do better is what joining is worth.

        If its check fails, the split changed since: materialize it again.
        """
        from virnuc_assets.classifier.metrics import performance

        inputs, fits = inputs_of(context), _fits(context.instance, workspace)

        def batches() -> Iterator[pa.Table]:
            for name, fit in fits.items():
                with training_place(workspace, f"{name}_alone", context.log.info) as scratch:
                    table = _trained_alone(workspace, tracking, context.run.run_id, name, fit, scratch)
                yield table

        outcome = made_table(workspace.layout.whole(ABLATIONS), _ablations_provenance(fits), batches)
        levels = {
            name: performance(table, None, workspace.settings.evaluation).levels["frame"]
            for name, table in current_ablations(context.instance, workspace).items()
        }
        shown = ("accuracy", "f1", "auroc")
        metrics = {f"{encoder}_{name}": frames[name] for encoder, frames in levels.items() for name in shown}
        return whole_result(inputs, outcome.data_version, {**outcome.metadata, **metrics})

    return ablations


def current_ablations(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, pa.Table]:
    """Test rows scored by each encoder alone, by encoder; refused where altered, or not made from today's inputs."""
    path = workspace.layout.whole(ABLATIONS)
    require_content(path)
    table = read_table(path, ablations_schema(), _ablations_provenance(_fits(instance, workspace)))
    return {
        name: table.filter(pc.equal(table["encoder"], name)).drop_columns("encoder")
        for name in table["encoder"].unique().to_pylist()
    }


def _fits(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, "Fit"]:
    """A fit for each encoder; the nucleotides' encoder is the same in every variant and fitted once."""
    fits: dict[str, Fit] = {}
    for variant in workspace.language_models():
        fit = _fit(instance, workspace, variant)
        fits.setdefault(variant.dna, replace(fit, sides=("dna",)))
        fits.setdefault(variant.protein, replace(fit, sides=("protein",)))
    return fits


def _ablations_provenance(fits: Mapping[str, "Fit"]) -> dict[str, Any]:
    digests = {name: fit.data_digest for name, fit in fits.items()}
    return {"table": ABLATIONS, "columns": evaluation_schema().names, "fits": digest_of(digests)}


def _trained_alone(
    workspace: Workspace, tracking: MlflowTracking, dagster_run_id: str, name: str, fit: "Fit", scratch: Path
) -> pa.Table:
    """Train on one encoder's columns inside an MLflow run, and score the test rows."""
    from virnuc_assets.classifier.datasets import evaluation_table
    from virnuc_assets.encoders.machine import resolve_device

    device, profile = str(resolve_device(workspace.settings.encoding.device)), workspace.settings.profile
    tags = {"ablation": name, **tracking.child_of(f"{profile}/{fit.variant.name}")}
    with tracking.training(f"{profile}/{name}_alone", f"{name} alone", dagster_run_id, tags, fit.params()) as run_id:
        tracking.log_tables(run_id, _tables(fit))
        trained = fit.train(scratch, tracking.log_epoch, device)
        scored = fit.scored(trained.model, "test")
        table = evaluation_table(scored, scored, read_table(fit.split), record_lengths(workspace))
        found = Measured.of(f"{name} alone", table, trained.temperature, workspace.settings.evaluation)
        tracking.log_epoch(trained.best_epoch or len(trained.history), found.test_metrics)
        tracking.log_files(run_id, found.files)
    return table.add_column(0, "encoder", pa.array([name] * table.num_rows, pa.string()))
