"""The processes that `virnuc up` starts for one Dagster home, and all that they start: found, told apart, ended.

Their environment carries a mark that nothing else sets, so that they are found when their parents are long dead.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

import psutil

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.held_files import holder

Part = Literal["code_server", "webserver", "daemon", "mlflow"]
Kind = Literal["up", "code_server", "webserver", "daemon", "mlflow", "worker", "helper"]
_HOME, _PART = "VIRNUC_UP_HOME", "VIRNUC_UP_PART"
_SERVES_CODE = {"code-server", "grpc"}
_GONE_SECONDS, _LOOK_SECONDS = 10.0, 0.05
_CLOCK_SECONDS = 2.0  # the kernel counts from a boot time in whole seconds


def mark(home: Path, part: Part) -> dict[str, str]:
    """Environment variables of a server and of all that it starts."""
    return {_HOME: str(home.resolve()), _PART: part}


def lock_file(home: Path) -> Path:
    """What the one `virnuc up` of a home holds while it lives."""
    return home / "up.lock"


def processes_of(home: Path) -> list[tuple[Kind, psutil.Process]]:
    """Living processes of a home's `virnuc up`, or of one that died: itself, its servers, and what they started.

    A "worker" executes a run; a "helper" is what workers start, e.g. torch's compilers, and Python's own.
    """
    found: list[tuple[Kind, psutil.Process]] = []
    if (up := holder(lock_file(home))) is not None and psutil.pid_exists(up):
        found.append(("up", psutil.Process(up)))
    return found + list(_marked(str(home.resolve())))


def end(processes: Iterable[psutil.Process]) -> int:
    """Kill processes and wait until they are gone; returns how many there were.

    Raises:
        VirnucError: one stays, as a process does that hangs in the kernel.
    """
    killed = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
            killed.append(process)
    deadline = time.monotonic() + _GONE_SECONDS
    while left := [process.pid for process in killed if is_alive(process)]:
        if time.monotonic() > deadline:
            raise VirnucError(f"killed processes do not end: {left}; see what they wait for, e.g. a file server")
        time.sleep(_LOOK_SECONDS)
    return len(killed)


def process_since(pid: int, seen: float) -> psutil.Process | None:
    """The process of a number if it was there at a time (seconds since the epoch), and no later one of that number."""
    try:
        process = psutil.Process(pid)
        return process if process.create_time() <= seen + _CLOCK_SECONDS else None
    except psutil.NoSuchProcess:
        return None


def is_alive(process: psutil.Process) -> bool:
    """Whether it executes something: neither gone, nor another of its number, nor a zombie, which may stay for long."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


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
