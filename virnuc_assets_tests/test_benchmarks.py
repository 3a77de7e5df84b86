"""The benchmarks run at a tiny scale and write what they promise; their figures mean nothing there."""

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from dagster_graphql.schema import create_schema
from graphql import parse, validate

from benchmarks import bench_encoders
from benchmarks.bench_change import AT_MOST, QUERIES
from benchmarks.bench_encoders import COMPARISONS, TABLES, Model
from virnuc_assets.encoders.machine import native_precision

PROJECT = Path(__file__).parents[1]


def figures(out: Path, target: str, *arguments: str, status: int = 0) -> dict[str, float]:
    """What a benchmark wrote; nothing but its figures and its log is left."""
    out.parent.mkdir()
    command = [sys.executable, "-m", "benchmarks", target, *arguments, "--out", str(out)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert {path.name for path in out.parent.iterdir()} - {out.with_suffix(".log").name} == {out.name}
    found: dict[str, float] = json.loads(out.read_text(encoding="utf-8"))
    assert {name: type(value) for name, value in found.items() if not isinstance(value, float | int)} == {}
    return found


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "bench" / "figures.json"


@pytest.mark.slow
def test_bench_encoders_measures_its_figures(tmp_path: Path) -> None:
    tiny = {
        "650m": Model("esm2_650", 64, 2, 4),
        "3b": Model("esm2_3b", 128, 2, 4),
        "dnabert_s": Model("dnabert_s", 48, 2, 6),
        "one_layer": Model("esm2_650", 64, 1, 4),
    }
    given = Namespace(only=(*COMPARISONS, TABLES), rounds=2, device="cpu")
    found, _ = bench_encoders.measure(given, tmp_path, tiny)
    speedups = ["protein_speedup_vs_transformers", "protein_speedup_vs_fair_esm_650m"]
    speedups += ["protein_speedup_vs_3b", "dna_speedup_vs_one_by_one"]
    for metric in [*speedups, "fp32_share_of_peak"]:
        assert 0 < found[f"{metric}_min"] <= found[metric] <= found[f"{metric}_max"], metric
        assert found[f"{metric}_rounds"] == 2
    assert ("protein_speedup_vs_transformers_bf16" in found) == native_precision("bf16")
    assert found["frame_table_memory_ratio"] > 0


@pytest.mark.slow
def test_bench_training_writes_its_figures(out: Path) -> None:
    found = figures(out, "bench-training", "--shards", "14", "--rows", "64", "--columns", "48", "--epochs", "3")
    assert found["rows"] == 14 * 64
    assert found["epoch_speedup"] > 0
    assert found["rows_per_s"] > 0


@pytest.mark.slow
def test_bench_sequences_writes_its_figures(out: Path) -> None:
    arguments = "--mb 0.5 --plain-mb 0.1 --contigs 400 --proteins 60 --chromosome-mb 0.5 --rounds 1"
    found = figures(out, "bench-sequences", *arguments.split())
    names = ("longest_orf_speed", "mb_per_s_short_contigs", "cds_speedup", "peak_mb")
    assert {name: found[name] for name in names if found[name] <= 0} == {}
    assert found["frames_speedup"] == pytest.approx(found["frames_mb_per_s"] / found["plain_mb_per_s"])


@pytest.mark.slow
def test_bench_change_writes_its_figures_and_fails_by_a_missed_limit(out: Path) -> None:
    found = figures(out, "bench-change", "--files", "24", "--partitions", "40", status=1)
    assert found["files_overhead_share"] > AT_MOST["files_overhead_share"]  # so few are work of a second
    assert found["files_shards"] == 2
    assert found["files_reembedded_frames"] == found["files_changed_frames"] > 0
    assert found["files_embedded_frames"] > 10 * found["files_changed_frames"]
    exact = (
        "reference_shards",
        "events_first_demo",
        "events_second_demo",
        "files_touched_shards",
        "requests_when_idle",
    )
    assert {name: found[name] for name in exact if found[name] > AT_MOST[name]} == {}
    for name in ("query_s_at_10000_partitions", "tick_s_at_10000_partitions", "second_to_first_demo"):
        assert found[name] > 0, name


@pytest.mark.slow
def test_bench_coverage_writes_its_figures(out: Path) -> None:
    found = figures(out, "bench-coverage", "--only", "kmer", "--names", "12", "--folds", "2")
    for name in ("chunks_scored_viral", "chunks_scored_host", "complete_genes_scored"):
        assert 0 < found[f"{name}_stop_free"] < found[f"{name}_longest_orf"] <= 1, name
    assert 0 < found["frames_per_chunk_stop_free"] < 1 < found["frames_per_chunk_longest_orf"] <= 6
    for name in ("record_auroc_stop_free", "record_auroc_longest_orf", "record_auroc_gain"):
        assert found[f"{name}_low"] <= found[name] <= found[f"{name}_high"], name
    gain = found["record_auroc_longest_orf"] - found["record_auroc_stop_free"]
    assert found["record_auroc_gain"] == pytest.approx(gain)
    assert found["seconds_per_mb"] > 0


def test_the_pages_queries_are_those_of_the_installed_dagster() -> None:
    schema = create_schema().graphql_schema
    assert [name for name, query in QUERIES.items() if validate(schema, parse(query))] == []
