"""Memory of planning, framing and the ledger: less than 300 bytes a record, however many there are."""

import random
import subprocess
import sys
from pathlib import Path

import pytest

SMALL, LARGE = 100_000, 400_000
AT_MOST = 300
# Not ru_maxrss: a child starts with its parent's peak there.
SCRIPT = """
import re, sys
from pathlib import Path
from virnuc_assets.cli.stages import frame_file

counts = frame_file(Path(sys.argv[1]), Path(sys.argv[2]), 500, lambda done, total: None)
print(counts["records"], re.findall(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[0])
"""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")]


def peak_bytes(folder: Path, records: int) -> int:
    bases, path = "".join(random.Random(1).choices("ACGT", k=1000)), folder / f"{records}.fa"
    with path.open("w") as handle:
        handle.writelines(f">contig_{number:06d}\n{bases[number % 800 :][:90]}\n" for number in range(records))
    command = [sys.executable, "-c", SCRIPT, str(path), str(folder / "frames.parquet")]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert found[0] == str(records)
    return int(found[1]) * 1024


def test_a_record_takes_less_than_300_bytes(tmp_path: Path) -> None:
    of_record = (peak_bytes(tmp_path, LARGE) - peak_bytes(tmp_path, SMALL)) / (LARGE - SMALL)
    print(f"{of_record:.0f} bytes a record")  # noqa: T201
    assert of_record < AT_MOST
