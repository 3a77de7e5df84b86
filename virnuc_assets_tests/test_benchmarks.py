"""The benchmarks run at a tiny scale and write what they promise; their figures mean nothing there."""

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


@pytest.mark.slow
def test_bench_training_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "training.json"
    arguments = ["--shards", "14", "--rows", "64", "--columns", "48", "--epochs", "3", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_training", *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(out.parent.iterdir()) == [out]
    assert {name: type(value) for name, value in found.items() if not isinstance(value, float | int)} == {}
    assert (found["shards"], found["rows"], found["dim"], found["epochs"]) == (14, 14 * 64, 48, 3)
    assert found["epoch_speedup"] > 0
    assert found["rows_per_s"] == pytest.approx(found["rows"] / found["epoch_seconds"])
    assert found["loss_difference_without_dropout"] < 1e-6
    assert found["max_weight_difference_without_dropout"] < 1e-5
    assert found["max_loss_difference"] < 0.2


@pytest.mark.slow
def test_bench_sequences_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "sequences.json"
    arguments = ["--mb", "0.5", "--plain-mb", "0.1", "--proteins", "60", "--chromosome-mb", "0.5", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_sequences", *arguments, "--out", str(out)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(out.parent.iterdir()) == [out]
    assert {name: type(value) for name, value in found.items() if not isinstance(value, float | int)} == {}
    for name in ("frames_mb_per_s", "frames_speedup", "cds_speedup", "peak_mb", "plain_mb_per_s", "peak_growth"):
        assert found[name] > 0, name
    assert found["frames_speedup"] == pytest.approx(found["frames_mb_per_s"] / found["plain_mb_per_s"])
    assert found["cds_frames"] > found["cds_frames_supported"] > 0
    assert (found["cds_proteins"], found["chromosome_mb"], found["short_chromosome_mb"]) == (60, 0.5, 0.05)


@pytest.mark.slow
def test_bench_shards_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "shards.json"
    arguments = ["--shards", "10", "--partitions", "30", "--frames", "50", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_shards", *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(out.parent.iterdir()) == [out]
    assert {name: type(value) for name, value in found.items() if not isinstance(value, float | int)} == {}
    assert (found["shards"], found["partitions"], found["runs"]) == (10, 30, 1)
    assert 0 < found["work_s"] < found["backfill_s"]
    overhead = (found["backfill_s"] - found["work_s"]) / 10
    assert found["overhead_s_per_shard"] == pytest.approx(overhead)
    assert found["overhead_share_at_10000_frames"] == pytest.approx(overhead / found["embed_10000_frames_s"])
    assert found["events"] > 10 * 10
    for name in ("query", "tick", "condition"):
        assert found[f"{name}_s_at_10000_partitions"] > 0


def test_the_pages_queries_are_those_of_the_installed_dagster() -> None:
    from dagster_graphql.schema import create_schema
    from graphql import parse, validate

    from benchmarks import ui_queries

    schema = create_schema().graphql_schema
    launching = [ui_queries.LAUNCH, ui_queries.BACKFILL, ui_queries.AUTOMATION]
    for query in [*ui_queries.QUERIES.values(), *launching, ui_queries.STOP_SENSOR, ui_queries.STOP_SCHEDULE]:
        assert validate(schema, parse(query)) == []
