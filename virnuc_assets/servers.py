"""Runs the Dagster UI with its daemon and the MLflow server together, on loopback; one signal ends both."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable

from virnuc_assets.bootstrap import dagster_home, mlflow_folder
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings
from virnuc_assets.tracking import database_uri

LOOPBACK = "127.0.0.1"
_GRACE_SECONDS = 20


def serve(settings: Settings, say: Callable[[str], None]) -> int:
    """Start both servers and wait; returns the exit status of the one that ends by itself, or 0 after Ctrl-C."""
    for port in (settings.servers.dagster_port, settings.servers.mlflow_port):
        _require_free(port)
    stop = False

    def on_signal(*_: object) -> None:
        nonlocal stop
        stop = True

    signal.signal(signal.SIGINT, on_signal)
    signal.signal(signal.SIGTERM, on_signal)
    processes = [_start(command, settings) for command in (_dagster(settings), _mlflow(settings))]
    say(f"Dagster UI   {settings.servers.dagster_url}\nMLflow       {settings.servers.mlflow_url}\nCtrl-C ends both.")
    try:
        while not stop and all(process.poll() is None for process in processes):
            time.sleep(0.2)
        ended = [process.returncode for process in processes if process.poll() is not None]
    finally:
        _end(processes)
    return 0 if stop else max(ended, key=abs) or 1  # a server that ends by itself is a failure, whatever it says


def _dagster(settings: Settings) -> list[str]:
    address = ["-h", LOOPBACK, "-p", str(settings.servers.dagster_port)]
    return [sys.executable, "-m", "dagster", "dev", "-w", str(settings.root / "workspace.yaml"), *address]


def _mlflow(settings: Settings) -> list[str]:
    folder = mlflow_folder(settings)
    return [
        *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
        *("--host", LOOPBACK, "--port", str(settings.servers.mlflow_port)),
        *("--backend-store-uri", database_uri(folder), "--artifacts-destination", str(folder / "artifacts")),
    ]


def _start(command: list[str], settings: Settings) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "DAGSTER_HOME": str(dagster_home(settings)),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    return subprocess.Popen(command, cwd=settings.root, env=environment, start_new_session=True)  # noqa: S603


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Interrupt every process group, and kill what has not ended after a grace period."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            raise VirnucError(
                f"port {port} is taken ({error.strerror}); end what listens there or set another in [servers]"
            ) from error
