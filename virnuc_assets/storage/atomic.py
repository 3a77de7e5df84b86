"""Files and folders that are whole or absent, whoever is killed, and lasting once they are there."""

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
from virnuc_assets.storage.places import folder_published, host, in_store, process_since, published, writer

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
# A file system's names have 255 bytes, of which host and process id take some.
_NAME_BYTES = 160
_TOGETHER = "results"
UNFINISHED = re.compile(r"\.(?P<name>.+?)\.(?P<writer>\d+)@(?P<host>[\w-]+)\.(\w+\.)?(?P<kind>partial|replaced|rows)")
# Whether a process of another host lives cannot be seen from here; what it writes, it writes to within seconds.
_ABANDONED_SECONDS = 86_400.0


class DiskFull(VirnucError):
    """There was no room for a file; what was there before is untouched, and nothing half stays."""


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name that becomes `path` when the block ends well and vanishes when not.

    It is stored next to `path`; of an object store on this machine, and is uploaded at the end, as one object. A link
    stays one: what it names is written.

    Raises:
        DiskFull: there is no room for it.
    """
    if in_store(path):
        with published(path) as aside, full_disk_named(path, aside):
            yield aside
        return
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{_shortened(target.name)}.{writer()}.partial")
    try:
        with full_disk_named(path, aside):
            yield aside
            with aside.open("rb+") as handle:
                os.fsync(handle.fileno())
            aside.replace(target)
            _make_lasting(target.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
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


@contextlib.contextmanager
def atomic_files(folder: Path) -> Iterator[Path]:
    """A new folder whose files get their names in `folder` together when the block ends well; others there stay.

    The older ones vanish first: who dies between leaves some files or none, never those of two writers.

    Raises:
        DiskFull: there is no room for them.
    """
    if in_store(folder):
        with folder_published(folder) as aside, full_disk_named(folder, aside):
            yield aside
        return
    made = not folder.exists()
    aside = folder / f".{_TOGETHER}.{writer()}.partial"
    aside.mkdir(parents=True)
    try:
        with full_disk_named(folder, aside):
            yield aside
            for file in aside.iterdir():
                with file.open("rb+") as handle:
                    os.fsync(handle.fileno())
        targets = {file: Path(os.path.realpath(folder / file.name)) for file in aside.iterdir()}
        for target in targets.values():
            target.unlink(missing_ok=True)
        for file, target in targets.items():
            shutil.move(file, target)  # a link may name another drive
        _make_lasting(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if made:
            with contextlib.suppress(OSError):  # what was written is there
                folder.rmdir()


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes had not finished of a file, or of files in a folder that get their names together.

    For who writes one path; `virnuc up` looks through all that the platform writes.
    """
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
    # Of a folder that was renamed only this time tells when; it was written long before.
    seen = status.st_ctime if match["kind"] == "replaced" else status.st_mtime
    if match["host"] != host():
        return time.time() - seen > _ABANDONED_SECONDS
    return process_since(int(match["writer"]), seen) is None


def _shortened(name: str) -> str:
    return os.fsdecode(os.fsencode(name)[:_NAME_BYTES])


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
