"""Jobs, sensors and schedules: the watched folder, the weekly re-embedding, retraining and deciding on demand."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.assets.recipes import chunks_are_older, plan_digest, report_is_older
from virnuc_assets.assets.shards import PlanSamples, incoming_files
from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN, REFERENCE, SAMPLE_NAMES, SAMPLES
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.planning import shard_key, source_of
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import Layout

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
REFERENCE_JOB = "embed_reference"
SAMPLE_JOB = "predict_samples"
BASELINE_SAMPLES_JOB = "embed_samples_for_baseline"
REPORT_JOB = "report_samples"
PLAN_SAMPLES_JOB = "plan_samples"
PLAN_SAMPLES_OP = "samples__shard_plan"
DECISION_JOB = "train_and_decide"


def build_jobs(workspace: Workspace) -> list[Any]:
    """One job a phase; within each, Dagster follows the lineage."""
    serving = workspace.branch(workspace.settings.serving.branch)
    sample_stages = (
        "chunked_fasta",
        "translated_proteins",
        f"{serving.dna}_embeddings",
        f"{serving.protein}_embeddings",
        f"{serving.name}_features",
        "predictions",
    )
    reference = dg.AssetSelection.key_prefixes("reference") - dg.AssetSelection.assets(REFERENCE.key("shard_plan"))
    decision = dg.AssetSelection.groups("classifiers", "migration")
    return [
        dg.define_asset_job(
            "plan_reference",
            dg.AssetSelection.assets(REFERENCE.key("shard_plan")),
            description="Plans the catalogue into shards; new ones become partitions.",
        ),
        dg.define_asset_job(
            REFERENCE_JOB, reference, description="Frames, embeddings and features of reference shards."
        ),
        dg.define_asset_job(
            DECISION_JOB, decision, description="Split, training and evaluation of all branches, and the decision."
        ),
        dg.define_asset_job(
            PLAN_SAMPLES_JOB,
            dg.AssetSelection.assets(SAMPLES.key("shard_plan")),
            description="Plans the files of the watched folder.",
        ),
        dg.define_asset_job(
            SAMPLE_JOB,
            dg.AssetSelection.assets(*(SAMPLES.key(stage) for stage in sample_stages)),
            description="From a sample's shards to the serving classifier's predictions.",
        ),
        dg.define_asset_job(
            BASELINE_SAMPLES_JOB,
            dg.AssetSelection.assets(*(SAMPLES.key(f"esm2_3b_{table}") for table in ("embeddings", "features"))),
            description="The baseline's embeddings and features of samples, on demand.",
        ),
        dg.define_asset_job(
            REPORT_JOB, dg.AssetSelection.assets(SAMPLES.key("report")), description="What a sample's user receives."
        ),
    ]


def build_schedules() -> list[dg.ScheduleDefinition]:
    """The weekly re-embedding, off until a person turns it on; it costs what changed, the rest is reused."""

    @dg.schedule(job_name=REFERENCE_JOB, cron_schedule="0 3 * * 0", name="weekly_reembedding")
    def weekly_reembedding(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        """Goes over all reference shards; only those whose frames or encoders changed are embedded."""
        shards = context.instance.get_dynamic_partitions(str(REFERENCE.partitions.name))
        yield from range_requests(shards, shards, f"weekly {context.scheduled_execution_time:%G-W%V}")

    return [weekly_reembedding]


def build_sensors(workspace: Workspace) -> list[dg.SensorDefinition]:
    """The watched folder, in three steps: plan stable files, predict planned shards, report predicted samples."""
    layout = workspace.layout

    @dg.sensor(job_name=PLAN_SAMPLES_JOB, name="incoming_samples", minimum_interval_seconds=30)
    def incoming_samples(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Plans the files that stayed as they are for two looks, when they changed since the last plan."""
        seen = _files(workspace.settings.incoming)
        before = json.loads(context.cursor) if context.cursor else {}
        stable = {name: state for name, state in seen.items() if before.get(name) == state}
        config = dg.RunConfig(ops={PLAN_SAMPLES_OP: PlanSamples(files=sorted(stable))})
        requests = [dg.RunRequest(run_key=digest_of(stable), run_config=config)] if stable else []
        return dg.SensorResult(run_requests=requests, cursor=json.dumps(seen))

    @dg.sensor(job_name=SAMPLE_JOB, name="planned_samples", minimum_interval_seconds=30)
    def planned_samples(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
        """Requests predictions for sample shards that have none, or whose file was replaced since."""
        shards = context.instance.get_dynamic_partitions(str(SAMPLES.partitions.name))
        waiting = _waiting_shards(context.instance, layout)
        planned = {shard: plan_digest(layout, "samples", shard) for shard in waiting}
        yield from range_requests(shards, waiting, f"predict {digest_of(planned)}")

    @dg.sensor(job_name=REPORT_JOB, name="predicted_samples", minimum_interval_seconds=30)
    def predicted_samples(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
        """Requests the report of each sample whose shards all have predictions, when it has none of these."""
        waiting = {source_of(shard) for shard in _waiting_shards(context.instance, layout)}
        reported = context.instance.get_materialized_partitions(SAMPLES.key("report"))
        for sample in context.instance.get_dynamic_partitions(str(SAMPLE_NAMES.name)):
            plan = plan_digest(layout, "samples", shard_key(sample, 0))
            if sample not in waiting and (sample not in reported or report_is_older(layout, sample)):
                yield dg.RunRequest(run_key=f"report {sample} {plan}", partition_key=sample)

    return [incoming_samples, planned_samples, predicted_samples]


def range_requests(partitions: Sequence[str], wanted: Sequence[str], reason: str) -> Iterator[dg.RunRequest]:
    """Run requests over contiguous ranges of at most MAX_PARTITIONS_PER_RUN partitions."""
    for keys in contiguous_ranges(partitions, wanted):
        yield dg.RunRequest(run_key=f"{reason} {keys[0]}..{keys[-1]}", tags={RANGE_START: keys[0], RANGE_END: keys[-1]})


def contiguous_ranges(partitions: Sequence[str], wanted: Sequence[str]) -> Iterator[list[str]]:
    """The wanted keys as runs of neighbours in partition order, cut at MAX_PARTITIONS_PER_RUN."""
    chosen, keys = set(wanted), list[str]()
    for partition in [*partitions, None]:
        if partition is not None and partition in chosen and len(keys) < MAX_PARTITIONS_PER_RUN:
            keys.append(partition)
            continue
        if keys:
            yield keys
        keys = [partition] if partition is not None and partition in chosen else []


def _files(folder: Path) -> dict[str, list[int]]:
    """Size and time of change of every visible file of a folder."""
    return {path.name: [path.stat().st_size, path.stat().st_mtime_ns] for path in incoming_files(folder)}


def _waiting_shards(instance: dg.DagsterInstance, layout: Layout) -> list[str]:
    """Sample shards that were never predicted, or whose chunks are not those of today's plan."""
    done = instance.get_materialized_partitions(SAMPLES.key("predictions"))
    shards = instance.get_dynamic_partitions(str(SAMPLES.partitions.name))
    return [shard for shard in shards if shard not in done or chunks_are_older(layout, "samples", shard)]
