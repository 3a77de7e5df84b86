"""Group `features`: nucleotide and protein vectors of a shard joined for one classifier."""

from collections.abc import Iterator

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.per_shard import Outcome, ShardRun, ShardStage, Work, made_table, shard_asset
from virnuc_assets.assets.recipes import features_recipe, variant_fingerprints
from virnuc_assets.encoders.registry import Variant
from virnuc_assets.partitions import ShardSet
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.merging import merge_features
from virnuc_assets.storage.schemas import frames_schema, vector_dim
from virnuc_assets.storage.tables import content_digest, read_schema, read_table

GROUP = "features"


def build_asset(workspace: Workspace, shards: ShardSet, variant: Variant) -> dg.AssetsDefinition:
    """The features of one variant for one set of shards."""
    layout, domain = workspace.layout, shards.domain

    def merge(_: ShardRun) -> Work:
        encoders = variant_fingerprints(workspace, variant)

        def work(shard: str) -> Outcome:
            recipe = features_recipe(workspace, domain, shard, encoders)
            sides = {"dna": variant.dna, "protein": variant.protein}
            paths = {side: layout.table(domain, f"{name}_embeddings", shard) for side, name in sides.items()}
            dims = {side: vector_dim(read_schema(path)) for side, path in paths.items()}

            def batches() -> Iterator[pa.Table]:
                frames = read_table(layout.table(domain, "translated_proteins", shard), frames_schema())
                tables = {
                    side: read_table(path, require={"frames": recipe["frames"], "encoder": encoders[side]})
                    for side, path in paths.items()
                }
                yield merge_features(frames, tables["dna"], tables["protein"])

            contents = {side: content_digest(path) for side, path in paths.items()}
            full_recipe = {**recipe, "embeddings": contents, "dims": dims}
            outcome = made_table(layout.table(domain, f"{variant.name}_features", shard), full_recipe, batches)
            return outcome.with_metadata(
                dna_dim=dims["dna"], protein_dim=dims["protein"], merged_dim=sum(dims.values())
            )

        return work

    merge.__doc__ = (
        f"Vectors of {variant.dna} and {variant.protein}, joined by frame_id in the order of the frames.\n\n"
        "An id that is missing on one side, or an embedding of another encoder than today's, is refused."
    )
    stage = ShardStage(
        deps=[
            shards.key(name)
            for name in ("translated_proteins", f"{variant.dna}_embeddings", f"{variant.protein}_embeddings")
        ],
        group=GROUP,
        kinds=frozenset({"parquet"}),
        code_version="1",
    )
    return shard_asset(layout, shards, f"{variant.name}_features", stage, merge)
