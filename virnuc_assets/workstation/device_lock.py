"""Locks that one process has at a time, with a note of which; and the device, which is locked while a model computes.

The kernel frees a lock when its process ends, however it ends.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from virnuc_assets.storage.places import host, process_since

_POLL_SECONDS, _LOG_SECONDS = 0.5, 60.0


def lock_of(path: Path) -> FileLock:
    """The lock of a path, one for all threads of this process, which may take it again; its children do not have it."""
    return FileLock(path, is_singleton=True, thread_local=False)


def take(lock: FileLock) -> bool:
    """Take a lock and note this process next to it; False if another process has it."""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return False
    _note(lock.lock_file).write_text(str(os.getpid()), encoding="ascii")
    return True


def give_back(lock: FileLock) -> None:
    """End one `take`; the lock is free after the last one."""
    if lock.lock_counter == 1:
        _note(lock.lock_file).unlink(missing_ok=True)
    lock.release()


def holder(path: Path) -> int | None:
    """Id of the process that has the lock of a path, None if nobody does; who was killed left a note, too."""
    try:
        seen, pid = _note(path).stat().st_mtime, int(_note(path).read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):  # taken or given back just now
        return None
    return pid if process_since(pid, seen) else None


def _note(path: Path | str) -> Path:
    return Path(path).with_suffix(".pid")


class DeviceLock:
    """The device of one process: locked while a model computes on it, free while tables are read and written.

    Whoever takes another lock as well takes the device first, or two processes wait for each other.
    """

    def __init__(self, folder: Path, requested: str, log: Callable[[str], None]) -> None:
        """Nothing is locked yet; `folder` is that of the lock files, one for each device of a host.

        The log gets which process is waited for, at once and then each minute, and when the wait is over.
        """
        self._folder, self._requested, self._log = folder, requested, log
        self._chosen: int | None = None

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Wait for a device and lock it for the block, later the same; a GPU becomes torch's. May be nested."""
        from virnuc_assets.encoders.machine import resolve_device

        locks = [lock_of(self._folder / f"{name}.lock") for name in device_names(self._requested)]
        lock = take_one(locks if self._chosen is None else [locks[self._chosen]], self._log)
        self._chosen = locks.index(lock)
        try:
            if resolve_device(self._requested).type == "cuda":
                import torch

                torch.cuda.set_device(self._chosen)
            yield
        finally:
            give_back(lock)


def take_one(locks: Sequence[FileLock], log: Callable[[str], None]) -> FileLock:
    """Wait until one of some locks is free, and take it; one that this process has already comes first."""
    waited, logged = 0.0, -_LOG_SECONDS
    started = time.monotonic()
    while True:
        for lock in sorted(locks, key=lambda lock: lock.is_locked, reverse=True):
            if take(lock):
                if waited:
                    log(f"{Path(lock.lock_file).stem} is free after {waited:.0f} s")
                return lock
        waited = time.monotonic() - started
        if waited - logged >= _LOG_SECONDS:
            logged, paths = waited, [Path(lock.lock_file) for lock in locks]
            held = (f"{path.stem}, which process {holder(path) or 'unknown'} holds ({path})" for path in paths)
            log(f"waiting for {', or '.join(held)}")
        time.sleep(_POLL_SECONDS)


def device_names(requested: str) -> list[str]:
    """Unique names of the devices to choose from, of the host and a GPU's own id, in torch's order of GPUs."""
    from virnuc_assets.encoders.machine import resolve_device

    if resolve_device(requested).type == "cpu":
        return [f"{host()}-cpu"]
    import torch

    count = torch.cuda.device_count()
    return [f"{host()}-gpu-{torch.cuda.get_device_properties(number).uuid}" for number in range(count)]
