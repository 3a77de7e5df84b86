"""The code location of the project in the current folder, with a schedule, a sensor and an automation for its own.

Each asks for the same embeddings, and is off until it is turned on.
"""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from virnuc_assets.definitions import build_defs
from virnuc_assets.defs.launchers import slurm
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.settings import load_settings

ASSET = REFERENCE.key("dnabert_s_embeddings")
JOB, SCHEDULE, SENSOR, AUTOMATION = "embed_one", "embed_each_minute", "embed_on_sight", "embed_what_is_missing"
# Files in the project's folder that name the shard which "schedule" and "sensor" ask for.
WANTED = "wanted_by_{}.txt"

embed_one = dg.define_asset_job(JOB, dg.AssetSelection.assets(ASSET).without_checks())


@dg.schedule(job=embed_one, cron_schedule="* * * * *", name=SCHEDULE)
def each_minute(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    return _request("schedule")


@dg.sensor(job=embed_one, name=SENSOR, minimum_interval_seconds=1)
def on_sight(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
    return _request("sensor")


missing = dg.AutomationConditionSensorDefinition(
    AUTOMATION, target=dg.AssetSelection.assets(ASSET).without_checks(), minimum_interval_seconds=1
)


def _request(path: str) -> dg.RunRequest | dg.SkipReason:
    wanted = Path(WANTED.format(path))
    if not wanted.is_file():
        return dg.SkipReason("no shard is wanted")
    shard = wanted.read_text(encoding="utf-8")
    return dg.RunRequest(run_key=shard, partition_key=shard)


@dg.definitions
def defs() -> dg.Definitions:
    own = build_defs(load_settings(Path()))
    return dg.Definitions(
        assets=own.assets,
        asset_checks=own.asset_checks,
        jobs=[*(own.jobs or ()), embed_one],
        schedules=[each_minute],
        sensors=[*slurm.build_sensors(), on_sight, missing],
        resources=own.resources,
        executor=own.executor,
    )
