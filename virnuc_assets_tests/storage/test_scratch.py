"""Scratch folders vanish with their block, or with the next process when theirs was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

LIVE = """
import sys
from virnuc_assets.storage.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "large.bin").write_bytes(b"half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@contextmanager
def living(top: Path) -> Iterator[tuple[Path, subprocess.Popen[str]]]:
    """A process within its scratch folder, below `top`; ends when its input does."""
    environment = {**os.environ, "TMPDIR": str(top)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", LIVE], **pipes, text=True, env=environment) as process:
        assert process.stdout is not None
        yield Path(process.stdout.readline().strip()), process


def aged(folder: Path) -> None:
    """Untouched for an hour."""
    then = time.time() - 3600
    os.utime(folder, (then, then))


@pytest.mark.parametrize(("killed", "old"), [(True, True), (True, False), (False, True)])
def test_a_folder_is_removed_once_its_process_is_dead_and_no_sooner(killed: bool, old: bool, tmp_path: Path) -> None:
    with living(tmp_path) as (folder, process):
        if killed:
            process.kill()
            process.wait()
        if old:
            aged(folder)
        with living(tmp_path) as (another, _):
            assert another != folder
            assert folder.exists() is not (killed and old)
        assert not another.exists()
    assert folder.exists() is (killed and not old)
    other = tmp_path / "virnuc-other"
    other.mkdir()
    aged(other)
    with living(tmp_path):
        assert other.exists()
