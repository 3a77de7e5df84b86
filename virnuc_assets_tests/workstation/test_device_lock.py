"""A device is one process's at a time."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from virnuc_assets.storage.held_files import holder, release

from virnuc_assets.workstation import device_lock
from virnuc_assets.workstation.device_lock import DeviceLock, device_names, hold_one


def printed(code: str, **environment: str) -> list[str]:
    command, given = [sys.executable, "-c", code], {**os.environ, **environment}
    return subprocess.run(command, env=given, capture_output=True, text=True, check=True).stdout.split()


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
import sys, time
from pathlib import Path
from virnuc_assets.workstation.device_lock import hold_one
paths = [Path(path) for path in sys.argv[1:]]
print(hold_one(paths, print), hold_one(paths, print), flush=True)
time.sleep(60)
"""


def test_each_process_has_a_device_and_a_third_waits_for_the_first_that_a_killed_one_frees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_lock, "_LOG_SECONDS", 1.0)
    paths = [tmp_path / f"host-gpu-{number}.lock" for number in range(2)]
    command = [sys.executable, "-c", HOLD, *paths]
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(2):
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert process.stdout.readline() == f"{number} {number}\n"  # the second time, the same
            processes.append(process)
        logged: list[str] = []
        thread = threading.Thread(target=lambda: logged.append(str(hold_one(paths, logged.append))))
        thread.start()
        time.sleep(2.2)
        assert thread.is_alive()
        processes[1].kill()
        thread.join(timeout=10)
        processes[0].kill()
        processes[0].wait()
        assert hold_one(paths, logged.append) == 1  # its own, though the other one is free by now
    both = (f"{path.stem}, which process {p.pid} holds ({path})" for path, p in zip(paths, processes, strict=True))
    assert logged[:2] == [f"waiting for {', or '.join(both)}"] * 2
    assert logged[-2].startswith("host-gpu-1 is free after ")
    assert logged[-1] == "1"
    release(paths[1])


@pytest.mark.gpu
def test_a_gpu_is_named_by_its_own_id() -> None:
    code = "from virnuc_assets.workstation.device_lock import *; print(*device_names('cuda'))"
    names = device_names("cuda")
    assert "-gpu-" in names[0]
    assert (printed(code), printed(code, CUDA_VISIBLE_DEVICES="0")) == (names, names[:1])
