"""A project in a folder of its own, its real servers, and whether all that is to be done in it is done."""

from __future__ import annotations

import os
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
from virnuc_assets.defs.partitions import ShardSet
from virnuc_assets.defs.provenance import CHUNKS, FRAMES, PREDICTIONS, REPORT, vectors
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sensors import files_to_plan
from virnuc_assets.settings import load_settings
from virnuc_assets.workstation.setup import dagster_home

_FINISHED = {DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED}
UNFINISHED = RunsFilter(statuses=[status for status in DagsterRunStatus if status not in _FINISHED])
_ACTIVE = BulkActionsFilter(statuses=[s for s in BulkActionStatus if s not in BULK_ACTION_TERMINAL_STATUSES])


class Project:
    """Its `virnuc up` is started again whenever it is found dead, as a service manager does it."""

    def __init__(self, folder: Path, log: Path, settings: str | None = "") -> None:
        """Write virnuc.toml with these settings, and with ports of loopback that nobody listens on; None = as it is."""
        if settings is not None:
            with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
                ports = (one.getsockname()[1], other.getsockname()[1])
            servers = "[servers]\ndagster_port = {}\nmlflow_port = {}\n".format(*ports)
            (folder / "virnuc.toml").write_text(settings + servers, encoding="utf-8")
        self.settings, self._log = load_settings(folder), log
        self.workspace, self.home = Workspace(self.settings), dagster_home(self.settings)
        self._up: subprocess.Popen[bytes] | None = None

    def _start(self, command: str) -> subprocess.Popen[bytes]:
        program = [str(Path(sys.executable).with_name("virnuc")), command]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
        with self._log.open("ab") as output:
            return subprocess.Popen(program, cwd=self.settings.root, stdout=output, stderr=output, env=environment)  # noqa: S603

    def virnuc(self, command: str) -> None:
        """`virnuc COMMAND` to its end; what it prints is appended to the log."""
        if status := self._start(command).wait():
            raise SystemExit(f"virnuc {command} in {self.settings.root} ended with {status}, see {self._log}")

    def wait_for(self, what: str, done: Callable[[], bool], seconds: float) -> float:
        """Keep `virnuc up` alive until `done()` is true, asked every half second; returns how many seconds it took.

        Raises:
            SystemExit: it did not become true in time.
        """
        started = time.monotonic()
        while True:
            if self._up is None or self._up.poll() is not None:
                self._up = self._start("up")
            if done():
                return time.monotonic() - started
            if time.monotonic() - started > seconds:
                raise SystemExit(f"{what}: not within {seconds:.0f} s")
            time.sleep(0.5)

    def stop(self) -> int:
        """End the servers as Ctrl-C does; returns their status."""
        if self._up is None:
            return 0
        self._up.terminate()
        try:
            return self._up.wait(60)
        except subprocess.TimeoutExpired:
            self._up.kill()
            return self._up.wait()

    def instance(self) -> dg.DagsterInstance:
        """Dagster's instance."""
        return dg.DagsterInstance.from_config(str(self.home))

    def missing_partitions(self, instance: dg.DagsterInstance, shards: ShardSet) -> int:
        """Partitions of which something is missing, stale, or not visible as materialized."""
        # What is made of every partition without being asked for; predictions and reports are of samples only.
        assets = [CHUNKS, FRAMES, *vectors(self.workspace.kept_variants(shards.domain)), PREDICTIONS, REPORT]
        return sum(map(len, stale_partitions(instance, self.workspace, shards, assets).values()))

    def is_settled(self, shards: ShardSet) -> bool:
        """Whether every file is in the intake log, every partition's tables are up to date, and no run is active."""
        with self.instance() as instance:
            return not (
                instance.get_runs_count(UNFINISHED)
                or instance.get_backfills_count(_ACTIVE)
                or files_to_plan(self.workspace)
                or self.missing_partitions(instance, shards)
            )
