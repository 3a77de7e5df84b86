"""What a killed platform leaves is cleared: stray processes, and runs by whether their process lives."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import WorkerStatus

from virnuc_assets.defs.launchers.local import LocalRunLauncher
from virnuc_assets.workstation.cleanup import clean_up, fail_orphaned_runs, mark
from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets_tests.assets.project import Project, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

PROJECT = Path(__file__).parents[1]
SLEEP = "import time; time.sleep(60)"
# A run in a shell, as `virnuc demo` and `dagster asset materialize` run them: in their own process.
IN_A_SHELL = """
import sys, time
import dagster as dg

@dg.asset
def endless():
    print("begun", flush=True)
    time.sleep(60)

with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    dg.materialize([endless], instance=instance, raise_on_error=False)
"""


@pytest.fixture
def project(blank: Path, tmp_path: Path) -> Iterator[Project]:
    project = new_project(tmp_path / "project", blank, in_memory=False)
    yield project
    project.instance.dispose()


@pytest.fixture
def instance(project: Project) -> dg.DagsterInstance:
    return project.instance


@pytest.fixture
def process() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Starts a Python program; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def start(code: str, *arguments: str | Path, **environment: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", code, *map(str, arguments)]
        env = {**os.environ, **environment}
        running.append(
            subprocess.Popen(
                command, env=env, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
        )
        return running[-1]

    yield start
    for child in running:
        child.kill()
        child.communicate()


def a_run(instance: dg.DagsterInstance, status: DagsterRunStatus, pid: int | None = None, **tags: str) -> dg.DagsterRun:
    """A run that was launched, of which a process told."""
    run = instance.create_run_for_job(dg.GraphDefinition("some_job").to_job(), tags=tags)
    started = (DagsterEventType.PIPELINE_STARTING, DagsterEventType.PIPELINE_START, DagsterEventType.PIPELINE_CANCELING)
    states = (DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING)
    for event, state in zip(started, states, strict=True):
        if state == DagsterRunStatus.STARTED and pid:
            instance.report_engine_event(f"Started process for run (pid: {pid}).", run, EngineEventData.in_process(pid))
        instance.report_dagster_event(dg.DagsterEvent(event.value, run.job_name), run.run_id)
        if state == status:
            break
    return found(instance, run)


def found(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    run_now = instance.get_run_by_id(run.run_id)
    assert run_now is not None
    return run_now


def status(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    return found(instance, run).status.value


def gone() -> int:
    """Number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def mend(project: Project, launching: bool = False) -> list[str]:
    told: list[str] = []
    fail_orphaned_runs(dagster_home(project.settings), told.append, launching)
    return told


def test_the_home_has_this_launcher(instance: dg.DagsterInstance) -> None:
    assert isinstance(instance.run_launcher, LocalRunLauncher)
    assert instance.run_launcher.supports_check_run_worker_health


def test_runs_are_judged_by_their_process(project: Project, instance: dg.DagsterInstance) -> None:
    alive = a_run(instance, DagsterRunStatus.STARTED, os.getpid())
    dead = [a_run(instance, DagsterRunStatus.STARTED, gone()), a_run(instance, DagsterRunStatus.STARTING)]
    canceling = a_run(instance, DagsterRunStatus.CANCELING, gone())
    just_begun = a_run(instance, DagsterRunStatus.STARTED)
    assert mend(project) == ["Marked 3 runs whose process is gone."]
    assert [status(instance, run) for run in dead] == ["FAILURE", "FAILURE"]
    assert [status(instance, run) for run in (alive, canceling, just_begun)] == ["STARTED", "CANCELED", "STARTED"]
    assert {found(instance, run).tags["dagster/will_retry"] for run in dead} == {"true"}
    assert mend(project) == []


def test_what_may_just_be_starting_is_left_alone_where_workers_live(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """As where the daemon alone was killed: the code server may be about to start the run's process."""
    starting, canceling = a_run(instance, DagsterRunStatus.STARTING), a_run(instance, DagsterRunStatus.CANCELING)
    dead = a_run(instance, DagsterRunStatus.STARTED, gone())
    assert mend(project, launching=True) == ["Marked 1 runs whose process is gone."]
    assert [status(instance, run) for run in (starting, dead)] == ["STARTING", "FAILURE"]
    assert mend(project) == ["Marked 1 runs whose process is gone."]
    assert status(instance, starting) == "FAILURE"
    assert status(instance, canceling) == "CANCELING"  # it was started a moment ago; after a minute it is canceled


def test_what_was_not_launched_stays(project: Project, instance: dg.DagsterInstance) -> None:
    """The daemon launches it, or gives it up after a while."""
    run = instance.create_run_for_job(dg.GraphDefinition("some_job").to_job())
    assert mend(project) == []
    assert status(instance, run) == "NOT_STARTED"


def test_the_daemon_is_told_who_lives(instance: dg.DagsterInstance) -> None:
    number = gone()
    runs = [a_run(instance, DagsterRunStatus.STARTED, pid) for pid in (os.getpid(), number)]
    results = [instance.run_launcher.check_run_worker_health(run) for run in runs]
    assert [result.status for result in results] == [WorkerStatus.RUNNING, WorkerStatus.FAILED]
    assert results[1].msg == f"its process {number} ended without a word"


def test_a_retry_that_found_no_code_server_is_asked_for_again(project: Project, instance: dg.DagsterInstance) -> None:
    tags = {"dagster/will_retry": "false"}
    lost, failed = (a_run(instance, DagsterRunStatus.STARTED, gone()) for _ in range(2))
    for run in (lost, failed):
        instance.report_run_failed(run)
        instance.add_run_tags(run.run_id, tags)  # as the daemon does where it gives up
    instance.report_engine_event("Failed to retry run", found(instance, lost))
    assert mend(project) == ["Asked again for 1 retries."]
    assert [found(instance, run).tags["dagster/will_retry"] for run in (lost, failed)] == ["true", "false"]
    assert mend(project) == []


def test_a_run_in_a_shell_is_left_alone_until_it_is_killed(
    project: Project, instance: dg.DagsterInstance, process: Callable[..., "subprocess.Popen[str]"]
) -> None:
    shell = process(IN_A_SHELL, dagster_home(project.settings))
    assert shell.stdout is not None
    assert shell.stdout.readline() == "begun\n"
    (run,) = instance.get_runs()
    assert mend(project) == []
    assert status(instance, run) == "STARTED"
    shell.kill()
    shell.wait()
    assert mend(project) == ["Marked 1 runs whose process is gone."]
    assert status(instance, run) == "FAILURE"


def test_a_run_is_terminated_without_a_code_server(
    project: Project, instance: dg.DagsterInstance, process: Callable[..., "subprocess.Popen[str]"]
) -> None:
    shell = process(IN_A_SHELL, dagster_home(project.settings))
    assert shell.stdout is not None
    assert shell.stdout.readline() == "begun\n"
    (run,) = instance.get_runs()
    assert instance.run_launcher.terminate(run.run_id)
    shell.communicate(timeout=30)
    assert status(instance, run) == "CANCELED"
    assert not instance.run_launcher.terminate(run.run_id)


def test_another_launcher_knows_its_runs_better(project: Project) -> None:
    config = dagster_home(project.settings) / "dagster.yaml"
    text = config.read_text()
    config.write_text(text.replace("virnuc_assets.defs.launchers.local", "dagster").replace("LocalRun", "DefaultRun"))
    run = a_run(project.instance, DagsterRunStatus.STARTED, gone())
    assert mend(project) == ["Runs are left to DefaultRunLauncher, as dagster.yaml says."]
    assert status(project.instance, run) == "STARTED"


def test_stray_processes_end_before_their_runs_are_looked_at(
    project: Project, instance: dg.DagsterInstance, process: Callable[..., "subprocess.Popen[str]"]
) -> None:
    home = dagster_home(project.settings)
    stray, other = process(SLEEP, **mark(home, "code_server")), process(SLEEP, **mark(home.parent, "code_server"))
    run = a_run(instance, DagsterRunStatus.STARTED, stray.pid)
    told: list[str] = []
    clean_up(project.settings, told.append)
    assert told == ["Ended 1 processes of a `virnuc up` that was killed.", "Marked 1 runs whose process is gone."]
    assert stray.wait() == -signal.SIGKILL
    assert other.poll() is None
    assert status(instance, run) == "FAILURE"
