"""Finds and ends what `virnuc up` of one Dagster home starts, and cleans up what a killed one, or a crash, left.

The environment of all that `virnuc up` starts carries a mark that nothing else sets, so that processes are found when
their parents are long dead.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

import psutil
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import WILL_RETRY_TAG

from virnuc_assets.defs.launchers.local import LocalRunLauncher, why_dead
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings
from virnuc_assets.storage.atomic import UNFINISHED, writer_is_dead
from virnuc_assets.storage.places import is_alive
from virnuc_assets.workstation.device_lock import holder
from virnuc_assets.workstation.setup import dagster_home

Part = Literal["code_server", "webserver", "daemon", "mlflow"]
Kind = Literal["up", "code_server", "webserver", "daemon", "mlflow", "worker", "helper"]
_HOME, _PART = "VIRNUC_UP_HOME", "VIRNUC_UP_PART"
_SERVES_CODE = {"code-server", "grpc"}
_GONE_SECONDS, _POLL_SECONDS = 10.0, 0.05
_LAUNCHED = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
_NOT_RETRIED = RunsFilter(statuses=[DagsterRunStatus.FAILURE], tags={WILL_RETRY_TAG: "false"})
_RETRY_FAILED = "Failed to retry run"
_CHECKED = 200  # of the latest runs that are not retried; most failed by a step's own error


def mark(home: Path, part: Part) -> dict[str, str]:
    """Environment variables of a server and of all that it starts."""
    return {_HOME: str(home.resolve()), _PART: part}


def lock_file(home: Path) -> Path:
    """What the one `virnuc up` of a home locks while it lives."""
    return home / "up.lock"


def processes_of(home: Path) -> list[tuple[Kind, psutil.Process]]:
    """Living processes of a home's `virnuc up`, or of one that died: itself, its servers, and what they started.

    A "worker" executes a run; a "helper" is what workers start, e.g. torch's compilers, and Python's own.
    """
    up = holder(lock_file(home))
    return [*([("up", psutil.Process(up))] if up else []), *_marked(str(home.resolve()))]  # type: ignore[list-item]


def end(processes: Iterable[psutil.Process]) -> int:
    """Kill processes and wait until they are gone; returns how many there were."""
    killed = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            killed.append(process)
    deadline = time.monotonic() + _GONE_SECONDS
    while left := [process.pid for process in killed if is_alive(process)]:
        if time.monotonic() > deadline:
            raise VirnucError(f"killed processes do not end: {left}; see what they wait for, e.g. a file server")
        time.sleep(_POLL_SECONDS)
    return len(killed)


def serves_code(pid: int) -> bool:
    """Whether a code server has the child that serves; it has two for a moment while the UI reloads definitions."""
    try:
        return any(is_alive(child) and "grpc" in child.cmdline() for child in psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return False


def _marked(home: str) -> Iterator[tuple[Kind, psutil.Process]]:
    own = os.getuid()
    for process in psutil.process_iter():
        try:
            if process.uids().real != own or process.status() == psutil.STATUS_ZOMBIE:
                continue
            environment = process.environ()
            if environment.get(_HOME) == home:
                yield _kind(environment[_PART], process.cmdline()), process  # type: ignore[arg-type]
        except (psutil.NoSuchProcess, psutil.AccessDenied):  # ended meanwhile, or of another security context
            continue


def _kind(part: Part, command: list[str]) -> Kind:
    if part != "code_server":
        return part
    if any("spawn_main" in word for word in command):
        return "worker"  # the code server starts runs by multiprocessing, and nothing else
    return "code_server" if _SERVES_CODE & set(command) else "helper"


def clean_up(settings: Settings, log: Callable[[str], None]) -> None:
    """End stray processes, fail runs without a process, clear unfinished files; to be called with the home's lock."""
    home = dagster_home(settings)
    if count := end(process for kind, process in processes_of(home) if kind != "up"):
        log(f"Ended {count} processes of a `virnuc up` that was killed.")
    fail_orphaned_runs(home, log, launching=False)
    unfinished = unfinished_files(settings)
    back = _put_back(unfinished)
    for path in (left := [path for path in unfinished if path not in back]):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)  # its next writer clears it, too
        else:
            path.unlink(missing_ok=True)
    if back:
        log(f"Put back {len(back)} folders that killed processes were about to replace.")
    if left:
        log(f"Removed {len(left)} unfinished files and folders of killed processes.")


def fail_orphaned_runs(home: Path, log: Callable[[str], None], launching: bool) -> None:
    """Mark launched runs without a process as failed, or as canceled where that was asked for; frees their slots.

    Dagster retries what failed so. Where it tried to while no code server answered, its retries ended: such runs are
    failed again, and are retried. `launching`: processes may live that have not recorded yet of which run they are.
    """
    with DagsterInstance.from_config(str(home)) as instance:
        if not isinstance(instance.run_launcher, LocalRunLauncher):
            log(f"Runs are left to {type(instance.run_launcher).__name__}, as dagster.yaml says.")
            return
        launched = instance.get_runs(RunsFilter(statuses=_LAUNCHED))
        dead = [(run, why_dead(instance, run, launching)) for run in launched]
        for run, why in dead:
            if why and run.status == DagsterRunStatus.CANCELING:
                instance.report_run_canceled(run, f"Canceled: {why}.")
            elif why:
                instance.report_run_failed(run, f"Killed: {why}. It is retried; finished shards are not made again.")
        lost = [run for run in instance.get_runs(_NOT_RETRIED, limit=_CHECKED) if _retry_failed(instance, run)]
        for run in lost:
            instance.report_run_failed(run, "Its retry found no code server; it is retried.")
    if count := sum(1 for _, why in dead if why):
        log(f"Marked {count} runs whose process is gone.")
    if lost:
        log(f"Requested {len(lost)} retries again.")


def _retry_failed(instance: DagsterInstance, run: DagsterRun) -> bool:
    types = {DagsterEventType.ENGINE_EVENT, DagsterEventType.RUN_FAILURE}
    latest = instance.event_log_storage.get_logs_for_run(run.run_id, of_type=types, limit=1, ascending=False)
    return any(entry.message == _RETRY_FAILED for entry in latest)


def unfinished_files(settings: Settings) -> list[Path]:
    """Files and folders that a dead process had not finished, where the platform writes; not what is in them."""
    found: set[Path] = set()
    for top in (settings.var, *settings.catalogues):
        for folder, folders, files in os.walk(top):
            dead = {name for name in (*folders, *files) if writer_is_dead(Path(folder, name))}
            folders[:] = [name for name in folders if name not in dead]
            found |= {Path(folder, name) for name in dead}
    return sorted(found)


def _put_back(unfinished: list[Path]) -> list[Path]:
    """Give folders their names back that were renamed to be replaced, and were not; returns what they were called."""
    renamed = [path for path in unfinished if path.suffix == ".replaced"]
    back = []
    for path in sorted(renamed, key=lambda path: path.lstat().st_ctime, reverse=True):  # of several the latest
        match = UNFINISHED.fullmatch(path.name)
        if match and not (whole := path.with_name(match["name"])).exists():
            path.rename(whole)
            back.append(path)
    return back
