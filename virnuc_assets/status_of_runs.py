"""What Dagster's home tells: runs by state, and which schedules and sensors are on, with their next tick."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState
from dagster._utils.schedules import cron_string_iterator

from virnuc_assets.bootstrap import dagster_home
from virnuc_assets.definitions import build_defs
from virnuc_assets.settings import Settings

# Daemons leave a sign of life every 30 s.
_ALIVE_SECONDS = 90
_IN_PROGRESS = ("STARTING", "STARTED", "CANCELING")
_STATES: Mapping[str, tuple[str, ...]] = {"queued": ("QUEUED", "NOT_STARTED"), "in_progress": _IN_PROGRESS}
_FAILURES = (dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE)


def dagster_state(settings: Settings, asks: Mapping[str, Mapping[str, int]], examples: int) -> dict[str, Any]:
    """Runs; schedules and sensors, whether they are on, when they look next; and whether the daemon lives.

    Args:
        settings: the project's.
        asks: what schedules and sensors would ask for, by name, where that is known.
        examples: how many runs of a state to tell; all are counted.
    """
    defs = build_defs(settings)
    with dg.DagsterInstance.from_config(str(dagster_home(settings))) as instance:
        runs = _runs(instance, settings, examples)
        states = {state.name: state for state in instance.all_instigator_state()}
        signs_of_life = [beat.timestamp for beat in instance.get_daemon_heartbeats().values()]
    lines = [_schedule(schedule, states) for schedule in defs.schedules or () if hasattr(schedule, "cron_schedule")]
    lines += [_sensor(sensor, states) for sensor in defs.sensors or ()]
    told = [{**line, "asks_for": dict(asks[line["name"]])} if line["name"] in asks else line for line in lines]
    alive = max(signs_of_life, default=0.0) > dt.datetime.now(dt.UTC).timestamp() - _ALIVE_SECONDS
    return {"runs": runs, "daemon": alive, "automation": told}


def _runs(instance: dg.DagsterInstance, settings: Settings, examples: int) -> dict[str, Any]:
    """Runs that wait, that go on, and that failed in the last day, the newest first."""
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    filters = {
        name: dg.RunsFilter(statuses=[dg.DagsterRunStatus(state) for state in states])
        for name, states in _STATES.items()
    }
    filters["failed_in_the_last_day"] = dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE], updated_after=yesterday)
    return {
        name: {
            "count": instance.get_runs_count(chosen),
            "newest": [_told(instance, settings, run) for run in instance.get_runs(chosen, limit=examples)],
        }
        for name, chosen in filters.items()
    }


def _told(instance: dg.DagsterInstance, settings: Settings, run: dg.DagsterRun) -> dict[str, Any]:
    facts: dict[str, Any] = {"run": run.run_id, "job": run.job_name, "status": run.status.value}
    if run.status == dg.DagsterRunStatus.FAILURE:
        facts["reason"] = _reason(instance, run.run_id)
        facts["see"] = f"{settings.servers.dagster_url}/runs/{run.run_id}"
    return facts


def _reason(instance: dg.DagsterInstance, run_id: str) -> str:
    """The first line of what went wrong first; a second one where the first only introduces it."""
    for kind in _FAILURES:
        for record in instance.get_records_for_run(run_id, of_type=kind, limit=1).records:
            lines = _message(record.event_log_entry).strip().splitlines() or ["no reason was recorded"]
            return " ".join(line.strip() for line in lines[: 1 + lines[0].endswith(":")])
    return "no reason was recorded; its process was killed, or the machine went down"


def _message(entry: dg.EventLogEntry) -> str:
    event = entry.get_dagster_event()
    if event.event_type != dg.DagsterEventType.STEP_FAILURE:
        return event.message or ""
    data = event.step_failure_data
    if data.user_failure_data and data.user_failure_data.description:
        return data.user_failure_data.description
    error = data.error
    while error and error.cause:
        error = error.cause
    return error.message if error else event.message or ""


def _schedule(schedule: Any, states: Mapping[str, InstigatorState]) -> dict[str, Any]:  # noqa: ANN401
    on = _is_on(schedule, states)
    now = dt.datetime.now(dt.UTC).timestamp()
    crons: Sequence[str] = (
        [schedule.cron_schedule] if isinstance(schedule.cron_schedule, str) else schedule.cron_schedule
    )
    ticks = [next(cron_string_iterator(now, cron, schedule.execution_timezone or "UTC")) for cron in crons]
    next_tick = min(ticks).isoformat() if on else None
    return {"name": schedule.name, "kind": "schedule", "on": on, "next_tick": next_tick}


def _sensor(sensor: dg.SensorDefinition, states: Mapping[str, InstigatorState]) -> dict[str, Any]:
    on, state, next_tick = _is_on(sensor, states), states.get(sensor.name), None
    if on and state and state.instigator_type == InstigatorType.SENSOR:
        last = getattr(state.instigator_data, "last_tick_timestamp", None)
        interval = dt.timedelta(seconds=sensor.minimum_interval_seconds or 0)
        if last:
            next_tick = (dt.datetime.fromtimestamp(last, dt.UTC) + interval).isoformat(timespec="seconds")
    return {"name": sensor.name, "kind": "sensor", "on": on, "next_tick": next_tick}


def _is_on(definition: Any, states: Mapping[str, InstigatorState]) -> bool:  # noqa: ANN401
    """As a person set it, or as the definition says where nobody did."""
    state = states.get(definition.name)
    return state.is_running if state else definition.default_status.value == "RUNNING"
