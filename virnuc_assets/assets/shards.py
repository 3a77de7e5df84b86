"""Group `shards`: plans reference sources and samples into shards, which become partitions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from virnuc_assets.assets.per_shard import OWNERS, attempt_each, raise_failures
from virnuc_assets.errors import VirnucError
from virnuc_assets.partitions import REFERENCE, SAMPLE_NAMES, SAMPLES, ShardSet, register, unregister_all_but
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.catalogue import Source
from virnuc_assets.sequences.plan_table import make_plan
from virnuc_assets.sequences.planning import Plan, source_name
from virnuc_assets.storage.digests import digest_of

GROUP = "shards"


def sample_sources(incoming: Path) -> list[Source]:
    """The files of the watched folder as sources; names that begin with a dot are still being written.

    Raises:
        VirnucError: two files would be named alike.
    """
    sources: dict[str, Source] = {}
    for path in sorted(incoming.iterdir()) if incoming.is_dir() else ():
        if path.is_file() and not path.name.startswith("."):
            source = Source(source_name(path), path)
            if other := sources.get(source.name):
                raise VirnucError(
                    f"{incoming}: {other.fasta.name!r} and {path.name!r} would both be {source.name!r}; rename one"
                )
            sources[source.name] = source
    return list(sources.values())


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The two planning assets."""

    def plan_reference(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """Plans every source of the catalogue into shards and registers them as partitions.

        A shard is a range of chunks of one source file. Sources that are no longer catalogued lose their partitions.
        """
        plans = _planned(context, workspace, REFERENCE, workspace.catalogue())
        _require_unique_records(plans)
        keys = [key for plan in plans.values() for key in plan.shards]
        removed = unregister_all_but(context.instance, REFERENCE.partitions, keys)
        return _result(plans, register(context.instance, REFERENCE.partitions, keys), removed)

    def plan_samples(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """Plans every file of the watched folder into shards and registers sample and shards as partitions.

        A broken file fails this asset by name; the other files are planned and registered all the same.
        """
        failures: dict[str, Exception] = {}
        plans = _planned(context, workspace, SAMPLES, sample_sources(workspace.settings.incoming), failures)
        added = register(context.instance, SAMPLES.partitions, [key for plan in plans.values() for key in plan.shards])
        register(context.instance, SAMPLE_NAMES, list(plans))
        raise_failures(failures, "samples that cannot be read; all others are planned")
        return _result(plans, added, [])

    return [_asset(REFERENCE, plan_reference), _asset(SAMPLES, plan_samples)]


def _asset(shards: ShardSet, body: Callable[..., dg.MaterializeResult[Any]]) -> dg.AssetsDefinition:
    return dg.asset(
        body,  # type: ignore[call-overload]
        key=shards.key("shard_plan"),
        group_name=GROUP,
        kinds={"fasta", "parquet"},
        owners=OWNERS,
        code_version="1",
        description=body.__doc__,
    )


def _planned(
    context: dg.AssetExecutionContext,
    workspace: Workspace,
    shards: ShardSet,
    sources: Sequence[Source],
    failures: dict[str, Exception] | None = None,
) -> dict[str, Plan]:
    by_name = {source.name: source for source in sources}
    failed: dict[str, Exception] = {} if failures is None else failures

    def plan(name: str) -> Plan:
        return make_plan(workspace.layout.plan(shards.domain, name), by_name[name], workspace.settings.sequences)

    plans = dict(attempt_each(by_name, plan, failed))
    if failures is None:
        raise_failures(failed, "reference sources that cannot be read")
    context.log.info(f"planned {len(plans)} of {len(by_name)} sources")
    return plans


def _require_unique_records(plans: dict[str, Plan]) -> None:
    seen: dict[str, str] = {}
    for source, plan in plans.items():
        for record_id in {piece.record_id for piece in plan.pieces}:
            if record_id in seen:
                raise VirnucError(
                    f"record {record_id!r} occurs in sources {seen[record_id]!r} and {source!r}; expected ids that are "
                    "unique over the whole catalogue, because the split and the merge join on them"
                )
            seen[record_id] = source


def _result(plans: dict[str, Plan], added: Sequence[str], removed: Sequence[str]) -> dg.MaterializeResult[Any]:
    pieces = [piece for plan in plans.values() for piece in plan.pieces]
    metadata: dict[str, Any] = {
        "sources": len(plans),
        "records": len({piece.record_id for piece in pieces}),
        "chunks": sum(piece.end_chunk - piece.first_chunk for piece in pieces),
        "shards": sum(len(plan.shards) for plan in plans.values()),
        "shards_added": len(added),
        "shards_removed": len(removed),
        "sources_sha256": {name: plan.sha256 for name, plan in plans.items()},
    }
    version = digest_of([[name, plan.sha256, plan.shards] for name, plan in plans.items()])
    return dg.MaterializeResult(metadata=metadata, data_version=dg.DataVersion(version))
