"""Fixtures: a framed project, and its deployment on the stand-in, once a session. A pytest plugin."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets_tests.assets.project import GENOMES, Project
from virnuc_assets_tests.launching import kubernetes_values
from virnuc_assets_tests.launching.kubernetes_api import Cluster
from virnuc_assets_tests.launching.kubernetes_deployment import (
    GPU_KIND,
    NODES,
    PASSWORD,
    SECRETS,
    Deployment,
    serving,
)
from virnuc_assets_tests.launching.kubernetes_pods import Image
from virnuc_assets_tests.launching.platform import framed_project
from virnuc_assets_tests.running import CHECKOUT


@pytest.fixture(scope="session")
def framed(blank: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Eight shards, framed; never run, only copied."""
    return framed_project(tmp_path_factory.mktemp("framed") / "project", blank, GENOMES)


@pytest.fixture(scope="session")
def deployment(framed: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """The shipped values, but for faster polling, and for where the API and Dagster's home are."""
    folder = tmp_path_factory.mktemp("kubernetes")
    project = framed.copy(folder / "project", in_memory=False)
    variables = {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), "/usr/bin", "/bin"]),
        "PYTHONPATH": os.pathsep.join([str(CHECKOUT), *sys.path]),
        "OMP_WAIT_POLICY": "PASSIVE",
        "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS": "0.2",
    }
    images = {kubernetes_values.image_name(): Image(project.root, variables)}
    with Cluster(folder / "cluster", NODES, images) as cluster:
        cluster.give(*kubernetes_values.prerequisites("", PASSWORD, SECRETS))
        home = dagster_home(project.settings)
        (home / "dagster.yaml").write_text(yaml.safe_dump(_instance(home, cluster)), encoding="utf-8")
        with serving(project, launch={"steps": "kubernetes", "gpu_nodes": GPU_KIND}) as servers:
            yield Deployment(cluster, servers)


def _instance(home: Path, cluster: Cluster) -> dict[str, object]:
    config = kubernetes_values.instance_config()
    at_hand = {"load_incluster_config": False, "kubeconfig_file": str(cluster.kubeconfig), "dagster_home": str(home)}
    config["run_launcher"]["config"].update(at_hand)
    config["run_coordinator"]["config"]["dequeue_interval_seconds"] = 1
    config["run_monitoring"].update(poll_interval_seconds=2, free_slots_after_run_end_seconds=2)
    return config
