"""Group `predictions`: the serving classifier's scores for every frame of a sample, and what its user receives."""

import time
from collections.abc import Iterator

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.accounts import source_ledger
from virnuc_assets.assets.per_shard import (
    Outcome,
    ShardRun,
    ShardStage,
    Work,
    made_table,
    peak_memory_mb,
    shard_asset,
)
from virnuc_assets.assets.recipes import (
    features_recipe,
    frames_recipe,
    predictions_recipe,
    read_shard_inputs,
    variant_fingerprints,
)
from virnuc_assets.checks import result, shards_of_run
from virnuc_assets.errors import VirnucError
from virnuc_assets.markdown import cell
from virnuc_assets.partitions import REPORTS, SAMPLES
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.accounting import ledger_faults
from virnuc_assets.sequences.plan_table import planned_shards
from virnuc_assets.sequences.shard_keys import source_of
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import Layout
from virnuc_assets.storage.schemas import ledger_schema, predictions_schema
from virnuc_assets.storage.tables import content_digest, read_recipe, read_table, require_table

GROUP = "predictions"


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """Predictions of a sample shard, and the report of a sample."""
    variant = workspace.variant(workspace.settings.serving.variant)
    layout = workspace.layout

    def predict(_: ShardRun) -> Work:
        """Scores (other, virus) and call of every frame of a sample shard, by the serving classifier.

        The classifier is refused if it was trained on other encoders, dims or chunk length than the sample's features.
        """
        encoders = variant_fingerprints(workspace, variant)

        def work(shard: str) -> Outcome:
            from virnuc_assets.classifier.calling import ServingClassifier

            features = layout.table("samples", f"{variant.name}_features", shard)
            folder, chunk_length = layout.classifier(variant.name), workspace.settings.sequences.chunk_length
            classifier = ServingClassifier.load(folder, encoders, read_recipe(features)["dims"], chunk_length)
            require_table(features, classifier.features_schema, features_recipe(workspace, "samples", shard, encoders))
            planned = read_shard_inputs(layout.plan("samples", source_of(shard)))[shard].digest
            recipe = predictions_recipe(content_digest(features), classifier.digest, planned)

            def batches() -> Iterator[pa.Table]:
                yield classifier.predictions(read_table(features))

            path = layout.table("samples", "predictions", shard)
            outcome = made_table(path, recipe, batches)
            calls = read_table(path).column("call").to_pylist()
            return outcome.with_metadata(frames_called_virus=calls.count("virus"), classifier=classifier.digest)

        return work

    stage = ShardStage(
        deps=[SAMPLES.key(f"{variant.name}_features"), dg.AssetKey(f"{variant.name}_classifier")],
        group=GROUP,
        kinds=frozenset({"parquet", "pytorch"}),
        code_version="1",
    )
    return [shard_asset(layout, SAMPLES, "predictions", stage, predict), _report_asset(workspace)]


def _report_asset(workspace: Workspace) -> dg.AssetsDefinition:
    layout = workspace.layout

    def report(run: ShardRun) -> Work:
        """What the user of a sample receives: VirNucPro's two files, a line for every record, and nothing left out.

        `prediction_results.txt` and `prediction_results_highestscore.csv` as VirNucPro writes them; `records.tsv`
        holds each record's call, or why it could not be scored.
        """

        def work(sample: str) -> Outcome:
            from virnuc_assets.classifier.calling import write_sample_report

            started = time.perf_counter()
            shards = planned_shards(layout, "samples", sample)
            if not shards:
                raise VirnucError(f"sample {sample!r} is not planned; materialize samples/shard_plan first")
            temperature = _require_current(workspace, shards)
            confidence = workspace.settings.evaluation.min_confidence
            tables = (layout.table("samples", "predictions", shard) for shard in shards)
            predictions = pa.concat_tables(read_table(table, predictions_schema()) for table in tables)
            ledger, folder = source_ledger(layout, "samples", sample), layout.sample_report(sample)
            records = write_sample_report(folder, predictions, ledger, temperature, confidence)
            digest = digest_of([_reported_digest(layout, shards), confidence])
            metadata = {
                "rows": records.num_rows,
                "digest": digest,
                "seconds": round(time.perf_counter() - started, 3),
                "peak_memory_mb": peak_memory_mb(),
                **_record_counts(records),
                "folder": dg.MetadataValue.path(str(folder)),
                "records_table": dg.MetadataValue.md(markdown_table(records)),
            }
            return Outcome(digest, metadata)

        return work

    stage = ShardStage(
        deps=[dg.AssetDep(SAMPLES.key("predictions"), partition_mapping=dg.AllPartitionMapping())],
        group=GROUP,
        kinds=frozenset({"tsv"}),
        code_version="1",
    )
    return shard_asset(layout, REPORTS, "report", stage, report)


def _record_counts(records: pa.Table) -> dict[str, int]:
    calls = records.column("call").to_pylist()
    return {
        "records": records.num_rows,
        "records_called_virus": calls.count("virus"),
        "records_called_others": calls.count("others"),
        "records_not_scored": calls.count(None),
        "chunks_uncertain": sum(records.column("chunks_uncertain").to_pylist()),
    }


def _reported_digest(layout: Layout, shards: list[str]) -> str:
    """Digest of the rows that a report is made of."""
    tables = [layout.table("samples", name, shard) for shard in shards for name in ("predictions", "ledger")]
    return digest_of([content_digest(table) for table in tables])


def _require_current(workspace: Workspace, shards: list[str]) -> float | None:
    """Refuse predictions of an older file, other encoders or another classifier than the serving one.

    Returns:
        The temperature of the serving classifier.
    """
    from virnuc_assets.classifier.calling import ServingClassifier

    layout, variant = workspace.layout, workspace.variant(workspace.settings.serving.variant)
    encoders = variant_fingerprints(workspace, variant)
    folder, chunk_length = layout.classifier(variant.name), workspace.settings.sequences.chunk_length
    for shard in shards:
        features = layout.table("samples", f"{variant.name}_features", shard)
        classifier = ServingClassifier.load(folder, encoders, read_recipe(features)["dims"], chunk_length)
        require_table(features, classifier.features_schema, features_recipe(workspace, "samples", shard, encoders))
        made_from = {"features": content_digest(features), "classifier": classifier.digest}
        require_table(layout.table("samples", "predictions", shard), predictions_schema(), made_from)
        frames = frames_recipe(workspace, "samples", shard)
        require_table(layout.table("samples", "ledger", shard), ledger_schema(), {**frames, "table": "ledger"})
    return classifier.description.temperature


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """Checks of the predictions and of the report."""
    layout = workspace.layout
    variant = workspace.variant(workspace.settings.serving.variant)

    @dg.asset_check(asset=SAMPLES.key("predictions"), blocking=True)
    def every_frame_is_called(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Predictions and features hold the same frames in the same order."""
        faults = {}
        for shard in shards_of_run(context, SAMPLES):
            path = layout.table("samples", "predictions", shard)
            features = layout.table("samples", f"{variant.name}_features", shard)
            if read_table(path).column("frame_id") != read_table(features).column("frame_id"):
                faults[shard] = ["frame_ids differ from those of the features"]
        return result(faults)

    @dg.asset_check(asset=SAMPLES.key("report"), blocking=True)
    def every_record_is_accounted_for(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Every record of a sample has its line in its report, and its chunks and frames add up."""
        from virnuc_assets.classifier.calling import read_record_ids

        faults, records = {}, 0
        for sample in shards_of_run(context, REPORTS):
            ledger, reported = source_ledger(layout, "samples", sample), read_record_ids(layout.sample_report(sample))
            records += len(reported)
            found = ledger_faults(ledger)
            if reported != ledger.column("record_id").to_pylist():
                found.append(f"{ledger.num_rows} records planned, {len(reported)} reported, or not the same")
            if found:
                faults[sample] = found
        return result(faults, records=records)

    return [every_frame_is_called, every_record_is_accounted_for]


def markdown_table(table: pa.Table, rows: int = 50) -> str:
    """The first rows of a table as Markdown; cells cannot end their row."""
    lines = [f"| {' | '.join(table.column_names)} |", "|" + "---|" * table.num_columns]
    for row in table.slice(0, rows).to_pylist():
        lines.append(f"| {' | '.join('' if value is None else cell(str(value)) for value in row.values())} |")
    return "\n".join(lines)
