"""Runs as jobs of a Slurm cluster: one job a run, found by its name, whoever submitted it and whatever got lost."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster import DagsterRun
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.events import EngineEventData
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from virnuc_assets import slurm_jobs
from virnuc_assets.errors import VirnucError
from virnuc_assets.launch import SLURM_TAG
from virnuc_assets.slurm_jobs import FORMS, ControllerAway, Job, Request

JOB_TAG = "virnuc/slurm_job"
# Of which run the job is: a retry begins with the tags of the run before.
SUBMITTED_TAG = "virnuc/slurm_job_of"
NAME = "dagster-"  # of a job, and its run's id
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "SLURM_CONF", "PGPASSFILE")
# `virnuc up` finds its strays by the first, its folder of the second goes when it ends, the others are Slurm's options.
_NOT_PASSED_ON = re.compile(r"VIRNUC_UP_.*|TMPDIR|S(BATCH|LURM)_.*")
_LOOK_SECONDS = 5.0  # the monitoring asks for one run after the other; Slurm is asked for all of them at once
_SUBMITTED_WITHIN = timedelta(minutes=3)
# Of a database: a job's script and its command line tell all of dagster.yaml.
_PASSWORD = re.compile(r"://[^/@:\s]+:[^/@\s]+@|\bpassword: \S")


class AskedAgain(ControllerAway, DagsterUserCodeUnreachableError):
    """Nobody answered: the run goes back to Dagster's queue, which does so at this kind of error alone."""


class SlurmRunLauncher(RunLauncher, ConfigurableClass):
    """Submits a job for each run, tells whether it lives, and ends it."""

    def __init__(self, inst_data: ConfigurableClassData | None, config: Mapping[str, Any]) -> None:
        self._inst_data, self._logs, self._variables = inst_data, config["logs"], config["environment"]
        self._defaults = slurm_jobs.checked(config["resources"], "dagster.yaml, run_launcher: resources")
        self._looked: tuple[float, dict[str, Job]] = (-_LOOK_SECONDS, {})
        if wrong := [name for name in self._variables if _NOT_PASSED_ON.fullmatch(name)]:
            raise VirnucError(f"dagster.yaml, run_launcher: {', '.join(wrong)} cannot be passed on to jobs; remove it")
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """As Dagster made it."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> dict[str, Any]:
        """What dagster.yaml may set: resources of all jobs, folder of their logs, variables that they are given."""
        kinds = {name: dg.IntSource if name == "cpus_per_task" else dg.StringSource for name in FORMS}
        return {
            "resources": dg.Field({name: dg.Field(kind, is_required=False) for name, kind in kinds.items()}),
            "logs": dg.Field(dg.StringSource, default_value="slurm"),
            "environment": dg.Field([str], default_value=[]),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> Self:
        """A launcher as dagster.yaml sets it up."""
        return cls(inst_data, config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        """Submit the run's job.

        Raises:
            AskedAgain: no answer. A job that was submitted all the same is found the next time.
            VirnucError: the run asks for what Slurm does not have, or in a wrong form; not tried again.
        """
        from dagster._grpc.types import ExecuteRunArgs  # heavy, and definitions load this module

        run, origin = context.dagster_run, context.job_code_origin
        if origin is None:
            raise VirnucError(f"run {run.run_id} names no code location; launch it from one")
        log = self._log(run)
        log.parent.mkdir(parents=True, exist_ok=True)
        folder = getattr(origin.repository_origin.code_pointer, "working_directory", None) or Path.cwd()
        execute = dg.serialize_value(ExecuteRunArgs(origin, run.run_id, self._instance.get_ref(), True))
        command = [origin.executable_path, "-m", "dagster", "api", "execute_run", execute]
        # sbatch puts other things in the place of `%` and a letter.
        fixed = [f"--chdir={folder}", f"--output={str(log).replace('%', '%%')}", f"--comment={run.run_id}"]
        try:
            asked = slurm_jobs.options(self._request(run))
            if _PASSWORD.search(execute):
                raise VirnucError("dagster.yaml holds a password, which its jobs would tell; write it into ~/.pgpass")
            number = self._submitted(_name(run)) or slurm_jobs.submit(
                _name(run), [*asked, *fixed], command, self._environment()
            )
        except ControllerAway as error:
            raise AskedAgain(str(error)) from error
        except VirnucError:
            self._instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: "0"})
            raise
        self._instance.add_run_tags(run.run_id, {JOB_TAG: number, SUBMITTED_TAG: run.run_id})
        told = {"job": dg.MetadataValue.text(number), "log": dg.MetadataValue.path(str(log))}
        message = f"Submitted Slurm job {number} ({' '.join(asked) or 'by defaults'})."
        self._instance.report_engine_event(message, run, EngineEventData(told), cls=type(self))

    def _submitted(self, name: str) -> str | None:
        """The living job of an earlier attempt whose answer was lost."""
        job = slurm_jobs.jobs_now(name).get(name)
        return job.number if job and not job.ended else None

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Always."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's job lives or may yet; the monitoring fails what is not known, so silence is life."""
        try:
            job = self._job(run)
        except ControllerAway as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, str(error))
        if (job and not job.ended) or (job is None and self._may_be_submitted(run)):
            return CheckRunHealthResult(WorkerStatus.RUNNING, str(job or "its job is being submitted"))
        told = f"{job}, exit code {slurm_jobs.exit_code(job.number)}" if job else "Slurm knows no job of this run"
        return CheckRunHealthResult(WorkerStatus.FAILED, f"{told}; its log is {self._log(run)}")

    def terminate(self, run_id: str) -> bool:
        """Cancel the run's job, pending or running; returns whether there was one.

        Raises:
            ControllerAway: Slurm does not answer; the run goes on as it was.
        """
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        job = slurm_jobs.jobs_now(_name(run)).get(_name(run))
        self._instance.report_run_canceling(run)  # before the signal: else the run takes it for a failure
        if lives := job is not None and not job.ended:
            slurm_jobs.cancel(job.number)
            job = slurm_jobs.jobs_now(_name(run)).get(_name(run))
        run = self._instance.get_run_by_id(run_id)
        if run and not run.is_finished and (job is None or job.ended):  # else its process is about to tell
            self._instance.report_run_canceled(run, f"Canceled: {job or 'Slurm knows no job of this run'}.")
        return lives

    def _job(self, run: DagsterRun) -> Job | None:
        """The run's job by an answer of the last seconds; one that is not in it is asked for by itself."""
        name, now = _name(run), time.monotonic()
        if now - self._looked[0] >= _LOOK_SECONDS:
            self._looked = now, slurm_jobs.jobs_now()
        return self._looked[1].get(name) or slurm_jobs.jobs_now(name).get(name) or slurm_jobs.job_before(name)

    def _may_be_submitted(self, run: DagsterRun) -> bool:
        """Whether a launch may go on that was not killed: no job is on record, and little time has passed."""
        record = self._instance.get_run_record_by_id(run.run_id)
        age = datetime.now(UTC) - record.update_timestamp if record else timedelta.max
        return run.tags.get(SUBMITTED_TAG) != run.run_id and age < _SUBMITTED_WITHIN

    def _request(self, run: DagsterRun) -> Request:
        """Defaults, over them what the steps that the run executes ask for, over that the run's own tag."""
        own = slurm_jobs.request(run.tags.get(SLURM_TAG, "{}"), f"tag {SLURM_TAG} of run {run.run_id}")
        plan = self._instance.get_execution_plan_snapshot(str(run.execution_plan_snapshot_id))
        asked: Request = {}
        for step in plan.steps:
            where = f"tag {SLURM_TAG} of step {step.key}"
            of_step = slurm_jobs.request((step.tags or {}).get(SLURM_TAG, "{}"), where)
            if step.key not in plan.step_keys_to_execute:
                continue
            if other := [key for key in of_step if asked.get(key, of_step[key]) != of_step[key] and key not in own]:
                raise VirnucError(
                    f"{where}: {other} differ from another step's; give the run a tag {SLURM_TAG} with them"
                )
            asked |= of_step
        return {**self._defaults, **asked, **own}

    def _environment(self) -> dict[str, str]:
        if missing := [name for name in self._variables if name not in os.environ]:
            raise VirnucError(f"{', '.join(missing)}: not set here, though dagster.yaml passes it on to jobs")
        given = {name: os.environ[name] for name in (*_PASSED_ON, *self._variables) if name in os.environ}
        return {**given, "DAGSTER_HOME": self._instance.root_directory}

    def _log(self, run: DagsterRun) -> Path:
        return Path(self._instance.root_directory, self._logs, f"{run.run_id}.log").resolve()


def _name(run: DagsterRun) -> str:
    return NAME + run.run_id
