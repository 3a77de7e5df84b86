"""A project whose runs go to the tests' Slurm cluster, and what tests ask of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import yaml

from virnuc_assets.defs.launchers.slurm import JOB_TAG
from virnuc_assets.workstation.device_lock import device_names, give_back, lock_of, take
from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets_tests.assets.project import Project
from virnuc_assets_tests.launching.platform import Platform, events_of, platform
from virnuc_assets_tests.launching.slurm_cluster import Cluster
from virnuc_assets_tests.running import CHECKOUT, Running, until

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
