"""Files and folders that are whole or absent, whoever is killed, and lasting once they are there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.places import folder_published, in_store, published, writer

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class DiskFull(VirnucError):
    """There was no room for a file; what was there before is untouched, and nothing half stays."""


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` when the block ends well and vanishes when not.

    It lies beside `path`; of an object store on this machine, and is uploaded at the end, as one object.

    Raises:
        DiskFull: there is no room for it.
    """
    if in_store(path):
        with published(path) as aside, full_disk_named(path, aside):
            yield aside
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{writer()}.partial")
    try:
        with full_disk_named(path, aside):
            yield aside
            with aside.open("rb+") as handle:
                os.fsync(handle.fileno())
            aside.replace(path)
            _make_lasting(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def folder_written_aside(path: Path) -> Iterator[Path]:
    """A new folder that replaces `path` when the block ends well and vanishes when not.

    Two renames: whoever dies between them leaves no folder, never a mixture of two. The older one then lies beside it
    as `.NAME.PID@HOST.replaced`; the next `virnuc up` puts it back. An object store has no renames: see there.

    Raises:
        DiskFull: there is no room for it.
    """
    if in_store(path):
        with folder_published(path) as aside, full_disk_named(path, aside):
            yield aside
        return
    aside, older = (path.with_name(f".{path.name}.{writer()}.{kind}") for kind in ("partial", "replaced"))
    aside.mkdir(parents=True)
    try:
        with full_disk_named(path, aside):
            yield aside
        if path.exists():
            path.replace(older)
        aside.replace(path)
        _make_lasting(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)


def _make_lasting(folder: Path) -> None:
    """Have the names of a folder written to the disk, so that what is recorded as done is there after a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
