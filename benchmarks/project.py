"""A project in a folder of its own, its real servers, and whether all that is to be done in it is done."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES, BulkActionsFilter, BulkActionStatus

from virnuc_assets.defs.checks import stale_partitions
from virnuc_assets.defs.jobs import files_to_plan
from virnuc_assets.defs.partitions import ShardSet
from virnuc_assets.defs.provenance import CHUNKS, FRAMES, PREDICTIONS, REPORT, vectors
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.settings import Settings, load_settings
from virnuc_assets.workstation.setup import dagster_home

_FINISHED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
UNFINISHED = RunsFilter(statuses=[status for status in DagsterRunStatus if status not in _FINISHED])


def configured(folder: Path, settings: str = "") -> Settings:
    """Write virnuc.toml with these settings, and with ports of loopback that nobody listens on."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    dagster_port, mlflow_port = (probe.getsockname()[1] for probe in probes)
    for probe in probes:
        probe.close()
    servers = f"[servers]\ndagster_port = {dagster_port}\nmlflow_port = {mlflow_port}\n"
    (folder / "virnuc.toml").write_text(settings + servers, encoding="utf-8")
    return load_settings(folder)


def start_virnuc(settings: Settings, command: str, log: Path) -> subprocess.Popen[bytes]:
    """`virnuc COMMAND` in the project's folder; its output is appended to the log."""
    program = [str(Path(sys.executable).with_name("virnuc")), command]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    with log.open("ab") as output:
        return subprocess.Popen(program, cwd=settings.root, stdout=output, stderr=output, env=environment)  # noqa: S603


def virnuc(settings: Settings, command: str, log: Path) -> None:
    """`virnuc COMMAND` to its end.

    Raises:
        SystemExit: it failed.
    """
    if status := start_virnuc(settings, command, log).wait():
        raise SystemExit(f"virnuc {command} in {settings.root} ended with {status}, see {log}")


class Servers:
    """`virnuc up` of a project, started again whenever it is found dead, as a service manager does it."""

    def __init__(self, settings: Settings, log: Path) -> None:
        self._settings, self._log, self.starts = settings, log, 1
        self._process = start_virnuc(settings, "up", log)

    def ensure(self) -> None:
        """Start it again if it is dead."""
        if self._process.poll() is not None:
            self._process = start_virnuc(self._settings, "up", self._log)
            self.starts += 1

    def stop(self) -> int:
        """End it as Ctrl-C does; returns its status."""
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def wait(self, seconds: float) -> None:
        """Wait, and keep it alive meanwhile."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.ensure()
            time.sleep(0.5)


def wait_for(what: str, done: Callable[[], bool], seconds: float, servers: Servers | None = None) -> float:
    """Seconds until `done()` is true; it is asked every half second, and the servers are kept alive meanwhile.

    Raises:
        SystemExit: it did not become true in time.
    """
    started = time.monotonic()
    while not done():
        if time.monotonic() - started > seconds:
            raise SystemExit(f"{what}: not within {seconds:.0f} s")
        if servers:
            servers.ensure()
        time.sleep(0.5)
    return time.monotonic() - started


def instance_of(settings: Settings) -> dg.DagsterInstance:
    """Dagster's instance of a project."""
    return dg.DagsterInstance.from_config(str(dagster_home(settings)))


def missing_partitions(instance: dg.DagsterInstance, settings: Settings, shards: ShardSet) -> int:
    """Partitions of which something is missing, stale, or not visible as materialized."""
    workspace = Workspace(settings)
    # What is made of every partition without being asked for; predictions and reports are of samples only.
    assets = [CHUNKS, FRAMES, *vectors(workspace.kept_variants(shards.domain)), PREDICTIONS, REPORT]
    return sum(map(len, stale_partitions(instance, workspace, shards, assets).values()))


def is_settled(settings: Settings, shards: ShardSet) -> bool:
    """Whether every file is in the intake log, every partition's tables are up to date, and no run is active."""
    active = BulkActionsFilter(statuses=[s for s in BulkActionStatus if s not in BULK_ACTION_TERMINAL_STATUSES])
    with instance_of(settings) as instance:
        return not (
            instance.get_runs_count(UNFINISHED)
            or instance.get_backfills_count(active)
            or files_to_plan(Workspace(settings))
            or missing_partitions(instance, settings, shards)
        )
