"""What `virnuc plan` tells: exact sums of what was measured, and what it was measured from."""

from __future__ import annotations

import dataclasses
import json

import pytest

from virnuc_assets.capacity import Estimate, Measured, Stage, estimate, measure
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN, REFERENCE
from virnuc_assets.storage.tables import read_rows
from virnuc_assets_tests.assets.project import Finished, Project

pytest_plugins = ["virnuc_assets_tests.assets.finished"]

MEASURED = Measured(
    stages=[Stage("fastesm2_650_embeddings", 0.5, 100.0, True), Stage("translated_proteins", 0.1, 50.0, False)],
    start_seconds=30.0,
    overhead_seconds=20.0,
    runs=3,
    shards=30,
    rows_a_shard=1_000.0,
    device="cpu",
    precision="fp32",
)


def test_an_estimate_is_the_sum_of_what_was_measured() -> None:
    held = (10_000 * 0.6 + 30.0 + 10 * 20.0) / 3600
    assert estimate(MEASURED, 10_000, 1) == Estimate(10, 1, 10_000 * 0.5 / 3600, held, held, 1_500_000.0)


def test_no_more_devices_work_than_there_are_runs() -> None:
    shards = 2 * MAX_PARTITIONS_PER_RUN + 1
    found = estimate(MEASURED, shards * 1_000, 2)
    assert (found.shards, found.runs) == (shards, 3)
    assert found.wall_hours == found.held_hours / 2
    assert estimate(MEASURED, shards * 1_000, 50).wall_hours == found.held_hours / 3


def test_a_billion_sequences_are_as_good_as_one() -> None:
    assert estimate(MEASURED, 10**9, 64).shards == 1_000_000
    assert estimate(MEASURED, 1, 64).shards == 1


@pytest.mark.parametrize("domain", ["reference", "samples"])
def test_it_is_measured_from_benchmark_runs_and_tables(finished: Finished, domain: str) -> None:
    layout = finished.workspace.layout
    found = measure(finished.workspace, finished.instance, domain)
    tables = sorted(layout.table(domain, "translated_proteins", "").parent.glob("*.parquet"))
    rows = [read_rows(path) for path in tables]
    assert found.rows_a_shard == pytest.approx(sum(rows) / len(rows))
    assert found.shards >= len(tables)
    stored = json.loads(layout.whole("encoder_benchmark", ".json").read_text())["measured"]
    by_name = {stage.asset: stage for stage in found.stages}
    models = {name for name, stage in by_name.items() if stage.model}
    names = {"dnabert_s", "fastesm2_650"} | ({"esm2_3b"} if domain == "reference" else set())
    assert models == {f"{name}_embeddings" for name in names}
    for name in names:
        assert by_name[f"{name}_embeddings"].seconds == 1 / stored[name]["sequences_per_s"]
        size = sum(layout.table(domain, f"{name}_embeddings", path.stem).stat().st_size for path in tables)
        assert by_name[f"{name}_embeddings"].bytes == pytest.approx(size / sum(rows))
    written = [layout.table(domain, name, path.stem) for path in tables for name in ("translated_proteins", "ledger")]
    size = sum(path.stat().st_size for path in written)
    assert by_name["translated_proteins"].bytes == pytest.approx(size / sum(rows))
    assert all(stage.seconds > 0 for stage in found.stages)
    assert {"chunked_fasta", "translated_proteins", "fastesm2_features"} <= set(by_name)
    assert ("predictions" in by_name) == (domain == "samples")
    assert (found.device, found.precision) == ("cpu", "fp32")
    assert found.overhead_seconds > 0
    assert found.start_seconds >= 0


def test_without_a_benchmark_or_a_run_it_says_what_to_do(copied: Project) -> None:
    with pytest.raises(VirnucError, match="no run of predict_samples has made whole shards yet; launch one"):
        measure(copied.workspace, copied.instance, "samples")
    copied.workspace.layout.whole("encoder_benchmark", ".json").unlink()
    with pytest.raises(VirnucError, match="encoder_benchmark has not been materialized"):
        measure(copied.workspace, copied.instance, "samples")


def test_runs_that_made_a_part_of_their_shards_tell_nothing(finished: Finished, copied: Project) -> None:
    keys = copied.keys(REFERENCE)
    for path in copied.workspace.layout.table("reference", "fastesm2_features", "").parent.glob("*.parquet"):
        path.unlink()
    copied.range("embed_reference", keys)
    with pytest.raises(VirnucError, match="no run of embed_reference has made whole shards"):
        measure(copied.workspace, copied.instance, "reference")
    assert dataclasses.is_dataclass(measure(finished.workspace, finished.instance, "reference"))
