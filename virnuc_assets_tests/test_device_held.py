"""Whoever trains or embeds holds the device, in a run as on the command line; who waits for it says so."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock
from typer.testing import CliRunner

from virnuc_assets.cli import app
from virnuc_assets.storage.held_files import holder, release
from virnuc_assets.workstation import device_lock
from virnuc_assets.workstation.device_lock import device_names, hold_device
from virnuc_assets_tests.assets.project import SAMPLE, Project, failures, write_sample

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

HOLD = """
import sys
from pathlib import Path
from virnuc_assets.workstation.device_lock import hold_device
hold_device(Path(sys.argv[1]), sys.argv[2], print)
print("held", flush=True)
sys.stdin.read()
"""
PATIENCE = 120.0  # seconds, after which nothing is waited for any more
VIRNUC = Path(sys.executable).with_name("virnuc")


def lock_of(project: Project) -> Path:
    return project.workspace.layout.locks / f"{device_names(project.settings.encoding.device)[0]}.lock"


@pytest.fixture
def lock(copied: Project) -> Iterator[Path]:
    """Of the device, which nobody holds; let go at the end."""
    lock = lock_of(copied)
    assert holder(lock) is None
    yield lock
    if holder(lock) == os.getpid():
        release(lock)


def folders_trained(project: Project, asset: str) -> list[str]:
    names = project.workspace.encoder_names("samples")
    return [f"{name}_alone" for name in names] if asset == "ablations" else ["kmer"]


@pytest.mark.parametrize("asset", ["kmer_classifier", "ablations"])
def test_a_training_holds_the_device_and_takes_it_before_its_own_lock(
    copied: Project, lock: Path, asset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds the device may be about to train the same, and would wait for that lock for ever."""
    own = [copied.workspace.layout.classifier(f".{name}.lock") for name in folders_trained(copied, asset)]

    def hold_while_nothing_else_is_held(folder: Path, requested: str, say: Callable[[str], None]) -> None:
        for path in own:
            with FileLock(path, timeout=0):
                pass
        hold_device(folder, requested, say)

    monkeypatch.setattr(device_lock, "hold_device", hold_while_nothing_else_is_held)
    copied.configure(training={"max_epochs": 1})
    assert failures(copied.materialize(asset)) == []
    assert all(path.exists() for path in own)
    assert holder(lock) == os.getpid()


def test_the_command_line_waits_for_the_device_and_says_for_whom(copied: Project, lock: Path, tmp_path: Path) -> None:
    sample, frames = tmp_path / "sample.fasta", tmp_path / "frames.parquet"
    write_sample(sample, ["hepatitis_delta"])
    assert CliRunner().invoke(app, ["frames", str(sample), "--out", str(frames)]).exit_code == 0
    command = [sys.executable, "-c", HOLD, lock.parent, copied.settings.encoding.device]
    outs = [tmp_path / "calls", tmp_path / "vectors.parquet"]
    given = ["predict", sample], ["embed", frames, "--encoder", "fastesm2_650_miniature"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        impatience = threading.Timer(PATIENCE, other.kill)
        impatience.start()
        waiting = [
            subprocess.Popen([VIRNUC, *words, "--out", out], cwd=copied.root, stderr=subprocess.PIPE, text=True)
            for words, out in zip(given, outs, strict=True)
        ]
        for process in waiting:
            assert process.stderr is not None
            said = next((line for line in process.stderr if line.startswith("waiting for ")), "")
            assert said.startswith(f"waiting for {lock.stem}, which process {other.pid} holds (")
        assert not any(out.exists() for out in outs)
        impatience.cancel()
        other.kill()
    for process in waiting:  # the one after the other
        _, said = process.communicate()
        assert process.returncode == 0, said
        assert f"{lock.stem} is free after " in said
    assert (outs[0] / "records.tsv").is_file() and outs[1].is_file()


def test_counting_kmers_takes_no_device(copied: Project, lock: Path, tmp_path: Path) -> None:
    frames = copied.workspace.layout.table("samples", "translated_proteins", f"{SAMPLE}-000001")
    options = ["--encoder", "kmer_dna", "--out", str(tmp_path / "o"), "--config", str(copied.root / "virnuc.toml")]
    assert CliRunner().invoke(app, ["embed", str(frames), *options]).exit_code == 0
    assert holder(lock) is None
