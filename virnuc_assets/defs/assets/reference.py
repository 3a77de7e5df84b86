"""What assets that read the whole reference ask first: are all shards there, and made from today's inputs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.compute as pc

from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import (
    FRAMES,
    features_provenance,
    frames_digest,
    reference_version,
    variant_fingerprints,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.plan_table import read_plan
from virnuc_assets.sequences.planning import ShardPlan
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.schemas import evaluation_schema, features_schema, vector_dim
from virnuc_assets.storage.tables import content_digest, read_schema, require_table

_SHOWN = 10


def reference_tables(instance: dg.DagsterInstance, workspace: Workspace, asset: str) -> dict[str, Path]:
    """The tables of all reference shards, by shard.

    Raises:
        VirnucError: no shard is planned, or the table of some is missing; those are named.
    """
    shards = REFERENCE.keys(instance)
    tables = {shard: workspace.layout.table("reference", asset, shard) for shard in shards}
    missing = [shard for shard, path in tables.items() if not path.is_file()]
    if missing or not shards:
        raise VirnucError(
            f"reference/{asset}: {len(missing)} of {len(shards)} shards have no table "
            f"({', '.join(missing[:_SHOWN])}{', …' if len(missing) > _SHOWN else ''}); materialize them first"
        )
    return tables


def current_frames(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, Path]:
    """The frames tables of all reference shards, each made from today's plan of its source.

    Raises:
        VirnucError: a table is missing.
        TableMismatch: a table is stale.
    """
    tables = reference_tables(instance, workspace, FRAMES)
    for shard in tables:
        frames_digest(workspace, "reference", shard)
    return tables


def split_provenance(instance: dg.DagsterInstance, workspace: Workspace) -> dict[str, Any]:
    """What the split follows from today: all frames, the plans, the catalogue's names and dates, settings and tool.

    The split that it replaced is no part of it: that only says from where the splits of old records come.
    """
    from virnuc_assets.split.similarity import tool_version

    frames = current_frames(instance, workspace)
    catalogue = workspace.catalogue()
    return {
        "table": "split",
        "frames": digest_of({shard: content_digest(path) for shard, path in frames.items()}),
        "plan": reference_version(workspace.layout.plan("reference")),
        "names": digest_of(
            {source.name: [source.relatives, source.organism, str(source.date)] for source in catalogue}
        ),
        "similarity": tool_version(workspace.settings.split),
        "settings": workspace.settings.split.model_dump(mode="json"),
    }


def current_split(instance: dg.DagsterInstance, workspace: Workspace) -> Path:
    """The split table, made from today's frames, names and settings.

    Raises:
        TableMismatch: it is missing or stale.
    """
    path = workspace.layout.split
    require_table(path, require=split_provenance(instance, workspace))
    return path


def evaluation_provenance(features: Mapping[str, Path], split: Path, classifier_digest: str) -> dict[str, Any]:
    """What an evaluation follows from."""
    return {
        "table": "evaluation",
        "columns": evaluation_schema().names,
        "classifier": classifier_digest,
        "split": content_digest(split),
        "features": digest_of({shard: content_digest(path) for shard, path in features.items()}),
    }


def planned(workspace: Workspace) -> ShardPlan:
    """The plan of the reference, with those of its records that have chunks to be used."""
    plan = read_plan(workspace.layout.plan("reference"))
    return replace(plan, table=plan.table.filter(pc.equal(plan.table["status"], "planned")))


def record_sources(workspace: Workspace) -> dict[str, Source]:
    """The catalogued source of every planned record.

    Raises:
        VirnucError: a planned source has left the catalogue.
    """
    sources, plan = {source.name: source for source in workspace.catalogue()}, planned(workspace)
    if gone := sorted(plan.sources.keys() - sources.keys()):
        raise VirnucError(f"source {gone[0]!r} is planned, but not catalogued: materialize reference/shard_plan")
    return {segment.record_id: sources[segment.source] for segment in plan.segments}


def named_records(workspace: Workspace) -> dict[str, set[str]]:
    """Records that the catalogue joins: of one organism, or named as relatives."""
    named: dict[str, set[str]] = {}
    for record, source in record_sources(workspace).items():
        for kind, name in (("organism", source.organism), ("relatives", source.relatives)):
            if name:
                named.setdefault(f"{kind} {name}", set()).add(record)
    return named


def record_lengths(workspace: Workspace) -> dict[str, int]:
    """Length in nt of every planned reference record."""
    return {segment.record_id: segment.length_nt for segment in planned(workspace).segments}


def current_features(instance: dg.DagsterInstance, workspace: Workspace, variant: Variant) -> dict[str, Path]:
    """The features tables of a variant, each made from today's frames by today's encoders and equally wide.

    Raises:
        VirnucError: a table is missing.
        TableMismatch: a table is stale or of another width.
    """
    tables = reference_tables(instance, workspace, f"{variant.name}_features")
    encoders = variant_fingerprints(workspace, variant)
    schema = features_schema(vector_dim(read_schema(next(iter(tables.values())))))
    for shard, path in tables.items():
        require_table(path, schema, features_provenance(workspace, "reference", shard, variant, encoders))
    return tables
