"""A project on the stand-in, with its servers, as deploy/k8s/values.yaml has it. A pytest plugin."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest
import yaml

from virnuc_assets.workstation.setup import dagster_home
from virnuc_assets_tests.assets.project import GENOMES, Project
from virnuc_assets_tests.launching import kubernetes_values
from virnuc_assets_tests.launching.kubernetes_api import Cluster
from virnuc_assets_tests.launching.kubernetes_pods import Image, Pod
from virnuc_assets_tests.launching.platform import Platform, framed_project, launch, platform
from virnuc_assets_tests.running import CHECKOUT, until

STAGES = ("chunked_fasta", "translated_proteins", "dnabert_s_embeddings", "kmer_features")
ZONE = kubernetes_values.launcher_config()["run_k8s_config"]["pod_spec_config"]["nodeSelector"]
GPU_KIND = {"nvidia.com/gpu.product": "tiny"}
# What the chart passes to a code server.
IMAGE = {
    "DAGSTER_CONTAINER_CONTEXT": json.dumps(kubernetes_values.container_context()),
    "DAGSTER_CURRENT_IMAGE": kubernetes_values.image_name(),
}
PASSWORD = {"postgresql-password": "of Dagster's database"}
SECRETS = {"AWS_SECRET_ACCESS_KEY": "of the object store"}


@dataclass(frozen=True)
class Deployment:
    """What runs: the cluster, and Dagster's servers over a project."""

    cluster: Cluster
    platform: Platform

    @property
    def project(self) -> Project:
        return self.platform.project

    def pods_of(self, run_id: str, component: str = "") -> list[Pod]:
        """All pods that a run and its steps ever had; of a component, "run_worker" or "step_worker", or of both."""
        there = [pod for pod in self.cluster.pods_seen if pod.labels["dagster/run-id"] == run_id]
        return [pod for pod in there if component in pod.labels["app.kubernetes.io/component"]]

    def running_pod(self, run_id: str, component: str) -> Pod:
        """A pod of a run, as soon as its process runs."""

        def found() -> list[Pod]:
            return [pod for pod in self.pods_of(run_id, component) if pod.phase == "Running"]

        until(lambda: bool(found()), f"a {component} of run {run_id}", every=0.02)
        return found()[0]

    def launch(self, assets: Sequence[str], shards: Sequence[str], **tags: str) -> str:
        """Launch a run of some reference assets as the UI does, for a range of shards."""
        return launch(self.platform, assets, shards, **tags)


def wait_until_finished(instance: dg.DagsterInstance, *run_ids: str) -> None:
    def unfinished() -> list[dg.DagsterRun]:
        runs = [instance.get_run_by_id(run_id) for run_id in run_ids]
        return [run for run in runs if run is not None and not run.is_finished]

    until(lambda: not unfinished(), f"the end of {run_ids}", every=0.5)


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
    with Cluster(folder / "cluster", images) as cluster:
        cluster.give(*kubernetes_values.prerequisites(PASSWORD, SECRETS))
        home = dagster_home(project.settings)
        (home / "dagster.yaml").write_text(yaml.safe_dump(_instance(home, cluster)), encoding="utf-8")
        with platform(project, IMAGE, launch={"steps": "kubernetes", "gpu_nodes": GPU_KIND}) as servers:
            yield Deployment(cluster, servers)


def _instance(home: Path, cluster: Cluster) -> dict[str, object]:
    config = kubernetes_values.instance_config()
    at_hand = {"load_incluster_config": False, "kubeconfig_file": str(cluster.kubeconfig), "dagster_home": str(home)}
    config["run_launcher"]["config"].update(at_hand)
    config["run_coordinator"]["config"]["dequeue_interval_seconds"] = 1
    config["run_monitoring"].update(poll_interval_seconds=2, free_slots_after_run_end_seconds=2)
    return config
