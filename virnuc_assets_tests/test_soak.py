"""The soak in its short form: real servers, files dropped in random ways, processes killed at random."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import psutil
import pytest

from benchmarks.soak import NONE, make_files, orphans, slots_in_use
from virnuc_assets.cli.stages import frame_file
from virnuc_assets.storage.tables import read_rows
from virnuc_assets.workstation.device_lock import give_back, lock_of, take
from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets.workstation.up import Part, end, lock_file, mark
from virnuc_assets_tests.assets.project import Project, new_project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

ROOT = Path(__file__).parents[1]
GOOD, BAD, KILLS = 8, 5, 6
SLEEP = "import time; print(flush=True); time.sleep(60)"
# Starts another process in a session of its own, prints its number and dies.
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}, *sys.argv[1:]], start_new_session=True, stdout=-1)
child.stdout.readline()
print(child.pid, flush=True)
"""
Start = Callable[..., psutil.Process]


@pytest.fixture
def project(blank: Path, tmp_path: Path) -> Iterator[Project]:
    """Whose `virnuc up` is this process."""
    project = new_project(tmp_path / "project", blank, in_memory=False)
    lock = lock_of(lock_file(dagster_home(project.settings)))
    assert take(lock)
    yield project
    give_back(lock)
    project.instance.dispose()


@pytest.fixture
def start(project: Project) -> Iterator[Start]:
    """Starts a marked process, as a child of this one or as one whose parent is dead."""
    started: list[psutil.Process] = []

    def start(part: Part, *words: str, parent_dies: bool = False) -> psutil.Process:
        environment = {**os.environ, **mark(dagster_home(project.settings), part)}
        code = PARENT if parent_dies else SLEEP
        child = psutil.Popen([sys.executable, "-c", code, *words], env=environment, stdout=subprocess.PIPE, text=True)
        printed = child.stdout.readline()  # so that it is what its environment says
        started.append(psutil.Process(int(printed)) if parent_dies else child)
        if parent_dies:
            child.wait()
        return started[-1]

    yield start
    end(started)


def test_who_executes_a_run_after_the_last_one_is_an_orphan_and_so_is_a_child_without_its_parent(
    project: Project, start: Start
) -> None:
    """Servers and what they started are none."""
    home = dagster_home(project.settings)
    for part, *words in (
        ("mlflow",),
        ("code_server", "api", "grpc"),
        ("code_server", "from multiprocessing.resource_tracker import main"),
    ):
        start(part, *words)
    assert orphans(home) == []
    worker = start("code_server", "from multiprocessing.spawn import spawn_main")
    helper, server = start("code_server", "compiles", parent_dies=True), start("daemon", parent_dies=True)
    assert {process.pid for process in orphans(home)} == {worker.pid, helper.pid, server.pid}
    end([worker, helper, server])
    assert orphans(home) == []


def test_runs_that_did_not_end_and_slots_in_use_are_counted(project: Project) -> None:
    instance = project.instance
    run = instance.create_run_for_job(dg.GraphDefinition("some_job").to_job())
    assert slots_in_use(instance) == 1
    instance.event_log_storage.set_concurrency_slots("gpu", 2)
    instance.event_log_storage.claim_concurrency_slot("gpu", run.run_id, "a_step")
    assert slots_in_use(instance) == 2
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
    instance.report_run_canceled(run)
    assert slots_in_use(instance) == 0


@pytest.mark.slow
def test_what_is_dropped_is_done_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    """A few minutes; `make soak` is the long form."""
    out = tmp_path / "soak.json"
    amounts = [f"--good={GOOD}", f"--bad={BAD}", f"--kills={KILLS}", "--minutes=2", "--seed=7", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "soak", *amounts], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert (found["files_good"], found["files_bad_reported"], found["kills"]) == (GOOD, BAD, KILLS)
    assert {name: found[name] for name in NONE} == dict.fromkeys(NONE, 0)


def test_every_good_file_has_frames_that_are_scored_and_the_duplicate_is_dropped_last(tmp_path: Path) -> None:
    files = make_files(8, 5, seed=0)
    assert [file.duplicate for file in files] == [False] * 12 + [True]
    for file in files:
        if file.good:
            (tmp_path / file.name).write_bytes(file.content)
            to = tmp_path / "frames.parquet"
            ledger = frame_file(tmp_path / file.name, to, 500, lambda done, total: None)
            assert read_rows(to) >= len(ledger) > 0
