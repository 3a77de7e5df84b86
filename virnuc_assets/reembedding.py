"""The reference keeps itself up to date: embedded anew every week where it changed, trained anew where enough did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from virnuc_assets.assets.staleness import look_over, stale
from virnuc_assets.automation import DECIDE_JOB, DECISION_JOB, PLAN_REFERENCE_JOB, REFERENCE_JOB
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.requests import MAX_ATTEMPTS, NOT_RETRIED, Attempts, Unit, goes_on, keys_of_range, unit_requests
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.layout import CLASSIFIER_FILE

SCHEDULE = "weekly_reembedding"
_LOOK_SECONDS = 30
_SELDOM_SECONDS = 600


def build_schedules(workspace: Workspace) -> list[dg.ScheduleDefinition]:
    """The weekly look at the reference."""

    @dg.schedule(
        job_name=PLAN_REFERENCE_JOB,
        cron_schedule=workspace.settings.automation.reembed_cron,
        name=SCHEDULE,
        default_status=dg.DefaultScheduleStatus.RUNNING,
    )
    def weekly_reembedding(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
        """Reads the reference sources again; what changed becomes new shards, and `stale_reference` embeds it."""
        return dg.RunRequest(run_key=f"{context.scheduled_execution_time:%Y-%m-%d %H:%M}")

    return [weekly_reembedding]


def build_sensors(workspace: Workspace, jobs: Mapping[str, Any]) -> list[dg.SensorDefinition]:
    """What follows the weekly look, and what follows enough change."""
    return [_stale_reference(workspace), _changed_reference(workspace), _decision_after_failure(jobs)]


def _stale_reference(workspace: Workspace) -> dg.SensorDefinition:
    @dg.sensor(
        job_name=REFERENCE_JOB,
        name="stale_reference",
        minimum_interval_seconds=_LOOK_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def stale_reference(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        """After the weekly plan: embeds the shards whose records or encoders changed, and no others.

        The plan need not have succeeded: a broken source keeps its old shards, and all others are planned. The cursor
        is the last plan whose shards are done.
        """
        chosen = dg.RunsFilter(
            job_name=PLAN_REFERENCE_JOB,
            tags={"dagster/schedule_name": SCHEDULE},
            statuses=[dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE],
        )
        planned = context.instance.get_run_records(chosen, limit=1)
        if not planned or planned[0].dagster_run.run_id == context.cursor:
            yield dg.SkipReason("nothing was planned since the last time")
            return
        shards = context.instance.get_dynamic_partitions(str(REFERENCE.partitions.name))
        attempts = Attempts(context.instance, REFERENCE_JOB, keys_of_range(shards))
        seen, since = look_over(workspace, "reference"), planned[0].create_timestamp.timestamp()
        # Tables of fine-tuned encoders are made on demand, by jobs of their own.
        old = {shard for shard, reasons in seen.stale.items() if reasons.keys() - seen.on_demand}
        units = [Unit(shard, [shard], since) for shard in shards if shard in old]
        yield from unit_requests(attempts, shards, units)
        given_up = attempts.ready(units)[2]
        if len(given_up) == len(units):
            context.update_cursor(planned[0].dagster_run.run_id)
            yield dg.SkipReason(f"done; given up after {MAX_ATTEMPTS} failed runs: {', '.join(given_up) or 'none'}")

    return stale_reference


def _changed_reference(workspace: Workspace) -> dg.SensorDefinition:
    limit = workspace.settings.automation.retrain_changed_share

    @dg.sensor(job_name=DECISION_JOB, name="changed_reference", minimum_interval_seconds=_SELDOM_SECONDS)
    def changed_reference(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        """Trains all variants and decides anew when enough of the reference changed since the last training.

        Off until a person turns it on: a new classifier calls all later samples.
        """
        attempts = Attempts(context.instance, DECISION_JOB, lambda _: [DECISION_JOB])
        share, newest = changed_share(workspace)
        if share < limit:
            return dg.SkipReason(
                f"{share:.1%} of the features changed since the last training; {limit:.1%} is asked for"
            )
        for job in (PLAN_REFERENCE_JOB, REFERENCE_JOB):
            if goes_on(context.instance, job):
                return dg.SkipReason(f"{share:.1%} of the features changed; {job} goes on")
        if old := stale(workspace, "reference"):
            return dg.SkipReason(f"{share:.1%} of the features changed; {len(old)} shards are stale, embed them first")
        unit = Unit(DECISION_JOB, [DECISION_JOB], newest)
        if not any(attempts.ready([unit])[:2]):
            return dg.SkipReason(f"{DECISION_JOB} goes on, failed a moment ago, or failed {MAX_ATTEMPTS} times")
        return dg.RunRequest(tags=NOT_RETRIED)

    return changed_reference


def changed_share(workspace: Workspace) -> tuple[float, float]:
    """How much of the candidate's features was made since it was trained, by size, and when the newest was made.

    Nothing where it was never trained: the first training is a person's.
    """
    candidate = workspace.settings.decision.candidate
    description = workspace.layout.classifier(candidate) / CLASSIFIER_FILE
    folder = workspace.layout.table("reference", f"{candidate}_features", "").parent
    tables = [path.stat() for path in folder.glob("*.parquet")] if description.is_file() else []
    if not tables:
        return 0.0, 0.0
    trained = description.stat().st_mtime
    changed = sum(table.st_size for table in tables if table.st_mtime > trained)
    return changed / sum(table.st_size for table in tables), max(table.st_mtime for table in tables)


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
