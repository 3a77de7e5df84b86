"""Group `shards`: plans reference sources and samples into shards, which become partitions."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.assets import refseq
from virnuc_assets.assets.attempts import attempt_each, raise_failures
from virnuc_assets.assets.per_shard import OWNERS
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import REFERENCE, SAMPLE_NAMES, SAMPLES, ShardSet, register, unregister_all_but
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.plan_table import make_plan, read_pieces
from virnuc_assets.sequences.planning import Piece, Plan
from virnuc_assets.sequences.shard_keys import source_name, source_of
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.tables import read_recipe

GROUP = "shards"


class PlanSamples(dg.Config):
    """Which files of the watched folder to plan: the sensor names those that are complete; a person plans all."""

    files: list[str] | None = None


def incoming_files(folder: Path) -> list[Path]:
    """Files of the watched folder, sorted; names that begin with a dot are still being written."""
    visible = (path for path in folder.glob("*") if path.is_file() and not path.name.startswith("."))
    return sorted(visible)


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The two planning assets."""

    def plan_reference(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """Plans every source of the catalogue into shards and registers them as partitions.

        A shard is a range of chunks of one source file. Sources that are no longer catalogued lose their partitions.
        A broken source fails this asset by name; the others are planned and registered all the same.
        """
        failures: dict[str, Exception] = {}
        plans = _planned(workspace, REFERENCE, workspace.catalogue(), failures)
        _require_unique_records(plans, _kept_plans(workspace, failures))
        added = register(context.instance, REFERENCE.partitions, _keys(plans))
        kept = [key for key in _registered(context, REFERENCE) if source_of(key) in failures]
        removed = unregister_all_but(context.instance, REFERENCE.partitions, [*_keys(plans), *kept])
        raise_failures(failures, "reference sources that cannot be read; all others are planned")
        return _result(workspace, REFERENCE, plans, added, removed)

    def plan_samples(context: dg.AssetExecutionContext, config: PlanSamples) -> dg.MaterializeResult[Any]:
        """Plans the files of the watched folder into shards and registers samples and shards as partitions.

        A broken file fails this asset by name; the others are planned and registered all the same.
        """
        failures: dict[str, Exception] = {}
        sources = _sample_sources(workspace.settings.incoming, config.files, failures)
        plans = _planned(workspace, SAMPLES, sources, failures)
        added = register(context.instance, SAMPLES.partitions, _keys(plans))
        others = [key for key in _registered(context, SAMPLES) if source_of(key) not in plans]
        removed = unregister_all_but(context.instance, SAMPLES.partitions, [*_keys(plans), *others])
        register(context.instance, SAMPLE_NAMES, list(plans))
        raise_failures(failures, "samples that cannot be read; all others are planned")
        return _result(workspace, SAMPLES, plans, added, removed)

    fetched = [refseq.RELEASE] if workspace.settings.refseq else []
    return [_asset(REFERENCE, plan_reference, fetched), _asset(SAMPLES, plan_samples, [])]


def _sample_sources(folder: Path, chosen: list[str] | None, failures: dict[str, Exception]) -> list[Source]:
    """The chosen files as sources; of two that would be named alike, the later one is a failure."""
    sources: dict[str, Source] = {}
    for path in incoming_files(folder):
        if chosen is None or path.name in chosen:
            try:
                source = Source(source_name(path), path)
            except VirnucError as error:
                failures[path.name] = error
                continue
            if other := sources.get(source.name):
                failures[path.name] = VirnucError(
                    f"{path}: named {source.name!r} as {other.fasta.name!r} is; rename one"
                )
            else:
                sources[source.name] = source
    return list(sources.values())


def _keys(plans: Mapping[str, Plan]) -> list[str]:
    return [key for plan in plans.values() for key in plan.shards]


def _registered(context: dg.AssetExecutionContext, shards: ShardSet) -> Sequence[str]:
    return list(context.instance.get_dynamic_partitions(str(shards.partitions.name)))


def _asset(
    shards: ShardSet, body: Callable[..., dg.MaterializeResult[Any]], deps: Sequence[dg.AssetKey]
) -> dg.AssetsDefinition:
    return dg.asset(
        body,  # type: ignore[call-overload]
        key=shards.key("shard_plan"),
        deps=deps,
        group_name=GROUP,
        kinds={"fasta", "parquet"},
        owners=OWNERS,
        code_version="1",
        description=inspect.getdoc(body),
    )


def _planned(
    workspace: Workspace, shards: ShardSet, sources: Sequence[Source], failures: dict[str, Exception]
) -> dict[str, Plan]:
    by_name = {source.name: source for source in sources}

    def plan(name: str) -> Plan:
        return make_plan(workspace.layout.plan(shards.domain, name), by_name[name], workspace.settings.sequences)

    return dict(attempt_each(by_name, plan, failures))


def _kept_plans(workspace: Workspace, failures: Mapping[str, Exception]) -> dict[str, list[Piece]]:
    """The plans that stay in force because their source cannot be read today."""
    kept = (name for name in failures if workspace.layout.plan("reference", name).is_file())
    return {name: read_pieces(workspace.layout, "reference", name) for name in kept}


def _require_unique_records(plans: Mapping[str, Plan], kept: Mapping[str, Sequence[Piece]]) -> None:
    seen: dict[str, str] = {}
    for source, pieces in {**kept, **{name: plan.pieces for name, plan in plans.items()}}.items():
        for record_id in {piece.record_id for piece in pieces if piece.fate == "planned"}:
            if record_id in seen:
                raise VirnucError(
                    f"record {record_id!r} occurs in sources {seen[record_id]!r} and {source!r}; expected ids that are "
                    "unique over the whole catalogue, because the split and the merge join on them"
                )
            seen[record_id] = source


def _result(
    workspace: Workspace, shards: ShardSet, plans: Mapping[str, Plan], added: Sequence[str], removed: Sequence[str]
) -> dg.MaterializeResult[Any]:
    pieces = [piece for plan in plans.values() for piece in plan.pieces]
    firsts = [piece for piece in pieces if not piece.first_chunk]  # of each record one
    records = Counter(piece.fate for piece in firsts)
    recipes = {name: read_recipe(workspace.layout.plan(shards.domain, name)) for name in plans}
    cds: Counter[str] = Counter()
    for recipe in recipes.values():
        cds.update(recipe["cds"])
    metadata: dict[str, Any] = {
        "sources": len(plans),
        "records": records.total(),
        "records_skipped": records["skipped"],
        "records_failed": records["failed"],
        "records_by_evidence": dict(Counter(piece.evidence for piece in firsts if piece.evidence)),
        "cds_by_treatment": dict(cds),
        "genbank_records_ignored": sum(recipe["genbank_records_ignored"] for recipe in recipes.values()),
        "chunks": sum(piece.chunks for piece in pieces),
        "shards": sum(len(plan.shards) for plan in plans.values()),
        "shards_added": len(added),
        "shards_removed": len(removed),
        "sources_sha256": {name: plan.sha256 for name, plan in plans.items()},
    }
    told = ("sha256", "genbank_sha256", "label", "group")
    version = digest_of([[name, *(recipes[name][key] for key in told), plans[name].shards] for name in plans])
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))
