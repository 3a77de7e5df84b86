"""The soak in its short form: real servers, files dropped in random ways, processes killed at random."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GOOD, BAD, KILLS = 8, 5, 6


@pytest.mark.slow
def test_what_is_dropped_is_done_exactly_once_whatever_is_killed(tmp_path: Path) -> None:
    """A few minutes; `make soak` is the long form."""
    out = tmp_path / "soak.json"
    amounts = [f"--good={GOOD}", f"--bad={BAD}", f"--kills={KILLS}", "--minutes=2", "--seed=7", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", *amounts], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert (found["files_good"], found["files_bad_reported"], found["kills"]) == (GOOD, BAD, KILLS)
    wrong = ("rows_lost", "rows_doubled", "slots_stuck", "orphans", "temporary_files", "partitions_missing")
    assert {name: found[name] for name in wrong} == dict.fromkeys(wrong, 0)
