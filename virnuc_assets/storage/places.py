"""Paths of results, in a folder of this machine, of a share, or below a URL of an object store.

Those of a store are `universal_pathlib`'s, which has pathlib's methods; they are typed as pathlib's. How a
store is reached, and with what credentials, is the standard configuration of its own client (for S3 that of AWS).
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import re
import shutil
import tempfile
import time
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import IO, Any, cast

import psutil
import pyarrow as pa

from virnuc_assets.errors import VirnucError

# What is read at once: little for the last bytes of a table, and no more requests than windows of rows.
_BLOCK_BYTES = 1 << 20
_CLOCK_SECONDS = 2.0  # the kernel counts from a boot time in whole seconds
_SCRATCH = "virnuc-unfinished-"


def results_at(url: str) -> Path:
    """The place of a URL, e.g. `s3://bucket/prefix`; listings are not kept, since other hosts write there, too."""
    from upath import UPath

    try:
        found = UPath(url.rstrip("/"), use_listings_cache=False)
        found.fs  # noqa: B018  (made when it is first asked for)
    except ImportError as error:
        raise VirnucError(f"[paths] results = {url!r}: {error}; pip install 'virnuc_assets[s3]'") from error
    return cast(Path, found)


def in_store(path: Path) -> bool:
    """Whether a path is of an object store."""
    return not isinstance(path, Path)


def file_state(status: os.stat_result) -> tuple[int, int, int, int]:
    """Device, inode, size and time of change: equal as long as nobody wrote to the file."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def state_of(path: Path) -> Hashable:
    """Equal as long as nobody wrote to a file or replaced it; of an object as it was within the last second.

    Every stage asks for the same few tables several times over, and each question to a store is a request. What this
    process wrote is seen at once; of no file, FileNotFoundError is raised.
    """
    if in_store(path):
        return _etag(path, int(time.monotonic()))
    return file_state(path.stat())


@functools.lru_cache(maxsize=1024)
def _etag(path: Path, _second: int) -> str:
    store, name = _remote(path)
    return str(store.info(name)["ETag"])


@contextlib.contextmanager
def readable(path: Path) -> Iterator[IO[bytes] | pa.NativeFile]:
    """The open file or object that Arrow reads; a name with a colon is a URL to it, one that is not UTF-8 an error."""
    if in_store(path):
        store, name = _remote(path)
        with store.open(name, "rb", block_size=_BLOCK_BYTES) as opened:
            yield opened
    else:
        with pa.OSFile(os.fsencode(path)) as opened:
            yield opened


def upload(file: Path, path: Path) -> None:
    """Make a file of this machine an object: whole or, also when the upload is cut off, not at all."""
    store, name = _remote(path)
    store.put_file(str(file), name)
    _etag.cache_clear()


def replace_objects(path: Path, folder: Path) -> None:
    """Upload the files of a folder, after the older objects below `path` are gone.

    A process that dies between leaves some files or none, never those of two folders.
    """
    store, name = _remote(path)
    for older in store.find(name):
        store.rm_file(older)  # one by one: not every server takes a list as today's client sends it
    for file in sorted(file for file in folder.rglob("*") if file.is_file()):
        upload(file, path / file.relative_to(folder).as_posix())


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """An empty folder below the machine's own one for temporary files (`TMPDIR`), gone when the block ends.

    Those that killed processes left are removed by the next one.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_SCRATCH}*@{host()}-*"):
        with contextlib.suppress(FileNotFoundError):
            if process_since(int(folder.name.removeprefix(_SCRATCH).partition("@")[0]), folder.stat().st_mtime) is None:
                shutil.rmtree(folder, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{_SCRATCH}{writer()}-") as made:
        yield Path(made)


def host() -> str:
    """This host's name as it is in names of files and locks."""
    return re.sub(r"[^\w-]", "-", platform.node()) or "localhost"


def writer() -> str:
    """This process, among those of all hosts that share a folder: what it has not finished bears this in its name."""
    return f"{os.getpid()}@{host()}"


def process_since(pid: int, seen: float) -> psutil.Process | None:
    """The process of a number that lives and did at a time (seconds since the epoch); no later one of that number."""
    try:
        process = psutil.Process(pid)
        return process if process.create_time() <= seen + _CLOCK_SECONDS and is_alive(process) else None
    except psutil.NoSuchProcess:
        return None


def is_alive(process: psutil.Process) -> bool:
    """Whether it executes something: neither gone, nor another of its number, nor a zombie, which may stay for long."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _remote(path: Path) -> tuple[Any, str]:
    """The file system of an object, and its name there."""
    remote: Any = path
    return remote.fs, remote.path
