"""A device is one process's at a time: of whoever trains or embeds, in a run as on the command line."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from virnuc_assets.cli.stages import loaded_encoder
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.defs.sharded_asset import training_place
from virnuc_assets.workstation import device_lock
from virnuc_assets.workstation.device_lock import DeviceLock, device_names, give_back, holder, lock_of, take, take_one
from virnuc_assets_tests.assets.project import SAMPLE, Project, failures
from virnuc_assets_tests.running import TIMEOUT, until

pytest_plugins = ["virnuc_assets_tests.assets.finished"]


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


COMPUTE = """
import sys
from pathlib import Path
from virnuc_assets.workstation.device_lock import DeviceLock
with DeviceLock(Path(sys.argv[1]), sys.argv[2], print).computing():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(copied: Project) -> Path:
    """Of the device, which nobody holds."""
    lock = copied.workspace.layout.locks / f"{device_names(copied.settings.encoding.device)[0]}.lock"
    assert holder(lock) is None
    return lock


@contextmanager
def held_by_another(project: Project) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the device for the block, unless it takes too long."""
    command = [sys.executable, "-c", COMPUTE, project.workspace.layout.locks, project.settings.encoding.device]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        timer = threading.Timer(TIMEOUT, other.kill)
        timer.start()
        try:
            yield other
            assert other.poll() is None
        finally:
            timer.cancel()
            other.kill()


@pytest.mark.parametrize("who", ["training", "command line"])
def test_who_computes_waits_for_the_device_and_names_its_holder(copied: Project, lock: Path, who: str) -> None:
    """A training takes it before its own lock: who holds the device may be about to train the same."""
    logged = queue.Queue[str]()
    encoder = copied.workspace.encoder_named("fastesm2_650_miniature")

    def compute() -> None:
        training = training_place(copied.workspace, "kmer", logged.put)
        with training if who == "training" else loaded_encoder(copied.workspace, encoder, logged.put):
            logged.put(f"held by {holder(lock)}")

    thread = threading.Thread(target=compute)
    with held_by_another(copied) as other:
        thread.start()
        waiting = f"waiting for {lock.stem}, which process {other.pid} holds ("
        assert logged.get(timeout=TIMEOUT).startswith(waiting)
        with FileLock(copied.workspace.layout.training("kmer").with_name(".kmer.lock"), timeout=0):
            pass
    assert logged.get(timeout=TIMEOUT).startswith(f"{lock.stem} is free after ")
    assert logged.get(timeout=TIMEOUT) == f"held by {os.getpid()}"
    thread.join()
    assert holder(lock) is None


def test_known_vectors_need_no_device(copied: Project) -> None:
    encoder = copied.workspace.variant(copied.settings.serving.variant).protein
    with held_by_another(copied):
        assert failures(copied.materialize(SAMPLES.key(f"{encoder}_embeddings"), partition=SAMPLE)) == []
