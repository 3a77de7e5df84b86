"""A project's own code server, daemon and web server under a given dagster.yaml, and the five ways to launch a run."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.processes import Kind
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project
from virnuc_assets_tests.launching import definitions
from virnuc_assets_tests.running import CHECKOUT, Running, free_ports, until

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "virnuc_assets"}
START_SENSOR = """mutation($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on Sensor { sensorState { id } } ... on PythonError { message } } }"""
START_SCHEDULE = """mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
  __typename ... on ScheduleStateResult { scheduleState { id } } ... on PythonError { message } } }"""
STOP_SENSOR = "mutation Stop($id: String!) { stop: stopSensor(id: $id) { __typename } }"
STOP_SCHEDULE = "mutation Stop($id: String!) { stop: stopRunningSchedule(id: $id) { __typename } }"
LAUNCH_RUN = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
LAUNCH_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
TERMINATE = """mutation($run: String!) { terminateRun(runId: $run) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
ASSET = {"path": list(definitions.ASSET.path)}


def framed_project(
    root: Path, blank: Path, genomes: tuple[str, ...], dagster_yaml: str | None = None, **sections: Any
) -> Project:
    """A project whose reference is planned and framed, and not embedded yet; its Dagster home has the given file."""
    project = new_project(root, blank, genomes, in_memory=False)
    project.configure(**sections)
    if dagster_yaml is not None:
        (dagster_home(project.settings) / "dagster.yaml").write_text(dagster_yaml, encoding="utf-8")
    assert failures(project.job(PLAN_REFERENCE_JOB)) == []
    keys = project.keys(REFERENCE)
    stages = [REFERENCE.key(name) for name in ("chunked_fasta", "translated_proteins")]
    assert failures(project.materialize(*stages, partition=(keys[0], keys[-1]))) == []
    return project


class Platform(Running):
    """Servers as a deployment has them, each by itself; `launching.definitions` is the code location."""

    def __init__(self, project: Project, environment: Mapping[str, str]) -> None:
        super().__init__(project)
        self._environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path]),
            "DAGSTER_HOME": str(dagster_home(project.settings)),
            **environment,
        }
        self._servers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        port = free_ports()[0]
        code = {"grpc_server": {"host": "127.0.0.1", "port": port, "location_name": "virnuc_assets"}}
        workspace = self.project.root / "workspace.json"
        workspace.write_text(json.dumps({"load_from": [code]}), encoding="utf-8")
        where = ["--workspace", str(workspace)]
        module = ["-m", "virnuc_assets_tests.launching.definitions", "--location-name", "virnuc_assets"]
        self._start("dagster", "code-server", "start", "--host", "127.0.0.1", "--port", str(port), *module)
        until(lambda: _answers(port), "code server")
        ui = str(self.project.settings.servers.dagster_port)
        self._start("dagster_webserver", "--host", "127.0.0.1", "--port", ui, *where)
        self._start("dagster._daemon", "run", "--log-level", "warning", *where)
        until(lambda: bool(self.ask("{ version }")), "web server")

    def _start(self, *command: str) -> None:
        with self._log.open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", *command],
                **{"cwd": self.project.root, "env": self._environment, "start_new_session": True},
                **{"stdout": log, "stderr": subprocess.STDOUT},
            )
        self._servers.append(started)

    def stop(self) -> int:
        """End the servers; runs of a launcher go on."""
        for server in reversed(self._servers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
        for server in self._servers:
            try:
                server.wait(timeout=20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()
        self._servers.clear()
        return 0

    def processes(self, *kinds: Kind) -> list[psutil.Process]:
        raise NotImplementedError("these servers carry no mark of `virnuc up`")

    def terminate(self, run_id: str) -> None:
        """Cancel a run as the UI does."""
        answer = self.ask(TERMINATE, run=run_id)["terminateRun"]
        assert answer["__typename"] == "TerminateRunSuccess", answer

    def launch_by(self, path: str, shard: str) -> str:
        """Launch a run that embeds a shard of the reference; returns its id as soon as it is on record.

        Args:
            path: one of `PATHS`. "automation" launches all shards that are missing in its moment: let it be the last.
            shard: a partition of the reference.
        """
        before = {run.run_id for run in self.project.instance.get_runs()}
        (self.project.root / definitions.WANTED).write_text(shard, encoding="utf-8")
        end = PATHS[path](self, shard)

        def launched() -> set[str]:
            return {run.run_id for run in self.project.instance.get_runs()} - before

        until(lambda: bool(launched()), f"a run by {path}")
        end()
        (self.project.root / definitions.WANTED).unlink()
        (run_id,) = launched()
        return run_id

    def _by_ui(self, shard: str) -> Callable[[], None]:
        selector = {**REPOSITORY, "jobName": "__ASSET_JOB", "assetSelection": [ASSET], "assetCheckSelection": []}
        tags = [{"key": "dagster/partition", "value": shard}]
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": tags}}
        answer = self.ask(LAUNCH_RUN, params=params)["launchRun"]
        assert answer["__typename"] == "LaunchRunSuccess", answer
        return lambda: None

    def _by_backfill(self, shard: str) -> Callable[[], None]:
        params = {"assetSelection": [ASSET], "partitionNames": [shard]}
        answer = self.ask(LAUNCH_BACKFILL, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return lambda: None

    def _by_schedule(self, _: str) -> Callable[[], None]:
        selector = {**REPOSITORY, "scheduleName": definitions.SCHEDULE}
        answer = self.ask(START_SCHEDULE, selector=selector)["startSchedule"]
        return lambda: self._turned_off(STOP_SCHEDULE, answer["scheduleState"]["id"])

    def _by_sensor(self, _: str, name: str = definitions.SENSOR) -> Callable[[], None]:
        answer = self.ask(START_SENSOR, selector={**REPOSITORY, "sensorName": name})["startSensor"]
        return lambda: self._turned_off(STOP_SENSOR, answer["sensorState"]["id"])

    def _by_automation(self, shard: str) -> Callable[[], None]:
        return self._by_sensor(shard, definitions.AUTOMATION)

    def _turned_off(self, query: str, state: str) -> None:
        answer = self.ask(query, id=state)["stop"]
        assert answer["__typename"] in ("StopSensorMutationResult", "ScheduleStateResult"), answer


PATHS: dict[str, Callable[[Platform, str], Callable[[], None]]] = {
    "ui": Platform._by_ui,
    "schedule": Platform._by_schedule,
    "sensor": Platform._by_sensor,
    "backfill": Platform._by_backfill,
    "automation": Platform._by_automation,
}


def _answers(port: int) -> bool:
    from dagster._core.errors import DagsterUserCodeUnreachableError
    from dagster._grpc.client import DagsterGrpcClient

    try:
        DagsterGrpcClient(port=port, host="127.0.0.1").ping("")
        return True
    except DagsterUserCodeUnreachableError:
        return False


@contextlib.contextmanager
def platform(project: Project, environment: Mapping[str, str] | None = None, **sections: Any) -> Iterator[Platform]:
    """A project's servers on free ports, with more settings; ended at the end."""
    dagster, mlflow = free_ports()
    project.configure(servers={"dagster_port": dagster, "mlflow_port": mlflow}, **sections)
    servers = Platform(project, environment or {})
    try:
        servers.start()
        yield servers
    finally:
        servers.stop()
