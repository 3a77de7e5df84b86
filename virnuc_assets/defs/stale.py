"""Which partitions and assets are missing or stale, by the provenance that is stored with them."""

from collections.abc import Collection, Iterable

import dagster as dg

from virnuc_assets.defs.assets.finetuning import asset_name
from virnuc_assets.defs.assets.predictions import REPORT, report_is_current
from virnuc_assets.defs.assets.shards import PLAN, SHARDS
from virnuc_assets.defs.automation import check_condition
from virnuc_assets.defs.checks import result
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, ShardSet
from virnuc_assets.defs.provenance import CHUNKS, FRAMES, PREDICTIONS, Today, vectors
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import recorded_versions
from virnuc_assets.defs.whole_asset import is_current
from virnuc_assets.encoders.checkpoints import FINETUNING_FILE
from virnuc_assets.sequences.incoming import visible_files, waiting_files
from virnuc_assets.sequences.plan_table import changed_sources, planned_shards
from virnuc_assets.storage.layout import CLASSIFIER_FILE
from virnuc_assets.storage.schemas import plan_schema
from virnuc_assets.storage.tables import TableMismatch, require_table


def plan_is_current(instance: dg.DagsterInstance, workspace: Workspace) -> bool:
    """Whether the reference is planned as catalogue, files and settings are now, and Dagster knows its shards.

    Raises:
        CatalogueError: the catalogue cannot be read.
    """
    path, sources = workspace.layout.plan("reference"), workspace.catalogue()
    try:
        require_table(path, plan_schema(), workspace.settings.sequences.of_plans)
        if changed_sources(path, sources):
            return False
    except TableMismatch:
        return False
    shards = planned_shards(path)
    known = recorded_versions(instance, REFERENCE.key(SHARDS), shards).keys()
    recorded = instance.get_latest_materialization_event(REFERENCE.key(PLAN)) is not None
    return recorded and REFERENCE.keys(instance) == shards and known == set(shards)


def files_to_plan(workspace: Workspace) -> list[str]:
    """Files of the watched folder that the intake log does not know as they are."""
    settings = workspace.settings
    return list(waiting_files(workspace.layout, visible_files(settings.incoming), settings.sequences))


def stale_partitions(
    instance: dg.DagsterInstance, workspace: Workspace, shards: ShardSet, assets: Collection[str] | None = None
) -> dict[tuple[str, ...], list[str]]:
    """Partitions by their missing and stale assets (of all, or of some), in the order in which they are made.

    A partition without a materialization counts as missing; those that are up to date are not in the answer.
    """
    today = Today(workspace, shards.domain)
    stages = [*today.stages, *([REPORT] if shards is SAMPLES else [])]
    chosen = [asset for asset in stages if assets is None or asset in assets]
    recorded = {asset: instance.get_materialized_partitions(shards.key(asset)) for asset in chosen}

    def is_made(asset: str, partition: str) -> bool:
        if partition not in recorded[asset]:
            return False
        if asset == REPORT:
            return report_is_current(workspace, partition)
        of_partition = shards.shards(workspace.layout, partition)
        return bool(of_partition) and all(today.is_current(asset, shard) for shard in of_partition)

    found: dict[tuple[str, ...], list[str]] = {}
    for partition in shards.keys(instance):
        if stale := tuple(asset for asset in chosen if not is_made(asset, partition)):
            found.setdefault(stale, []).append(partition)
    return found


def stale_assets(
    instance: dg.DagsterInstance, workspace: Workspace, specs: Iterable[dg.AssetSpec]
) -> list[dg.AssetKey]:
    """Assets without partitions that are gone, or were made from other inputs than today's, or from stale ones.

    In the specs, those that others depend on come first.
    """
    stale: list[dg.AssetKey] = []
    for spec in specs:
        current = _is_there(workspace, spec.key.path[-1]) and is_current(instance, spec)
        if not current or any(dep.asset_key in stale for dep in spec.deps):
            stale.append(spec.key)
    return stale


def _is_there(workspace: Workspace, asset: str) -> bool:
    """Whether the file is there that an asset without partitions writes last."""
    layout = workspace.layout
    if asset in map(asset_name, workspace.settings.finetuning.encoders):
        return (layout.checkpoints / workspace.encoder(asset).name / FINETUNING_FILE).is_file()
    if asset.endswith("_classifier"):
        return (layout.classifier(asset.removesuffix("_classifier")) / CLASSIFIER_FILE).is_file()
    return any(layout.whole(asset, suffix).is_file() for suffix in (".parquet", ".json"))


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """For each domain a check of all its tables, which finds what was removed by hand; conditions read no table."""
    return [_tables_check(workspace, shards) for shards in (REFERENCE, SAMPLES)]


def _tables_check(workspace: Workspace, shards: ShardSet) -> dg.AssetChecksDefinition:
    kept = [CHUNKS, FRAMES, *vectors(workspace.kept_variants(shards.domain)), PREDICTIONS, REPORT]

    @dg.asset_check(asset=shards.key(SHARDS), name="tables_are_current", automation_condition=check_condition())
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Every table of every partition is there and made from today's inputs; else it names what to materialize."""
        found = stale_partitions(context.instance, workspace, shards, kept)
        faults = {
            f"partition {partition}": [
                f"missing or stale: materialize {', '.join(f'{shards.domain}/{name}' for name in stale)}"
            ]
            for stale, partitions in found.items()
            for partition in partitions
        }
        return result(faults, partitions=len(shards.keys(context.instance)))

    return check
