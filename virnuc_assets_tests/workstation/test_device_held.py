"""Whoever trains or embeds holds the device meanwhile, in a run as on the command line; who waits for it says so."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

from virnuc_assets.cli.stages import loaded_encoder
from virnuc_assets.defs.forms import training_place
from virnuc_assets.defs.partitions import SAMPLES
from virnuc_assets.workstation.device_lock import device_names, holder
from virnuc_assets_tests.assets.project import SAMPLE, Project, failures
from virnuc_assets_tests.running import TIMEOUT

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

HOLD = """
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
    command = [sys.executable, "-c", HOLD, project.workspace.layout.locks, project.settings.encoding.device]
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
