"""A device is one process's at a time: who waits says for whom, and goes on when the holder is killed."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from virnuc_assets.encoders import device_lock
from virnuc_assets.encoders.device_lock import device_names, hold_device, hold_one
from virnuc_assets.storage.held_files import holder, release

HOLD = """
import sys, time
from pathlib import Path
from virnuc_assets.encoders.device_lock import hold_device
hold_device(Path(sys.argv[1]), "cpu", print)
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_holder_lets_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_lock, "_SAY_SECONDS", 1.0)
    path, told = tmp_path / f"{device_names('cpu')[0]}.lock", list[str]()
    with subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        thread = threading.Thread(target=hold_device, args=(tmp_path, "cpu", told.append))
        thread.start()
        time.sleep(2.2)
        assert thread.is_alive()
        process.send_signal(signal.SIGKILL)
    thread.join(timeout=10)
    waiting = f"waiting for {path.stem}, which process {process.pid} holds ({path})"
    assert told[:2] == [waiting, waiting]
    assert told[-1].startswith(f"{path.stem} is free after ")
    assert holder(path) == os.getpid()
    said = len(told)
    hold_device(tmp_path, "cpu", told.append)
    assert len(told) == said  # it is held already
    release(path)


def test_a_free_device_is_taken_without_a_word(tmp_path: Path) -> None:
    told: list[str] = []
    hold_device(tmp_path / "locks", "cpu", told.append)
    assert told == []
    (path,) = (tmp_path / "locks").iterdir()
    assert path.name.endswith("-cpu.lock")
    assert holder(path) == os.getpid()
    release(path)


HOLD_ONE = """
import sys, time
from pathlib import Path
from virnuc_assets.encoders.device_lock import hold_one
paths = [Path(path) for path in sys.argv[1:]]
print(hold_one(paths, lambda text: print(text, flush=True)), flush=True)
print(hold_one(paths, print), flush=True)
time.sleep(60)
"""


def test_each_process_takes_a_device_of_its_own_and_a_third_waits_for_the_first_that_is_free(tmp_path: Path) -> None:
    paths = [tmp_path / f"host-gpu-{number}.lock" for number in range(2)]
    command = [sys.executable, "-c", HOLD_ONE, *paths]
    with contextlib.ExitStack() as stack:
        processes = []
        for number in range(2):
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            stack.callback(process.kill)
            assert process.stdout is not None
            assert [process.stdout.readline() for _ in range(2)] == [f"{number}\n"] * 2  # asked again, the same
            processes.append(process)
        told: list[str] = []
        thread = threading.Thread(target=lambda: told.append(str(hold_one(paths, told.append))))
        thread.start()
        time.sleep(1.2)
        assert thread.is_alive()
        processes[1].kill()
        thread.join(timeout=10)
        processes[0].kill()
        processes[0].wait()
        assert hold_one(paths, told.append) == 1  # its own, though the other one is free by now
    both = (f"{path.stem}, which process {p.pid} holds ({path})" for path, p in zip(paths, processes, strict=True))
    assert told[0] == f"waiting for {', or '.join(both)}"
    assert told[1].startswith("host-gpu-1 is free after ")
    assert told[2] == "1"
    release(paths[1])


@pytest.mark.gpu
def test_a_gpu_is_named_by_its_own_id() -> None:
    command = [sys.executable, "-c", "from virnuc_assets.encoders.device_lock import *; print(*device_names('cuda'))"]
    names = [
        subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, check=True).stdout.strip()
        for more in ({}, {"CUDA_VISIBLE_DEVICES": "0"})
    ]
    assert names == [" ".join(device_names("cuda")), device_names("cuda")[0]]
    assert "-gpu-" in names[0]
