"""What a killed platform leaves is cleaned up: stray processes by their mark, runs and files by whether they live."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.launcher.base import WorkerStatus

from virnuc_assets.storage.places import host, is_alive, process_since
from virnuc_assets.workstation.cleanup import (
    clean_up,
    end,
    fail_orphaned_runs,
    lock_file,
    mark,
    processes_of,
    unfinished_files,
)
from virnuc_assets.workstation.device_lock import give_back, lock_of, take
from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets_tests.assets.project import Project, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

PROJECT = Path(__file__).parents[2]
SLEEP = "import time; time.sleep(60)"
# Starts another process in a session of its own, tells its number and ends.
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True, stdout=-3, stderr=-3)
print(child.pid, flush=True)
"""
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


# Dies between the two renames that give a new folder the name of an older one.
BETWEEN_RENAMES = """
import os, signal, sys
from pathlib import Path
from virnuc_assets.storage.atomic import atomic_folder

def replace_and_die(path, target, replace=Path.replace):
    replace(path, target)
    os.kill(os.getpid(), signal.SIGKILL)

with atomic_folder(Path(sys.argv[1])) as folder:
    (folder / "pages").write_text("new")
    Path.replace = replace_and_die
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


def of(number: int) -> str:
    """As a process of this host marks what it has not finished."""
    return f"{number}@{host()}"


def orphaned(project: Project, launching: bool = False) -> list[str]:
    """What is logged while orphaned runs are failed."""
    logged: list[str] = []
    fail_orphaned_runs(dagster_home(project.settings), logged.append, launching)
    return logged


def test_processes_are_found_by_the_mark_of_their_home_and_told_apart(
    tmp_path: Path, process: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """By command lines as those of Dagster's processes are."""
    kinds = {
        process(SLEEP, *words, **mark(tmp_path, part)).pid: kind
        for part, words, kind in (
            ("webserver", (), "webserver"),
            ("daemon", (), "daemon"),
            ("code_server", ("code-server", "start"), "code_server"),
            ("code_server", ("api", "grpc"), "code_server"),
            ("code_server", ("from multiprocessing.spawn import spawn_main",), "worker"),
            ("code_server", ("from multiprocessing.resource_tracker import main",), "helper"),
        )
    }
    process(SLEEP, **mark(tmp_path / "other", "mlflow"))
    process(SLEEP)
    time.sleep(0.2)  # until the environment is that of the new program
    assert {found.pid: kind for kind, found in processes_of(tmp_path)} == kinds
    lock = lock_of(lock_file(tmp_path))
    assert take(lock)
    assert ("up", os.getpid()) in [(kind, found.pid) for kind, found in processes_of(tmp_path)]
    give_back(lock)
    assert {found.pid: kind for kind, found in processes_of(tmp_path)} == kinds


def test_an_orphan_in_a_session_of_its_own_is_found_and_ended(tmp_path: Path) -> None:
    environment = {**os.environ, **mark(tmp_path, "code_server")}
    done = subprocess.run([sys.executable, "-c", PARENT], env=environment, capture_output=True, text=True, check=True)
    orphan = psutil.Process(int(done.stdout))
    time.sleep(0.2)
    assert [process for _, process in processes_of(tmp_path)] == [orphan]
    assert end([orphan]) == 1
    assert not is_alive(orphan)
    assert processes_of(tmp_path) == []


def test_a_later_process_of_the_same_number_is_another(process: Callable[..., "subprocess.Popen[str]"]) -> None:
    child = process(SLEEP)
    assert process_since(child.pid, time.time()) == psutil.Process(child.pid)
    assert process_since(child.pid, time.time() - 60) is None
    assert end([psutil.Process(child.pid)]) == 1  # a zombie, until it is waited for
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert process_since(child.pid, time.time()) is None


def test_runs_are_judged_by_their_process(project: Project, instance: dg.DagsterInstance) -> None:
    alive = a_run(instance, DagsterRunStatus.STARTED, os.getpid())
    dead = [a_run(instance, DagsterRunStatus.STARTED, gone()), a_run(instance, DagsterRunStatus.STARTING)]
    canceling = a_run(instance, DagsterRunStatus.CANCELING, gone())
    just_begun = a_run(instance, DagsterRunStatus.STARTED)
    not_launched = instance.create_run_for_job(dg.GraphDefinition("some_job").to_job())
    assert orphaned(project) == ["Marked 3 runs whose process is gone."]
    assert [status(instance, run) for run in dead] == ["FAILURE", "FAILURE"]
    assert [status(instance, run) for run in (alive, canceling, just_begun)] == ["STARTED", "CANCELED", "STARTED"]
    assert status(instance, not_launched) == "NOT_STARTED"  # the daemon launches it, or gives it up after a while
    assert {found(instance, run).tags["dagster/will_retry"] for run in dead} == {"true"}
    assert orphaned(project) == []


def test_what_may_just_be_starting_is_left_alone_where_workers_live(
    project: Project, instance: dg.DagsterInstance
) -> None:
    """As where the daemon alone was killed: the code server may be about to start the run's process."""
    starting, canceling = a_run(instance, DagsterRunStatus.STARTING), a_run(instance, DagsterRunStatus.CANCELING)
    dead = a_run(instance, DagsterRunStatus.STARTED, gone())
    assert orphaned(project, launching=True) == ["Marked 1 runs whose process is gone."]
    assert [status(instance, run) for run in (starting, dead)] == ["STARTING", "FAILURE"]
    assert orphaned(project) == ["Marked 1 runs whose process is gone."]
    assert status(instance, starting) == "FAILURE"
    assert status(instance, canceling) == "CANCELING"  # it was started a moment ago; after a minute it is canceled


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
    assert orphaned(project) == ["Asked again for 1 retries."]
    assert [found(instance, run).tags["dagster/will_retry"] for run in (lost, failed)] == ["true", "false"]
    assert orphaned(project) == []


def test_a_run_in_a_shell_is_left_alone_until_it_is_killed_or_terminated(
    project: Project, instance: dg.DagsterInstance, process: Callable[..., "subprocess.Popen[str]"]
) -> None:
    """Terminated without a code server."""
    shells = []
    for _ in range(2):
        shells.append(process(IN_A_SHELL, dagster_home(project.settings)))
        assert shells[-1].stdout is not None
        assert shells[-1].stdout.readline() == "begun\n"
    terminated, killed = instance.get_runs()  # the latest first
    assert orphaned(project) == []
    shells[0].kill()
    shells[0].wait()
    assert orphaned(project) == ["Marked 1 runs whose process is gone."]
    assert [status(instance, run) for run in (killed, terminated)] == ["FAILURE", "STARTED"]
    assert instance.run_launcher.terminate(terminated.run_id)
    shells[1].communicate(timeout=60)
    assert status(instance, terminated) == "CANCELED"
    assert not instance.run_launcher.terminate(terminated.run_id)


def test_another_launcher_knows_its_runs_better(project: Project) -> None:
    config = dagster_home(project.settings) / "dagster.yaml"
    text = config.read_text()
    config.write_text(text.replace("virnuc_assets.defs.launchers.local", "dagster").replace("LocalRun", "DefaultRun"))
    run = a_run(project.instance, DagsterRunStatus.STARTED, gone())
    assert orphaned(project) == ["Runs are left to DefaultRunLauncher, as dagster.yaml says."]
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


def test_unfinished_files_of_dead_writers_vanish(project: Project) -> None:
    var, number = project.settings.var, gone()
    dead = [
        f".x.parquet.{of(number)}.partial",
        f".fastesm2.{of(number)}.replaced",
        f".fastesm2.{of(number)}.a1_b2c3d.rows",
    ]
    kept = [
        f".x.parquet.{of(os.getpid())}.partial",
        ".viral.1.fna.gz.partial",
        ".viral.1.lock",
        f"x.{of(number)}.partial",
    ]
    (var / "fastesm2").mkdir()  # the newer one got its name
    for name in (dead[0], *kept):
        (var / name).write_text("half")
    for name in dead[1:]:
        (var / name).mkdir()
        (var / name / f".inner.{of(number)}.partial").write_text("half")
    assert sorted(unfinished_files(project.settings)) == sorted(var / name for name in dead)
    told: list[str] = []
    clean_up(project.settings, told.append)
    assert told == ["Removed 3 unfinished files and folders of killed processes."]
    assert [(var / name).exists() for name in (*dead, *kept)] == [False] * 3 + [True] * 4


def test_the_file_of_a_writer_whose_number_was_given_to_another(project: Project) -> None:
    path = project.settings.var / f".x.parquet.{of(os.getpid())}.partial"
    path.write_text("half")
    assert unfinished_files(project.settings) == []
    os.utime(path, (1, 1))  # long before this process began
    assert unfinished_files(project.settings) == [path]


def test_the_file_of_another_host_is_abandoned_after_a_day(project: Project) -> None:
    path = project.settings.var / f".x.parquet.{gone()}@another-host.partial"
    path.write_text("half")
    assert unfinished_files(project.settings) == []
    os.utime(path, (time.time() - 90_000,) * 2)
    assert unfinished_files(project.settings) == [path]


def test_a_folder_whose_writer_died_before_the_new_one_had_its_name_is_put_back(project: Project) -> None:
    folder, told = project.settings.var / "decision", list[str]()
    folder.mkdir()
    (folder / "pages").write_text("older")
    with subprocess.Popen([sys.executable, "-c", BETWEEN_RENAMES, folder]) as writer:
        assert writer.wait() == -signal.SIGKILL
    beside = [folder.with_name(f".decision.{of(writer.pid)}.{kind}") for kind in ("partial", "replaced")]
    assert not folder.exists()
    assert unfinished_files(project.settings) == beside
    clean_up(project.settings, told.append)
    assert told == [
        "Put back 1 folders that killed processes were about to replace.",
        "Removed 1 unfinished files and folders of killed processes.",
    ]
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("pages", "older")]
    assert unfinished_files(project.settings) == []


def test_of_two_folders_that_were_to_be_replaced_the_latest_is_put_back(project: Project) -> None:
    var = project.settings.var
    first, second = (var / f".decision.{of(gone())}.replaced" for _ in range(2))
    for folder in (second, first):
        folder.mkdir()
        (folder / "pages").write_text(folder.name)
    while second.stat().st_ctime <= first.stat().st_ctime:
        second.chmod(0o755)
    clean_up(project.settings, lambda _: None)
    assert (var / "decision/pages").read_text() == second.name
    assert not first.exists() and not second.exists()


def test_a_folder_that_a_living_process_replaces_is_left_to_it(project: Project) -> None:
    folder = project.settings.var / "decision"
    folder.mkdir()
    os.utime(folder, (1, 1))  # the older one was written long before this process began
    folder.rename(folder.with_name(f".decision.{of(os.getpid())}.replaced"))
    assert unfinished_files(project.settings) == []
