"""A project's own code server, daemon and web server under a given dagster.yaml, and the five ways to launch a run."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from virnuc_assets.defs.partitions import REFERENCE, range_tags
from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets.workstation.up import Kind
from virnuc_assets_tests.assets.project import PLAN_REFERENCE_JOB, Project, failures, new_project
from virnuc_assets_tests.launching import definitions
from virnuc_assets_tests.running import CHECKOUT, LAUNCH, Running, free_ports, until

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": "virnuc_assets"}
START_SENSOR = """mutation($selector: SensorSelector!) { startSensor(sensorSelector: $selector) {
  __typename ... on Sensor { sensorState { id } } ... on PythonError { message } } }"""
START_SCHEDULE = """mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
  __typename ... on ScheduleStateResult { scheduleState { id } } ... on PythonError { message } } }"""
STOP_SENSOR = "mutation Stop($id: String!) { stop: stopSensor(id: $id) { __typename } }"
STOP_SCHEDULE = "mutation Stop($id: String!) { stop: stopRunningSchedule(id: $id) { __typename } }"
LAUNCH_BACKFILL = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
TERMINATE = """mutation($run: String!) { terminateRun(runId: $run) {
  __typename ... on TerminateRunFailure { message } ... on PythonError { message } } }"""
# A launch on its way: tag and value of the run that comes of it, and what ends it.
Started = tuple[str, str, Callable[[], None]]


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


def launch(servers: Running, assets: Sequence[str], shards: Sequence[str], **tags: str) -> str:
    """Launch a run of some reference assets as the UI does, for a range of shards or one; returns its id."""
    selection = [{"path": list(REFERENCE.key(asset).path)} for asset in assets]
    selector = {**REPOSITORY, "jobName": "__ASSET_JOB", "assetSelection": selection, "assetCheckSelection": []}
    all_tags = {**(range_tags(shards) if len(shards) > 1 else {"dagster/partition": shards[0]}), **tags}
    listed = [{"key": key, "value": value} for key, value in all_tags.items()]
    params = {"selector": selector, "runConfigData": {}, "executionMetadata": {"tags": listed}}
    answer = servers.ask(LAUNCH, params=params)["launchRun"]
    assert answer["__typename"] == "LaunchRunSuccess", answer
    return str(answer["run"]["runId"])


def events_of(servers: Running, run_id: str) -> str:
    """All that the UI shows of a run's events, errors included."""
    entries = servers.project.instance.all_logs(run_id)
    return "\n".join(f"{entry.user_message} {entry.dagster_event}" for entry in entries)


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
        """End the servers; runs of a launcher continue."""
        for server in reversed(self._servers):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGTERM)
        for server in self._servers:
            try:
                server.wait(timeout=5)  # a code server waits a minute for calls whose caller is gone
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

    def backfill(self, shards: Sequence[str]) -> str:
        """Launch a backfill of the embeddings of some shards; returns its id."""
        params = {"assetSelection": [{"path": list(definitions.ASSET.path)}], "partitionNames": list(shards)}
        answer = self.ask(LAUNCH_BACKFILL, params=params)["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        return str(answer["backfillId"])

    def launch_by(self, shards: Mapping[str, str]) -> dict[str, Callable[[], str]]:
        """Have runs launched that embed a shard of the reference each.

        Args:
            shards: of some of `PATHS`, the shard. "automation" launches all that are missing in its moment, and none
                that is on its way: let it be the last.

        Returns:
            By path, what waits until its run is on record, and returns its id.
        """
        for path, shard in shards.items():
            (self.project.root / definitions.WANTED.format(path)).write_text(shard, encoding="utf-8")
        started = {path: begin(self, shards[path]) for path, begin in PATHS.items() if path in shards}
        return {path: functools.partial(self._launched, path, *started[path]) for path in shards}

    def _launched(self, path: str, tag: str, value: str, end: Callable[[], None]) -> str:
        found: list[str] = []

        def launched() -> bool:
            runs = self.project.instance.get_runs(dg.RunsFilter(tags={tag: value}))
            found.extend(run.run_id for run in runs if run.parent_run_id is None)
            return bool(found)

        until(launched, f"a run by {path}")
        # A tick that is not over may turn its schedule on again, which then finds nothing to ask for.
        (self.project.root / definitions.WANTED.format(path)).unlink()
        end()
        return found[0]

    def _by_ui(self, shard: str) -> Started:
        launch(self, [definitions.ASSET.path[-1]], [shard], by="ui")
        return "by", "ui", lambda: None

    def _by_backfill(self, shard: str) -> Started:
        return "dagster/backfill", self.backfill([shard]), lambda: None

    def _by_schedule(self, _: str) -> Started:
        selector = {**REPOSITORY, "scheduleName": definitions.SCHEDULE}
        answer = self.ask(START_SCHEDULE, selector=selector)["startSchedule"]
        state = answer["scheduleState"]["id"]
        return "dagster/schedule_name", definitions.SCHEDULE, lambda: self._switched_off(STOP_SCHEDULE, state)

    def _by_sensor(self, _: str, name: str = definitions.SENSOR) -> Started:
        answer = self.ask(START_SENSOR, selector={**REPOSITORY, "sensorName": name})["startSensor"]
        state = answer["sensorState"]["id"]
        return "dagster/sensor_name", name, lambda: self._switched_off(STOP_SENSOR, state)

    def _by_automation(self, shard: str) -> Started:
        return self._by_sensor(shard, definitions.AUTOMATION)

    def _switched_off(self, query: str, state: str) -> None:
        answer = self.ask(query, id=state)["stop"]
        assert answer["__typename"] in ("StopSensorMutationResult", "ScheduleStateResult"), answer


# The schedule's minute passes meanwhile.
PATHS: dict[str, Callable[[Platform, str], Started]] = {
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
