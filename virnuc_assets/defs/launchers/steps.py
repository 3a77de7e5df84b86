"""Where steps run: the executor, and the GPU that embedding steps ask for whichever way they are launched."""

from __future__ import annotations

from typing import Any

import dagster as dg

from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import LaunchSettings, Settings

GPU_POOL = "gpu"
SLURM_TAG = "virnuc/slurm"
KUBERNETES_TAG = "dagster-k8s/config"


def gpu_op_tags(settings: Settings) -> dict[str, Any]:
    """Tags of a step that computes on the device: one GPU of its own, unless the settings say that it shall not.

    For the Kubernetes executor and the Slurm launcher; on a workstation the pool has a slot for each GPU.
    """
    if settings.encoding.device == "cpu":
        return {}
    pod: dict[str, Any] = {"tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]}
    if settings.launch.gpu_nodes:
        pod["node_selector"] = dict(settings.launch.gpu_nodes)
    container = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    return {
        SLURM_TAG: {"gres": "gpu:1"},
        KUBERNETES_TAG: {"container_config": container, "pod_spec_config": pod},
    }


def step_executor(launch: LaunchSettings) -> dg.ExecutorDefinition:
    """What runs the steps of a run: its own process, or a pod for each.

    Image, volumes, secrets and whatever else holds for all pods are those of the run launcher.
    """
    if launch.steps == "in_process":
        # One after the other: one model in memory at a time, and nothing next to a measurement.
        return dg.in_process_executor
    try:
        from dagster_k8s import k8s_job_executor
    except ModuleNotFoundError as error:
        if error.name != "dagster_k8s":
            raise
        raise VirnucError(
            '[launch] steps = "kubernetes": dagster_k8s is not installed; expected what '
            "`pip install 'virnuc_assets[kubernetes]'` brings. Install it, or set steps = \"in_process\"."
        ) from error
    # Memory has a limit, so that a step that takes more is ended and no other; cores have none: idle ones may be used.
    requests = {"cpu": launch.step_cpu, "memory": launch.step_memory}
    resources = {"requests": requests, "limits": {"memory": launch.step_memory}}
    config: dict[str, Any] = {
        "max_concurrent": launch.steps_at_once,
        # What failed is retried by another run, which Dagster counts and shows.
        "retries": {"disabled": {}},
        # What is left of a run's steps goes with the pod of the run.
        "enable_owner_references": True,
        "step_k8s_config": {"container_config": {"resources": resources}},
    }
    return k8s_job_executor.configured(config, name="kubernetes")
