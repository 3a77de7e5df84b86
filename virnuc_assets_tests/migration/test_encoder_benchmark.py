import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from virnuc_assets.encoders.registry import ENCODERS
from virnuc_assets.errors import VirnucError
from virnuc_assets.migration.benchmark import benchmark_encoders
from virnuc_assets.settings import BenchmarkSettings, EncodingSettings
from virnuc_assets_tests.encoders.drawn import drawn
from virnuc_assets_tests.running import until

ROUNDS = BenchmarkSettings(max_rounds=6)
FRAMES = {"nucleotides": drawn("dna", [301] * 8), "protein": drawn("protein", [100] * 8)}


def test_each_encoder_is_measured_apart_on_the_same_rows(checkpoints: Path) -> None:
    ballast = bytearray(400 << 20)  # this process's own memory must not count as an encoder's
    ballast[:: 1 << 12] = b"x" * len(ballast[:: 1 << 12])
    specs = {"esm2_3b": ENCODERS["esm2_3b_miniature"], "dnabert_s": ENCODERS["dnabert_s_miniature"]}
    found = benchmark_encoders(specs, checkpoints, EncodingSettings(device="cpu"), FRAMES, ROUNDS)
    assert [len(row["round_seconds"]) for row in found.values()] == [6, 6]
    assert list(found) == ["esm2_3b", "dnabert_s"]
    assert [found[key]["encoder"] for key in found] == ["esm2_3b_miniature", "dnabert_s_miniature"]
    assert (found["esm2_3b"]["dim"], found["dnabert_s"]["dim"]) == (64, 48)
    for row in found.values():
        assert (row["sequences"], row["precision"], row["device"]) == (8, "fp32", "cpu")
        assert row["sequences_per_s"] == pytest.approx(8 / row["seconds"])
        assert 0 < row["peak_memory_bytes"] < 200 << 20  # neither the ballast nor the libraries
    del ballast


@pytest.mark.slow
def test_rounds_go_on_until_the_ratios_are_certain(checkpoints: Path) -> None:
    specs = dict.fromkeys(("one", "other"), ENCODERS["esm2_8m_miniature"])
    many, few = BenchmarkSettings(spread=1e-9, max_rounds=9), BenchmarkSettings(spread=1e9, max_rounds=9)
    late = BenchmarkSettings(spread=1e-9, max_rounds=9, max_seconds=1e-9)
    for settings, rounds in ((many, 9), (few, 6), (late, 6)):
        found = benchmark_encoders(specs, checkpoints, EncodingSettings(device="cpu"), FRAMES, settings)
        assert [len(row["round_seconds"]) for row in found.values()] == [rounds, rounds]


def test_a_failure_shows_the_encoders_error(tmp_path: Path) -> None:
    specs = {"fastesm2": ENCODERS["fastesm2_650_miniature"]}
    with pytest.raises(
        VirnucError, match="benchmark of fastesm2_650_miniature failed[^$]*run `virnuc setup --encoder "
    ):
        benchmark_encoders(specs, tmp_path, EncodingSettings(), FRAMES, ROUNDS)


HELD = """
import os, time
from virnuc_assets.migration.benchmark import _process
if __name__ == "__main__":
    print(_process().submit(os.getpid).result(), flush=True)
    time.sleep(600)
"""


def test_an_encoders_process_ends_with_the_run_that_is_killed(tmp_path: Path) -> None:
    """It holds a model on the GPU, whose lock is gone with its parent."""
    script = tmp_path / "held.py"
    script.write_text(HELD)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
    until(lambda: not child.is_running(), "the end of the encoder's process")
