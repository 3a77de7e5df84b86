"""Where steps run: the GPU pool and the GPU request that embedding steps carry whichever way they are launched."""

from __future__ import annotations

from typing import Any

GPU_POOL = "gpu"
# Read by the Kubernetes executor; ignored on a workstation, where the pool alone serialises the device.
GPU_OP_TAGS: dict[str, Any] = {
    "dagster-k8s/config": {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
        "pod_spec_config": {
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    }
}
