"""A project's `virnuc up` as a real process on loopback: started, asked by GraphQL as the UI does, killed in parts."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets.workstation.up import Kind, end, processes_of, scratch_of
from virnuc_assets_tests.assets.project import Project

CHECKOUT = Path(__file__).parents[1]
LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
UP = [sys.executable, "-c", "from virnuc_assets.cli.main import app; app()", "up"]
TIMEOUT = 240.0  # seconds; some machines do much else


class Running:
    """`virnuc up` of a project. What it prints is in `printed`."""

    def __init__(self, project: Project) -> None:
        self.project, self.home = project, dagster_home(project.settings)
        self._log = project.root / "up.log"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until its servers are started."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path])}
        with self._log.open("wb") as log:
            root = self.project.root  # its servers run there, wherever they are started
            self._process = subprocess.Popen(
                [*UP, "--project", root.name], cwd=root.parent, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
        until(lambda: "Ctrl-C stops all services." in self.printed or self._process.poll() is not None, "virnuc up")
        assert self._process.poll() is None, self.printed

    @property
    def printed(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self) -> int:
        """Interrupt it as Ctrl-C does; returns its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(timeout=TIMEOUT)

    def processes(self, *kinds: Kind) -> list[psutil.Process]:
        """Its living processes, of some kinds or all."""
        return [process for kind, process in processes_of(self.home) if not kinds or kind in kinds]

    def kill(self, *kinds: Kind) -> None:
        """SIGKILL all processes of some kinds at once, or really all."""
        killed = self.processes(*kinds)
        assert killed, kinds
        end(killed)
        if self._process is not None and self._process.pid in [process.pid for process in killed]:
            self._process.wait()

    def launch(self, job: str, **tags: str) -> str:
        """Launch a run as the UI does, as soon as it can be; returns its id."""
        selector = {
            "repositoryName": "__repository__",
            "repositoryLocationName": "virnuc_assets",
            "jobName": job,
        }
        metadata = {"tags": [{"key": key, "value": value} for key, value in tags.items()]}
        params = {"selector": selector, "runConfigData": {}, "executionMetadata": metadata}
        launched: list[str] = []

        def accepted() -> bool:
            answer = self.ask(LAUNCH, params=params)["launchRun"]
            if answer["__typename"] == "LaunchRunSuccess":
                launched.append(answer["run"]["runId"])
            return bool(launched)

        until(accepted, f"launch of {job}")
        return launched[0]

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data that GraphQL answers."""
        url = f"{self.project.settings.servers.dagster_url}/graphql"
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(url, body, {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer)["data"])

    def status(self, run_id: str) -> str:
        run = self.project.instance.get_run_by_id(run_id)
        assert run is not None
        return str(run.status.value)

    def succeeds(self, run_id: str) -> list[str]:
        """Wait until a run or a retry of it succeeds; returns the states of the run and its retries, in order."""

        def states() -> list[str]:
            group = self.project.instance.get_run_group(run_id)
            assert group is not None
            return [run.status.value for run in sorted(group[1], key=lambda run: int(retry(run.tags)))]

        until(lambda: states()[-1] == "SUCCESS", lambda: f"success of {run_id}, now {states()}")
        return states()

    def taken_slots(self) -> int:
        """Runs in progress that hold a slot of the pool."""
        info = self.project.instance.event_log_storage.get_concurrency_info("gpu")
        return int(info.active_slot_count) + int(info.pending_step_count)


def retry(tags: dict[str, str]) -> str:
    return tags.get("dagster/retry_number", "0")


def until(condition: Callable[[], bool], what: str | Callable[[], str], every: float = 0.1) -> None:
    """Wait for something; servers that do not answer yet are polled again."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            if condition():
                return
        if time.monotonic() > deadline:
            pytest.fail(f"{what() if callable(what) else what}: not within {TIMEOUT:.0f} s")
        time.sleep(every)


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        for there in (one, other):
            there.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


@contextlib.contextmanager
def running(project: Project, **sections: Mapping[str, Any]) -> Iterator[Running]:
    """A project's `virnuc up` on free ports, with more settings; whatever is left of it at the end is killed."""
    dagster, mlflow = free_ports()
    project.configure(servers={"dagster_port": dagster, "mlflow_port": mlflow}, **sections)
    platform = Running(project)
    try:
        platform.start()
        yield platform
    finally:
        end(platform.processes())
        shutil.rmtree(scratch_of(platform.home), ignore_errors=True)
