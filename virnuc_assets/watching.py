"""The watched folder, in three steps, each a sensor: plan complete files, predict planned samples, report them.

Each looks at what there is and at what there should be, and asks for the difference. So a look that was missed, a run
that was killed, or a machine that went down costs the time until the next look and nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg

from virnuc_assets.assets.incoming import PlanSamples
from virnuc_assets.assets.recipes import (
    predictions_are_older,
    report_inputs_changed_at,
    report_is_older,
)
from virnuc_assets.automation import DECISION_JOB, PLAN_SAMPLES_JOB, PLAN_SAMPLES_OP, REPORT_JOB, SAMPLE_JOB
from virnuc_assets.partitions import SAMPLE_NAMES, SAMPLES
from virnuc_assets.requests import MAX_ATTEMPTS, NOT_RETRIED, Attempts, Unit, keys_of_range, unit_requests
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.incoming import visible_files, waiting_files
from virnuc_assets.sequences.shard_keys import source_of
from virnuc_assets.storage.layout import CLASSIFIER_FILE, Layout
from virnuc_assets.storage.places import changed_at

LOOK_SECONDS = 5
_ON: dict[str, Any] = {
    "minimum_interval_seconds": LOOK_SECONDS,
    "default_status": dg.DefaultSensorStatus.RUNNING,
}
Look = Iterator[dg.RunRequest | dg.SkipReason]


def build_sensors(workspace: Workspace) -> list[dg.SensorDefinition]:
    """The three sensors; on from the start, because a watched folder that nobody watches loses samples."""
    return [_incoming_samples(workspace), _planned_samples(workspace), _predicted_samples(workspace)]


def _incoming_samples(workspace: Workspace) -> dg.SensorDefinition:
    layout, settings = workspace.layout, workspace.settings

    @dg.sensor(job_name=PLAN_SAMPLES_JOB, name="incoming_samples", **_ON)
    def incoming_samples(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Plans the files that stayed as they are for two looks and that the book does not know."""
        attempts = Attempts(context.instance, PLAN_SAMPLES_JOB, _planned_files)
        files = visible_files(settings.incoming)
        seen = waiting_files(layout, files, settings.sequences)
        before = json.loads(context.cursor) if context.cursor else {}
        stable = [name for name, state in seen.items() if before.get(name) == state]
        units = [Unit(name, [name], changed_at(files[name])) for name in stable]
        together, alone, given_up = attempts.ready(units)
        requests = []
        for group in filter(None, [together, *([unit] for unit in alone)]):
            config = dg.RunConfig(ops={PLAN_SAMPLES_OP: PlanSamples(files=[unit.name for unit in group])})
            requests.append(dg.RunRequest(run_config=config, tags=NOT_RETRIED))
        skipped = None if requests else _nothing_asked(given_up)
        return dg.SensorResult(run_requests=requests, skip_reason=skipped, cursor=json.dumps(seen))

    return incoming_samples


def _planned_samples(workspace: Workspace) -> dg.SensorDefinition:
    layout, settings = workspace.layout, workspace.settings

    @dg.sensor(job_name=SAMPLE_JOB, name="planned_samples", **_ON)
    def planned_samples(context: dg.SensorEvaluationContext) -> Look:
        """Requests predictions for the samples that lack some, or whose file was replaced since.

        Samples that came together share a run; those that a run failed with are tried each by itself.
        """
        description = layout.classifier(settings.serving.variant) / CLASSIFIER_FILE
        if not description.is_file():
            yield dg.SkipReason(f"no serving classifier yet ({description}); run {DECISION_JOB}")
            return
        shards = context.instance.get_dynamic_partitions(str(SAMPLES.partitions.name))
        attempts = Attempts(context.instance, SAMPLE_JOB, keys_of_range(shards))
        own: dict[str, list[str]] = {}
        for shard in waiting_shards(context.instance, layout):
            own.setdefault(source_of(shard), []).append(shard)
        trained = changed_at(description)
        since = {sample: max(trained, changed_at(layout.plan("samples", sample))) for sample in own}
        units = [Unit(sample, own[sample], since[sample]) for sample in own]
        yield from _asked(attempts, shards, units)

    return planned_samples


def _predicted_samples(workspace: Workspace) -> dg.SensorDefinition:
    layout = workspace.layout

    @dg.sensor(job_name=REPORT_JOB, name="predicted_samples", **_ON)
    def predicted_samples(context: dg.SensorEvaluationContext) -> Look:
        """Requests the reports of samples whose shards all have predictions, where there is none of these."""
        samples = context.instance.get_dynamic_partitions(str(SAMPLE_NAMES.name))
        attempts = Attempts(context.instance, REPORT_JOB, keys_of_range(samples))
        waiting = {source_of(shard) for shard in waiting_shards(context.instance, layout)}
        reported = context.instance.get_materialized_partitions(SAMPLES.key("report"))
        ready = [name for name in samples if name not in waiting]
        lacking = [name for name in ready if name not in reported or report_is_older(layout, name)]
        units = [Unit(name, [name], report_inputs_changed_at(layout, name)) for name in lacking]
        yield from _asked(attempts, samples, units)

    return predicted_samples


def waiting_shards(instance: dg.DagsterInstance, layout: Layout) -> list[str]:
    """Sample shards that were never predicted, or whose predictions are not there or not of today's plan."""
    done = instance.get_materialized_partitions(SAMPLES.key("predictions"))
    shards = instance.get_dynamic_partitions(str(SAMPLES.partitions.name))
    return [shard for shard in shards if shard not in done or predictions_are_older(layout, shard)]


def _asked(attempts: Attempts, partitions: Sequence[str], units: list[Unit]) -> Look:
    requests = unit_requests(attempts, partitions, units)
    yield from requests
    if not requests and (reason := _nothing_asked(attempts.ready(units)[2])):
        yield reason


def _nothing_asked(given_up: list[str]) -> dg.SkipReason | None:
    if not given_up:
        return None
    return dg.SkipReason(
        f"given up after {MAX_ATTEMPTS} runs that failed: {', '.join(given_up)}. Read the last of these runs; when its "
        "cause is mended, launch it again, or put the file into the folder again"
    )


def _planned_files(run: dg.DagsterRun) -> list[str]:
    """Files that a run of the plan is over; none where a person plans all."""
    config: Mapping[str, Any] = run.run_config
    return list(config.get("ops", {}).get(PLAN_SAMPLES_OP, {}).get("config", {}).get("files") or [])
