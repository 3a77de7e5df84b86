"""Atomic writes: files and folders that are whole or absent, whoever is killed, and on the disk once they are there.

Each raises DiskFull where there is no space for what is written.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.places import host, in_store, process_since, replace_objects, scratch_folder, upload, writer

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# A file system's names have 255 bytes, of which host and process id take some.
_NAME_BYTES = 160
_TOGETHER = "results"
UNFINISHED = re.compile(r"\.(?P<name>.+?)\.(?P<writer>\d+)@(?P<host>[\w-]+)\.(\w+\.)?(?P<kind>partial|replaced|rows)")
# Whether a process of another host lives cannot be seen from here; what it writes, it writes to within seconds.
_ABANDONED_SECONDS = 86_400.0


class DiskFull(VirnucError):
    """There was no space for a file; what was there before is untouched, and nothing unfinished stays."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary file that becomes `path` when the block ends well and vanishes when not.

    It is in the same folder; of an object store on this machine, and uploaded at the end as one object. A link stays
    one: what it names is written.
    """
    if in_store(path):
        with scratch_folder() as scratch:
            with full_disk_named(path, scratch):
                yield scratch / path.name
            upload(scratch / path.name, path)
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{_shortened(target.name)}.{writer()}.partial")
    try:
        with full_disk_named(path, temporary):
            yield temporary
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A new folder that replaces `path` when the block ends well and vanishes when not.

    Two renames: a process that dies between them leaves no folder, never a mixture of two. The older one is then next
    to it as `.NAME.PID@HOST.replaced`; the next `virnuc up` puts it back. An object store has no renames: there the
    older objects are removed, then the new ones uploaded.
    """
    if in_store(path):
        with _atomic_objects(path) as temporary:
            yield temporary
        return
    temporary, older = (path.with_name(f".{path.name}.{writer()}.{kind}") for kind in ("partial", "replaced"))
    temporary.mkdir(parents=True)
    try:
        with full_disk_named(path, temporary):
            yield temporary
        if path.exists():
            path.replace(older)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)


@contextlib.contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """A new folder whose files get their names in `folder` together when the block ends well; others there stay.

    The older ones vanish first: a process that dies between leaves some files or none, never those of two writers.
    """
    if in_store(folder):
        with _atomic_objects(folder) as temporary:
            yield temporary
        return
    made = not folder.exists()
    temporary = folder / f".{_TOGETHER}.{writer()}.partial"
    temporary.mkdir(parents=True)
    try:
        with full_disk_named(folder, temporary):
            yield temporary
            files = sorted(temporary.iterdir(), key=lambda file: file.stat().st_mtime_ns)
            targets = {file: Path(os.path.realpath(folder / file.name)) for file in files}
            for file in targets:
                _sync(file)
        for target in targets.values():
            target.unlink(missing_ok=True)
        for file, target in targets.items():
            shutil.move(file, target)  # a link may name another drive
        _sync(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # what was written is there
                folder.rmdir()


@contextlib.contextmanager
def _atomic_objects(path: Path) -> Iterator[Path]:
    with scratch_folder() as scratch:
        with full_disk_named(path, scratch):
            yield scratch
        replace_objects(path, scratch)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes had not finished of a file, or of files in a folder that get names together."""
    folder, name = (path, _TOGETHER) if path.is_dir() else (path.parent, _shortened(path.name))
    for left in folder.glob(".*.partial"):
        if (match := UNFINISHED.fullmatch(left.name)) and match["name"] == name and writer_is_dead(left):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


def writer_is_dead(path: Path) -> bool:
    """Whether this is an unfinished file or folder, and its writer is gone."""
    if not (match := UNFINISHED.fullmatch(path.name)):
        return False
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    # Of a folder that was renamed only this time shows when; it was written long before.
    seen = status.st_ctime if match["kind"] == "replaced" else status.st_mtime
    if match["host"] != host():
        return time.time() - seen > _ABANDONED_SECONDS
    return process_since(int(match["writer"]), seen) is None


def _shortened(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_NAME_BYTES])


def _sync(path: Path) -> None:
    """Have a file, or a folder's names, on the disk: what is recorded as done is there after a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def full_disk_named(path: Path, temporary: Path, remedy: str = "put [paths] var on a larger disk") -> Iterator[None]:
    """Raise DiskFull where a disk or a quota is used up while `path` is written under a temporary name."""
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        written = sum(file.stat().st_size for file in (temporary, *temporary.rglob("*")) if file.is_file())
        usage = shutil.disk_usage(temporary.parent)
        raise DiskFull(
            f"{path}: no space to write it: {written / 2**20:.1f} MiB were written, {usage.free / 2**20:.1f} of "
            f"{usage.total / 2**20:.1f} MiB are free in {temporary.parent} ({error.strerror}). Free some space, or "
            f"{remedy}, and run this again; what is finished is kept."
        ) from error
