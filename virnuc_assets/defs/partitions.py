"""The two dynamic partition sets: packs of reference records, and samples."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import dagster as dg

from virnuc_assets.sequences.plan_table import planned_shards
from virnuc_assets.storage.layout import Domain, Layout


@dataclass(frozen=True)
class ShardSet:
    """The partitions of one domain; per-shard assets are built once and called for both."""

    domain: Domain
    partitions: dg.DynamicPartitionsDefinition

    def key(self, asset: str) -> dg.AssetKey:
        """Asset key of a per-shard stage in this domain."""
        return dg.AssetKey([self.domain, asset])

    def keys(self, instance: dg.DagsterInstance) -> list[str]:
        """All partitions, sorted."""
        return sorted(instance.get_dynamic_partitions(str(self.partitions.name)))

    def keys_of_run(self, context: dg.AssetCheckExecutionContext) -> list[str]:
        """The partitions of a check's run; all of them where the check is run by itself."""
        of_run = context.has_partition_key or context.has_partition_key_range
        return list(context.partition_keys) if of_run else self.keys(context.instance)

    def shards_of_run(self, context: dg.AssetCheckExecutionContext, layout: Layout) -> list[str]:
        """Shards of those partitions."""
        return [shard for key in self.keys_of_run(context) for shard in self.shards(layout, key)]

    def shards(self, layout: Layout, partition: str) -> list[str]:
        """Shards of a partition: a reference partition is one, a sample has one per `shard_chunks` chunks, or none."""
        return [partition] if self.domain == "reference" else planned_shards(layout.plan("samples", partition))


REFERENCE = ShardSet("reference", dg.DynamicPartitionsDefinition(name="reference_shards"))
SAMPLES = ShardSet("samples", dg.DynamicPartitionsDefinition(name="samples"))


def group_of(stage: str, domain: Domain) -> str:
    """Group of a per-shard asset: those of the reference and of samples are apart on the lineage page."""
    return stage if domain == "reference" else f"sample_{stage}"


def register(instance: dg.DagsterInstance, shards: ShardSet, keys: Sequence[str]) -> list[str]:
    """Add the keys that are new, sorted so that ranges are contiguous; returns those added."""
    known = set(shards.keys(instance))
    new = sorted(set(keys) - known)
    if new:
        instance.add_dynamic_partitions(str(shards.partitions.name), new)
    return new


def unregister_all_but(instance: dg.DagsterInstance, shards: ShardSet, keys: Sequence[str]) -> list[str]:
    """Delete keys that are no longer planned; their tables stay on disk, unread. Returns those deleted."""
    gone = sorted(set(shards.keys(instance)) - set(keys))
    for key in gone:
        instance.delete_dynamic_partition(str(shards.partitions.name), key)
    return gone


def contiguous_ranges(
    instance: dg.DagsterInstance, shards: ShardSet, wanted: Collection[str], longest: int
) -> list[list[str]]:
    """The wanted keys as ranges of neighbours in the order in which they were registered, each of `longest` at most."""
    definition = shards.partitions
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        found = definition.subset_with_partition_keys(wanted).get_partition_key_ranges(definition)
        ranges = [definition.get_partition_keys_in_range(each) for each in found]
    return [list(keys[start : start + longest]) for keys in ranges for start in range(0, len(keys), longest)]


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Tags of a run over the partitions from the first to the last of these."""
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
