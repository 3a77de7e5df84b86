"""Thousands of reference partitions as Dagster knows them when all is made: filled in, ticked, and shown."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import logging
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import dagster as dg
from dagster import DagsterRun, DagsterRunStatus
from dagster._core.definitions.asset_daemon_cursor import AssetDaemonCursor
from dagster._core.definitions.automation_tick_evaluation_context import AutomationTickEvaluationContext
from dagster._core.events import AssetMaterializationPlannedData, DagsterEvent, StepMaterializationData
from dagster._daemon.asset_daemon import (
    asset_daemon_cursor_from_instigator_serialized_cursor,
    asset_daemon_cursor_to_instigator_serialized_cursor,
)

from benchmarks.small_project import wait_for
from benchmarks.ui_queries import answers
from virnuc_assets.defs.partitions import REFERENCE, register
from virnuc_assets.sequences.planning import pack_key
from virnuc_assets.settings import Settings
from virnuc_assets.workstation.setup import dagster_home

_PER_RUN = 20
_IDLE_TICKS, _TICK_SECONDS = 50, 75  # over an hour: the full hour at which failed partitions are asked for is within
# No other of the settings' and conditions' times, weekly or nightly, comes before the last tick.
_FIRST_TICK = dt.datetime(2026, 1, 6, 10, 30, tzinfo=dt.UTC)
_START_SECONDS = 300


def fill(instance: dg.DagsterInstance, defs: dg.Definitions, partitions: int) -> None:
    """Runs and events as if everything had been made, in the index alone, which is all that is asked across runs."""
    labels = itertools.cycle(("host", "viral"))
    keys = sorted(pack_key(next(labels), number // 2) for number in range(partitions))
    register(instance, REFERENCE, keys)
    graph = defs.resolve_asset_graph()
    of_partitions = [
        key for key in graph.toposorted_asset_keys if graph.get(key).partitions_def == REFERENCE.partitions
    ]
    whole = [key for key in graph.toposorted_asset_keys if graph.get(key).partitions_def is None]
    for start in range(0, len(keys), _PER_RUN):
        _store_run(instance, dict.fromkeys(of_partitions, keys[start : start + _PER_RUN]))
    _store_run(instance, dict.fromkeys(whole, [None]))


def _store_run(instance: dg.DagsterInstance, made: Mapping[dg.AssetKey, Sequence[str | None]]) -> None:
    run, storage = DagsterRun("__ASSET_JOB", status=DagsterRunStatus.SUCCESS), cast("Any", instance.event_log_storage)
    instance.run_storage.add_run(run)
    with storage.index_transaction() as connection:
        for key, partitions in made.items():
            for events in _events(key, partitions, run):
                rows = [connection.execute(storage.prepare_insert_event(event)) for event in events]
                ids = [row.inserted_primary_key[0] for row in rows]
                storage._store_asset_event_tags(connection, events, ids)
                storage._store_asset_event(connection, events[-1], ids[-1])


def _events(key: dg.AssetKey, partitions: Sequence[str | None], run: DagsterRun) -> Iterator[list[dg.EventLogEntry]]:
    """What a run of an asset writes: that its partitions are planned, and that they were made."""
    tags = {"dagster/data_version": "a", "dagster/code_version": "1"}
    planned = [AssetMaterializationPlannedData(key, partition, None) for partition in partitions]
    made = [StepMaterializationData(dg.AssetMaterialization(key, partition=p, tags=tags)) for p in partitions]
    for kind, told in (("ASSET_MATERIALIZATION_PLANNED", planned), ("ASSET_MATERIALIZATION", made)):
        events = [DagsterEvent(kind, run.job_name, event_specific_data=each) for each in told]
        entry = cast("Any", dg.EventLogEntry)
        yield [entry(None, logging.DEBUG, "", run.run_id, time.time(), None, run.job_name, event) for event in events]


def ticks(instance: dg.DagsterInstance, defs: dg.Definitions) -> tuple[list[float], int]:
    """Seconds of ticks of all sensors, the first of which has no cursor, and how many runs the others ask for."""
    graph, now = defs.resolve_asset_graph(), _FIRST_TICK
    cursors: dict[str, str | None] = {}
    seconds, requests = list[float](), 0
    for number in range(_IDLE_TICKS + 1):
        started = time.perf_counter()
        for sensor in defs.sensors or ():
            cursor, asked = cursors.get(sensor.name), 0
            if isinstance(sensor, dg.AutomationConditionSensorDefinition):
                before = asset_daemon_cursor_from_instigator_serialized_cursor(cursor, graph)
                asked, after = _evaluate(instance, defs, sensor, before, now)
                cursors[sensor.name] = asset_daemon_cursor_to_instigator_serialized_cursor(after)
            elif isinstance(sensor, dg.SensorDefinition):
                with dg.build_sensor_context(instance, cursor=cursor, definitions=defs) as context:
                    told = sensor.evaluate_tick(context)
                asked, cursors[sensor.name] = len(told.run_requests or ()), told.cursor
            requests += asked if number else 0
        seconds.append(time.perf_counter() - started)
        now += dt.timedelta(seconds=_TICK_SECONDS)
    return seconds, requests


def _evaluate(
    instance: dg.DagsterInstance,
    defs: dg.Definitions,
    sensor: dg.AutomationConditionSensorDefinition,
    cursor: AssetDaemonCursor,
    now: dt.datetime,
) -> tuple[int, AssetDaemonCursor]:
    """What the daemon does in a tick of a sensor: number of requests, and the cursor of the next."""
    tick = AutomationTickEvaluationContext(
        evaluation_id=1,
        instance=instance,
        asset_graph=defs.resolve_asset_graph(),
        cursor=cursor,
        materialize_run_tags={},
        observe_run_tags={},
        auto_observe_asset_keys=set(),
        asset_selection=sensor.asset_selection,
        logger=logging.getLogger(__name__),
        emit_backfills=True,
        evaluation_time=now,
    )
    requests, after, _ = tick.evaluate()
    return len(requests), after


@contextlib.contextmanager
def webserver(settings: Settings, log_file: Path) -> Iterator[str]:
    """The UI's server alone; gives its URL."""
    port = settings.servers.dagster_port
    command = [sys.executable, "-m", "dagster_webserver", "-h", "127.0.0.1", "-p", str(port)]
    environment = {**os.environ, "DAGSTER_HOME": str(dagster_home(settings))}
    with log_file.open("ab") as log:
        server = subprocess.Popen(  # noqa: S603
            [*command, "-m", "virnuc_assets.definitions"], cwd=settings.root, env=environment, stdout=log, stderr=log
        )
    try:
        wait_for("webserver up", lambda: answers(settings.servers.dagster_url), _START_SECONDS)
        yield settings.servers.dagster_url
    finally:
        server.terminate()
        server.wait()
