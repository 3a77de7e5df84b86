"""One process at a time on a device: a process that still embeds and its successor never share a GPU's memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from virnuc_assets.encoders.machine import resolve_device
from virnuc_assets.storage.held_files import hold, holder, is_held
from virnuc_assets.storage.places import host

_POLL_SECONDS, _LOG_SECONDS = 0.5, 60.0


def hold_device(folder: Path, requested: str, say: Callable[[str], None]) -> None:
    """Wait until a device is free and lock it until this process ends, however it ends; a GPU becomes torch's current.

    One process at a time: a GPU's memory is never shared with an orphan that still embeds, and torch keeps it for its
    process, whichever models are freed. Whoever takes another lock as well takes the device first, or two processes
    wait for each other. Does nothing where this process has a device already.

    Args:
        folder: Of the lock files, one for each device of a host.
        requested: `auto`, `cpu` or `cuda`, as in the settings.
        say: Logs which process is waited for, at once and then each minute, and when the wait is over.

    Raises:
        VirnucError: the requested device is absent.
    """
    names = device_names(requested)
    number = hold_one([folder / f"{name}.lock" for name in names], say)
    if resolve_device(requested).type == "cuda":
        import torch

        torch.cuda.set_device(number)


def hold_one(paths: Sequence[Path], say: Callable[[str], None]) -> int:
    """Lock the first free one of some files, unless this process has one already; returns its number."""
    waited, said = 0.0, -_LOG_SECONDS
    started = time.monotonic()
    while True:
        for path in sorted(paths, key=is_held, reverse=True):
            if hold(path):
                if waited:
                    say(f"{path.stem} is free after {waited:.0f} s")
                return paths.index(path)
        waited = time.monotonic() - started
        if waited - said >= _LOG_SECONDS:
            said = waited
            held = (f"{path.stem}, which process {holder(path) or 'unknown'} holds ({path})" for path in paths)
            say(f"waiting for {', or '.join(held)}")
        time.sleep(_POLL_SECONDS)


def device_names(requested: str) -> list[str]:
    """Unique names of the devices to choose from, of the host and a GPU's own id, in torch's order of GPUs."""
    if resolve_device(requested).type == "cpu":
        return [f"{host()}-cpu"]
    import torch

    count = torch.cuda.device_count()
    return [f"{host()}-gpu-{torch.cuda.get_device_properties(number).uuid}" for number in range(count)]
