"""Runs as jobs of a Slurm cluster: one job a run, found by its name, whoever submitted it and whatever got lost.

The commands of Slurm, the launcher that uses them, and a sensor for what Dagster's monitoring does not look after.
Nothing of a tag reaches a shell.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster import DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.events import EngineEventData, RunFailureReason
from dagster._core.launcher import LaunchRunContext, RunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus
from dagster._core.storage.tags import MAX_RETRIES_TAG, RUN_FAILURE_REASON_TAG
from dagster._serdes import ConfigurableClass, ConfigurableClassData

from virnuc_assets.defs.launchers.steps import SLURM_TAG
from virnuc_assets.errors import VirnucError

# Of sbatch, by their names with `_` for `-`. Each is one word of its command line: no value becomes another option.
OPTIONS = ("partition", "account", "qos", "reservation", "constraint", "gres", "cpus_per_task", "mem", "time")
_ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
_TIMEOUT_SECONDS = 60.0
# Of sbatch, that it reached nobody, or is to be retried later; all else that it says is about the request.
_UNANSWERED = re.compile(
    r"no answer in|unable to contact|socket|connection|connect failure|temporar|retry", re.IGNORECASE
)
_ROW = re.compile(
    r"^(?P<number>[0-9]+)\|(?P<state>\w+)[^|\n]*\|(?P<reason>[^|\n]*)\|(?P<name>[^|\n]*)\|?$", re.MULTILINE
)

Request = dict[str, str | int | None]  # None: what others ask for is not wanted


class ControllerAway(VirnucError, DagsterUserCodeUnreachableError):
    """Slurm did not answer: of no job anything is known. At this kind of error alone Dagster queues a run again."""


@dataclass(frozen=True)
class Job:
    """A job as squeue shows it: its id, its state, e.g. PENDING, why it pends or ended, and its name."""

    number: str
    state: str
    reason: str
    name: str

    @property
    def ended(self) -> bool:
        """Whether nothing of it runs or will; a state that nobody knows is no end."""
        return self.state in _ENDED

    def __str__(self) -> str:
        return f"Slurm job {self.number} is {self.state} (reason {self.reason})"


def request(text: str, where: str) -> Request:
    """What a tag asks for: a JSON object of options and their values."""
    try:
        values = json.loads(text)
    except json.JSONDecodeError:
        values = None
    if not isinstance(values, dict):
        raise VirnucError(f'{where} is {text!r}; expected a JSON object, e.g. {{"gres": "gpu:1"}}')

    def fits(key: str, value: object) -> bool:
        return key in OPTIONS and (value is None or (type(value) in (str, int) and str(value).isprintable()))

    if wrong := {key: value for key, value in values.items() if not fits(key, value)}:
        raise VirnucError(f"{where}: {wrong}; expected some of {', '.join(OPTIONS)}, as sbatch takes them")
    return values


def options(asked: Request) -> list[str]:
    """A word for each thing asked for."""
    return [f"--{key.replace('_', '-')}={value}" for key, value in asked.items() if value is not None]


def submit(name: str, asked: Sequence[str], command: Sequence[str], environment: Mapping[str, str]) -> str:
    """Submit a job once, and return its id; where the answer is lost the job is searched, and never submitted again.

    No other job has the name. The environment is the job's whole one, and sbatch's.
    """
    fixed = [f"--job-name={name}", "--parsable", "--export=ALL", "--no-requeue"]
    done = _run(["sbatch", *asked, *fixed], f"#!/bin/sh\nexec {shlex.join(command)}\n", environment)
    if done.returncode == 0:
        return done.stdout.strip().split(";")[0]  # a cluster's name may follow
    away = ControllerAway(f"sbatch got no answer: {done.stderr.strip()}")
    try:
        job = jobs_now(name).get(name)
    except ControllerAway:
        raise away from None
    if job is None and _UNANSWERED.search(done.stderr):
        raise away
    if job is None:
        raise VirnucError(f"sbatch refused the job: {done.stderr.strip()}")
    return job.number


def jobs_now(name: str | None = None) -> dict[str, Job]:
    """This user's jobs by their names, or the one of a name: all that live, and those that ended minutes ago."""
    chosen = [f"--name={name}"] if name else []
    fields = "JobID:|,State:|,Reason:|,Name:|"
    lines = _answer(["squeue", "--me", "--noheader", "--states=all", *chosen, f"--Format={fields}"])
    # Other jobs of this user may have anything in their names, and are passed over.
    return {row["name"]: Job(**row.groupdict()) for row in _ROW.finditer(lines)}


def exit_code(number: str) -> str:
    """Status and signal of a job that ended minutes ago, e.g. 0:9; "not known" where the controller forgot it."""
    found = re.search(r" ExitCode=([0-9:]+)", _run(["scontrol", "--oneliner", "show", "job", number]).stdout)
    return found[1] if found else "not known"


def cancel(number: str) -> None:
    """End a job, pending or running."""
    _answer(["scancel", number])


def _answer(command: Sequence[str]) -> str:
    done = _run(command)
    if done.returncode:
        raise ControllerAway(f"{command[0]} got no answer: {done.stderr.strip()}")
    return done.stdout


def _run(
    command: Sequence[str], script: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(  # noqa: S603
            command,
            input=script,
            env=environment,
            timeout=_TIMEOUT_SECONDS,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise VirnucError(f"{command[0]} is not here; Slurm's commands are needed where runs are launched") from error
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"{command[0]}: no answer in {_TIMEOUT_SECONDS:.0f} s")


JOB_TAG = "virnuc/slurm_job"
# Of which run the job is: a retry begins with the tags of the run before.
SUBMITTED_TAG = "virnuc/slurm_job_of"
NAME = "dagster-"  # of a job, and its run's id
_PASSED_ON = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "SLURM_CONF", "PGPASSFILE")
# `virnuc up` finds its strays by the first, its folder of the second goes when it ends, the others are Slurm's options.
_NOT_PASSED_ON = re.compile(r"VIRNUC_UP_.*|TMPDIR|S(BATCH|LURM)_.*")
_POLL_SECONDS = 5.0  # the monitoring asks for one run after the other; Slurm is asked for all of them at once
_SUBMITTED_WITHIN = timedelta(minutes=3)
INTERRUPTION_TAG = "virnuc/slurm_interrupted"  # of the run that says already why it was interrupted
_SENSOR_SECONDS = 15
_REPORTED_WITHIN = timedelta(hours=1)
_ENDS_WITHIN_SECONDS = 120.0  # a process, once its run has ended
# Of a database: a job's script and its command line show all of dagster.yaml.
_PASSWORD = re.compile(r"://[^/@:\s]+:[^/@\s]+@|\bpassword: \S")


class SlurmRunLauncher(RunLauncher, ConfigurableClass):
    """Submits a job for each run, checks whether it lives, and ends it."""

    def __init__(self, inst_data: ConfigurableClassData | None, config: Mapping[str, Any]) -> None:
        self._inst_data, self._logs, self._variables = inst_data, config["logs"], config["environment"]
        self._defaults: Request = dict(config["resources"])
        self._polled: tuple[float, dict[str, Job]] = (-_POLL_SECONDS, {})
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
        kinds = {name: dg.IntSource if name == "cpus_per_task" else dg.StringSource for name in OPTIONS}
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
        """Submit the run's job; one whose answer was lost is found the next time. What Slurm refuses is not retried."""
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
            asked = options(self._request(run))
            if _PASSWORD.search(execute):
                raise VirnucError("dagster.yaml holds a password, which its jobs would show; write it into ~/.pgpass")
            job = jobs_now(_name(run)).get(_name(run))  # of an earlier attempt whose answer was lost
            alive = job.number if job and not job.ended else None
            number = alive or submit(_name(run), [*asked, *fixed], command, self._environment())
        except ControllerAway:
            raise
        except VirnucError:
            self._instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: "0"})
            raise
        self._instance.add_run_tags(run.run_id, {JOB_TAG: number, SUBMITTED_TAG: run.run_id})
        shown = {"job": dg.MetadataValue.text(number), "log": dg.MetadataValue.path(str(log))}
        message = f"Submitted Slurm job {number} ({' '.join(asked) or 'by defaults'})."
        self._instance.report_engine_event(message, run, EngineEventData(shown), cls=type(self))

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Always."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the run's job lives or may yet; no answer counts as alive, as the monitoring fails the rest."""
        try:
            job = self._job(run)
        except ControllerAway as error:
            return CheckRunHealthResult(WorkerStatus.RUNNING, str(error))
        if (job and not job.ended) or (job is None and self._may_be_submitted(run)):
            return CheckRunHealthResult(WorkerStatus.RUNNING, str(job or "its job is being submitted"))
        state = f"{job}, exit code {exit_code(job.number)}" if job else "Slurm knows no job of this run"
        return CheckRunHealthResult(WorkerStatus.FAILED, f"{state}; its log is {self._log(run)}")

    def terminate(self, run_id: str) -> bool:
        """Cancel the run's job, pending or running; returns whether there was one. Without answer nothing changes."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        job = jobs_now(_name(run)).get(_name(run))
        self._instance.report_run_canceling(run)  # before the signal: else the run takes it for a failure
        if lives := job is not None and not job.ended:
            cancel(job.number)
            job = jobs_now(_name(run)).get(_name(run))
        run = self._instance.get_run_by_id(run_id)
        if run and not run.is_finished and (job is None or job.ended):  # else its process is about to report it
            self._instance.report_run_canceled(run, f"Canceled: {job or 'Slurm knows no job of this run'}.")
        return lives

    def _job(self, run: DagsterRun) -> Job | None:
        """The run's job by an answer of the last seconds; one that is not in it is asked for by itself."""
        name, now = _name(run), time.monotonic()
        if now - self._polled[0] >= _POLL_SECONDS:
            self._polled = now, jobs_now()
        return self._polled[1].get(name) or jobs_now(name).get(name)

    def _may_be_submitted(self, run: DagsterRun) -> bool:
        """Whether a launch may continue that was not killed: no job is on record, and little time has passed."""
        record = self._instance.get_run_record_by_id(run.run_id)
        age = datetime.now(UTC) - record.update_timestamp if record else timedelta.max
        return run.tags.get(SUBMITTED_TAG) != run.run_id and age < _SUBMITTED_WITHIN

    def _request(self, run: DagsterRun) -> Request:
        """Defaults, over them what the steps that the run executes ask for, over that the run's own tag."""
        own = request(run.tags.get(SLURM_TAG, "{}"), f"tag {SLURM_TAG} of run {run.run_id}")
        plan = self._instance.get_execution_plan_snapshot(str(run.execution_plan_snapshot_id))
        asked: Request = {}
        for step in plan.steps:
            where = f"tag {SLURM_TAG} of step {step.key}"
            of_step = request((step.tags or {}).get(SLURM_TAG, "{}"), where)
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


def build_sensors() -> list[dg.SensorDefinition]:
    """The sensor, where Slurm's commands are."""
    return [lost_runs] if shutil.which("sbatch") else []


@dg.sensor(name="lost_runs", minimum_interval_seconds=_SENSOR_SECONDS, default_status=dg.DefaultSensorStatus.RUNNING)
def lost_runs(context: dg.SensorEvaluationContext) -> dg.SkipReason:
    """Fails runs whose Slurm job ended before it started; requests no run itself."""
    launcher = context.instance.get_ref().run_launcher_data  # its data only: others take seconds to load
    if launcher is None or launcher.class_name != SlurmRunLauncher.__name__:
        return dg.SkipReason("runs are not launched by Slurm")
    lost = _fail_runs_that_never_started(context.instance)
    _report_interruptions(context.instance)
    _end_jobs_without_a_run(context.instance)
    return dg.SkipReason(f"{lost} launched runs were lost" if lost else "no launched run is lost")


def _fail_runs_that_never_started(instance: dg.DagsterInstance) -> int:
    """For example one whose job was cancelled in its queue, which would wait for ever."""
    lost = 0
    for run in instance.get_runs(RunsFilter(statuses=[DagsterRunStatus.STARTING])):
        health = instance.run_launcher.check_run_worker_health(run)
        now = instance.get_run_by_id(run.run_id)
        if health.status is WorkerStatus.FAILED and now and now.status is DagsterRunStatus.STARTING:
            instance.report_run_failed(now, f"It never started: {health.msg}.")
            lost += 1
    return lost


def _report_interruptions(instance: dg.DagsterInstance) -> None:
    """A job that is past its time, or that a person cancels, gets a signal; its run knows no more than that."""
    interrupted = {RUN_FAILURE_REASON_TAG: RunFailureReason.UNEXPECTED_TERMINATION.value}
    after = datetime.now(UTC) - _REPORTED_WITHIN
    for run in instance.get_runs(
        RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags=interrupted, updated_after=after)
    ):
        if JOB_TAG in run.tags and run.tags.get(INTERRUPTION_TAG) != run.run_id:  # which a retry begins with
            health = instance.run_launcher.check_run_worker_health(run)
            if health.status is WorkerStatus.FAILED:
                instance.add_run_tags(run.run_id, {INTERRUPTION_TAG: run.run_id})
                instance.report_engine_event(f"It was interrupted: {health.msg}.", run)


def _end_jobs_without_a_run(instance: dg.DagsterInstance) -> None:
    """Of a run that the UI canceled before it started, which asks no launcher, or that ended while Slurm was silent."""
    for name, job in jobs_now().items():
        if job.ended or not name.startswith(NAME):
            continue
        record = instance.get_run_record_by_id(name.removeprefix(NAME))  # None: of another home
        if record is None or not record.dagster_run.is_finished:
            continue
        if job.state == "PENDING" or time.time() - (record.end_time or 0.0) > _ENDS_WITHIN_SECONDS:
            cancel(job.number)
