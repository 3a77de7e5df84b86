"""Group `embeddings`: one table of vectors a shard for every encoder slot."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.per_shard import Outcome, ShardStage, Work, made_table, shard_asset
from virnuc_assets.assets.recipes import frames_digest
from virnuc_assets.encoders.checkpoints import find_checkpoint
from virnuc_assets.encoders.fingerprint import fingerprint, identity
from virnuc_assets.launch import GPU_OP_TAGS, GPU_POOL
from virnuc_assets.partitions import ShardSet
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import Domain
from virnuc_assets.storage.schemas import vector_dim
from virnuc_assets.storage.tables import read_schema

if TYPE_CHECKING:
    from virnuc_assets.encoders.loading import Encoder

GROUP = "embeddings"


def build_asset(workspace: Workspace, shards: ShardSet, slot: str) -> dg.AssetsDefinition:
    """The embeddings of one encoder slot for one set of shards."""
    spec, precision = workspace.encoder(slot), workspace.settings.encoding.precision
    on_device = spec.architecture != "kmer"
    stage = ShardStage(
        deps=[shards.key("translated_proteins")],
        group=GROUP,
        kinds=frozenset({"parquet", "pytorch" if on_device else "numpy"}),
        code_version=digest_of(identity(spec, precision)),
        pool=GPU_POOL if on_device else None,
        op_tags=GPU_OP_TAGS if on_device else {},
    )
    body = _embedding(workspace, shards.domain, slot)
    body.__doc__ = (
        f"Vectors of `{spec.column}` by {spec.name}, one a frame, in the order of the frames.\n\n"
        f"Mean over {spec.pooling}, in {precision}; loaded once a run, frames streamed in windows."
    )
    return shard_asset(workspace.layout, shards, f"{slot}_embeddings", stage, body)


def _embedding(workspace: Workspace, domain: Domain, slot: str) -> Callable[[], Work]:
    spec, layout, encoding = workspace.encoder(slot), workspace.layout, workspace.settings.encoding

    def embed() -> Work:
        folder = find_checkpoint(spec, layout.checkpoints)
        recipe = {"table": "embeddings", "encoder": fingerprint(spec, folder, encoding.precision)}

        @functools.cache  # once a run, and only if a shard needs it
        def encoder() -> "Encoder":
            from virnuc_assets.encoders.device_lock import hold_device
            from virnuc_assets.encoders.loading import load_for_run

            if spec.architecture != "kmer":
                hold_device(layout.locks, encoding.device, dg.get_dagster_logger().info)
            return load_for_run(spec, layout.checkpoints, encoding)

        def work(shard: str) -> Outcome:
            frames = layout.table(domain, "translated_proteins", shard)
            made: dict[str, Any] = {}

            def batches() -> Iterator[pa.Table]:
                from virnuc_assets.encoders.embedding import count_truncated, embed_windows, read_frames

                def windows() -> Iterator[pa.Table]:
                    for window in read_frames(encoder(), frames):
                        made["truncated"] += count_truncated(spec, window.column(spec.column).to_pylist())
                        yield window

                made.update(device=str(encoder().device), truncated=0, **asdict(encoder().tuning))
                yield from embed_windows(encoder(), windows())
                made["token_budget"] = encoder().token_budget

            path = layout.table(domain, f"{slot}_embeddings", shard)
            outcome = made_table(path, {**recipe, "frames": frames_digest(workspace, domain, shard)}, batches)
            facts = {"dim": vector_dim(read_schema(path)), "encoder": spec.name, "fingerprint": recipe["encoder"]}
            return outcome.with_metadata(**facts, **made)

        return work

    return embed
