"""One process at a time on a device: an orphan that still embeds and its successor never share a GPU's memory.

Whoever takes another lock as well takes the device first, or two processes wait for each other.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from virnuc_assets.encoders.machine import resolve_device
from virnuc_assets.storage.held_files import hold, holder

_LOOK_SECONDS, _SAY_SECONDS = 0.5, 60.0


def hold_device(folder: Path, requested: str, say: Callable[[str], None]) -> None:
    """Wait until no other process holds the device, and hold it until this process ends, however it ends.

    Not until a model is let go: torch keeps a GPU's memory for its process. Held already, nothing is done.

    Args:
        folder: of the lock files, one a device of a host.
        requested: `auto`, `cpu` or `cuda`, as in the settings.
        say: told who is waited for, at once and then each minute, and when the wait is over.

    Raises:
        VirnucError: the requested device is absent.
    """
    path = folder / f"{device_name(requested)}.lock"
    waited, said = 0.0, -_SAY_SECONDS
    started = time.monotonic()
    while not hold(path):
        waited = time.monotonic() - started
        if waited - said >= _SAY_SECONDS:
            said = waited
            say(f"waiting for {path.stem}, which process {holder(path) or 'unknown'} holds ({path})")
        time.sleep(_LOOK_SECONDS)
    if waited:
        say(f"{path.stem} is free after {waited:.0f} s")


def device_name(requested: str) -> str:
    """Name of a device that no other device has: its host, and a GPU's own id, whatever number it goes by here."""
    device = resolve_device(requested)
    if device.type == "cpu":
        return f"{platform.node()}-cpu"
    return f"{platform.node()}-gpu-{torch.cuda.get_device_properties(device).uuid}"
