"""The dynamic partition sets: shards of reference sources, shards of samples, and the samples themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from virnuc_assets.storage.layout import Domain

# Every event costs about 10 ms in SQLite; a run of this many partitions stays responsive.
MAX_PARTITIONS_PER_RUN = 200


@dataclass(frozen=True)
class ShardSet:
    """The shards of one domain; per-shard assets are built once and called for both."""

    domain: Domain
    partitions: dg.DynamicPartitionsDefinition

    def key(self, asset: str) -> dg.AssetKey:
        """Asset key of a per-shard stage in this domain."""
        return dg.AssetKey([self.domain, asset])


REFERENCE = ShardSet("reference", dg.DynamicPartitionsDefinition(name="reference_shards"))
SAMPLES = ShardSet("samples", dg.DynamicPartitionsDefinition(name="sample_shards"))
SAMPLE_NAMES = dg.DynamicPartitionsDefinition(name="samples")
# Of a sample as a whole, whatever its shards.
REPORTS = ShardSet("samples", SAMPLE_NAMES)


def register(
    instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition, keys: Sequence[str]
) -> list[str]:
    """Add the keys that are new, sorted so that ranges are contiguous; returns those added."""
    name = str(partitions.name)
    known = set(instance.get_dynamic_partitions(name))
    new = sorted(set(keys) - known)
    if new:
        instance.add_dynamic_partitions(name, new)
    return new


def unregister_all_but(
    instance: dg.DagsterInstance, partitions: dg.DynamicPartitionsDefinition, keys: Sequence[str]
) -> list[str]:
    """Delete keys that are no longer planned; their tables stay on disk, unread. Returns those deleted."""
    name = str(partitions.name)
    gone = sorted(set(instance.get_dynamic_partitions(name)) - set(keys))
    for key in gone:
        instance.delete_dynamic_partition(name, key)
    return gone
