"""The benchmarks run at a tiny scale and write what they promise; their figures mean nothing there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.bench_change import LIMITS, missed_limits
from benchmarks.contenders import Contender
from benchmarks.measuring import Job, WorkerError, worker
from benchmarks.results import half_width

PROJECT = Path(__file__).parents[1]
FIGURES = ["rows", "tokens", "sequences_per_s", "gflops", "gemm_gflops", "share_of_peak", "peak_memory_bytes"]


@pytest.mark.slow
def test_bench_encoders_writes_its_figures(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "encoders.json"
    arguments = ["--scale", "tiny", "--rounds", "2", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_encoders", *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(out.parent.iterdir()) == [out]
    assert {name: type(value) for name, value in found.items() if not isinstance(value, float | int)} == {}
    originals = {
        "protein_650m": ["ours_650m", "transformers_650m", "fair_esm_650m"],
        "protein_3b": ["ours_650m", "fair_esm_3b"],
        "dna": ["ours_dnabert_s", "one_by_one_dnabert_s"],
    }
    for contender in [f"{comparison}.{name}_fp32" for comparison, names in originals.items() for name in names]:
        assert {figure for figure in FIGURES if not found[f"{contender}.{figure}"] > 0} == set(), contender
        if "3b_fp32" not in contender:  # a model of its own
            assert found[f"{contender}.max_difference"] < 1e-5, contender
    speedups = ["protein_speedup_vs_transformers", "protein_speedup_vs_fair_esm_650m"]
    speedups += ["protein_speedup_vs_3b", "dna_speedup_vs_one_by_one"]
    for metric in [*speedups, "fp32_share_of_peak"]:
        assert 0 < found[f"{metric}_min"] <= found[metric] <= found[f"{metric}_max"], metric
        assert found[f"{metric}_rounds"] == 2
    assert found["native_bf16"] == float("protein_speedup_vs_transformers_bf16" in found)
    assert found["frame_table_memory_ratio"] == found["frame_table_large.bytes"] / found["frame_table_small.bytes"]


def test_the_interval_of_a_median_is_that_of_order_statistics() -> None:
    assert half_width([1.0, 1.3, 0.9, 1.1, 1.2]) == pytest.approx(0.4 / 2 / 1.1)  # all five: 94 %
    assert half_width([0.5, *[1.0] * 6, 9.0]) == 0.0  # the second to the seventh of eight: 93 %


def test_a_worker_that_ends_is_named() -> None:
    job = Job(Contender("ours", "650m"), "tiny", "cpu", "/nowhere/650m", ["MKV", "MK"], "/nowhere/vectors.npy")
    named = "^ours_650m_fp32: its process ended with 1 instead of an answer"
    with pytest.raises(WorkerError, match=named), worker(job):
        pass


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
def test_bench_change_writes_its_figures_and_fails_by_a_missed_limit(tmp_path: Path) -> None:
    out = tmp_path / "bench" / "change.json"
    arguments = ["--files", "24", "--partitions", "40", "--rounds", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.bench_change", *arguments], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(out.read_text(encoding="utf-8"))
    assert sorted(out.parent.iterdir()) == [out, out.with_suffix(".log")]
    assert {name: type(value) for name, value in found.items() if not isinstance(value, float | int)} == {}
    assert "files_overhead_share" in missed_limits(found)  # so few are work of a second
    assert f"missed: {', '.join(missed_limits(found))}" in done.stdout.replace("\n", " ")
    assert (found["files"], found["files_shards"], found["partitions"]) == (24, 2, 40)
    assert found["files_reembedded_frames"] == found["files_changed_frames"] > 0
    assert found["files_embedded_frames"] > 10 * found["files_changed_frames"]
    exact = (
        "reference_shards",
        "events_first_demo",
        "events_second_demo",
        "files_touched_shards",
        "requests_when_idle",
    )
    assert {name: found[name] for name in exact if found[name] > LIMITS[name]} == {}
    for name in ("query_s_at_10000_partitions", "tick_s_at_10000_partitions", "second_to_first_demo"):
        assert found[name] > 0, name


def test_the_pages_queries_are_those_of_the_installed_dagster() -> None:
    from dagster_graphql.schema import create_schema
    from graphql import parse, validate

    from benchmarks import ui_queries

    schema = create_schema().graphql_schema
    for query in [*ui_queries.QUERIES.values(), ui_queries.REPOSITORIES, ui_queries.LAUNCH]:
        assert validate(schema, parse(query)) == []
