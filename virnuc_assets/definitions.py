"""The code location: `build_defs(settings)` makes the whole graph; `defs` is the graph of `virnuc.toml`.

Loads without torch, transformers or mlflow; asset bodies import what they need when they run.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import dagster as dg

from virnuc_assets.defs import automation, checks, jobs, sensors
from virnuc_assets.defs.assets import (
    classifiers,
    embeddings,
    finetuning,
    migration,
    predictions,
    refseq,
    sequences,
    shards,
    virnucpro,
)
from virnuc_assets.defs.launchers import slurm
from virnuc_assets.defs.launchers.steps import step_executor
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.tracking import MlflowTracking
from virnuc_assets.settings import Settings, load_settings
from virnuc_assets.workstation.setup import artifact_location, dagster_home, mlflow_server_url, tracking_uri


def build_defs(settings: Settings) -> dg.Definitions:
    """All assets, checks, jobs, sensors and resources of a project; the graph's shape is the same in every profile.

    Only the sections `[refseq]` and `[virnucpro]` add to it.
    """
    warnings.filterwarnings("ignore", message=".*(backfill_policy|include_sources).*", category=dg.BetaWarning)
    workspace = Workspace(settings)
    made: list[dg.AssetsDefinition | dg.AssetSpec] = []
    for stage in (refseq, shards, sequences, embeddings, finetuning, classifiers, virnucpro, migration, predictions):
        made += stage.build(workspace)
    asset_checks = [each for each in made if isinstance(each, dg.AssetChecksDefinition)]
    for shard_set in (REFERENCE, SAMPLES):
        asset_checks += checks.build_shard_checks(workspace, shard_set)
    tracking = MlflowTracking(
        uri=tracking_uri(settings),
        server_url=mlflow_server_url(settings),
        dagster_url=settings.servers.dagster_url,
        artifacts=artifact_location(settings) or "",
    )
    return dg.Definitions(
        assets=[each for each in made if not isinstance(each, dg.AssetChecksDefinition)],
        asset_checks=asset_checks,
        jobs=jobs.build_jobs(workspace),
        sensors=[sensors.build_sensor(workspace), *automation.build_sensors(), *slurm.build_sensors()],
        resources={"tracking": tracking},
        executor=step_executor(settings.launch),
    )


@dg.definitions
def defs() -> dg.Definitions:
    """The project in the current folder, which Dagster's processes inherit from the one that starts them."""
    settings = load_settings(Path())
    warn_of_an_empty_instance(settings)
    return build_defs(settings)


def warn_of_an_empty_instance(settings: Settings) -> None:
    """Log that Dagster shows a project with results as if nothing had been made, where DAGSTER_HOME is not set."""
    home = dagster_home(settings)
    if "DAGSTER_HOME" not in os.environ and home.is_dir():
        dg.get_dagster_logger().warning(
            f"DAGSTER_HOME is not set: Dagster shows an empty, temporary instance, while runs write into "
            f"{settings.var}. Use `virnuc up`, or set DAGSTER_HOME={home}"
        )
