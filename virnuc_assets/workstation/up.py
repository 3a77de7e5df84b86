"""`virnuc up`: Dagster's servers and MLflow's on loopback, kept alive until a signal ends them all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings
from virnuc_assets.workstation.cleanup import (
    Part,
    clean_up,
    end,
    fail_orphaned_runs,
    lock_file,
    mark,
    processes_of,
    serves_code,
)
from virnuc_assets.workstation.device_lock import give_back, holder, lock_of, take
from virnuc_assets.workstation.setup import artifact_location, dagster_home, mlflow_page, require_set_up, tracking_uri

LOOPBACK = "127.0.0.1"
LOCATION = "virnuc_assets"
PARTS: tuple[Part, ...] = get_args(Part)
_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 180
_GRACE_SECONDS = 10
_MAX_RESTARTS, _WITHIN_SECONDS = 10, 600


def serve(settings: Settings, log: Callable[[str], None]) -> int:
    """Clean up after a killed predecessor, start the servers, and restart those that die.

    Returns 0 after Ctrl-C or SIGTERM, 1 if a server died too often.
    """
    Workspace(settings)  # refuses settings that do not go with the encoders there are
    require_set_up(settings, log)
    home = dagster_home(settings)
    lock = lock_of(lock_file(home))
    if not take(lock):
        found = holder(lock_file(home))
        raise VirnucError(f"{home}: another `virnuc up` (process {found}) serves this project; end it")
    try:
        clean_up(settings, log)
        _require_free(settings.servers.dagster_port)
        if not settings.tracking.of_others:
            _require_free(settings.servers.mlflow_port)
        return _Servers(settings, log).run()
    finally:
        give_back(lock)


class _Servers:
    """The four servers. The daemon never runs without the code server: it would fail for good what it cannot launch."""

    def __init__(self, settings: Settings, log: Callable[[str], None]) -> None:
        self._settings, self._log = settings, log
        self._home = dagster_home(settings)
        self._scratch = scratch_of(self._home)
        self._socket, self._workspace = self._scratch / "code.sock", self._scratch / "workspace.yaml"
        self._running: dict[Part, subprocess.Popen[bytes]] = {}
        self._deaths: dict[Part, deque[float]] = {part: deque(maxlen=_MAX_RESTARTS) for part in PARTS}
        self._parts = [part for part in PARTS if part != "mlflow" or not settings.tracking.of_others]
        self._stop = False

    def run(self) -> int:
        """Start all and keep them alive, until a signal comes or a server died too often; as `serve` returns."""

        def stop(*_: object) -> None:
            self._stop = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._scratch.mkdir(mode=0o700)
        location = {"grpc_server": {"socket": str(self._socket), "location_name": LOCATION}}
        self._workspace.write_text(json.dumps({"load_from": [location]}), encoding="utf-8")  # which is YAML, too
        try:
            self._start_missing()
            self._log(f"Dagster UI   {self._settings.servers.dagster_url}")
            self._log(f"MLflow       {mlflow_page(self._settings)}\nCtrl-C stops all services.")
            while not self._stop:
                time.sleep(_POLL_SECONDS)
                if (dead := self._dead()) and not self._replace(dead):
                    return 1
            return 0
        finally:
            self._end_all()

    def _dead(self) -> list[Part]:
        """Servers that ended; the code server only seems alive without its child, which alone knows the definitions."""
        ended = {part for part, process in self._running.items() if process.poll() is not None}
        if not serves_code(self._running["code_server"].pid):
            ended.add("code_server")
        return [part for part in self._parts if part in ended]

    def _replace(self, dead: list[Part]) -> bool:
        """Restart dead servers; False if one died too often. Runs continue: they do not need the server."""
        now = time.monotonic()
        for part in dead:
            self._log(f"The {part} ended (status {self._running[part].returncode}); it is restarted.")
            deaths = self._deaths[part]
            if len(deaths) == _MAX_RESTARTS and now - deaths[0] < _WITHIN_SECONDS:
                self._log(f"It did so {_MAX_RESTARTS} times within {_WITHIN_SECONDS / 60:.0f} minutes; stopping.")
                return False
            deaths.append(now)
        gone: set[Part] = {*dead, "daemon"} if "code_server" in dead else {*dead}
        end(process for kind, process in processes_of(self._home) if kind in gone)
        for part in gone:
            self._running.pop(part).wait()
        self._start_missing()
        return True

    def _start_missing(self) -> None:
        for part in self._parts:
            if part not in self._running and not self._stop:
                if part == "daemon":
                    fail_orphaned_runs(self._home, self._log, launching=True)
                self._running[part] = self._start(part)
                if part == "code_server":
                    self._wait_until_it_answers()

    def _wait_until_it_answers(self) -> None:
        """Until definitions are loaded; one that ends meanwhile, or hangs and is killed, is restarted later."""
        from dagster._core.errors import DagsterUserCodeUnreachableError
        from dagster._grpc.client import DagsterGrpcClient

        client, process = DagsterGrpcClient(socket=str(self._socket)), self._running["code_server"]
        deadline = time.monotonic() + _ANSWER_SECONDS
        while not self._stop and process.poll() is None:
            try:
                client.ping("")
                return
            except DagsterUserCodeUnreachableError:
                time.sleep(_POLL_SECONDS)
            if time.monotonic() > deadline:
                process.kill()
                process.wait()

    def _start(self, part: Part) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            **mark(self._home, part),
            "DAGSTER_HOME": str(self._home),
            "TMPDIR": str(self._scratch),
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        servers, quiet = self._settings.servers, "--log-level warning"  # else a line for each poll of the daemon
        command = {
            "code_server": f"dagster code-server start {quiet} -m virnuc_assets.definitions --location-name {LOCATION}",
            "webserver": f"dagster_webserver --host {LOOPBACK} --port {servers.dagster_port}",
            "daemon": f"dagster._daemon run {quiet}",
            "mlflow": f"mlflow server --workers 1 --host {LOOPBACK} --port {servers.mlflow_port}",
        }[part].split()
        store = ["--backend-store-uri", tracking_uri(self._settings)]
        more = {
            "code_server": ["--socket", str(self._socket)],
            "mlflow": [*store, "--artifacts-destination", str(artifact_location(self._settings))],
        }.get(part, ["--workspace", str(self._workspace)])
        return subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", *command, *more], cwd=self._settings.root, env=environment, start_new_session=True
        )

    def _end_all(self) -> None:
        """Kill runs, which the next start retries where they were; interrupt servers, and kill what does not end."""
        end(process for kind, process in processes_of(self._home) if kind == "worker")
        for process in self._running.values():
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + _GRACE_SECONDS
        while time.monotonic() < deadline and any(process.poll() is None for process in self._running.values()):
            time.sleep(_POLL_SECONDS)
        end(process for kind, process in processes_of(self._home) if kind != "up")
        for process in self._running.values():
            process.wait()
        fail_orphaned_runs(self._home, self._log, launching=False)
        shutil.rmtree(self._scratch, ignore_errors=True)


def scratch_of(home: Path) -> Path:
    """Folder of the code server's socket, whose path must be short, and of the servers' temporary files."""
    name = hashlib.sha256(str(home.resolve()).encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"virnuc-{os.getuid()}-{name}"


def _require_free(port: int) -> None:
    try:
        socket.create_server((LOOPBACK, port)).close()
    except OSError as error:
        remedy = "end what listens there or set another in [servers]"
        raise VirnucError(f"port {port} is taken ({error.strerror}); {remedy}") from error
