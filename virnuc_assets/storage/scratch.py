"""Folders on a machine's own disk for what is not finished; those of killed processes are removed by the next one."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PREFIX = "virnuc-unfinished-"
# A folder is locked at once when it is made, and no younger one is looked at.
_YOUNG_SECONDS = 60.0


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder below the machine's own one for temporary files (`TMPDIR`), gone when the block ends.

    It is locked as long as its process lives, which others see from any container that shares the disk.
    """
    _remove_abandoned(tempfile.gettempdir())
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, _opened(Path(folder)) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Path(folder)


@functools.cache
def _remove_abandoned(top: str) -> None:
    """Once a process: what others left that were killed."""
    for folder in Path(top).glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, PermissionError, BlockingIOError), _opened(folder) as descriptor:
            if time.time() - os.fstat(descriptor).st_mtime > _YOUNG_SECONDS:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[int]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
