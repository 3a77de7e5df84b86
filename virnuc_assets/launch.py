"""Where steps run: the GPU pool and the GPU request that embedding steps carry whichever way they are launched."""

from __future__ import annotations

from typing import Any

GPU_POOL = "gpu"
SLURM_TAG = "virnuc/slurm"
# Read by the Kubernetes executor and by the Slurm launcher. On a workstation the pool lets as many runs with such a step
# go as there are GPUs, and the in-process executor runs the steps of a run one after the other.
GPU_OP_TAGS: dict[str, Any] = {
    SLURM_TAG: {"gres": "gpu:1"},
    "dagster-k8s/config": {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
        "pod_spec_config": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    },
}
