"""How well `virnuc plan` foretells a run: some shards are made, the encoders measured, and many more shards made.

A project of its own in the miniature profile. What is told for the many is told before they are made; their run's
duration is what Dagster notes. Each run has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import dagster as dg
from rich.console import Console
from rich.table import Table

from benchmarks.shard_project import ROOT, plan, write_project
from virnuc_assets.assets.benchmark import BENCHMARK
from virnuc_assets.automation import PLAN_REFERENCE_JOB, REFERENCE_JOB
from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.capacity import estimate, measure
from virnuc_assets.definitions import build_defs
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.requests import RANGE_END, RANGE_START
from virnuc_assets.resources import Workspace
from virnuc_assets.settings import Settings
from virnuc_assets.storage.tables import read_rows


def main() -> int:
    """Measure, print a table, write the figures."""
    given = _arguments()
    logging.disable(logging.WARNING)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="plan-", dir=given.out.parent))
    try:
        figures = _measure(write_project(root, (given.seen + given.ahead) * given.chunks, given.chunks), given.seen)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    given.out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    table = Table("metric", "value", title="miniature profile")
    for name in sorted(figures):
        table.add_row(name, f"{figures[name]:.6g}")
    Console(width=120, highlight=False).print(table, f"written to {given.out}")
    return 0


def _measure(settings: Settings, seen: int) -> dict[str, float]:
    plan(settings, PLAN_REFERENCE_JOB)
    workspace, spawn = Workspace(settings), get_context("spawn")
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        keys = list(instance.get_dynamic_partitions(str(REFERENCE.partitions.name)))
        for work in (_make, _benchmark, _make):
            ahead = work is _make and instance.get_runs_count(dg.RunsFilter(job_name=REFERENCE_JOB)) > 0
            if ahead:
                measured = measure(workspace, instance, "reference")
            with ProcessPoolExecutor(1, spawn, logging.disable, (logging.WARNING,)) as apart:
                apart.submit(work, settings, keys[seen:] if ahead else keys[:seen]).result()
        (record,) = instance.get_run_records(dg.RunsFilter(job_name=REFERENCE_JOB), limit=1)
    frames = sum(read_rows(workspace.layout.table("reference", "translated_proteins", key)) for key in keys[seen:])
    told, took = estimate(measured, frames, 1), (record.end_time or 0.0) - (record.start_time or 0.0)
    return {
        "shards_seen": float(seen),
        "shards": float(len(keys) - seen),
        "sequences": float(frames),
        "foretold_s": told.wall_hours * 3600,
        "measured_s": took,
        "foretold_to_measured": told.wall_hours * 3600 / took,
        "foretold_device_s": told.device_hours * 3600,
    }


def _make(settings: Settings, keys: list[str]) -> None:
    """All tables of a range of shards, in one run."""
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        job = build_defs(settings).resolve_job_def(REFERENCE_JOB)
        job.execute_in_process(instance=instance, tags={RANGE_START: keys[0], RANGE_END: keys[-1]})


def _benchmark(settings: Settings, _: list[str]) -> None:
    """The encoder benchmark, which asks for frames of all shards: those that lack them are framed first."""
    defs = build_defs(settings)
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        keys = list(instance.get_dynamic_partitions(str(REFERENCE.partitions.name)))
        stages = [REFERENCE.key(name) for name in ("chunked_fasta", "translated_proteins")]
        for selection, tags in ((stages, {RANGE_START: keys[0], RANGE_END: keys[-1]}), ([dg.AssetKey(BENCHMARK)], {})):
            dg.materialize(
                list(defs.assets or ()),
                selection=dg.AssetSelection.assets(*selection),
                instance=instance,
                resources=defs.resources,
                tags=tags,
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seen", type=int, default=10, help="shards made before anything is told")
    parser.add_argument("--ahead", type=int, default=40, help="shards whose time is told, then measured")
    parser.add_argument("--chunks", type=int, default=50, help="chunks of a shard, of six frames each")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "plan.json", help="JSON file to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
