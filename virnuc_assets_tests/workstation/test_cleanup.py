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

from virnuc_assets.storage.places import host, process_since
from virnuc_assets.workstation.device_lock import give_back, lock_of, take
from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets.workstation.up import (
    clean_up,
    end,
    fail_orphaned_runs,
    lock_file,
    mark,
    processes_of,
    unfinished_files,
)
from virnuc_assets_tests.assets.project import Project, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

PROJECT = Path(__file__).parents[2]
SLEEP = "import time; print(flush=True); time.sleep(600)"
# A run in a shell, as `virnuc demo` and `dagster asset materialize` run them: in their own process.
IN_A_SHELL = """
import sys, time
import dagster as dg

@dg.asset
def endless():
    print("started", flush=True)
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
def project(blank: Path, tmp_path: Path) -> Project:
    return new_project(tmp_path / "project", blank, in_memory=False)


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
        child = subprocess.Popen(
            command, env=env, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        running.append(child)
        assert child.stdout is not None
        if code == SLEEP:  # its environment is that of the new program once it prints
            child.stdout.readline()
        return child

    yield start
    for child in running:
        child.kill()
        child.communicate()


def a_run(instance: dg.DagsterInstance, status: DagsterRunStatus, pid: int | None = None, **tags: str) -> dg.DagsterRun:
    """A run that was launched, of which a process is on record."""
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


def test_processes_are_found_and_classified_by_the_mark_of_their_home(
    tmp_path: Path, process: Callable[..., "subprocess.Popen[str]"], monkeypatch: pytest.MonkeyPatch
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
    assert {found.pid: kind for kind, found in processes_of(tmp_path)} == kinds
    lock = lock_of(lock_file(tmp_path))
    assert take(lock)
    assert ("up", os.getpid()) in [(kind, found.pid) for kind, found in processes_of(tmp_path)]
    give_back(lock)
    assert {found.pid: kind for kind, found in processes_of(tmp_path)} == kinds
    another = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: another)
    assert list(processes_of(tmp_path)) == []  # another user's are left alone


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
    just_started = a_run(instance, DagsterRunStatus.STARTED)
    not_launched = instance.create_run_for_job(dg.GraphDefinition("some_job").to_job())
    assert orphaned(project) == ["Marked 3 runs whose process is gone."]
    assert [status(instance, run) for run in dead] == ["FAILURE", "FAILURE"]
    assert [status(instance, run) for run in (alive, canceling, just_started)] == ["STARTED", "CANCELED", "STARTED"]
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


def test_a_retry_that_found_no_code_server_is_asked_for_again(project: Project, instance: dg.DagsterInstance) -> None:
    tags = {"dagster/will_retry": "false"}
    lost, failed = (a_run(instance, DagsterRunStatus.STARTED, gone()) for _ in range(2))
    for run in (lost, failed):
        instance.report_run_failed(run)
        instance.add_run_tags(run.run_id, tags)  # as the daemon does where retries are exhausted
    instance.report_engine_event("Failed to retry run", found(instance, lost))
    assert orphaned(project) == ["Requested 1 retries again."]
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
        assert shells[-1].stdout.readline() == "started\n"
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


def test_stray_processes_end_before_their_runs_are_failed(
    project: Project, instance: dg.DagsterInstance, process: Callable[..., "subprocess.Popen[str]"]
) -> None:
    home = dagster_home(project.settings)
    stray, other = process(SLEEP, **mark(home, "code_server")), process(SLEEP, **mark(home.parent, "code_server"))
    run = a_run(instance, DagsterRunStatus.STARTED, stray.pid)
    logged: list[str] = []
    clean_up(project.settings, logged.append)
    assert logged == ["Ended 1 processes of a `virnuc up` that was killed.", "Marked 1 runs whose process is gone."]
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
    logged: list[str] = []
    clean_up(project.settings, logged.append)
    assert logged == ["Removed 3 unfinished files and folders of killed processes."]
    assert [(var / name).exists() for name in (*dead, *kept)] == [False] * 3 + [True] * 4


def test_the_file_of_another_host_is_abandoned_after_a_day(project: Project) -> None:
    path = project.settings.var / f".x.parquet.{gone()}@another-host.partial"
    path.write_text("half")
    assert unfinished_files(project.settings) == []
    os.utime(path, (time.time() - 90_000,) * 2)
    assert unfinished_files(project.settings) == [path]


def test_a_folder_whose_writer_died_before_the_new_one_had_its_name_is_put_back(project: Project) -> None:
    folder, logged = project.settings.var / "decision", list[str]()
    folder.mkdir()
    (folder / "pages").write_text("older")
    with subprocess.Popen([sys.executable, "-c", BETWEEN_RENAMES, folder]) as writer:
        assert writer.wait() == -signal.SIGKILL
    left = [folder.with_name(f".decision.{of(writer.pid)}.{kind}") for kind in ("partial", "replaced")]
    assert not folder.exists()
    assert unfinished_files(project.settings) == left
    clean_up(project.settings, logged.append)
    assert logged == [
        "Put back 1 folders that killed processes were about to replace.",
        "Removed 1 unfinished files and folders of killed processes.",
    ]
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [("pages", "older")]
    assert unfinished_files(project.settings) == []


def test_of_several_folders_that_were_to_be_replaced_the_latest_is_put_back(project: Project) -> None:
    for content in ("older", "latest"):
        left = project.settings.var / f".decision.{of(gone())}.replaced"
        left.mkdir()
        (left / "pages").write_text(content)
    clean_up(project.settings, lambda _: None)
    assert (project.settings.var / "decision/pages").read_text() == "latest"
    assert unfinished_files(project.settings) == []
