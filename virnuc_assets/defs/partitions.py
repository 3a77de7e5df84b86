"""The two dynamic partition sets: packs of reference records, and samples."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
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

    def shards(self, layout: Layout, partition: str) -> list[str]:
        """Shards of a partition: a reference partition is one, a sample has one for each so many chunks.

        None of a sample that is not planned.
        """
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
) -> Iterator[list[str]]:
    """The wanted keys as ranges of neighbours, each of `longest` at most.

    Neighbours in the order in which they were registered, by which Dagster reads a range, and not in that of the keys.
    """
    chosen, keys = set(wanted), list[str]()
    for partition in [*instance.get_dynamic_partitions(str(shards.partitions.name)), None]:
        if partition is not None and partition in chosen and len(keys) < longest:
            keys.append(partition)
            continue
        if keys:
            yield keys
        keys = [partition] if partition is not None and partition in chosen else []


def range_tags(keys: Sequence[str]) -> dict[str, str]:
    """Tags of a run over the partitions from the first to the last of these."""
    return {"dagster/asset_partition_range_start": keys[0], "dagster/asset_partition_range_end": keys[-1]}
