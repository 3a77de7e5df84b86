"""A project on the stand-in, with its servers, as deploy/k8s/values.yaml has it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import dagster as dg

from virnuc_assets_tests.assets.project import Project
from virnuc_assets_tests.launching import kubernetes_values
from virnuc_assets_tests.launching.kubernetes_api import Cluster
from virnuc_assets_tests.launching.kubernetes_pods import GPU, Node, Pod
from virnuc_assets_tests.launching.platform import Platform, launch, platform
from virnuc_assets_tests.running import until

STAGES = ("chunked_fasta", "translated_proteins", "dnabert_s_embeddings", "kmer_dna_embeddings")
ZONE = kubernetes_values.launcher_config()["run_k8s_config"]["pod_spec_config"]["nodeSelector"]
GPU_KIND = {"nvidia.com/gpu.product": "tiny"}
NODES = (
    Node("cpu-1", labels=ZONE),
    Node("gpu-of-another-kind", gpus=1, labels=ZONE, taints=(GPU,)),
    Node("gpu-1", gpus=1, labels={**ZONE, **GPU_KIND}, taints=(GPU,)),
)
# What the chart tells a code server of itself.
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


@contextlib.contextmanager
def serving(project: Project, **sections: object) -> Iterator[Platform]:
    """A project's servers; its code server in the shipped image."""
    with platform(project, IMAGE, **sections) as servers:
        yield servers


def wait_until_finished(instance: dg.DagsterInstance, *run_ids: str) -> None:
    def unfinished() -> list[dg.DagsterRun]:
        runs = [instance.get_run_by_id(run_id) for run_id in run_ids]
        return [run for run in runs if run is not None and not run.is_finished]

    until(lambda: not unfinished(), f"the end of {run_ids}", every=0.5)
