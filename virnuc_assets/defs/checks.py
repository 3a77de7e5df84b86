"""Asset checks, named for the property that passes; each reads the stored tables.

They are for people and block within a run. Whatever would build on a wrong table calls the same validators itself.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.defs.metadata import shown_table
from virnuc_assets.defs.partitions import ShardSet
from virnuc_assets.defs.provenance import planned_shard
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.sequences.ledger import shard_ledger_faults
from virnuc_assets.sequences.plan_table import read_plan
from virnuc_assets.sequences.planning import plan_faults
from virnuc_assets.storage.merging import vectors_of
from virnuc_assets.storage.schemas import chunks_schema, ledger_schema, vector_dim
from virnuc_assets.storage.tables import TableMismatch, read_ids, read_rows, read_schema, read_table

# What a validator finds wrong with one shard, a sentence each.
Validator = Callable[[str], Iterable[str]]
_SHOWN = 20


def build_shard_checks(workspace: Workspace, shards: ShardSet) -> list[dg.AssetChecksDefinition]:
    """Checks of every per-shard asset of one domain."""
    layout, domain = workspace.layout, shards.domain

    def chunks(shard: str) -> Iterator[str]:
        """The sequence of every chunk is as long as its positions say, and not longer than chunks are."""
        table = read_table(layout.table(domain, "chunked_fasta", shard), chunks_schema())
        longest = workspace.settings.sequences.chunk_length
        for row in table.to_pylist():
            length_nt = row["end_nt"] - row["start_nt"]
            if length_nt != len(row["sequence"]) or not 0 < length_nt <= longest:
                bases = len(row["sequence"])
                yield f"{row['chunk_id']}: {length_nt} nt by position, {bases} bases, at most {longest}"

    def open_frames(shard: str) -> Iterator[str]:
        """No protein of a frame is empty or has a stop."""
        table = read_table(layout.table(domain, "translated_proteins", shard), workspace.frame_rule(domain).schema)
        for row in table.select(["frame_id", "protein"]).to_pylist():
            if not row["protein"] or "*" in row["protein"]:
                yield f"{row['frame_id']}: protein {row['protein'][:30]!r}"

    def ledger(shard: str) -> Iterator[str]:
        """The ledger has a line for every planned segment, and its chunks and frames add up to those on disk."""
        table = read_table(layout.table(domain, "ledger", shard), ledger_schema())
        frames = read_rows(layout.table(domain, "translated_proteins", shard))
        yield from shard_ledger_faults(table, planned_shard(workspace, domain, shard).table, frames)

    checks = [
        _plan_check(workspace, shards),
        _shard_check(workspace, shards, "chunked_fasta", "chunk_lengths_match_positions", chunks),
        _shard_check(workspace, shards, "translated_proteins", "frames_are_open", open_frames),
        _shard_check(workspace, shards, "translated_proteins", "ledger_sums_hold", ledger),
    ]
    for name in workspace.encoder_names(shards.domain):
        checks += _embedding_checks(workspace, shards, name)
    checks += [_features_check(workspace, shards, variant) for variant in workspace.variants(shards.domain)]
    return checks


def _plan_check(workspace: Workspace, shards: ShardSet) -> dg.AssetChecksDefinition:
    layout, domain = workspace.layout, shards.domain

    @dg.asset_check(asset=shards.key("shard_plan"), name="plans_cover_every_chunk_once", blocking=True)
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """In every plan, the segments of a record follow each other from its first chunk to its last."""
        keys = [""] if domain == "reference" else shards.keys(context.instance)
        plans = [layout.plan(domain, key) for key in keys]
        faults = {path.stem: found for path in plans if (found := list(_plan_faults(path)))}
        return result(faults, plans=len(plans))

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
        yield from (
            f"{frame_id}: vector is not finite" for frame_id in table.column("frame_id").filter(bad).to_pylist()
        )

    def ids(shard: str) -> Iterator[str]:
        """There is one vector for every frame, in the order of the frames."""
        frames = layout.table(domain, "translated_proteins", shard)
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
        chunks = read_table(layout.table(domain, "chunked_fasta", shard), columns=["chunk_id"])["chunk_id"].to_pylist()
        found = set(features["chunk_id"].to_pylist())
        if features["chunk_id"].to_pylist() != [chunk for chunk in chunks if chunk in found]:
            yield "chunk_ids are not some of those of the chunks table, each once and in its order"
        vectors = vectors_of(features)
        if not ((vectors >= 0) & (vectors <= 1)).all():
            yield "a value is not between 0 and 1"

    if variant.is_kmer:
        return _shard_check(workspace, shards, asset, "one_composition_for_each_chunk", composed)

    def merged(shard: str) -> Iterator[str]:
        """Features have the frames of both embeddings in their order, and the columns of both."""
        features = layout.table(domain, asset, shard)
        embeddings = [layout.table(domain, f"{name}_embeddings", shard) for name in (variant.dna, variant.protein)]
        width, dims = vector_dim(read_schema(features)), [vector_dim(read_schema(path)) for path in embeddings]
        if width != sum(dims):
            yield f"width {width}, expected {dims[0]} + {dims[1]}"
        found = read_ids(features)
        yield from (f"frame_ids differ from those of {path}" for path in embeddings if read_ids(path) != found)

    return _shard_check(workspace, shards, asset, "merged_ids_match", merged)


def _shard_check(
    workspace: Workspace, shards: ShardSet, asset: str, name: str, validate: Validator
) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=shards.key(asset), name=name, blocking=True, description=inspect.getdoc(validate))
    def check(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        keys = shards_of_run(context, workspace, shards)
        faults = {key: found for key in keys if (found := list(validate(key)))}
        return result(faults, shards=len(keys))

    return check


def partitions_of_run(context: dg.AssetCheckExecutionContext, shards: ShardSet) -> Sequence[str]:
    """The run's partitions; all of them where the check is run by itself."""
    if context.has_partition_key or context.has_partition_key_range:
        return list(context.partition_keys)
    return shards.keys(context.instance)


def shards_of_run(context: dg.AssetCheckExecutionContext, workspace: Workspace, shards: ShardSet) -> list[str]:
    """Shards of the run's partitions."""
    layout = workspace.layout
    return [shard for key in partitions_of_run(context, shards) for shard in shards.shards(layout, key)]


def result(
    faults: dict[str, list[str]],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    **facts: Any,  # noqa: ANN401
) -> dg.AssetCheckResult:
    """Passed without faults; otherwise the first of them are shown and all are counted."""
    shown = [{"where": where, "fault": fault} for where, found in faults.items() for fault in found][:_SHOWN]
    first = {"first_faults": shown_table(shown)} if shown else {}
    metadata = {**facts, "faults": sum(map(len, faults.values())), **first}
    return dg.AssetCheckResult(passed=not faults, severity=severity, metadata=metadata)
