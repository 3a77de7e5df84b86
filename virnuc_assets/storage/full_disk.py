"""A disk without room, told as what a person can mend."""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from virnuc_assets.errors import VirnucError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(VirnucError):
    """There was no room for a file; what was there before is untouched, and nothing half stays."""


@contextlib.contextmanager
def full_disk_named(path: Path, aside: Path) -> Iterator[None]:
    """Tell a full disk, or a quota that is used up, while `path` is written under the name `aside`.

    Raises:
        DiskFull: in place of the system's error; it names the file, what had been written of it, and what is free.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        written = aside.stat().st_size if aside.is_file() else sum(f.stat().st_size for f in aside.rglob("*"))
        usage = shutil.disk_usage(aside.parent)
        raise DiskFull(
            f"{path}: no room to write it: {written / 2**20:.1f} MiB were written, {usage.free / 2**20:.1f} of "
            f"{usage.total / 2**20:.1f} MiB are free in {aside.parent} ({error.strerror}). Free some space, or let "
            "[paths] var lie on a larger disk, and run this again; what is finished is kept."
        ) from error
