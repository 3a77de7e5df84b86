"""Examines the machine: versions, attention backend, device, memory, checkpoints, classifier."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from typing import Any

from virnuc_assets.encoders.checkpoints import CheckpointMissingError, checkpoint_folder
from virnuc_assets.encoders.registry import PROFILES
from virnuc_assets.resources import Workspace

_LIBRARIES = (
    "virnuc_assets",
    "dagster",
    "mlflow",
    "torch",
    "transformers",
    "pyarrow",
    "numpy",
    "biopython",
    "sourmash",
)


def examine(workspace: Workspace) -> tuple[dict[str, Any], list[str]]:
    """Facts of the machine and the project, and the problems that a person must mend before a run."""
    import torch

    from virnuc_assets.encoders.loading import resolve_device

    settings, layout = workspace.settings, workspace.layout
    problems: list[str] = []
    device = resolve_device(settings.encoding.device)
    facts: dict[str, Any] = {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
    facts["profile"] = settings.profile
    facts["device"] = (
        f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else platform.machine()})"
    )
    facts["cpu threads"] = torch.get_num_threads()
    facts["attention backends"] = ", ".join(_sdpa_backends(device.type)) or "none"
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    for slot in PROFILES[settings.profile]:
        spec = workspace.encoder(slot)
        try:
            folder = checkpoint_folder(spec, layout.checkpoints)
            facts[f"encoder {slot}"] = f"{spec.name}: {folder or 'computed, no weights'}"
        except CheckpointMissingError as error:
            facts[f"encoder {slot}"] = f"{spec.name}: missing"
            problems.append(str(error))
    serving = layout.classifier(settings.serving.branch)
    facts["serving classifier"] = serving if serving.is_dir() else f"{settings.serving.branch}: not trained yet"
    return facts, problems


def _sdpa_backends(device: str) -> list[str]:
    """Scaled-dot-product backends that torch may use; on a CPU flash and math exist, whatever the switches say."""
    import torch

    if device == "cpu":
        return ["flash (cpu)", "math"]
    backends: Any = torch.backends.cuda
    switches = {
        "flash": backends.flash_sdp_enabled(),
        "memory efficient": backends.mem_efficient_sdp_enabled(),
        "cudnn": backends.cudnn_sdp_enabled(),
        "math": backends.math_sdp_enabled(),
    }
    return [name for name, enabled in switches.items() if enabled]
