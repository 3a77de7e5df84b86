"""Group `embeddings`: one table of vectors a shard for every encoder."""

from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import dagster as dg
import numpy as np
import pyarrow as pa

from virnuc_assets.assets.progress import Progress
from virnuc_assets.defs.automation import stage_condition
from virnuc_assets.defs.partitions import ShardSet, group_of
from virnuc_assets.defs.provenance import FRAMES, embeddings_provenance, encoder_fingerprint, encoder_version
from virnuc_assets.defs.sharded_asset import Body, Outcome, ShardRun, ShardStage, Work, made_table, sharded_asset
from virnuc_assets.encoders.registry import FINETUNED
from virnuc_assets.errors import VirnucError
from virnuc_assets.launch import GPU_POOL, gpu_op_tags
from virnuc_assets.resources import Workspace
from virnuc_assets.storage.digests import digest_words, sequence_digests
from virnuc_assets.storage.layout import Domain
from virnuc_assets.storage.reuse import Digests, KnownVectors, ShardVectors, read_sequences
from virnuc_assets.storage.schemas import vector_dim
from virnuc_assets.storage.tables import is_made_by, read_schema
from virnuc_assets.storage.windows import in_windows

if TYPE_CHECKING:
    from virnuc_assets.encoders.loading import Encoder
    from virnuc_assets.workstation.device_lock import DeviceLock


def build_asset(workspace: Workspace, shards: ShardSet, name: str) -> dg.AssetsDefinition:
    """The embeddings of one encoder for one set of shards."""
    spec, precision = workspace.encoder(name), workspace.settings.encoding.precision
    on_device = spec.architecture != "kmer"
    trained_here = spec.checkpoint == FINETUNED
    stage = ShardStage(
        deps=[shards.key(FRAMES), *([dg.AssetKey(name)] if trained_here else [])],
        group=group_of("embeddings", shards.domain),
        kinds=frozenset({"parquet", "pytorch" if on_device else "numpy"}),
        code_version=encoder_version(workspace, name),
        condition=stage_condition() if name in workspace.kept_encoders(shards.domain) else None,
        pool=GPU_POOL if on_device else None,
        op_tags=gpu_op_tags(workspace.settings) if on_device else {},
    )
    body = _embedding(workspace, shards.domain, name)
    body.__doc__ = (
        f"Vectors of `{spec.column}` by {spec.name}, one a frame, in the order of the frames.\n\n"
        f"Mean over {spec.pooling}, in {precision}; loaded once a run, frames streamed in windows. A sequence that any "
        "table of this encoder holds already is copied from there."
    )
    return sharded_asset(workspace, shards, f"{name}_embeddings", stage, body)


def _embedding(workspace: Workspace, domain: Domain, name: str) -> Body:
    def embed(run: ShardRun) -> Work:
        return EmbeddingRun(workspace, domain, name, run).make

    return embed


class EmbeddingRun:
    """One encoder over the shards of one run; what is costly is done once, and only if a shard needs it."""

    def __init__(self, workspace: Workspace, domain: Domain, name: str, run: ShardRun) -> None:
        """Nothing is read but the checkpoint, for the encoder's fingerprint."""
        self._workspace, self._domain, self._name, self._run = workspace, domain, name, run
        self._spec, self._encoding = workspace.encoder(name), workspace.settings.encoding
        self._fingerprint = encoder_fingerprint(workspace, name)

    def make(self, shard: str) -> Outcome:
        """The embeddings table of a shard."""
        path, vectors = self._table(shard), list[ShardVectors]()

        def batches() -> Iterator[pa.Table]:
            self._known.keep(path)
            vectors.append(self._shard_vectors(shard))
            yield from vectors[0].tables()

        outcome = made_table(path, self._recipe(shard), batches)
        if vectors:
            self._known.scan([path])
        facts = {"dim": vector_dim(read_schema(path)), "encoder": self._spec.name, "fingerprint": self._fingerprint}
        return outcome.with_metadata(**facts, **self._counts(outcome.metadata["rows"], *vectors))

    def _shard_vectors(self, shard: str) -> ShardVectors:
        spec, embed = self._spec, partial(self._embed, shard)
        return ShardVectors(self._frames(shard), spec.column, spec.max_length, self._known, embed)

    def _counts(self, rows: int, made: ShardVectors | None = None) -> dict[str, Any]:
        """How many vectors went through the encoder now, and how many did not; how they did."""
        if made is None:
            return {"embedded": 0, "reused": rows}
        counts: dict[str, Any] = {"distinct": made.distinct, "truncated": made.truncated}
        if made.embedded:
            encoder = self._encoder
            counts |= {"device": str(encoder.device), "token_budget": encoder.token_budget}
        return {"embedded": made.embedded, "reused": rows - made.embedded, **counts}

    def _embed(self, shard: str, windows: Iterator[pa.Table]) -> Generator[pa.Table, None, None]:
        from virnuc_assets.encoders.embedding import embed_windows

        with self._device():
            encoder = self._encoder
            advance = partial(self._progress.advance, shard)
            yield from embed_windows(encoder, in_windows(windows, encoder.window_rows), advance)

    def _device(self) -> AbstractContextManager[None]:
        return nullcontext() if self._spec.architecture == "kmer" else self._lock.computing()

    @cached_property
    def _lock(self) -> "DeviceLock":
        from virnuc_assets.workstation.device_lock import DeviceLock

        return DeviceLock(self._workspace.layout.locks, self._encoding.device, self._run.log.info)

    @cached_property
    def _encoder(self) -> "Encoder":
        from virnuc_assets.encoders.golden import load_for_run

        return load_for_run(self._spec, self._workspace.layout.checkpoints, self._encoding)

    @cached_property
    def _progress(self) -> Progress:
        return Progress(self._run, self._name, self._known.unknown)

    @cached_property
    def _known(self) -> KnownVectors:
        """Known vectors of all sequences that the run may have to embed."""
        wanted = [words for shard in self._run.shards for words in self._wanted(shard)]
        known = KnownVectors(
            np.concatenate([np.empty((0, 2), np.uint64), *wanted]), self._fingerprint, self._run.log.warning
        )
        own = [path for path in map(self._table, self._run.shards) if path.is_file()]
        folders = [self._workspace.layout.table(domain, self._asset, "any").parent for domain in get_args(Domain)]
        others = [path for folder in folders for path in sorted(folder.glob("*.parquet"))]
        known.scan(dict.fromkeys([*own, *others]))  # a source that changed is found in its own tables
        return known

    def _wanted(self, shard: str) -> list[Digests]:
        """Digests of the sequences of a shard, if it is to be made and can be."""
        try:
            if is_made_by(self._table(shard), self._recipe(shard)):
                return []
            windows = read_sequences(self._frames(shard), self._spec.column)
            return [digest_words(sequence_digests(w.column(self._spec.column).to_pylist())) for w in windows]
        except VirnucError:
            return []  # it will fail by itself, and be told then

    @property
    def _asset(self) -> str:
        return f"{self._name}_embeddings"

    def _table(self, shard: str) -> Path:
        return self._workspace.layout.table(self._domain, self._asset, shard)

    def _frames(self, shard: str) -> Path:
        return self._workspace.layout.table(self._domain, FRAMES, shard)

    def _recipe(self, shard: str) -> dict[str, Any]:
        return embeddings_provenance(self._workspace, self._domain, shard, self._fingerprint)
