"""The watched folder: plans new and changed files. What follows is up to the automation conditions."""

import json
import time

import dagster as dg

from virnuc_assets.defs.assets.shards import PlanSamples
from virnuc_assets.defs.jobs import PLAN_SAMPLES_JOB, PLAN_SAMPLES_OP
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.sequences.incoming import visible_files, waiting_files

_POLL_SECONDS, _AGAIN_SECONDS = 5, 3600


def files_to_plan(workspace: Workspace) -> dict[str, str]:
    """Files of the watched folder that the intake log does not know as they are, each with its state."""
    settings = workspace.settings
    return waiting_files(workspace.layout, visible_files(settings.incoming), settings.sequences)


def build_sensor(workspace: Workspace) -> dg.SensorDefinition:
    """The sensor of the watched folder; on from the start, because a folder that nobody watches loses samples."""

    @dg.sensor(
        job_name=PLAN_SAMPLES_JOB,
        minimum_interval_seconds=_POLL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def incoming_samples(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        """Plans the files that stayed as they are for two polls and whose status the intake log does not know.

        Each state of a file is requested once an hour at most, until the log knows it. A run whose process died is
        retried as any run is; what a run could not plan, e.g. for want of space, is requested again in the next hour.
        """
        waiting = files_to_plan(workspace)
        cursor = json.loads(context.cursor) if context.cursor else {"waiting": {}, "requested": {}}
        hour = int(time.time() // _AGAIN_SECONDS)
        chosen = [
            name
            for name, state in waiting.items()
            if cursor["waiting"].get(name) == state and cursor["requested"].get(name) != [state, hour]
        ]
        requested = {name: was for name, was in cursor["requested"].items() if name in waiting}
        requested |= {name: [waiting[name], hour] for name in chosen}
        config = dg.RunConfig(ops={PLAN_SAMPLES_OP: PlanSamples(files=chosen)})
        return dg.SensorResult(
            run_requests=[dg.RunRequest(run_config=config)] if chosen else [],
            cursor=json.dumps({"waiting": waiting, "requested": requested}),
        )

    return incoming_samples
