"""Asset checks, named for the property that passes, and which partitions and assets are missing or stale.

Checks are for people and block within a run. Whatever would build on a wrong table calls the same validators itself.
"""

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import dagster as dg

from virnuc_assets.defs.assets.finetuning import asset_name
from virnuc_assets.defs.assets.predictions import report_is_current
from virnuc_assets.defs.assets.shards import PLAN, SHARDS
from virnuc_assets.defs.automation import check_condition
from virnuc_assets.defs.metadata import result
from virnuc_assets.defs.partitions import REFERENCE, ShardSet
from virnuc_assets.defs.provenance import CHUNKS, FRAMES, LEDGER, REPORT, Today, planned_shard, stages
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import is_current, recorded_versions
from virnuc_assets.encoders.checkpoints import FINETUNING_FILE
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.sequences.ledger import shard_ledger_faults
from virnuc_assets.sequences.plan_table import changed_sources, planned_shards, read_plan
from virnuc_assets.sequences.planning import plan_faults
from virnuc_assets.storage.layout import CLASSIFIER_FILE
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import chunks_schema, ledger_schema, plan_schema, vector_dim
from virnuc_assets.storage.tables import TableMismatch, read_ids, read_rows, read_schema, read_table, require_table

# What a validator finds wrong with one shard, a sentence each.
Validator = Callable[[str], Iterable[str]]


def build_shard_checks(workspace: Workspace, shards: ShardSet) -> list[dg.AssetChecksDefinition]:
    """Checks of every per-shard asset of one domain, each of which reads the stored tables."""
    layout, domain = workspace.layout, shards.domain

    def chunks(shard: str) -> Iterator[str]:
        """The sequence of every chunk is as long as its positions say, and not longer than chunks are."""
        table = read_table(layout.table(domain, CHUNKS, shard), chunks_schema())
        longest = workspace.settings.sequences.chunk_length
        for row in table.to_pylist():
            length_nt, bases = row["end_nt"] - row["start_nt"], len(row["sequence"])
            if length_nt != bases or not 0 < length_nt <= longest:
                yield f"{row['chunk_id']}: {length_nt} nt by position, {bases} bases, at most {longest}"

    def open_frames(shard: str) -> Iterator[str]:
        """No protein of a frame is empty or has a stop."""
        table = read_table(layout.table(domain, FRAMES, shard), workspace.frame_rule(domain).schema)
        for row in table.select(["frame_id", "protein"]).to_pylist():
            if not row["protein"] or "*" in row["protein"]:
                yield f"{row['frame_id']}: protein {row['protein'][:30]!r}"

    def ledger(shard: str) -> Iterator[str]:
        """The ledger has a line for every planned segment, and its chunks and frames add up to those on disk."""
        table = read_table(layout.table(domain, LEDGER, shard), ledger_schema())
        frames = read_rows(layout.table(domain, FRAMES, shard))
        yield from shard_ledger_faults(table, planned_shard(workspace, domain, shard).table, frames)

    checks = [
        _plan_check(workspace, shards),
        _tables_check(workspace, shards),
        _shard_check(workspace, shards, CHUNKS, "chunk_lengths_match_positions", chunks),
        _shard_check(workspace, shards, FRAMES, "frames_are_open", open_frames),
        _shard_check(workspace, shards, FRAMES, "ledger_sums_hold", ledger),
    ]
    for name in workspace.encoder_names(shards.domain):
        checks += _embedding_checks(workspace, shards, name)
    return checks + [_features_check(workspace, shards, variant) for variant in workspace.variants(shards.domain)]


def _plan_check(workspace: Workspace, shards: ShardSet) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=shards.key(PLAN), name="plans_cover_every_chunk_once", blocking=True)
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """In every plan, the segments of a record follow each other from its first chunk to its last."""
        keys = [""] if shards is REFERENCE else shards.keys(context.instance)
        plans = [workspace.layout.plan(shards.domain, key) for key in keys]
        return result({path.stem: list(_plan_faults(path)) for path in plans}, plans=len(plans))

    return check


def _plan_faults(path: Path) -> Iterator[str]:
    try:
        plan = read_plan(path)
        yield from plan_faults(plan.segments, plan.chunk_length)
    except TableMismatch as error:
        yield str(error)


def _embedding_checks(workspace: Workspace, shards: ShardSet, name: str) -> list[dg.AssetChecksDefinition]:
    layout, domain, asset = workspace.layout, shards.domain, f"{name}_embeddings"

    def finite(shard: str) -> Iterator[str]:
        """No vector has a value that is infinite or not a number."""
        import numpy as np

        table = read_table(layout.table(domain, asset, shard))
        bad = ~np.isfinite(vectors_of(table)).all(axis=1)
        yield from (f"{frame}: vector is not finite" for frame in table.column("frame_id").filter(bad).to_pylist())

    def ids(shard: str) -> Iterator[str]:
        """There is one vector for every frame, in the order of the frames."""
        frames = layout.table(domain, FRAMES, shard)
        if read_ids(layout.table(domain, asset, shard)) != read_ids(frames, workspace.frame_rule(domain).schema):
            yield "frame_ids are not those of the frames table, in its order"

    return [
        _shard_check(workspace, shards, asset, "embeddings_are_finite", finite),
        _shard_check(workspace, shards, asset, "embedding_ids_match_frames", ids),
    ]


def _features_check(workspace: Workspace, shards: ShardSet, variant: Variant) -> dg.AssetChecksDefinition:
    layout, domain, asset = workspace.layout, shards.domain, f"{variant.name}_features"

    def composed(shard: str) -> Iterator[str]:
        """There is at most one row for a chunk, in the order of the chunks, and every value is a root of a share."""
        features = read_table(layout.table(domain, asset, shard))
        chunks = read_table(layout.table(domain, CHUNKS, shard), columns=["chunk_id"])["chunk_id"].to_pylist()
        ids = features["chunk_id"].to_pylist()
        found = set(ids)
        if ids != [chunk for chunk in chunks if chunk in found]:
            yield "chunk_ids are not some of those of the chunks table, each once and in its order"
        vectors = vectors_of(features)
        if not ((vectors >= 0) & (vectors <= 1)).all():
            yield "a value is not between 0 and 1"

    def merged(shard: str) -> Iterator[str]:
        """Features have the frames of both embeddings in their order, and the columns of both."""
        features = layout.table(domain, asset, shard)
        embeddings = [layout.table(domain, f"{name}_embeddings", shard) for name in (variant.dna, variant.protein)]
        width, dims = vector_dim(read_schema(features)), [vector_dim(read_schema(path)) for path in embeddings]
        if width != sum(dims):
            yield f"width {width}, expected {dims[0]} + {dims[1]}"
        found = read_ids(features)
        yield from (f"frame_ids differ from those of {path}" for path in embeddings if read_ids(path) != found)

    if variant.is_kmer:
        return _shard_check(workspace, shards, asset, "one_composition_for_each_chunk", composed)
    return _shard_check(workspace, shards, asset, "merged_ids_match", merged)


def _shard_check(
    workspace: Workspace, shards: ShardSet, asset: str, name: str, validate: Validator
) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=shards.key(asset), name=name, blocking=True, description=inspect.getdoc(validate))
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        keys = shards.shards_of_run(context, workspace.layout)
        return result({key: list(validate(key)) for key in keys}, shards=len(keys))

    return check


def _tables_check(workspace: Workspace, shards: ShardSet) -> dg.AssetChecksDefinition:
    """It finds what was removed by hand; conditions read no table."""
    domain = shards.domain

    @dg.asset_check(asset=shards.key(SHARDS), name="tables_are_current", automation_condition=check_condition())
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Every table of every partition is there and made from today's inputs; else it names what to materialize."""
        kept = stages(domain, workspace.kept_variants(domain))
        found = stale_partitions(context.instance, workspace, shards, kept)
        faults = {
            f"partition {partition}": [
                f"missing or stale: materialize {', '.join(f'{domain}/{name}' for name in stale)}"
            ]
            for stale, partitions in found.items()
            for partition in partitions
        }
        return result(faults, partitions=len(shards.keys(context.instance)))

    return check


def plan_is_current(instance: dg.DagsterInstance, workspace: Workspace) -> bool:
    """Whether the reference is planned as catalogue, files and settings are now, and Dagster knows its shards."""
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


def stale_partitions(
    instance: dg.DagsterInstance, workspace: Workspace, shards: ShardSet, assets: Collection[str] | None = None
) -> dict[tuple[str, ...], list[str]]:
    """Partitions by their missing and stale assets (of all, or of some); without a materialization they are missing."""
    today, every = Today(workspace, shards.domain), stages(shards.domain, workspace.variants(shards.domain))
    chosen = [asset for asset in every if assets is None or asset in assets]
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
