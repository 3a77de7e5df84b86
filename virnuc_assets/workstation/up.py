"""`virnuc up`: Dagster's servers and MLflow's on loopback, kept alive until a signal ends them all.

And the clean-up of what a killed one, or a crash, left. The environment of all that `virnuc up` starts carries a mark
that nothing else sets, so that processes are found when their parents are long dead.
"""

from __future__ import annotations

import contextlib
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
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal, get_args

import psutil
from dagster import DagsterEventType, DagsterInstance, DagsterRun, DagsterRunStatus, RunsFilter
from dagster._core.storage.tags import WILL_RETRY_TAG

from virnuc_assets.defs.launchers.local import LocalRunLauncher, why_dead
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import Settings
from virnuc_assets.storage.atomic import UNFINISHED, writer_is_dead
from virnuc_assets.storage.places import is_alive
from virnuc_assets.workstation.device_lock import give_back, holder, lock_of, take
from virnuc_assets.workstation.setup import artifact_location, dagster_home, mlflow_page, require_set_up, tracking_uri

Part = Literal["code_server", "webserver", "daemon", "mlflow"]
Kind = Literal["up", "code_server", "webserver", "daemon", "mlflow", "worker", "helper"]
LOOPBACK = "127.0.0.1"
LOCATION = "virnuc_assets"
PARTS: tuple[Part, ...] = get_args(Part)
_POLL_SECONDS = 0.2
_ANSWER_SECONDS = 180
_GRACE_SECONDS = 10
_MAX_RESTARTS, _WITHIN_SECONDS = 10, 600
_HOME, _PART = "VIRNUC_UP_HOME", "VIRNUC_UP_PART"
_SERVES_CODE = {"code-server", "grpc"}
_GONE_SECONDS, _GONE_POLL_SECONDS = 10.0, 0.05
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
        time.sleep(_GONE_POLL_SECONDS)
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
