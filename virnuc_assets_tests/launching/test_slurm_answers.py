"""What Slurm's answers mean for a run: states, silence, refusals, jobs without a run. No Slurm is needed."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.instance.ref import InstanceRef
from dagster._core.launcher import LaunchRunContext
from dagster._core.launcher.base import WorkerStatus
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.storage.dagster_run import DagsterRunStatus

from virnuc_assets.defs.launchers import slurm
from virnuc_assets.defs.launchers.slurm import (
    _PASSWORD,
    JOB_TAG,
    SUBMITTED_TAG,
    AskedAgain,
    ControllerAway,
    _end_jobs_without_a_run,
)
from virnuc_assets.errors import VirnucError
from virnuc_assets_tests.launching.slurm_fakes import answers, home, launcher, new_run, status

__all__ = ["answers", "home"]  # fixtures

ALIVE = ["PENDING", "RUNNING", "CONFIGURING", "COMPLETING", "SUSPENDED", "REQUEUED", "STAGE_OUT", "A_NEW_STATE"]
DEAD = ["COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "NODE_FAIL", "CANCELLED", "BOOT_FAIL", "PREEMPTED"]


@pytest.mark.parametrize("state", [*ALIVE, *DEAD])
def test_states(home: dg.DagsterInstance, answers: Callable[..., None], state: str) -> None:
    run = new_run(home, ["on_cpu"])
    queue = f"3|RUNNING|None|a|b|\n\n7|{state}|Its reason|dagster-{run.run_id}|\n8|FAILED|None|two\nlines|"
    answers(squeue=queue, scontrol="JobId=7 ExitCode=0:9 DerivedExitCode=0:0")
    health = launcher(home).check_run_worker_health(run)
    if state in ALIVE:
        assert health.status is WorkerStatus.RUNNING
        return
    assert health.status is WorkerStatus.FAILED
    log = Path(home.root_directory, "slurm", f"{run.run_id}.log").resolve()
    assert health.msg == f"Slurm job 7 is {state} (reason Its reason), exit code 0:9; its log is {log}"


def test_a_silent_controller_fails_no_run_and_cancels_none(
    home: dg.DagsterInstance, answers: Callable[..., None]
) -> None:
    answers(status=1)
    run = new_run(home, ["on_cpu"], status=DagsterRunStatus.STARTED)
    assert launcher(home).check_run_worker_health(run).status is WorkerStatus.RUNNING
    with pytest.raises(ControllerAway, match="squeue got no answer"):
        launcher(home).terminate(run.run_id)
    assert status(home, run) is DagsterRunStatus.STARTED


def test_a_job_that_the_controller_forgot(home: dg.DagsterInstance, answers: Callable[..., None]) -> None:
    answers()
    run = new_run(home, ["on_cpu"])
    health = launcher(home).check_run_worker_health(run)
    assert health == (WorkerStatus.RUNNING, "its job is being submitted", None, None)
    home.add_run_tags(run.run_id, {JOB_TAG: "6", SUBMITTED_TAG: "the run that this one is a retry of"})
    retry = home.get_run_by_id(run.run_id)
    assert retry is not None
    assert launcher(home).check_run_worker_health(retry).status is WorkerStatus.RUNNING
    home.add_run_tags(run.run_id, {JOB_TAG: "7", SUBMITTED_TAG: run.run_id})
    submitted = home.get_run_by_id(run.run_id)
    assert submitted is not None
    health = launcher(home).check_run_worker_health(submitted)
    assert health.status is WorkerStatus.FAILED
    assert str(health.msg).startswith("Slurm knows no job of this run; its log is /")
    answers(sacct=f"7|CANCELLED by 0|None|dagster-{run.run_id}")
    health = launcher(home).check_run_worker_health(submitted)
    assert str(health.msg).startswith("Slurm job 7 is CANCELLED (reason None), exit code not known")


def saying(folder: Path, command: str, script: str) -> None:
    path = folder / "commands" / command
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.mark.parametrize(
    ("message", "away"),
    [
        ("Batch job submission failed: Unable to contact slurm controller (connect failure)", True),
        ("Batch job submission failed: Socket timed out on send/recv operation", True),
        ("Batch job submission failed: Resource temporarily unavailable", True),
        ("Batch job submission failed: Invalid account or account/partition combination specified", False),
        ("Batch job submission failed: Requested node configuration is not available", False),
    ],
)
def test_who_reached_nobody_was_not_refused(
    answers: Callable[..., None], tmp_path: Path, message: str, away: bool
) -> None:
    answers()
    saying(tmp_path, "sbatch", f"echo 'sbatch: error: {message}' >&2\nexit 1")
    with pytest.raises(VirnucError, match=message.partition("(")[0]) as caught:
        slurm.submit("dagster-1", [], ["true"], os.environ)
    assert isinstance(caught.value, ControllerAway) is away
    assert issubclass(AskedAgain, ControllerAway)


def test_without_accounting_there_may_be_no_sacct(
    answers: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers()
    monkeypatch.setenv("PATH", str(tmp_path / "commands"))
    (tmp_path / "commands/sacct").unlink()
    assert slurm.job_before("dagster-1") is None


@pytest.mark.parametrize(
    ("storage", "tells"),
    [
        ("{postgres_url: 'postgresql://dagster:secret@db/dagster'}", True),
        ("{postgres_db: {username: u, password: secret, hostname: db, db_name: d}}", True),
        ("{postgres_db: {username: u, password: {env: PG_PASSWORD}, hostname: db, db_name: d}}", False),
        ("{postgres_url: 'postgresql://dagster@db:5432/dagster'}", False),
    ],
)
def test_a_password_in_dagster_yaml_is_seen_in_what_a_job_would_be_told(
    tmp_path: Path, storage: str, tells: bool
) -> None:
    (tmp_path / "dagster.yaml").write_text(f"storage:\n  postgres: {storage}\n")
    told = dg.serialize_value(InstanceRef.from_dir(str(tmp_path)))
    assert bool(_PASSWORD.search(told)) is tells


@pytest.mark.parametrize(
    ("state", "ended_seconds_ago", "cancelled"),
    [("PENDING", 1, True), ("RUNNING", 1, False), ("RUNNING", 300, True), ("COMPLETED", 300, False)],
)
def test_jobs_whose_run_has_ended_are_cancelled(
    home: dg.DagsterInstance,
    answers: Callable[..., None],
    tmp_path: Path,
    state: str,
    ended_seconds_ago: int,
    cancelled: bool,
) -> None:
    run, going_on = new_run(home, ["on_cpu"]), new_run(home, ["on_cpu"], status=DagsterRunStatus.STARTED)
    failed = dg.DagsterEvent(dg.DagsterEventType.RUN_FAILURE.value, run.job_name)
    home.report_dagster_event(failed, run.run_id, timestamp=time.time() - ended_seconds_ago)
    answers(squeue=f"7|{state}|None|dagster-{run.run_id}|\n8|RUNNING|None|dagster-{going_on.run_id}|")
    saying(tmp_path, "scancel", f"echo $* >> {tmp_path}/cancelled")
    _end_jobs_without_a_run(home)
    told = tmp_path / "cancelled"
    assert (told.read_text() if told.exists() else "") == ("7\n" if cancelled else "")


@pytest.mark.parametrize(("state", "submitted"), [("PENDING", False), ("RUNNING", False), ("CANCELLED", True)])
def test_a_job_whose_answer_was_lost_is_taken_for_the_runs_own(
    answers: Callable[..., None], tmp_path: Path, state: str, submitted: bool
) -> None:
    code = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("somewhere", "defs", None))
    with dg.DagsterInstance.local_temp(str(tmp_path)) as home:
        run = new_run(home, ["on_cpu"], job_code_origin=JobPythonOrigin("steps", code))
        answers(squeue=f"7|{state}|None|dagster-{run.run_id}|", sbatch="8")
        launcher(home).launch_run(LaunchRunContext(run, workspace=None))
        now = home.get_run_by_id(run.run_id)
        assert now is not None
        assert now.tags[JOB_TAG] == ("8" if submitted else "7")
