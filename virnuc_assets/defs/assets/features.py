"""Group `features`: nucleotide and protein vectors of a shard joined for one classifier."""

from collections.abc import Iterator

import dagster as dg
import pyarrow as pa

from virnuc_assets.defs.automation import stage_condition
from virnuc_assets.defs.partitions import ShardSet, group_of
from virnuc_assets.defs.provenance import FRAMES, features_provenance, variant_fingerprints
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import Outcome, ShardRun, ShardStage, Work, made_table, sharded_asset
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.storage.merging import merge_features
from virnuc_assets.storage.schemas import frames_schema
from virnuc_assets.storage.tables import read_table


def build_asset(workspace: Workspace, shards: ShardSet, variant: Variant) -> dg.AssetsDefinition:
    """The features of one variant for one set of shards."""
    layout, domain = workspace.layout, shards.domain

    def merge(_: ShardRun) -> Work:
        encoders = variant_fingerprints(workspace, variant)

        def work(shard: str) -> Outcome:
            provenance = features_provenance(workspace, domain, shard, variant, encoders)

            def batches() -> Iterator[pa.Table]:
                frames = read_table(layout.table(domain, FRAMES, shard), frames_schema())
                dna, protein = (
                    read_table(layout.table(domain, f"{name}_embeddings", shard))
                    for name in (variant.dna, variant.protein)
                )
                yield merge_features(frames, dna, protein)

            outcome = made_table(layout.table(domain, f"{variant.name}_features", shard), provenance, batches)
            dims = provenance["dims"]
            return outcome.with_metadata(
                dna_dim=dims["dna"], protein_dim=dims["protein"], merged_dim=sum(dims.values())
            )

        return work

    merge.__doc__ = (
        f"Vectors of {variant.dna} and {variant.protein}, joined by frame_id in the order of the frames.\n\n"
        "An id that is missing on one side, or an embedding of another encoder than today's, is refused."
    )
    stage = ShardStage(
        deps=[shards.key(name) for name in (FRAMES, f"{variant.dna}_embeddings", f"{variant.protein}_embeddings")],
        group=group_of("features", domain),
        kinds=frozenset({"parquet"}),
        code_version="1",
        condition=stage_condition() if variant in workspace.kept_variants(domain) else None,
    )
    return sharded_asset(workspace, shards, f"{variant.name}_features", stage, merge)
