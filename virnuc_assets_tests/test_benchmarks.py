"""The encoder benchmark runs at a tiny scale and writes what it promises; its figures mean nothing there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
CONTENDERS = ["fair_esm_3b_fp32", "fair_esm_650m_fp32", "ours_650m_fp32", "ours_650m_bf16", "ours_650m_int8"]
CONTENDERS += ["upstream_dnabert_s_fp32", "ours_dnabert_s_fp32"]
FIGURES = ["sequences_per_s", "tokens_per_s", "gflops", "share_of_peak", "peak_memory_bytes", "rows"]


@pytest.mark.slow
def test_bench_encoders_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "encoders.json"
    arguments = ["--scale", "tiny", "--repeats", "1", "--out", str(out), "--only", *CONTENDERS, "frame_tables"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_encoders", *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(out.parent.iterdir()) == [out]
    assert {name: type(value) for name, value in found.items() if not isinstance(value, float | int)} == {}
    for name in [f"{contender}.{figure}" for contender in CONTENDERS for figure in FIGURES]:
        assert found[name] > 0, name
    ours, original = found["ours_650m_fp32.sequences_per_s"], found["fair_esm_3b_fp32.sequences_per_s"]
    assert found["protein_speedup_vs_3b_fp32"] == pytest.approx(ours / original)
    assert found["max_difference_to_fair_esm"] < 1e-5
    assert found["upstream_dnabert_s_fp32.max_difference"] < 1e-5
    assert 0.999 < found["min_cosine_bf16"] < 1
    assert 0.99 < found["ours_650m_int8.min_cosine"] < 1
    assert found["frame_table_memory_ratio"] > 0
