"""Jobs, sensors and schedules: the watched folder, the weekly re-embedding, retraining and deciding on demand."""

import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.assets import refseq
from virnuc_assets.assets.accounts import LEDGER
from virnuc_assets.assets.migration import DECISION
from virnuc_assets.assets.recipes import chunks_are_older, plan_digest, report_is_older
from virnuc_assets.assets.shards import PlanSamples, incoming_files
from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN, REFERENCE, SAMPLE_NAMES, SAMPLES
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.shard_keys import shard_key, source_of
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import CLASSIFIER_FILE, Layout

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
FETCH_JOB = "fetch_refseq"
REFERENCE_JOB = "embed_reference"
SAMPLE_JOB = "predict_samples"
OTHER_BRANCH_JOB = "embed_samples_for_other_branch"
REPORT_JOB = "report_samples"
PLAN_SAMPLES_JOB = "plan_samples"
PLAN_SAMPLES_OP = "samples__shard_plan"
DECISION_JOB = "train_and_decide"
DECIDE_JOB = "decide"


_PHASES = {
    FETCH_JOB: "Downloads the RefSeq release of the settings; what is there is not fetched again.",
    "plan_reference": "Plans the catalogue into shards; new ones become partitions.",
    REFERENCE_JOB: "Frames, embeddings and features of reference shards.",
    DECISION_JOB: "The reference's ledger, split, training and evaluation of all branches, and the decision.",
    DECIDE_JOB: "The decision alone, from what lies on disk; NO DECISION where something is missing.",
    PLAN_SAMPLES_JOB: "Plans the files of the watched folder.",
    SAMPLE_JOB: "From a sample's shards to the serving classifier's predictions.",
    OTHER_BRANCH_JOB: "Embeddings and features of samples for the branch that does not serve, on demand.",
    REPORT_JOB: "What a sample's user receives.",
}


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
    others = [branch for branch in workspace.branches("samples") if branch != serving]
    on_demand = [(f"{branch.protein}_embeddings", f"{branch.name}_features") for branch in others]
    plans = {shards.domain: dg.AssetSelection.assets(shards.key("shard_plan")) for shards in (REFERENCE, SAMPLES)}
    release = dg.AssetSelection.assets(refseq.RELEASE) if workspace.settings.refseq else dg.AssetSelection.assets()
    selections = {
        **({FETCH_JOB: release} if workspace.settings.refseq else {}),
        "plan_reference": plans["reference"],
        REFERENCE_JOB: dg.AssetSelection.key_prefixes("reference") - plans["reference"] - release,
        DECISION_JOB: dg.AssetSelection.groups("classifiers", "migration") | dg.AssetSelection.assets(LEDGER),
        DECIDE_JOB: dg.AssetSelection.assets(DECISION),
        PLAN_SAMPLES_JOB: plans["samples"],
        SAMPLE_JOB: dg.AssetSelection.assets(*map(SAMPLES.key, sample_stages)),
        OTHER_BRANCH_JOB: dg.AssetSelection.assets(*map(SAMPLES.key, chain.from_iterable(on_demand))),
        REPORT_JOB: dg.AssetSelection.assets(SAMPLES.key("report")),
    }
    return [dg.define_asset_job(name, chosen, description=_PHASES[name]) for name, chosen in selections.items()]


def build_schedules() -> list[dg.ScheduleDefinition]:
    """The weekly re-embedding, off until a person turns it on; it costs what changed, the rest is reused."""

    @dg.schedule(job_name=REFERENCE_JOB, cron_schedule="0 3 * * 0", name="weekly_reembedding")
    def weekly_reembedding(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
        """Goes over all reference shards; only those whose frames or encoders changed are embedded."""
        shards = context.instance.get_dynamic_partitions(str(REFERENCE.partitions.name))
        yield from range_requests(shards, shards, f"weekly {context.scheduled_execution_time:%G-W%V}")

    return [weekly_reembedding]


def build_sensors(workspace: Workspace, jobs: Sequence[Any]) -> list[dg.SensorDefinition]:
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
    def planned_samples(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        """Requests predictions for each sample that lacks some, or whose file was replaced since.

        A run a sample: a broken one stops no other. All its shards are asked for, because finished ones cost nothing
        and the request stays the same while its run goes on.
        """
        description = layout.classifier(workspace.settings.serving.branch) / CLASSIFIER_FILE
        if not description.is_file():
            yield dg.SkipReason(f"no serving classifier yet ({description}); run {DECISION_JOB}")
            return
        classifier = json.loads(description.read_text(encoding="utf-8"))["weights_sha256"]
        shards = context.instance.get_dynamic_partitions(str(SAMPLES.partitions.name))
        for sample in sorted({source_of(shard) for shard in _waiting_shards(context.instance, layout)}):
            own = [shard for shard in shards if source_of(shard) == sample]
            made_of = digest_of([plan_digest(layout, "samples", own[0]), classifier])
            yield from range_requests(shards, own, f"predict {made_of}")

    @dg.sensor(job_name=REPORT_JOB, name="predicted_samples", minimum_interval_seconds=30)
    def predicted_samples(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest]:
        """Requests the report of each sample whose shards all have predictions, when it has none of these."""
        waiting = {source_of(shard) for shard in _waiting_shards(context.instance, layout)}
        reported = context.instance.get_materialized_partitions(SAMPLES.key("report"))
        for sample in context.instance.get_dynamic_partitions(str(SAMPLE_NAMES.name)):
            plan = plan_digest(layout, "samples", shard_key(sample, 0))
            if sample not in waiting and (sample not in reported or report_is_older(layout, sample)):
                yield dg.RunRequest(run_key=f"report {sample} {plan}", partition_key=sample)

    return [
        incoming_samples,
        planned_samples,
        predicted_samples,
        _decision_after_failure({job.name: job for job in jobs}),
    ]


def _decision_after_failure(jobs: Mapping[str, Any]) -> dg.SensorDefinition:
    @dg.run_status_sensor(
        run_status=dg.DagsterRunStatus.FAILURE,
        monitored_jobs=[jobs[DECISION_JOB]],
        request_job=jobs[DECIDE_JOB],
        name="decision_after_failure",
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def decision_after_failure(context: dg.RunStatusSensorContext) -> dg.RunRequest:
        """Decides anew when a training run failed, so that no verdict from older evidence is left standing."""
        return dg.RunRequest(run_key=context.dagster_run.run_id)

    return decision_after_failure


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
