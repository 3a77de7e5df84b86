"""A Slurm cluster on loopback or more hosts, with GPUs that are empty files, and a project whose runs go to it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import yaml

from virnuc_assets.defs.launchers.slurm import JOB_TAG
from virnuc_assets.workstation.device_lock import device_names, give_back, lock_of, take
from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets.workstation.up import end
from virnuc_assets_tests.assets.project import Project
from virnuc_assets_tests.launching.platform import Platform, events_of, platform
from virnuc_assets_tests.running import CHECKOUT, Running, free_ports, until

CPUS = 4  # as Slurm counts; the machine may have fewer
CONF = """ClusterName=test
SlurmctldHost=localhost({address})
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=1
GresTypes=gpu
MpiDefault=none
ReturnToService=2
MessageTimeout=5
KillWait=5
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE
PartitionName=closed Nodes=ALL State=DOWN
"""
NODE = "NodeName={name} NodeAddr={address} CPUs={cpus} RealMemory=4000 Gres=gpu:1 Feature={name}\n"
ON_LOOPBACK = "CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\n"


class Node(NamedTuple):
    """A node with one GPU, a feature of its name, and what a command is to begin with to run on its host."""

    name: str
    address: str
    inside: Sequence[str] = ()


LOCALHOST = Node("localhost", "127.0.0.1")


class Cluster:
    """The cluster; `SLURM_CONF` names it to all commands of this process and of those that it starts."""

    def __init__(self, folder: Path, nodes: Sequence[Node] = (LOCALHOST,), more: str = ON_LOOPBACK) -> None:
        """The controller is on the first node's address; `more` are lines of slurm.conf."""
        self.folder, self._nodes = folder, nodes
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o600)
        (folder / "gpu0").touch()
        names = ",".join(node.name for node in nodes)
        (folder / "gres.conf").write_text(f"NodeName={names} Name=gpu File={folder}/gpu0\n")
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        ports = dict(zip(("controller_port", "node_port"), free_ports(), strict=True))
        self.conf = folder / "slurm.conf"
        own = CONF.format(folder=folder, address=nodes[0].address, **ports)
        lines = [NODE.format(name=node.name, address=node.address, cpus=CPUS) for node in nodes]
        self.conf.write_text("".join((own, *lines, more)))

    def start(self) -> None:
        paths = {"key-file": "munge.key", "socket": "munge.sock", "pid-file": "munge.pid"}
        paths |= {"log-file": "munge.log", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in paths.items()]
        self._start("munged", ("munged", "--force", "--foreground", *options))
        until(lambda: (self.folder / "munge.sock").exists(), "munged")
        self.start_controller()
        for node in self._nodes:
            self._start(f"slurmd-{node.name}", (*node.inside, "slurmd", "-D", "-N", node.name, "-f", str(self.conf)))
        until(lambda: self.ask("sinfo", "--noheader", "--format=%T") == "idle", "idle nodes")

    def start_controller(self) -> None:
        self._start("slurmctld", ("slurmctld", "-D", "-f", str(self.conf)))

    def stop_controller(self, number: signal.Signals = signal.SIGTERM) -> None:
        controller = self._daemons.pop("slurmctld")
        controller.send_signal(number)
        controller.wait(timeout=30)

    def restart_controller(self, down: float = 0.0) -> None:
        """Kill it, without a chance to write anything down, and restart it after some seconds."""
        self.stop_controller(signal.SIGKILL)
        time.sleep(down)
        self.start_controller()
        until(lambda: self.ask("sinfo", "--noheader", "--format=%T") != "", "the controller")

    def wait_until_saved(self) -> None:
        """Until the controller has written down how things are now; it does so every few seconds, after a change."""
        now, state = time.time(), self.folder / "state/job_state"

        def saved() -> bool:
            self.ask("scancel", self.ask("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap=true"))
            return state.stat().st_mtime > now

        until(saved, "the controller's state", every=1.0)

    def ask(self, *command: str) -> str:
        """What a command answers; empty where nobody does."""
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout.strip()

    def job(self, number: str) -> dict[str, str]:
        """All that the controller knows of a job."""
        words = self.ask("scontrol", "--oneliner", "show", "job", number).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def processes(self, number: str) -> list[psutil.Process]:
        """Those of a job's script and all that it started."""
        return [process for process in self._ours() if _environment(process).get("SLURM_JOB_ID") == number]

    def clear(self) -> None:
        """End all jobs and wait until nothing of them runs."""
        self.ask("scancel", "--user=root")
        until(lambda: not self.ask("squeue", "--noheader"), "jobs that ended")

    def stop(self) -> None:
        for daemon in reversed(self._daemons.values()):
            daemon.terminate()
        for daemon in self._daemons.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(timeout=10)
        end(self._ours())
        for daemon in self._daemons.values():
            daemon.wait()

    def _start(self, name: str, command: Sequence[str]) -> None:
        with (self.folder / f"{name}.out").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def _ours(self) -> list[psutil.Process]:
        """Daemons and jobs; not the tests themselves, which were started without the variable."""
        mark = {"SLURM_CONF": str(self.conf)}
        processes = [process for process in psutil.process_iter() if process.pid != os.getpid()]
        return [process for process in processes if mark.items() <= _environment(process).items()]


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A running cluster for all tests; nothing of it is left at the end."""
    with running_cluster() as made:
        yield made


@contextlib.contextmanager
def running_cluster(nodes: Sequence[Node] = (LOCALHOST,), more: str = ON_LOOPBACK) -> Iterator[Cluster]:
    """A cluster of some nodes; nothing of it is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # sockets have short paths
    made = Cluster(folder, nodes, more)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(made.conf))
        try:
            made.start()
            yield made
        finally:
            made.stop()
            shutil.rmtree(folder)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return dict(process.environ())
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


DEPLOYED = CHECKOUT / "deploy/slurm/dagster.yaml"


def quick(deployed: Path) -> str:
    """A deployment's dagster.yaml for a small node and tests that do not like to wait."""
    settings = yaml.safe_load(deployed.read_text(encoding="utf-8"))
    config = {"resources": {"cpus_per_task": 1}, "environment": ["PYTHONPATH", "OMP_WAIT_POLICY"]}
    settings["run_launcher"]["config"] = config
    settings["run_coordinator"]["config"].update(dequeue_interval_seconds=1, user_code_failure_retry_delay=1)
    settings["run_monitoring"]["poll_interval_seconds"] = 1
    return yaml.safe_dump(settings)


@contextlib.contextmanager
def on_slurm(project: Project, cluster: Cluster, environment: Mapping[str, str] | None = None) -> Iterator[Platform]:
    """A project's servers, with the deployment's dagster.yaml; its jobs are gone at the end."""
    (dagster_home(project.settings) / "dagster.yaml").write_text(quick(DEPLOYED), encoding="utf-8")
    with platform(project, {"OMP_WAIT_POLICY": "passive", **(environment or {})}) as servers:
        yield servers
        cluster.clear()


@contextlib.contextmanager
def device_held(project: Project) -> Iterator[Callable[[], None]]:
    """Runs that embed wait in their step as long as this process holds the device; gives what lets it go."""
    name = device_names(project.settings.encoding.device)[0]
    lock = lock_of(project.workspace.layout.locks / f"{name}.lock")
    until(lambda: take(lock), "the device")
    with contextlib.ExitStack() as holding:
        holding.callback(give_back, lock)
        yield holding.close


def tags_of(servers: Running, run_id: str) -> Mapping[str, str]:
    run = servers.project.instance.get_run_by_id(run_id)
    assert run is not None
    return run.tags


def job_of(servers: Running, run_id: str) -> str:
    """Number of a run's job, as soon as it is submitted."""
    until(lambda: JOB_TAG in tags_of(servers, run_id), "a job")
    return tags_of(servers, run_id)[JOB_TAG]


def waits(servers: Running, run_id: str) -> bool:
    return "waiting for" in events_of(servers, run_id)


def becomes(servers: Running, run_id: str, status: str) -> None:
    until(lambda: servers.status(run_id) == status, f"{status} of {run_id}", every=0.3)
