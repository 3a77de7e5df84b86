"""What the orchestrator costs: shard by shard in a backfill, and a look at thousands of partitions.

A project with many tiny reference shards (six frames each) is planned, and some of them are made by one backfill
through the servers that `virnuc up` starts, all sensors and schedules off. Overhead is what the backfill took beyond
the seconds that the assets note for their work; its share is told of the time that 10,000 frames of the bundled genomes
take to embed by all of the profile's encoders, measured here, too. Then the pages' queries are put to the webserver,
and every sensor and schedule is evaluated over as many samples' shards and over the reference, while most partitions
have no table yet; beside them a declarative condition on an embeddings asset. Figures of a page or tick are medians,
and the slowest is told; a tick that is the first of its process reads all there is, and is told by itself.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import logging
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import dagster as dg
from rich.console import Console
from rich.table import Table

from benchmarks.genome_data import write_repeated
from benchmarks.shard_project import CHUNK_NT, ROOT, plan, run_backfill, serving, write_project, write_samples
from benchmarks.ui_queries import stop_automation, time_pages
from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.definitions import build_defs
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.resources import Workspace
from virnuc_assets.settings import Settings
from virnuc_assets.single_file import embed_file, frame_file
from virnuc_assets.storage.tables import read_rows, read_table, write_table

_FRAMES = 10_000
# Of the bundled genomes; more than enough, once over all of them.
_NT_A_FRAME, _ALL_NT = 1_600, 4_000_000
PLAN_REFERENCE_JOB = "plan_reference"
Figures = dict[str, float]


def main() -> int:
    """Measure, print a table, write the figures."""
    given = _arguments()
    logging.disable(logging.WARNING)  # Dagster's event log goes to its store, not to the terminal
    given.out.parent.mkdir(parents=True, exist_ok=True)
    root = Path(tempfile.mkdtemp(prefix="shards-", dir=given.out.parent))
    try:
        figures = _measure(root, given)
    finally:
        if not given.keep:
            shutil.rmtree(root, ignore_errors=True)
    given.out.write_text(json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    table = Table("metric", "value", title="miniature profile, real servers on loopback")
    for name in sorted(figures):
        table.add_row(name, f"{figures[name]:.6g}")
    Console(width=120, highlight=False).print(table, f"written to {given.out}")
    return 0


def _measure(root: Path, given: argparse.Namespace) -> Figures:
    settings = write_project(root, given.partitions)
    figures = {"shards": float(given.shards), "partitions": float(given.partitions)}
    # In a process that ends: it holds the device until then, which the backfill's runs need.
    with ProcessPoolExecutor(1, get_context("spawn")) as apart:
        figures |= apart.submit(_embedding, settings, root / "frames", given.frames).result()
    assets = [key.path for key in _shard_assets(settings)]
    with serving(settings) as url:
        stop_automation(url)
        started = time.perf_counter()
        plan(settings, PLAN_REFERENCE_JOB)
        figures["plan_s"] = time.perf_counter() - started
        with _instance(settings) as instance:
            keys = list(instance.get_dynamic_partitions(str(REFERENCE.partitions.name)))[: given.shards]
        figures["backfill_s"] = run_backfill(url, assets, keys, given.limit_s)
        figures |= _runs(settings)
        pages = time_pages(url, _all_assets(settings), REFERENCE.key("fastesm2_650_embeddings").path, given.rounds)
    figures |= {f"query_{page}_s": statistics.median(seconds) for page, seconds in pages.items()}
    figures["query_s_at_10000_partitions"] = max(value for name, value in figures.items() if name.startswith("query_"))
    write_samples(settings, given.partitions, given.shards)
    plan(settings, PLAN_REFERENCE_JOB, **{"dagster/schedule_name": "weekly_reembedding"})  # a sensor waits for it
    ticks = _ticks(settings, given.rounds)
    firsts = [seconds for name, seconds in ticks.items() if name.endswith("_first_s")]
    figures |= ticks | {"first_tick_s_at_10000_partitions": max(firsts)}
    figures["tick_s_at_10000_partitions"] = max(ticks[name] for name in ticks if not name.endswith("_first_s"))
    figures["overhead_s_per_shard"] = (figures["backfill_s"] - figures["work_s"]) / given.shards
    figures["overhead_share_at_10000_frames"] = figures["overhead_s_per_shard"] / figures["embed_10000_frames_s"]
    return figures | _condition(settings)


def _embedding(settings: Settings, folder: Path, measured: int) -> Figures:
    """Seconds to embed 10,000 frames of bundled genomes by each encoder of the profile, by the rate of those measured.

    Loading is part of it.
    """
    folder.mkdir()
    genomes, frames = folder / "genomes.fa", folder / "frames.parquet"
    write_repeated(ROOT / "data" / "genomes", genomes, max(_ALL_NT, measured * _NT_A_FRAME))
    frame_file(genomes, frames, CHUNK_NT, lambda _done, _total: None)
    write_table(frames, read_table(frames).slice(0, measured), {"table": "frames"})
    if read_rows(frames) != measured:
        raise SystemExit(f"the genomes give {read_rows(frames)} frames; {measured} are needed")
    workspace, seconds = Workspace(settings), {}
    for slot in workspace.slots():
        started = time.perf_counter()
        encoder, out = workspace.encoder(slot).name, folder / "out.parquet"
        embed_file(workspace, frames, encoder, out, lambda _done, _total: None, print)
        seconds[f"embed_10000_frames_{slot}_s"] = (time.perf_counter() - started) * _FRAMES / measured
    return {**seconds, "frames_measured": float(measured), "embed_10000_frames_s": sum(seconds.values())}


def _runs(settings: Settings) -> Figures:
    """Runs and events of the backfill, and the seconds that its assets note for their work, once for each table."""
    with _instance(settings) as instance:
        runs = [run for run in instance.get_runs() if "dagster/backfill" in run.tags]
        events, work = 0, {}
        for run in runs:
            for entry in instance.all_logs(run.run_id):
                events += 1
                event = entry.dagster_event
                if event and event.is_step_materialization and event.partition and "seconds" in _metadata(event):
                    work[event.asset_key, event.partition] = float(_metadata(event)["seconds"].value)
    return {"runs": float(len(runs)), "events": float(events), "work_s": sum(work.values())}


def _metadata(event: dg.DagsterEvent) -> Any:  # noqa: ANN401
    return event.step_materialization_data.materialization.metadata


def _ticks(settings: Settings, rounds: int) -> Figures:
    """Median seconds of a tick of every sensor and schedule; a first one that reads everything is told beside."""
    defs, figures = build_defs(settings), {}
    with _instance(settings) as instance:
        for name, tick in _evaluations(defs, instance):
            seconds = []
            for _ in range(rounds + 1):
                started = time.perf_counter()
                tick()
                seconds.append(time.perf_counter() - started)
            figures[f"tick_{name}_first_s"] = seconds[0]
            figures[f"tick_{name}_s"] = statistics.median(seconds[1:])
    return figures


def _evaluations(defs: dg.Definitions, instance: dg.DagsterInstance) -> Iterator[tuple[str, Any]]:
    for sensor in defs.sensors or ():
        if not isinstance(sensor, dg.RunStatusSensorDefinition):
            cursor: list[str | None] = [None]

            def look(sensor: Any = sensor, cursor: list[str | None] = cursor) -> None:  # noqa: ANN401
                with dg.build_sensor_context(instance, cursor=cursor[0], definitions=defs) as context:
                    cursor[0] = sensor.evaluate_tick(context).cursor

            yield sensor.name, look
    for schedule in defs.schedules or ():
        yield schedule.name, lambda schedule=schedule: schedule.evaluate_tick(_schedule_context(instance))


def _schedule_context(instance: dg.DagsterInstance) -> dg.ScheduleEvaluationContext:
    return dg.build_schedule_context(instance, scheduled_execution_time=dt.datetime.now(dt.UTC))


def _condition(settings: Settings) -> Figures:
    """Seconds of the second evaluation of a condition on one asset of all partitions."""
    changed = dg.AutomationCondition.code_version_changed().since(
        dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    )
    key, defs = REFERENCE.key("fastesm2_650_embeddings"), build_defs(settings)

    def with_condition(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(automation_condition=changed) if spec.key == key else spec

    assets = [asset for asset in defs.assets or () if isinstance(asset, dg.AssetsDefinition)]
    asking = dg.Definitions([asset.map_asset_specs(with_condition) for asset in assets], resources=defs.resources)
    with _instance(settings) as instance:
        chosen, cursor, seconds = dg.AssetSelection.assets(key), None, 0.0
        for _ in range(2):
            started = time.perf_counter()
            cursor = dg.evaluate_automation_conditions(asking, instance, chosen, cursor=cursor).cursor
            seconds = time.perf_counter() - started
    return {"condition_s_at_10000_partitions": seconds}


def _instance(settings: Settings) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_config(str(dagster_home(settings)))


def _shard_assets(settings: Settings) -> list[dg.AssetKey]:
    graph = build_defs(settings).resolve_asset_graph()
    return [key for key in graph.toposorted_asset_keys if graph.get(key).partitions_def == REFERENCE.partitions]


def _all_assets(settings: Settings) -> list[list[str]]:
    return [list(key.path) for key in build_defs(settings).resolve_asset_graph().toposorted_asset_keys]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench-shards, or python -m benchmarks.bench_shards", description=__doc__
    )
    parser.add_argument("--shards", type=int, default=1000, help="shards that the backfill makes (default 1000)")
    parser.add_argument("--partitions", type=int, default=10_000, help="shards that are planned (default 10000)")
    parser.add_argument("--frames", type=int, default=_FRAMES, help="frames to embed (default 10000)")
    parser.add_argument("--rounds", type=int, default=5, help="queries and ticks of each kind (default 5)")
    parser.add_argument("--limit-s", type=float, default=3000, help="give the backfill up after so long (default 3000)")
    parser.add_argument("--keep", action="store_true", help="leave the project's folder beside the figures")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "shards.json", help="file of figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
