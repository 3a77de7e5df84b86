"""Examines the machine: versions, attention backend, device, memory, checkpoints, classifier."""

from __future__ import annotations

import os
import platform
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from virnuc_assets.encoders.checkpoints import CheckpointMissingError, find_checkpoint
from virnuc_assets.encoders.verification import CheckpointError
from virnuc_assets.resources import Workspace

if TYPE_CHECKING:
    import torch

_LIBRARIES = (
    "virnuc_assets",
    "dagster",
    "mlflow",
    "torch",
    "tokenizers",
    "safetensors",
    "huggingface_hub",
    "pyarrow",
    "numpy",
    "biopython",
    "sourmash",
)


def examine(workspace: Workspace) -> tuple[dict[str, Any], list[str]]:
    """Facts of the machine and the project, and the problems that a person must mend before a run."""
    import torch

    from virnuc_assets.encoders.machine import cpu_name, has_units, resolve_device

    settings, layout = workspace.settings, workspace.layout
    problems: list[str] = []
    device = resolve_device(settings.encoding.device)
    facts: dict[str, Any] = {"python": platform.python_version(), **{name: version(name) for name in _LIBRARIES}}
    facts["profile"] = settings.profile
    facts["device"] = f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu_name()})"
    precision = settings.encoding.precision
    emulated = device.type == "cpu" and not has_units(precision)
    facts["precision"] = (
        f"{precision}, emulated: this CPU has no units for it, fp32 is faster" if emulated else precision
    )
    facts["cpu threads"] = torch.get_num_threads()
    facts["attention backends"] = ", ".join(_sdpa_backends(device)) or "none"
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    for slot in workspace.slots():
        spec = workspace.encoder(slot)
        try:
            folder = find_checkpoint(spec, layout.checkpoints)
            facts[f"encoder {slot}"] = f"{spec.name}: {folder or 'computed, no weights'}"
        except (CheckpointMissingError, CheckpointError) as error:
            state = "missing" if isinstance(error, CheckpointMissingError) else "incomplete"
            facts[f"encoder {slot}"] = f"{spec.name}: {state}"
            problems.append(str(error))
    serving = layout.classifier(settings.serving.variant)
    facts["serving classifier"] = serving if serving.is_dir() else f"{settings.serving.variant}: not trained yet"
    return facts, problems


def _sdpa_backends(device: torch.device) -> list[str]:
    """Scaled-dot-product backends that run here, each tried on a small tensor."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    query = torch.zeros(1, 1, 8, 64, device=device, dtype=torch.float16 if device.type == "cuda" else torch.float32)
    found = []
    for name, backend in SDPBackend.__members__.items():
        if backend == SDPBackend.ERROR:
            continue
        try:
            with sdpa_kernel(backend), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns why each of the others was not taken
                scaled_dot_product_attention(query, query, query)
        except RuntimeError:  # "no viable backend": what is asked here
            continue
        found.append(name.lower().replace("_", " "))
    return found
