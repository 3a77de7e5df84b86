"""Group `shards`: packs the records of the reference into shards, which become partitions."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from virnuc_assets.defs.assets import refseq
from virnuc_assets.defs.automation import plan_condition
from virnuc_assets.defs.metadata import shown_table
from virnuc_assets.defs.partitions import REFERENCE, ShardSet, group_of, register, unregister_all_but
from virnuc_assets.defs.provenance import plan_digest, reference_version
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import DATA_VERSION, OWNERS, joined_version, raise_failures, recorded_versions
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.plan_table import LABELS, plan_reference, read_shard
from virnuc_assets.sequences.planning import ShardPlan, rows_of, whole_records
from virnuc_assets.storage.digests import digest_of

PLAN, SHARDS = "shard_plan", "shards"


class PlanReference(dg.Config):
    """What to pack again: labels (`viral`, `host`) whose records all go into new shards, e.g. after many were removed.

    All of their frames and features are written again; known vectors are copied.
    """

    repack: list[str] = []


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition | dg.AssetSpec]:
    """The plan of the reference, and its shards."""
    layout, settings = workspace.layout, workspace.settings

    @dg.asset(
        key=REFERENCE.key(PLAN),
        deps=[refseq.RELEASE] if settings.refseq else [],
        group_name=group_of(SHARDS, REFERENCE.domain),
        kinds={"fasta", "parquet"},
        owners=OWNERS,
        code_version=digest_of(settings.sequences.of_plans),
        automation_condition=plan_condition(settings.automation.reembed_cron),
    )
    def reference_plan(
        context: dg.AssetExecutionContext, config: PlanReference
    ) -> Iterator[dg.AssetMaterialization | dg.MaterializeResult[Any]]:
        """Packs the catalogue's records into shards of one label across source files, and registers them as partitions.

        Unchanged records keep their shard; new ones go into new shards. Files that nobody wrote to are not read again.
        A broken source fails this asset by name; the others are planned and registered all the same, and its records
        of before stay planned. `repack: ["viral"]` in the run's config packs a label again.

        If it fails, correct or remove the files that it names; if its check fails, materialize it again.
        """
        if unknown := sorted(set(config.repack) - set(LABELS)):
            raise VirnucError(f"repack: {unknown[0]!r} is no label; expected some of {', '.join(LABELS)}")
        repack = [label for label in LABELS if label in config.repack]
        path = layout.plan("reference")
        plan, failures = plan_reference(path, workspace.catalogue(), settings.sequences, repack)
        added = register(context.instance, REFERENCE, plan.shards)
        removed = unregister_all_but(context.instance, REFERENCE, plan.shards)
        versions = {shard: [plan_digest(read_shard(path, shard))] for shard in plan.shards}
        yield from changed_partitions(context.instance, REFERENCE, versions)
        raise_failures(failures, "reference sources that cannot be read; all others are planned")
        facts = {"shards_added": len(added), "shards_removed": len(removed)}
        version = dg.DataVersion(reference_version(path))
        yield dg.MaterializeResult(metadata={**_facts(plan), **facts}, data_version=version)

    return [reference_plan, shards_spec(REFERENCE, "Packs of reference records of one label, as they were planned.")]


def shards_spec(shards: ShardSet, description: str) -> dg.AssetSpec:
    """The partitions that a plan makes: a materialization of one says that its records changed."""
    return dg.AssetSpec(
        shards.key(SHARDS),
        deps=[shards.key(PLAN)],
        description=f"{description} Recorded by the run of shard_plan, for each partition whose records changed.\n\n"
        "If its check fails, tables were removed or inputs changed: materialize what it names.",
        group_name=group_of(SHARDS, shards.domain),
        kinds={"parquet"},
        owners=OWNERS,
        partitions_def=shards.partitions,
    )


def changed_partitions(
    instance: dg.DagsterInstance, shards: ShardSet, versions: Mapping[str, list[str]]
) -> Iterator[dg.AssetMaterialization]:
    """An event for each partition whose records are not those of its latest event.

    Compared with what Dagster recorded, so that what a killed run did not record is recorded by the next.

    Args:
        instance: Dagster's.
        shards: the partition set.
        versions: digests of the shards of each partition.
    """
    key = shards.key(SHARDS)
    recorded = recorded_versions(instance, key, list(versions))
    for partition, digests in versions.items():
        if recorded.get(partition) != (version := joined_version(digests)):
            yield dg.AssetMaterialization(
                key, partition=partition, metadata={"shards": len(digests)}, tags={DATA_VERSION: version}
            )


def _counts(name: str, counts: Mapping[str, int]) -> dg.TableMetadataValue:
    return shown_table(({name: value, "count": count} for value, count in counts.items()), (name, "count"))


def _facts(plan: ShardPlan) -> dict[str, Any]:
    """What a person sees of a plan."""
    records = rows_of(whole_records(plan.table))
    statuses = Counter(record.status for record in records)
    cds: Counter[str] = Counter()
    for source in plan.sources.values():
        cds.update(source.cds or {})
    return {
        "sources": len(plan.sources),
        "records": len(records),
        "records_skipped": statuses["skipped"],
        "records_failed": statuses["failed"],
        "records_by_evidence": _counts("evidence", Counter(one.evidence for one in records if one.evidence)),
        "cds_by_treatment": _counts("treatment", cds),
        "genbank_records_ignored": sum(source.genbank_records_ignored for source in plan.sources.values()),
        "chunks": sum(record.chunks for record in records),
        "shards": len(plan.shards),
        "sources_sha256": digest_of({name: source.sha256 for name, source in plan.sources.items()}),
    }
