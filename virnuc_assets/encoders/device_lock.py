"""One process at a time on a device: an orphan that still embeds and its successor never share a GPU's memory.

Of several GPUs each process takes one that is free, and works on it alone.

Whoever takes another lock as well takes the device first, or two processes wait for each other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from virnuc_assets.encoders.machine import resolve_device
from virnuc_assets.storage.held_files import hold, holder, is_held
from virnuc_assets.storage.places import host

_LOOK_SECONDS, _SAY_SECONDS = 0.5, 60.0


def hold_device(folder: Path, requested: str, say: Callable[[str], None]) -> None:
    """Wait until a device is free, and hold it until this process ends, however it ends; a GPU becomes torch's own.

    Not until a model is let go: torch keeps a GPU's memory for its process. Is one held already, nothing is done.

    Args:
        folder: of the lock files, one a device of a host.
        requested: `auto`, `cpu` or `cuda`, as in the settings.
        say: told who is waited for, at once and then each minute, and when the wait is over.

    Raises:
        VirnucError: the requested device is absent.
    """
    names = device_names(requested)
    number = hold_one([folder / f"{name}.lock" for name in names], say)
    if resolve_device(requested).type == "cuda":
        torch.cuda.set_device(number)


def hold_one(paths: Sequence[Path], say: Callable[[str], None]) -> int:
    """Hold the first free one of some lock files, or the one that is held already; returns its number."""
    waited, said = 0.0, -_SAY_SECONDS
    started = time.monotonic()
    while True:
        for path in sorted(paths, key=is_held, reverse=True):
            if hold(path):
                if waited:
                    say(f"{path.stem} is free after {waited:.0f} s")
                return paths.index(path)
        waited = time.monotonic() - started
        if waited - said >= _SAY_SECONDS:
            said = waited
            held = (f"{path.stem}, which process {holder(path) or 'unknown'} holds ({path})" for path in paths)
            say(f"waiting for {', or '.join(held)}")
        time.sleep(_LOOK_SECONDS)


def device_names(requested: str) -> list[str]:
    """Names of the devices to choose from, which no others have: the host, and a GPU's own id.

    In torch's order of GPUs; their numbers differ from process to process.
    """
    if resolve_device(requested).type == "cpu":
        return [f"{host()}-cpu"]
    count = torch.cuda.device_count()
    return [f"{host()}-gpu-{torch.cuda.get_device_properties(number).uuid}" for number in range(count)]
