"""Files that one process holds at a time; the kernel frees them when it ends, however it ends.

Unlike `filelock`, which empties the file of whoever holds it, the holder's process id can be read.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

_HELD: dict[Path, int] = {}  # file descriptors, open as long as this process holds them


def hold(path: Path) -> bool:
    """Hold a file until `release` or the end of this process; children do not inherit it.

    Returns:
        Whether this process holds it now, or did before; False if another one does.
    """
    if path in _HELD:
        return True
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    _HELD[path] = descriptor
    return True


def is_held(path: Path) -> bool:
    """Whether this process holds a file."""
    return path in _HELD


def release(path: Path) -> None:
    """Let go of a file that this process holds; it stays, empty of a holder."""
    os.close(_HELD.pop(path))


def holder(path: Path) -> int | None:
    """Process id of who holds a file, None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        text = os.read(descriptor, 32)
        return int(text) if text.isdigit() else None
    finally:
        os.close(descriptor)
    return None
