"""Folders that are whole or absent, as `tables.written_aside` is for files."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from virnuc_assets.storage.full_disk import full_disk_named


@contextlib.contextmanager
def folder_written_aside(path: Path) -> Iterator[Path]:
    """A new folder that replaces `path` when the block ends well and vanishes when not.

    Two renames: whoever dies between them leaves no folder, never a mixture of two.

    Raises:
        DiskFull: there is no room for it.
    """
    aside, older = (path.with_name(f".{path.name}.{os.getpid()}.{kind}") for kind in ("partial", "replaced"))
    aside.mkdir(parents=True)
    try:
        with full_disk_named(path, aside):
            yield aside
        if path.exists():
            path.replace(older)
        aside.replace(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(older, ignore_errors=True)
