"""Examines the machine: versions, attention backend, device, memory, checkpoints, classifier."""

from __future__ import annotations

import os
import platform
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.checkpoints import CheckpointError, CheckpointMissingError, find_checkpoint
from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.outputs import unwritable
from virnuc_assets.workstation.lock import verify
from virnuc_assets.workstation.setup import dagster_home

if TYPE_CHECKING:
    import torch

_LIBRARIES = (
    *("virnuc_assets", "dagster", "mlflow", "torch", "transformers", "tokenizers", "safetensors", "huggingface_hub"),
    *("pyarrow", "numpy", "biopython", "sourmash"),
)


def examine(workspace: Workspace, every_byte: bool = False) -> tuple[dict[str, Any], list[str]]:
    """Facts of the machine and the project, and the problems that a person must fix before a run.

    `every_byte`: the content of every checkpoint is compared with virnuc.lock, instead of sizes and times.
    """
    import torch

    from virnuc_assets.encoders.golden import GoldenError, check_golden
    from virnuc_assets.encoders.machine import cpu_name, native_precision, resolve_device

    settings, layout = workspace.settings, workspace.layout
    problems = [
        fault for folder in (settings.var, dagster_home(settings), layout.locks) if (fault := unwritable(folder))
    ]
    facts: dict[str, Any] = {"host": platform.node(), "user": os.getuid(), "python": platform.python_version()}
    facts |= {name: version(name) for name in _LIBRARIES}
    facts |= {"profile": settings.profile, "GPUs": torch.cuda.device_count()}
    try:
        device = resolve_device(settings.encoding.device)
    except VirnucError as error:
        on_a_cluster = "on a cluster, check what its steps ask for ([launch], the gres or the device plugin)"
        return facts, [*problems, f"{facts['host']}: {error}; {on_a_cluster}"]
    facts["device"] = f"{device} ({torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu_name()})"
    precision = settings.encoding.precision
    emulated = device.type == "cpu" and not native_precision(precision)
    facts["precision"] = (
        f"{precision}, emulated: this CPU does not compute in it, fp32 is faster" if emulated else precision
    )
    facts["cpu threads"] = torch.get_num_threads()
    facts["attention backends"] = ", ".join(_sdpa_backends(device)) or "none"
    facts["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    for name in workspace.encoder_names():
        spec = workspace.encoder(name)
        try:
            folder = find_checkpoint(spec, layout.checkpoints)
            facts[f"encoder {name}"] = f"{spec.name}: {folder or 'computed, no weights'}"
            problems += verify(spec, layout.checkpoints, workspace.lock) if every_byte else []
        except (CheckpointMissingError, CheckpointError) as error:
            state = "missing" if isinstance(error, CheckpointMissingError) else "incomplete"
            facts[f"encoder {name}"] = f"{spec.name}: {state}"
            problems.append(str(error))
    for architecture in sorted({workspace.encoder(name).architecture for name in workspace.encoder_names()}):
        try:
            difference = check_golden(architecture, settings.encoding.device)
            facts[f"golden vectors {architecture}"] = f"largest difference {difference:.1e}"
        except GoldenError as error:
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
