"""A device is one process's at a time."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from virnuc_assets.workstation import device_lock
from virnuc_assets.workstation.device_lock import DeviceLock, device_names, give_back, holder, lock_of, take, take_one
from virnuc_assets_tests.running import TIMEOUT, until


def test_a_free_device_is_locked_while_something_computes_and_no_longer(tmp_path: Path) -> None:
    logged: list[str] = []
    path = tmp_path / "locks" / f"{device_names('cpu')[0]}.lock"
    device, another = (DeviceLock(path.parent, "cpu", logged.append) for _ in range(2))
    for _ in range(2):
        with device.computing():
            with another.computing():  # of the same process
                assert holder(path) == os.getpid()
            assert holder(path) == os.getpid()
        assert holder(path) is None
    with pytest.raises(ZeroDivisionError), device.computing():
        raise ZeroDivisionError
    assert (holder(path), logged) == (None, [])


HOLD = """
import subprocess, sys, time
from pathlib import Path
from virnuc_assets.workstation.device_lock import lock_of, take_one
locks = [lock_of(Path(path)) for path in sys.argv[1:]]
print(locks.index(one := take_one(locks, print)), locks.index(take_one(locks, print)), flush=True)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_each_process_has_a_device_and_a_third_waits_for_the_first_that_a_killed_one_frees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though a child of the killed one lives."""
    monkeypatch.setattr(device_lock, "_LOG_SECONDS", 1.0)
    paths = [tmp_path / "new" / f"host-gpu-{number}.lock" for number in range(2)]
    locks = [lock_of(path) for path in paths]
    command = [sys.executable, "-c", HOLD, *paths]
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(2):
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == f"{number} {number}\n"  # the second time, the same
            stack.callback(os.kill, int(process.stdout.readline()), signal.SIGKILL)
            processes.append(process)
        assert not any(take(lock) for lock in locks)
        logged: list[str] = []
        taken: list[object] = []
        thread = threading.Thread(target=lambda: taken.append(take_one(locks, logged.append)))
        thread.start()
        until(lambda: len(logged) > 1, "a second message")
        assert thread.is_alive()
        processes[1].kill()
        thread.join(timeout=TIMEOUT)
        processes[0].kill()
        processes[0].wait()
        assert holder(paths[0]) is None
        assert taken == [take_one(locks, logged.append)] == [locks[1]]  # its own, though the other is free by now
    both = (f"{path.stem}, which process {p.pid} holds ({path})" for path, p in zip(paths, processes, strict=True))
    assert logged[:2] == [f"waiting for {', or '.join(both)}"] * 2
    assert logged[-1].startswith("host-gpu-1 is free after ")
    for holders in ([os.getpid()], [None]):  # taken twice, given back twice
        give_back(locks[1])
        assert [holder(paths[1])] == holders
