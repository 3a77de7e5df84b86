"""Files that one process holds: told apart by process, and free when it is killed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from virnuc_assets.storage.held_files import hold, holder, release

HOLD = """
import subprocess, sys, time
from pathlib import Path
from virnuc_assets.storage.held_files import hold
print(hold(Path(sys.argv[1])), flush=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "locks" / "host-cpu.lock"


def test_nobody_holds_what_is_not_there(path: Path) -> None:
    assert holder(path) is None
    assert not path.parent.exists()


def test_who_holds_a_file_holds_it_once_more(path: Path) -> None:
    assert hold(path)
    assert hold(path)
    assert holder(path) == os.getpid()
    release(path)
    assert holder(path) is None


def test_a_killed_holder_frees_the_file_though_its_child_lives(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        child = int(process.stdout.readline())
        assert not hold(path)
        assert holder(path) == process.pid
        assert not hold(path)  # whoever looks in vain leaves the holder's number there
        assert holder(path) == process.pid
        process.send_signal(signal.SIGKILL)
    try:
        assert holder(path) is None
        assert hold(path)
        assert holder(path) == os.getpid()
        release(path)
    finally:
        os.kill(child, signal.SIGKILL)
