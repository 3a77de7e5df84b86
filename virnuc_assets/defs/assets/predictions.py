"""Group `predictions`: the serving classifier's scores for every frame of a sample, and what its user receives."""

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.assets.sequences import sample_ledger
from virnuc_assets.defs.automation import stage_condition
from virnuc_assets.defs.metadata import result, shown_pairs, shown_rows
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.defs.provenance import (
    FRAMES,
    PREDICTIONS,
    REPORT,
    Today,
    features_provenance,
    fitting_classifier,
    predictions_provenance,
    variant_fingerprints,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import Body, Outcome, Work, made_table, peak_memory_mb, sharded_asset
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.ledger import ledger_faults
from virnuc_assets.sequences.plan_table import planned_shards, read_plan
from virnuc_assets.storage.atomic import atomic_files
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import SUMMARY_FILE
from virnuc_assets.storage.schemas import predictions_schema
from virnuc_assets.storage.tables import (
    TableMismatch,
    content_digest,
    read_ids,
    read_table,
    require_table,
)
from virnuc_assets.text import printable

if TYPE_CHECKING:
    from virnuc_assets.classifier.sample_calls import SampleCalls
    from virnuc_assets.reports.sample_results import Input, Shards, Started

GROUP = "sample_predictions"
PROVENANCE_FILE = "provenance.json"  # of a report: what it was made from


def build(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """Predictions of a sample shard, and the report of a sample, with their checks."""
    variant = workspace.variant(workspace.settings.serving.variant)
    classifier = dg.AssetKey(f"{variant.name}_classifier")
    predictions = sharded_asset(
        workspace,
        SAMPLES,
        PREDICTIONS,
        _prediction(workspace, variant),
        deps=[SAMPLES.key(f"{variant.name}_features"), classifier],
        group_name=GROUP,
        kinds={"parquet", "pytorch"},
        code_version="1",
        automation_condition=stage_condition(ignored=classifier),
    )
    report = sharded_asset(
        workspace,
        SAMPLES,
        REPORT,
        _reporting(workspace),
        whole=True,
        deps=[SAMPLES.key(PREDICTIONS), SAMPLES.key(FRAMES)],  # the k-mer baseline's predictions come from chunks
        group_name=GROUP,
        kinds={"tsv"},
        code_version="3",
        automation_condition=stage_condition(),
    )
    return [predictions, report, *_checks(workspace, variant)]


def _prediction(workspace: Workspace, variant: Variant) -> Body:
    layout = workspace.layout

    def predict(*_: object) -> Work:
        """Scores (other, virus) and call of every frame of a sample shard, by the serving classifier.

        The k-mer baseline scores each chunk once; its rows are those of the chunks' longest stretches.

        The classifier is refused if it was trained on other encoders, dims, chunk length or frame rule than the
        sample's features.

        If its check fails, materialize the features of the sample again, then it.
        """
        encoders = variant_fingerprints(workspace, variant)

        def work(shard: str) -> Outcome:
            features = layout.table("samples", f"{variant.name}_features", shard)
            classifier = fitting_classifier(workspace, variant, features, encoders)
            expected = features_provenance(workspace, "samples", shard, variant, encoders)
            require_table(features, classifier.features_schema, expected)
            provenance = predictions_provenance(content_digest(features), classifier.digest)
            path = layout.table("samples", PREDICTIONS, shard)
            outcome = made_table(path, provenance, lambda: [classifier.predictions(read_table(features))])
            calls = read_table(path, columns=["call"]).column("call").to_pylist()
            return outcome.with_metadata(frames_called_virus=calls.count("virus"), classifier=classifier.digest)

        return work

    return predict


def _reporting(workspace: Workspace) -> Body:
    def report(*_: object) -> Work:
        """What the user of a sample receives: a call for every record, or why not, as `virnuc predict` writes it.

        `summary.tsv` has a line for every record, `virus.fna` the records classified as virus, `chunks.bed` and
        `chunks.gff3` are for a genome browser; VirNucPro's two files are as VirNucPro writes them.
        If its check fails, materialize the frames and the predictions of the sample again.
        """

        def work(sample: str) -> Outcome:
            from virnuc_assets.reports.sample_results import write_ledger, write_results

            started, folder = time.perf_counter(), workspace.layout.sample_report(sample)
            inputs, facts = report_inputs(workspace, sample)
            read, ledger, shards = _planned(workspace, sample)
            with atomic_files(folder) as temporary:
                ledger, totals = write_ledger(temporary, ledger)
                calls = write_results(temporary, [read], ledger, totals, shards, facts)
                (temporary / PROVENANCE_FILE).write_text(json.dumps(inputs, indent=1) + "\n", encoding="utf-8")
            digest = digest_of(inputs)
            metadata = {
                "rows": calls.records.num_rows,
                "digest": digest,
                "seconds": round(time.perf_counter() - started, 3),
                "peak_memory_mb": peak_memory_mb(),
                **_shown(calls, folder),
            }
            return Outcome(digest, metadata)

        return work

    return report


def report_inputs(workspace: Workspace, sample: str) -> "tuple[dict[str, Any], Started]":
    """What a sample's report follows from today, and the run that writes it; refused without predictions of today."""
    from virnuc_assets.classifier.checkpoint import load_classifier
    from virnuc_assets.reports.sample_results import Started

    layout, settings, today = workspace.layout, workspace.settings, Today(workspace, "samples")
    shards = planned_shards(layout.plan("samples", sample))
    if not shards:
        raise VirnucError(f"sample {sample!r} is not planned; materialize samples/shard_plan first")
    for shard in shards:
        for asset in (FRAMES, PREDICTIONS):
            if not today.is_current(asset, shard):
                raise TableMismatch(
                    f"{layout.table('samples', asset, shard)}: missing, or not of today's records, encoders, rule "
                    f"and serving classifier; materialize samples/{asset} (partition {sample}) first"
                )
    tables = [layout.table("samples", name, shard) for shard in shards for name in (FRAMES, PREDICTIONS, "ledger")]
    # Not what the report says of the classifier's training and test: an evaluation that is made later adds to that, and
    # makes no call another. Where the classifier changed, so did the predictions.
    inputs = {
        "shards": shards,
        "tables": digest_of([content_digest(table) for table in tables]),
        "min_confidence": settings.evaluation.min_confidence,
        "max_error": settings.evaluation.max_error,
    }
    _, description = load_classifier(layout.classifier(settings.serving.variant))
    run = Started.now(f"asset samples/report, partition {sample}", settings, description, layout)
    calls = description.model_dump(mode="json", include={"temperature", "record_rule", "sketch"})
    return {**inputs, **calls}, run


def _planned(workspace: Workspace, sample: str) -> "tuple[Input, pa.Table, Shards]":
    """A sample's file, its ledger, and which rows of that the predictions of each shard are of."""
    from virnuc_assets.classifier.sample_calls import SPAN, located
    from virnuc_assets.reports.sample_results import Input

    layout, plan = workspace.layout, read_plan(workspace.layout.plan("samples", sample))
    (source,) = plan.sources.values()
    read = Input(printable(Path(source.fasta).name), Path(source.fasta), source.sha256)
    ledger = sample_ledger(layout, sample)
    record = np.cumsum(np.asarray(pc.equal(plan.table["first_chunk"], 0))) - 1

    def predicted(shard: str) -> pa.Table:
        found = read_table(layout.table("samples", PREDICTIONS, shard), predictions_schema())
        if not workspace.frame_rule("samples").finds_stretches:
            return found
        return located(found, read_table(layout.table("samples", FRAMES, shard), columns=["frame_id", *SPAN]))

    shards = (
        (record[rows], predicted(shard), layout.table("samples", FRAMES, shard))
        for shard, rows in plan.rows_by_shard.items()
    )
    return read, ledger.add_column(0, "source", pa.repeat(read.source, ledger.num_rows)), shards


def report_is_current(workspace: Workspace, sample: str) -> bool:
    """Whether a sample's report is there and made from today's predictions."""
    folder = workspace.layout.sample_report(sample)
    try:
        stored = json.loads((folder / PROVENANCE_FILE).read_text(encoding="utf-8"))
        return bool((folder / SUMMARY_FILE).is_file() and stored == report_inputs(workspace, sample)[0])
    except (VirnucError, FileNotFoundError, ValueError):
        return False


def _shown(calls: "SampleCalls", folder: Path) -> dict[str, Any]:
    """What the page of the asset shows of a report."""
    from virnuc_assets.reports.sample_page import pictures
    from virnuc_assets.reports.sample_results import PAGE_FILE, call_counts

    counts, page = call_counts(calls.records), folder / PAGE_FILE
    return {
        "records": calls.records.num_rows,
        **{f"records_{call.replace(' ', '_')}": count for call, count in counts.items()},
        "chunks_uncertain": pc.sum(calls.records["chunks_uncertain"]).as_py(),
        "calls": shown_pairs(counts, "call", "records"),
        "report": dg.MetadataValue.url(page.absolute().as_uri()),
        "folder": dg.MetadataValue.path(str(folder)),
        "pictures": dg.MetadataValue.md(pictures(calls)),
        "records_table": shown_rows(calls.records),
    }


def _checks(workspace: Workspace, variant: Variant) -> list[dg.AssetChecksDefinition]:
    layout = workspace.layout

    @dg.asset_check(asset=SAMPLES.key(PREDICTIONS), blocking=True)
    def every_frame_is_called(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Predictions and features hold the same frames in the same order."""
        faults = {}
        for shard in SAMPLES.shards_of_run(context, layout):
            features = layout.table("samples", f"{variant.name}_features", shard)
            if read_ids(layout.table("samples", PREDICTIONS, shard)) != read_ids(features):
                faults[shard] = ["frame_ids differ from those of the features"]
        return result(faults)

    @dg.asset_check(asset=SAMPLES.key(REPORT), blocking=True)
    def every_record_is_accounted_for(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Every record of a sample has its line in its report, and its chunks and frames add up."""
        from virnuc_assets.reports.sample_results import read_record_ids

        faults, records = {}, 0
        for sample in SAMPLES.keys_of_run(context):
            ledger, reported = sample_ledger(layout, sample), read_record_ids(layout.sample_report(sample))
            records += len(reported)
            faults[sample] = ledger_faults(ledger)
            if reported != ledger.column("record_id").to_pylist():
                faults[sample].append(f"{ledger.num_rows} records planned, {len(reported)} reported, or not the same")
        return result(faults, records=records)

    return [every_frame_is_called, every_record_is_accounted_for]
