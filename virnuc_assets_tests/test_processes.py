"""The processes of one home's `virnuc up` are found by their mark, whoever started them, and no other is touched."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from virnuc_assets.storage.held_files import hold, release

from virnuc_assets.workstation.cleanup import Part, end, is_alive, lock_file, mark, process_since, processes_of

SLEEP = "import time; time.sleep(60)"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], start_new_session=True, stdout=-3, stderr=-3)
print(child.pid, flush=True)
"""


@pytest.fixture
def started() -> Iterator[list[psutil.Process]]:
    processes: list[psutil.Process] = []
    yield processes
    end(process for process in processes if process.is_running())


def start(started: list[psutil.Process], home: Path | None, part: Part = "mlflow", *words: str) -> psutil.Process:
    environment = {**os.environ, **(mark(home, part) if home else {})}
    process = psutil.Popen([sys.executable, "-c", SLEEP, *words], env=environment)
    started.append(process)
    return process


def test_only_the_processes_of_the_home_are_found(tmp_path: Path, started: list[psutil.Process]) -> None:
    homes = [tmp_path / name for name in ("one", "other")]
    own, _, _ = (start(started, home) for home in (*homes, None))
    time.sleep(0.2)  # until the environment is that of the new program
    assert [(kind, process.pid) for kind, process in processes_of(homes[0])] == [("mlflow", own.pid)]


def test_kinds(tmp_path: Path, started: list[psutil.Process]) -> None:
    """As the command lines of Dagster's processes are."""
    kinds = {
        start(started, tmp_path, "webserver").pid: "webserver",
        start(started, tmp_path, "daemon").pid: "daemon",
        start(started, tmp_path, "code_server", "code-server", "start").pid: "code_server",
        start(started, tmp_path, "code_server", "api", "grpc").pid: "code_server",
        start(started, tmp_path, "code_server", "from multiprocessing.spawn import spawn_main").pid: "worker",
        start(started, tmp_path, "code_server", "from multiprocessing.resource_tracker import main").pid: "helper",
    }
    time.sleep(0.2)
    assert {process.pid: kind for kind, process in processes_of(tmp_path)} == kinds


def test_who_holds_the_lock_is_up(tmp_path: Path) -> None:
    assert processes_of(tmp_path) == []
    assert hold(lock_file(tmp_path))
    assert [(kind, process.pid) for kind, process in processes_of(tmp_path)] == [("up", os.getpid())]
    release(lock_file(tmp_path))
    assert processes_of(tmp_path) == []


def test_an_orphan_in_a_session_of_its_own_is_found_and_ended(tmp_path: Path) -> None:
    environment = {**os.environ, **mark(tmp_path, "code_server")}
    done = subprocess.run([sys.executable, "-c", PARENT], env=environment, capture_output=True, text=True, check=True)
    orphan = psutil.Process(int(done.stdout))
    time.sleep(0.2)
    assert [process for _, process in processes_of(tmp_path)] == [orphan]
    assert end([orphan]) == 1
    assert not is_alive(orphan)
    assert processes_of(tmp_path) == []


def test_a_later_process_of_the_same_number_is_another(started: list[psutil.Process]) -> None:
    process = start(started, None)
    assert process_since(process.pid, time.time()) == psutil.Process(process.pid)
    assert process_since(process.pid, time.time() - 60) is None
    assert end([process]) == 1  # a zombie, until it is waited for
    assert psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE
    process.wait()
    assert process_since(process.pid, time.time()) is None
