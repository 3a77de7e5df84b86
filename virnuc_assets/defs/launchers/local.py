"""Runs on this machine, each in a process of its own, whose death is noticed whoever else died with it."""

from __future__ import annotations

import signal
import time

from dagster import DagsterEventType, DagsterInstance, DagsterRun, DefaultRunLauncher
from dagster._core.launcher.base import CheckRunHealthResult, WorkerStatus

from virnuc_assets.storage.places import process_since

# A run in a shell is marked as started a moment before its process is on record.
_UNRECORDED_SECONDS = 60.0
_FIRST_EVENTS = 50


class LocalRunLauncher(DefaultRunLauncher):
    """Dagster's default launcher, which also knows and ends runs whose code server is dead, or of a shell."""

    @property
    def supports_check_run_worker_health(self) -> bool:
        """Always."""
        return True

    def check_run_worker_health(self, run: DagsterRun) -> CheckRunHealthResult:
        """Whether the process of a started run lives."""
        why = why_dead(self._instance, run)
        return CheckRunHealthResult(WorkerStatus.RUNNING if why is None else WorkerStatus.FAILED, why)

    def terminate(self, run_id: str) -> bool:
        """Interrupt the run's process; returns whether there is one."""
        run = self._instance.get_run_by_id(run_id)
        if run is None or run.is_finished:
            return False
        self._instance.report_run_canceling(run)
        recorded = _recorded(self._instance, run)
        worker = process_since(*recorded) if recorded else None
        if worker is None:
            return False
        worker.send_signal(signal.SIGINT)
        return True


def why_dead(instance: DagsterInstance, run: DagsterRun, launching: bool = True) -> str | None:
    """Why no process executes a run that was launched, or started in a shell; None if one does, or may be about to.

    `launching`: a process may live that was launched and has recorded nothing yet.
    """
    recorded = _recorded(instance, run)
    if recorded is not None:
        return None if process_since(*recorded) else f"its process {recorded[0]} ended unexpectedly"
    record = instance.get_run_record_by_id(run.run_id)
    if record and record.start_time:
        launching = time.time() - record.start_time < _UNRECORDED_SECONDS
    return None if launching else "no process executes it"


def _recorded(instance: DagsterInstance, run: DagsterRun) -> tuple[int, float] | None:
    """Process id and time of the first event that has the id of a run's process."""
    types = {DagsterEventType.ENGINE_EVENT}
    for entry in instance.event_log_storage.get_logs_for_run(run.run_id, of_type=types, limit=_FIRST_EVENTS):
        event = entry.dagster_event
        if event and (pid := event.engine_event_data.metadata.get("pid")):
            return int(str(pid.value)), entry.timestamp
    return None
