"""What Dagster's monitoring does not look after where Slurm queues the runs: those that were launched and never began.

It asks only after runs that began and go on, and gives the others a time to begin in, which a queue of days exceeds.
"""

from __future__ import annotations

import shutil
import time
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.events import RunFailureReason
from dagster._core.launcher import WorkerStatus
from dagster._core.storage.tags import RUN_FAILURE_REASON_TAG

from virnuc_assets import slurm_jobs
from virnuc_assets.slurm import JOB_TAG, NAME, SlurmRunLauncher

TOLD_TAG = "virnuc/slurm_told"
_LOOK_SECONDS = 15
_TOLD_WITHIN = timedelta(hours=1)
_ENDS_WITHIN_SECONDS = 120.0  # a process, once its run has ended


def build_sensors() -> list[dg.SensorDefinition]:
    """The sensor, where Slurm's commands are."""
    return [lost_runs] if shutil.which("sbatch") else []


@dg.sensor(name="lost_runs", minimum_interval_seconds=_LOOK_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Fails runs whose Slurm job ended before it began; asks for no run itself."""
    launcher = context.instance.get_ref().run_launcher_data  # looked at only: others take seconds to load
    if launcher is None or launcher.class_name != SlurmRunLauncher.__name__:
        return dg.SkipReason("runs are not launched by Slurm")
    lost = _fail_what_never_began(context.instance)
    _tell_who_interrupted(context.instance)
    _end_jobs_without_a_run(context.instance)
    return dg.SkipReason(f"{lost} launched runs were lost" if lost else "no launched run is lost")


def _fail_what_never_began(instance: dg.DagsterInstance) -> int:
    """As one whose job was cancelled in its queue; it would wait for ever."""
    lost = 0
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING])):
        health = instance.run_launcher.check_run_worker_health(run)
        now = instance.get_run_by_id(run.run_id)
        if health.status is WorkerStatus.FAILED and now and now.status is DagsterRunStatus.STARTING:
            instance.report_run_failed(now, f"It never began: {health.msg}.")
            lost += 1
    return lost


def _tell_who_interrupted(instance: dg.DagsterInstance) -> None:
    """A job that is past its time, or that a person cancels, is asked to end first; its run knows no more than that."""
    interrupted = {RUN_FAILURE_REASON_TAG: RunFailureReason.UNEXPECTED_TERMINATION.value}
    after = datetime.now(UTC) - _TOLD_WITHIN
    for run in instance.get_runs(
        RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags=interrupted, updated_after=after)
    ):
        if JOB_TAG in run.tags and run.tags.get(TOLD_TAG) != run.run_id:  # which a retry begins with
            health = instance.run_launcher.check_run_worker_health(run)
            if health.status is WorkerStatus.FAILED:
                instance.add_run_tags(run.run_id, {TOLD_TAG: run.run_id})
                instance.report_engine_event(f"It was interrupted: {health.msg}.", run)


def _end_jobs_without_a_run(instance: dg.DagsterInstance) -> None:
    """The page cancels a run that has not begun without a word to its launcher; the job would wait in vain.

    So would one compute in vain whose run was ended while Slurm did not answer.
    """
    for name, job in slurm_jobs.jobs_now().items():
        if job.ended or not name.startswith(NAME):
            continue
        record = instance.get_run_record_by_id(name.removeprefix(NAME))  # None: of another home
        if record is None or not record.dagster_run.is_finished:
            continue
        if job.state == "PENDING" or time.time() - (record.end_time or 0.0) > _ENDS_WITHIN_SECONDS:
            slurm_jobs.cancel(job.number)
