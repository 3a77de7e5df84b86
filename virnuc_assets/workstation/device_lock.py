"""One process at a time computes on a device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from virnuc_assets.encoders.machine import resolve_device
from virnuc_assets.storage.held_files import hold, holder, is_held, release
from virnuc_assets.storage.places import host

_POLL_SECONDS, _LOG_SECONDS = 0.5, 60.0


class DeviceLock:
    """The device of one process: locked while a model computes on it, free while tables are read and written.

    Whoever takes another lock as well takes the device first, or two processes wait for each other.
    """

    def __init__(self, folder: Path, requested: str, log: Callable[[str], None]) -> None:
        """Nothing is locked yet.

        Args:
            folder: Of the lock files, one for each device of a host.
            requested: `auto`, `cpu` or `cuda`, as in the settings.
            log: Logs which process is waited for, at once and then each minute, and when the wait is over.
        """
        self._folder, self._requested, self._log = folder, requested, log
        self._chosen: int | None = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Wait until a device is free, and lock it for the block; later the same one. A GPU becomes torch's current.

        Inside another such block of this process nothing is waited for.

        Raises:
            VirnucError: the requested device is absent.
        """
        paths = [self._folder / f"{name}.lock" for name in device_names(self._requested)]
        choice = paths if self._chosen is None else [paths[self._chosen]]
        held_before = {path for path in choice if is_held(path)}
        path = choice[hold_one(choice, self._log)]
        self._chosen = paths.index(path)
        try:
            if resolve_device(self._requested).type == "cuda":
                import torch

                torch.cuda.set_device(self._chosen)
            yield
        finally:
            if path not in held_before:
                release(path)


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
