"""Group `shards`: plans reference sources into shards, which become partitions."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg

from virnuc_assets.assets import refseq
from virnuc_assets.assets.attempts import attempt_each, raise_failures
from virnuc_assets.assets.per_shard import OWNERS
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import REFERENCE, ShardSet, register, unregister_all_but
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.plan_table import make_plan, read_pieces
from virnuc_assets.sequences.planning import Piece, Plan
from virnuc_assets.sequences.shard_keys import source_of
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.tables import read_recipe

GROUP = "shards"


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The plan of the reference."""

    def plan_reference(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """Plans every source of the catalogue into shards and registers them as partitions.

        A shard is a range of chunks of one source file. Sources that are no longer catalogued lose their partitions.
        A broken source fails this asset by name; the others are planned and registered all the same.
        """
        failures: dict[str, Exception] = {}
        plans = _planned(workspace, REFERENCE, workspace.catalogue(), failures)
        _require_unique_records(plans, _kept_plans(workspace, failures))
        added = register(context.instance, REFERENCE.partitions, shard_keys(plans))
        registered = context.instance.get_dynamic_partitions(str(REFERENCE.partitions.name))
        kept = [key for key in registered if source_of(key) in failures]
        removed = unregister_all_but(context.instance, REFERENCE.partitions, [*shard_keys(plans), *kept])
        raise_failures(failures, "reference sources that cannot be read; all others are planned")
        return plan_result(workspace, REFERENCE, plans, added, removed)

    fetched = [refseq.RELEASE] if workspace.settings.refseq else []
    return [plan_asset(REFERENCE, plan_reference, fetched)]


def shard_keys(plans: Mapping[str, Plan]) -> list[str]:
    """Keys of all plans' shards."""
    return [key for plan in plans.values() for key in plan.shards]


def plan_asset(
    shards: ShardSet,
    body: Callable[..., dg.MaterializeResult[Any]],
    deps: Sequence[dg.AssetKey],
    pool: str | None = None,
) -> dg.AssetsDefinition:
    """The asset `shard_plan` of a set of shards; its description is the docstring of its body."""
    return dg.asset(
        body,  # type: ignore[call-overload]
        key=shards.key("shard_plan"),
        deps=deps,
        group_name=GROUP,
        kinds={"fasta", "parquet"},
        owners=OWNERS,
        code_version="1",
        description=inspect.getdoc(body),
        pool=pool,
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


def plan_result(
    workspace: Workspace, shards: ShardSet, plans: Mapping[str, Plan], added: Sequence[str], removed: Sequence[str]
) -> dg.MaterializeResult[Any]:
    """What a person sees of plans, and their data version."""
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
