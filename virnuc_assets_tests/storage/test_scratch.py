"""Scratch folders vanish with their block, or with the next process when theirs was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LIVE = """
import sys
from virnuc_assets.storage.places import scratch_folder
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


def test_a_folder_is_removed_once_its_process_is_dead_and_no_sooner(tmp_path: Path) -> None:
    other = tmp_path / "virnuc-other"
    other.mkdir()
    with living(tmp_path) as (killed, process):
        process.kill()
        process.wait()
    with living(tmp_path) as (folder, _):
        assert not killed.exists()
        with living(tmp_path) as (another, _):
            assert folder.exists() and another != folder
        assert not another.exists()
    assert list(tmp_path.iterdir()) == [other]
