"""What a command is to write is checked before it works: path, permission, space; what a killed one left is removed."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from virnuc_assets.errors import VirnucError
from virnuc_assets.storage.atomic import DiskFull, atomic_files, remove_unfinished

# Below a folder of results: what a run that is not finished has, for the next one; and in it, that results appear.
UNFINISHED_FOLDER, _PUBLISHING = ".unfinished", "publishing"
_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFCHR: "a device", stat.S_IFIFO: "a pipe"}


class OutputRefused(VirnucError):
    """A path cannot be written, or what is there must not be replaced; nothing was written."""


def require_output(path: Path, inputs: Iterable[Path] = ()) -> None:
    """Check that a name is free or a file's that can be replaced, not one of the inputs', and in a writable folder."""
    try:
        kind = stat.S_IFMT(path.stat().st_mode)
    except FileNotFoundError:
        kind = None
    except NotADirectoryError as error:
        raise OutputRefused(f"{path}: a folder above it is a file; name another place") from error
    except OSError as error:  # no right to look there, a circle of links, a name that is too long
        raise OutputRefused(f"{path}: {error.strerror}; name another file to write") from error
    if kind not in (None, stat.S_IFREG):
        found = _KINDS.get(kind, "something else")
        raise OutputRefused(f"{path}: expected a file, or a name that is free, found {found}; name a file to write")
    if kind and any(each.exists() and path.samefile(each) for each in inputs):
        raise OutputRefused(f"{path}: is also an input, which would be overwritten; name another file to write")
    require_writable(path.resolve().parent)
    remove_unfinished(path.resolve())


def require_outputs(folder: Path, names: Iterable[str], inputs: Iterable[Path] = ()) -> None:
    """Check that files can be written into a folder, which is made if absent; as `require_output`."""
    if folder.exists() and not folder.is_dir():
        raise OutputRefused(f"{folder}: expected a folder, or a name that is free, found a file; name a folder")
    inputs = list(inputs)
    for name in names:
        require_output(folder / name, inputs)
    require_writable(folder)
    remove_unfinished(folder)


def require_free(folder: Path, names: Collection[str]) -> None:
    """Check that a folder is absent or has nothing visible in it.

    Files of these names that are there because a run was killed as they appeared are no results.
    """
    found = sorted(path.name for path in folder.glob("[!.]*"))
    partial = (folder / UNFINISHED_FOLDER / _PUBLISHING).exists() and set(found) <= set(names)
    if found and not partial:
        raise OutputRefused(
            f"{folder}: expected an empty folder, or a name that is free, found {len(found)} files or folders, e.g. "
            f"{found[0]}; name another folder, or replace the results there with --force"
        )


@contextlib.contextmanager
def unfinished_folder(folder: Path) -> Iterator[Path]:
    """A folder in `folder` for tables that a killed run leaves to the next one; removed when the block ends well.

    If it fails, what is empty is removed again, also of the folders above that were not there before.
    """
    work = folder / UNFINISHED_FOLDER
    made = [each for each in (work, *work.parents) if not each.exists()]
    work.mkdir(parents=True, exist_ok=True)
    lock = FileLock(work / "lock")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        raise OutputRefused(f"{folder}: another process is writing results there; wait for it, or stop it") from error
    try:
        for left in work.rglob(".*.partial"):  # of a killed process, since the lock is ours
            left.unlink()
        yield work
        shutil.rmtree(work)
    finally:
        lock.release()
        if work.exists():
            (work / "lock").unlink(missing_ok=True)
            for each in (*work.glob("*/"), *made):
                with contextlib.suppress(OSError):  # it has something in it
                    each.rmdir()


@contextlib.contextmanager
def published(folder: Path) -> Iterator[Path]:
    """As `atomic_files`, inside `unfinished_folder`: a process that dies as files appear leaves a mark of it there."""
    mark = folder / UNFINISHED_FOLDER / _PUBLISHING
    with atomic_files(folder) as temporary:
        yield temporary
        mark.touch()
    mark.unlink()


def require_writable(folder: Path) -> None:
    """Check that this process can write into a folder, or make it."""
    if fault := unwritable(folder):
        raise OutputRefused(fault)


def unwritable(folder: Path) -> str:
    """Why this process cannot write into a folder, or make it; empty if it can."""
    above = _nearest(folder)
    if not above.is_dir():
        return f"{folder}: {above} is no folder; name another place"
    if not os.access(above, os.W_OK | os.X_OK):
        return f"{folder}: {above} is read-only for user {os.geteuid()}; give this user the right to write there"
    return ""


def require_space(folder: Path, size: int, what: str) -> None:
    """Raise DiskFull unless a folder's disk has space for so many bytes."""
    if (free := shutil.disk_usage(_nearest(folder)).free) < size:
        raise DiskFull(
            f"{folder}: {what} need {size / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free; free some space, or name "
            "a folder of another disk"
        )


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    above = Path(os.path.realpath(folder))  # resolve() raises at a circle of links
    return next(each for each in (above, *above.parents) if os.path.lexists(each))
