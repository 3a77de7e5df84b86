"""Memory of `virnuc predict`: it takes no more for ten times as many contigs."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from virnuc_assets_tests.cli.serving import kmer_project

CONTIG_NT, OPEN = 5_000, 30  # one contig of so many has no T and so no stop: six frames a chunk
SMALL, LARGE = 5_000_000, 50_000_000
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts KiB on Linux")]


def contigs(path: Path, total_nt: int) -> Path:
    generator = random.Random(1)
    with path.open("w") as handle:
        for number in range(total_nt // CONTIG_NT):
            bases = "ACG" if number % OPEN == 0 else "ACGT"
            handle.write(f">contig_{number}\n{''.join(generator.choices(bases, k=CONTIG_NT))}\n")
    return path


def peak_mib(root: Path, source: Path, out: Path) -> float:
    """Largest resident set of the command's process."""
    script = Path(sys.executable).with_name("virnuc")
    with subprocess.Popen([script, "predict", source, "--out", out], cwd=root, stdout=-3, stderr=-3) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return usage.ru_maxrss / 1024


def test_predict_takes_no_more_memory_for_ten_times_as_many_contigs(tmp_path: Path) -> None:
    root = kmer_project(tmp_path / "project")
    small, large = (
        peak_mib(root, contigs(tmp_path / f"{size}.fasta", size), tmp_path / f"{size}") for size in (SMALL, LARGE)
    )
    lines = (tmp_path / f"{LARGE}/summary.tsv").read_text().count("\n")
    print(f"peak {small:.0f} MiB of {SMALL:,} nt, {large:.0f} MiB of {LARGE:,} nt")  # noqa: T201
    assert lines == LARGE // CONTIG_NT + 1
    assert large < 1.2 * small
