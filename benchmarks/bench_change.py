"""What a change costs, and what none costs: the platform's own share of a project's time.

bundled: `virnuc demo` twice on the bundled genomes; the second finds nothing to do. files: thousands of files of one
record, planned and embedded by the miniatures through the servers of `virnuc up`; then one file is replaced, one is
added, and the reference is planned again. partitions: a tick of all sensors, and a query of each page, in a home that
knows many reference partitions as Dagster knows them when all is made.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import logging
import random
import sqlite3
import statistics
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import dagster as dg
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.definitions.automation_condition_sensor_definition import _evaluate
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData
from dagster._core.test_utils import freeze_time
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import ModuleTarget
from dagster_graphql import DagsterGraphQLClient, DagsterGraphQLClientError
from dagster_graphql.test.utils import execute_dagster_graphql

from benchmarks import common
from benchmarks.common import Figures, Limits
from benchmarks.project import Project
from virnuc_assets.definitions import build_defs
from virnuc_assets.defs.assets.shards import SHARDS
from virnuc_assets.defs.jobs import PLAN_REFERENCE_JOB
from virnuc_assets.defs.partitions import REFERENCE, register
from virnuc_assets.defs.provenance import CHUNKS, FRAMES
from virnuc_assets.sequences.catalogue import write_manifest
from virnuc_assets.sequences.plan_table import planned_shards
from virnuc_assets.sequences.planning import pack_key
from virnuc_assets.storage.tables import read_table
from virnuc_assets.workstation.setup import make_project

AT_MOST: dict[str, float] = {
    "reference_shards": 8,
    "events_first_demo": 900,
    "events_second_demo": 30,
    "second_to_first_demo": 0.15,
    "files_shards": 12,
    "files_overhead_share": 0.15,
    "files_touched_shards": 2,
    "query_s_at_10000_partitions": 1.0,
    "tick_s_at_10000_partitions": 1.0,
    "requests_when_idle": 0,
}
_RECORD_NT = 3_000
_ENCODER = "fastesm2_650_embeddings"
_START_SECONDS, _MADE_SECONDS = 300, 3_600
_PARTITIONS_PER_RUN, _QUERIES_OF_PAGE = 20, 5
_IDLE_TICKS, _TICK_SECONDS = 50, 75  # over an hour: a full hour, at which failed partitions are requested, is in it
# No other of the settings' and conditions' times, weekly or nightly, comes before the last tick.
_FIRST_TICK = dt.datetime(2026, 1, 6, 10, 30, tzinfo=dt.UTC)
# What Dagster 1.13's pages ask for, without icons, permissions and what is of one run.
QUERIES = {
    "partitions_page": """query PartitionHealthQuery($assetKey: AssetKeyInput!) {
      assetNodeOrError(assetKey: $assetKey) { ... on AssetNode { partitionKeysByDimension { partitionKeys }
        assetPartitionStatuses { ... on DefaultPartitionStatuses {
          materializedPartitions materializingPartitions failedPartitions } } } } }""",
    "asset_graph": """query AssetGraphLiveQuery($assetKeys: [AssetKeyInput!]!) {
      assetNodes(assetKeys: $assetKeys, loadMaterializations: true) {
        assetMaterializations(limit: 1) { timestamp runId }
        partitionStats { numMaterialized numMaterializing numPartitions numFailed }
        assetChecksOrError { ... on AssetChecks { checks { name executionForLatestMaterialization { status } } } } }
      assetsLatestInfo(assetKeys: $assetKeys) { unstartedRunIds inProgressRunIds latestRun { id status } } }""",
    "stale_marks": """query AssetStaleStatusDataQuery($assetKeys: [AssetKeyInput!]!) {
      assetNodes(assetKeys: $assetKeys) { staleStatus staleCauses { category reason key { path } } } }""",
}


def measure(given: argparse.Namespace, scratch: Path) -> tuple[Figures, Limits]:
    """Each part in a project of its own."""
    logging.disable(logging.WARNING)  # Dagster's event log goes to its store, not to the terminal
    figures, limits = Figures(), {name: (0.0, limit) for name, limit in AT_MOST.items()}
    for name in given.only:
        (scratch / name).mkdir()
        figures |= PARTS[name](scratch / name, given)
    changed = figures.get("files_changed_frames", 0.0)
    return figures, limits | {"files_reembedded_frames": (changed, changed)}


def _bundled(folder: Path, given: argparse.Namespace) -> Figures:
    """The demo twice, as processes; its set-up does not count."""
    make_project(folder, bundled=True)
    project = Project(folder, given.out.with_suffix(".log"), None)
    seconds, events = list[float](), list[int]()
    for command in ("setup", "demo", "demo"):
        started = time.perf_counter()
        project.virnuc(command)
        seconds.append(time.perf_counter() - started)
        events.append(_event_rows(project.home))
    return {
        "reference_shards": len(planned_shards(project.workspace.layout.plan("reference"))),
        "second_to_first_demo": seconds[2] / seconds[1],
        "events_first_demo": events[1] - events[0],
        "events_second_demo": events[2] - events[1],
    }


def _event_rows(home: Path) -> int:
    """Rows of all of Dagster's event tables: of each run, and of the index that repeats what is read across runs."""
    rows = 0
    for path in (home / "history/runs").glob("*.db"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            rows += database.execute("SELECT count(*) FROM event_logs").fetchone()[0]
    return rows


def _files(folder: Path, given: argparse.Namespace) -> Figures:
    """All files through the servers, and what a replaced and an added one cost then."""
    genomes, names = folder / "data/genomes", [f"genome_{number:05d}" for number in range(given.files)]
    replaced, added = names[0], f"genome_{given.files:05d}"  # of one label
    _write_catalogue(genomes, names, names)
    project = Project(folder, given.out.with_suffix(".log"))
    project.virnuc("setup")
    plan = project.workspace.layout.plan("reference")
    try:
        first = _plan_and_follow(project)
        shards = planned_shards(plan)
        _write_catalogue(genomes, [*names, added], [replaced, added])
        second = _plan_and_follow(project)
    finally:
        project.stop()
    tables = [project.workspace.layout.table("reference", FRAMES, shard) for shard in planned_shards(plan)]
    records = [record for table in tables for record in read_table(table).column("record_id").to_pylist()]
    return {
        "files_shards": len(shards),
        "files_embedded_frames": first["embedded"],
        "files_overhead_share": 1 - first["work_s"] / first["wall_s"],
        "files_touched_shards": second["shards"],
        "files_reembedded_frames": second["embedded"],
        "files_changed_frames": sum(record in (replaced, added) for record in records),
    }


def _write_catalogue(genomes: Path, names: Sequence[str], written: Sequence[str]) -> None:
    """Of one record each, every other one viral; only some are written, with other bases than in another call."""
    rows = []
    for number, name in enumerate(names):
        label, group = ("host", "bacteria") if number % 2 else ("viral", "some virus")
        path = genomes / label / f"{name}.fna"
        path.parent.mkdir(parents=True, exist_ok=True)
        if name in written:
            chance = random.Random(f"{name} {len(names)}")  # noqa: S311
            path.write_text(f">{name}\n{common.coding(chance, _RECORD_NT // 3)}\n", encoding="ascii")
        rows.append({"name": name, "label": label, "group": group, "fasta": f"{label}/{path.name}"})
    write_manifest(genomes, rows)


def _plan_and_follow(project: Project) -> Figures:
    """Plan the reference, wait until everything that follows is made, and measure it by the events of the runs.

    Wall time is from the launch of the plan to the end of the last run. Work in it is the step of the plan, which reads
    the files, and what chunked_fasta, translated_proteins and embeddings note as `seconds`; of shards that a step made
    side by side no more counts than the step took. All else is overhead: sensors, queue and start of processes, what
    Dagster does for a run or a step, that each made table is read again, checks, and the merging of features.
    """
    run_ids = list[str]()

    def launched() -> bool:
        with contextlib.suppress(DagsterGraphQLClientError):  # its servers are starting
            client = DagsterGraphQLClient("127.0.0.1", project.settings.servers.dagster_port)
            run_ids.append(client.submit_job_execution(PLAN_REFERENCE_JOB))
        return bool(run_ids)

    with project.instance() as instance:
        before = {run.run_id for run in instance.get_runs()}
    project.wait_for("reference planned", launched, _START_SECONDS)
    project.wait_for("reference embedded", lambda: project.is_settled(REFERENCE), _MADE_SECONDS)
    work = embedded = shards = 0.0
    with project.instance() as instance:
        if (plan := instance.get_run_by_id(run_ids[0])) is None or not plan.is_success:
            raise SystemExit(f"run {run_ids[0]} of {PLAN_REFERENCE_JOB} failed")
        records = [record for record in instance.get_run_records() if record.dagster_run.run_id not in before]
        for run_id in (record.dagster_run.run_id for record in records):
            seconds = defaultdict[str, float](float)
            for entry in instance.all_logs(run_id, dg.DagsterEventType.ASSET_MATERIALIZATION):
                event, materialization = entry.get_dagster_event(), cast("Any", entry.asset_materialization)
                key, metadata = materialization.asset_key, materialization.metadata
                shards += key == REFERENCE.key(SHARDS)
                if key.path[-1] in (CHUNKS, FRAMES) or key.path[-1].endswith("_embeddings"):
                    seconds[str(event.step_key)] += metadata["seconds"].value
                if key == REFERENCE.key(_ENCODER):
                    embedded += metadata["embedded"].value
            for step in instance.get_run_step_stats(run_id):
                taken = (step.end_time or 0.0) - (step.start_time or 0.0)
                work += taken if step.step_key.endswith("shard_plan") else min(taken, seconds[step.step_key])
    started = min(record.create_timestamp.timestamp() for record in records)
    wall = max(record.end_time or 0.0 for record in records) - started
    return {"work_s": work, "embedded": embedded, "shards": shards, "wall_s": wall}


def _partitions(folder: Path, given: argparse.Namespace) -> Figures:
    """Ticks and pages of a home that knows so many partitions, all of them made."""
    _write_catalogue(folder / "data/genomes", ["genome_1"], ["genome_1"])
    project = Project(folder, given.out.with_suffix(".log"))
    project.virnuc("setup")
    defs = build_defs(project.settings)
    with project.instance() as instance, contextlib.chdir(folder):
        _fill(instance, defs, given.partitions)
        seconds, requests = _ticks(instance, defs)
        return {
            "query_s_at_10000_partitions": _slowest_page(instance, defs),
            "tick_s_at_10000_partitions": statistics.median(seconds[1:]),
            "requests_when_idle": requests,
        }


def _fill(instance: dg.DagsterInstance, defs: dg.Definitions, partitions: int) -> None:
    """Runs and events as if everything had been made, in the index alone, which is all that is read across runs."""
    keys = sorted(pack_key(("host", "viral")[number % 2], number // 2) for number in range(partitions))
    register(instance, REFERENCE, keys)
    graph = defs.resolve_asset_graph()
    assets = {key: graph.get(key).partitions_def for key in graph.toposorted_asset_keys}
    partitioned = [key for key, partitions_def in assets.items() if partitions_def == REFERENCE.partitions]
    for start in range(0, len(keys), _PARTITIONS_PER_RUN):
        _store_run(instance, dict.fromkeys(partitioned, keys[start : start + _PARTITIONS_PER_RUN]))
    _store_run(instance, {key: [None] for key, partitions_def in assets.items() if partitions_def is None})


def _store_run(instance: dg.DagsterInstance, made: Mapping[dg.AssetKey, Sequence[str | None]]) -> None:
    """A run that made these partitions; `store_event` would open the database for each of some 400,000 events."""
    run, storage = DagsterRun("__ASSET_JOB", status=DagsterRunStatus.SUCCESS), cast("Any", instance.event_log_storage)
    entry, tags = cast("Any", dg.EventLogEntry), {"dagster/data_version": "a", "dagster/code_version": "1"}
    instance.run_storage.add_run(run)
    with storage.index_transaction() as connection:
        for key, partitions in made.items():
            planned = [AssetMaterializationPlannedData(key, partition, None) for partition in partitions]
            done = [StepMaterializationData(dg.AssetMaterialization(key, partition=p, tags=tags)) for p in partitions]
            for kind, data in (("ASSET_MATERIALIZATION_PLANNED", planned), ("ASSET_MATERIALIZATION", done)):
                facts = [DagsterEvent(kind, run.job_name, event_specific_data=each) for each in data]
                head = (None, logging.DEBUG, "", run.run_id, time.time(), None, run.job_name)
                events = [entry(*head, fact) for fact in facts]
                rows = [connection.execute(storage.prepare_insert_event(event)) for event in events]
                ids = [row.inserted_primary_key[0] for row in rows]
                storage._store_asset_event_tags(connection, events, ids)
                storage._store_asset_event(connection, events[-1], ids[-1])


def _ticks(instance: dg.DagsterInstance, defs: dg.Definitions) -> tuple[list[float], int]:
    """Seconds of ticks of all sensors, the first of which has no cursor, and how much the others request.

    `evaluate_automation_conditions` does not do: it reads the partitions thousands of times, as the daemon does not.
    """
    cursors, seconds, requests = dict[str, str | None](), list[float](), 0
    for number in range(_IDLE_TICKS + 1):
        started = time.perf_counter()
        with freeze_time(_FIRST_TICK + dt.timedelta(seconds=number * _TICK_SECONDS)):
            for sensor in cast("list[Any]", defs.sensors):
                with dg.build_sensor_context(instance, cursors.get(sensor.name), definitions=defs) as context:
                    declared = isinstance(sensor, dg.AutomationConditionSensorDefinition)
                    found = cast("Any", _evaluate(sensor, context) if declared else sensor.evaluate_tick(context))
                cursors[sensor.name] = found.cursor
                requests += len(found.run_requests or ()) if number else 0
        seconds.append(time.perf_counter() - started)
    return seconds, requests


def _slowest_page(instance: dg.DagsterInstance, defs: dg.Definitions) -> float:
    """Median seconds of the slowest page's query, answered as by the web server, after a first one."""
    keys = [{"path": list(key.path)} for key in defs.resolve_asset_graph().toposorted_asset_keys]
    variables = {"assetKey": {"path": list(REFERENCE.key(_ENCODER).path)}, "assetKeys": keys}
    seconds = defaultdict[str, list[float]](list)
    target = ModuleTarget("virnuc_assets.definitions", None, None, None)
    with WorkspaceProcessContext(instance, target) as workspace:
        for _ in range(_QUERIES_OF_PAGE + 1):
            for page, query in QUERIES.items():
                started = time.perf_counter()
                execute_dagster_graphql(workspace.create_request_context(), query, variables)
                seconds[page].append(time.perf_counter() - started)
    return max(statistics.median(taken[1:]) for taken in seconds.values())


PARTS = {"bundled": _bundled, "files": _files, "partitions": _partitions}
OPTIONS = {
    "only": (tuple(PARTS), "parts to run"),
    "files": (5_000, "files of one record"),
    "partitions": (10_000, "reference partitions"),
}
