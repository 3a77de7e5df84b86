"""The watched folder: plans new and changed files. What follows is up to the automation conditions."""

import json
import time

import dagster as dg

from virnuc_assets.defs.assets.incoming import PlanSamples
from virnuc_assets.defs.jobs import PLAN_SAMPLES_JOB, PLAN_SAMPLES_OP
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.sequences.incoming import visible_files, waiting_files

POLL_SECONDS = 5
_AGAIN_SECONDS = 3600


def build_sensors(workspace: Workspace) -> list[dg.SensorDefinition]:
    """The sensor of the watched folder; on from the start, because a folder that nobody watches loses samples."""
    layout, settings = workspace.layout, workspace.settings

    @dg.sensor(
        job_name=PLAN_SAMPLES_JOB,
        minimum_interval_seconds=POLL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def incoming_samples(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Plans the files that stayed as they are for two polls and whose status the intake log does not know.

        Each state of a file is requested once an hour at most, until the log knows it. A run whose process died is
        retried as any run is; what a run could not plan, e.g. for want of space, is requested again in the next hour.
        """
        files = visible_files(settings.incoming)
        waiting = waiting_files(layout, files, settings.sequences)
        cursor = json.loads(context.cursor) if context.cursor else {"waiting": {}, "requested": {}}
        hour = int(time.time() // _AGAIN_SECONDS)
        chosen = [
            name
            for name, state in waiting.items()
            if cursor["waiting"].get(name) == state and cursor["requested"].get(name) != [state, hour]
        ]
        requested = {name: was for name, was in cursor["requested"].items() if name in waiting}
        requested |= {name: [waiting[name], hour] for name in chosen}
        return dg.SensorResult(
            run_requests=[_request(chosen)] if chosen else [],
            cursor=json.dumps({"waiting": waiting, "requested": requested}),
        )

    return [incoming_samples]


def _request(files: list[str]) -> dg.RunRequest:
    return dg.RunRequest(run_config=dg.RunConfig(ops={PLAN_SAMPLES_OP: PlanSamples(files=files)}))
