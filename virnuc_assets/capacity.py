"""What it takes to call so many sequences: device-hours, disk, shards and wall time, from what was measured here.

Language models go by the encoder benchmark; everything else by this project's own runs and tables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import dagster as dg

from virnuc_assets.assets.benchmark import BENCHMARK, stored_benchmark
from virnuc_assets.automation import REFERENCE_JOB, SAMPLE_JOB
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import MAX_PARTITIONS_PER_RUN
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.layout import Domain
from virnuc_assets.storage.tables import read_rows

_JOBS: dict[Domain, str] = {"reference": REFERENCE_JOB, "samples": SAMPLE_JOB}
_FRAMES, _CHUNKS, _EMBEDDINGS = "translated_proteins", "chunked_fasta", "_embeddings"
_LATEST_RUNS, _LATEST_TABLES = 20, 200


@dataclass(frozen=True)
class Stage:
    """A per-shard asset, by the row of frames: what it costs, and how that is known."""

    asset: str
    seconds: float
    bytes: float
    model: bool


@dataclass(frozen=True)
class Measured:
    """All that an estimate follows from.

    Attributes:
        stages: in no order that matters.
        start_seconds: of a run, by which its embeddings took longer than their rates: loading models, known vectors.
        overhead_seconds: of a shard, beyond what its stages note: events and checks.
        runs, shards: that were looked at.
        rows_a_shard: frames.
        device: that the models were measured on.
        precision: of the models.
    """

    stages: Sequence[Stage]
    start_seconds: float
    overhead_seconds: float
    runs: int
    shards: int
    rows_a_shard: float
    device: str
    precision: str


@dataclass(frozen=True)
class Estimate:
    """For so many sequences on so many devices; `held_hours` is what a device is reserved for, all devices together."""

    shards: int
    runs: int
    device_hours: float
    held_hours: float
    wall_hours: float
    disk_bytes: float


def estimate(measured: Measured, sequences: int, devices: int) -> Estimate:
    """What it takes; at most as many devices are used as there are runs."""
    shards = math.ceil(sequences / measured.rows_a_shard)
    runs = math.ceil(shards / MAX_PARTITIONS_PER_RUN)
    model = sequences * sum(stage.seconds for stage in measured.stages if stage.model)
    around = runs * measured.start_seconds + shards * measured.overhead_seconds
    total = sequences * sum(stage.seconds for stage in measured.stages) + around
    disk = sequences * sum(stage.bytes for stage in measured.stages)
    return Estimate(shards, runs, model / 3600, total / 3600, total / 3600 / min(devices, runs), disk)


def measure(workspace: Workspace, instance: dg.DagsterInstance, domain: Domain) -> Measured:
    """What was measured in a project: its encoder benchmark, its latest runs over shards, its tables.

    Raises:
        VirnucError: there is no benchmark of today's encoders, or no run has made shards of this domain yet.
    """
    benchmark, problems = stored_benchmark(workspace)
    if benchmark is None or problems:
        raise VirnucError("\n".join(problems) + f"\nAn estimate needs rates: materialize {BENCHMARK} on such a device.")
    rates = {f"{name}{_EMBEDDINGS}": float(found["sequences_per_s"]) for name, found in benchmark.items()}
    history = _history(instance, domain)
    rows, sizes = _tables(workspace, domain, history.assets)
    stages = []
    for asset in sorted(history.assets):
        seconds = 1 / rates[asset] if asset in rates else history.seconds[asset] / history.rows[asset]
        stages.append(Stage(asset, seconds, sizes[asset], asset in rates))
    loading = sum(
        history.seconds[asset] - history.rows[asset] / rates[asset] for asset in rates if asset in history.rows
    )
    start = max(0.0, loading) / history.runs
    overhead = max(0.0, history.duration - sum(history.seconds.values())) / history.shards
    told = next(iter(benchmark.values()))
    device, precision = str(told["device"]), str(told["precision"])
    return Measured(stages, start, overhead, history.runs, history.shards, rows, device, precision)


@dataclass
class _History:
    """Sums over the latest runs that made every row of their shards."""

    runs: int
    shards: int
    duration: float
    seconds: dict[str, float]
    rows: dict[str, int]

    @property
    def assets(self) -> list[str]:
        return list(self.rows)


def _history(instance: dg.DagsterInstance, domain: Domain) -> _History:
    chosen = dg.RunsFilter(job_name=_JOBS[domain], statuses=[dg.DagsterRunStatus.SUCCESS])
    found = _History(0, 0, 0.0, {}, {})
    for record in instance.get_run_records(chosen, limit=_LATEST_RUNS):
        made = _made(instance, record.dagster_run.run_id)
        shards = {shard for shard, _ in made}
        framed = _FRAMES in {asset for _, asset in made} and any(rows for rows, _, _ in made.values())
        if not framed or any(rows and not now for rows, now, _ in made.values()):
            continue  # it had nothing to make, or made a part of its shards' tables, which tells little of making all
        found.runs, found.shards = found.runs + 1, found.shards + len(shards)
        found.duration += (record.end_time or 0.0) - (record.start_time or 0.0)
        for (_, asset), (_, made_now, seconds) in made.items():
            found.rows[asset] = found.rows.get(asset, 0) + made_now
            found.seconds[asset] = found.seconds.get(asset, 0.0) + seconds
    if not found.runs:
        raise VirnucError(
            f"no run of {_JOBS[domain]} has made whole shards yet; launch one, so that there is something to go by"
        )
    return found


def _made(instance: dg.DagsterInstance, run_id: str) -> dict[tuple[str, str], tuple[int, int, float]]:
    """All rows, those made now (of vectors: those that an encoder made), and seconds, by shard and asset."""
    made = {}
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION):
        record = entry.asset_materialization
        if record and record.partition and "rows_made" in record.metadata:
            told: dict[str, Any] = {name: value.value for name, value in record.metadata.items()}
            now = told.get("embedded", told["rows_made"])
            made[record.partition, record.asset_key.path[-1]] = (int(told["rows"]), int(now), float(told["seconds"]))
    return made


def _tables(workspace: Workspace, domain: Domain, assets: Sequence[str]) -> tuple[float, dict[str, float]]:
    """Frames of a shard, and bytes of each asset by the frame, over some of the tables."""
    folders = {asset: workspace.layout.table(domain, asset, "").parent for asset in assets}
    shards = sorted(path.stem for path in folders[_FRAMES].glob("*.parquet"))[:_LATEST_TABLES]
    whole = [shard for shard in shards if all((folder / f"{shard}.parquet").is_file() for folder in folders.values())]
    rows = sum(read_rows(folders[_FRAMES] / f"{shard}.parquet") for shard in whole)
    if not rows:
        raise VirnucError(f"no shard of {domain} with frames has all of its tables; launch {_JOBS[domain]}")
    # A shard's ledger is written with its frames.
    written = {asset: (asset, "ledger") if asset == _FRAMES else (asset,) for asset in assets}
    table = partial(workspace.layout.table, domain)
    sizes = {
        asset: sum(table(name, shard).stat().st_size for shard in whole for name in names) / rows
        for asset, names in written.items()
    }
    return rows / len(whole), sizes
