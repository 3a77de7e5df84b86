"""Groups `embeddings` and `features`: a shard's vectors by each encoder, and those of a pair joined."""

import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, get_args

import dagster as dg
import numpy as np
import pyarrow as pa

from virnuc_assets.defs.automation import stage_condition
from virnuc_assets.defs.launchers.steps import GPU_POOL, gpu_op_tags
from virnuc_assets.defs.metadata import shown_facts
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, ShardSet, group_of
from virnuc_assets.defs.provenance import (
    CHUNKS,
    FRAMES,
    embeddings_provenance,
    encoder_fingerprint,
    encoder_version,
    features_provenance,
    planned_shard,
    shard_truth,
    variant_fingerprints,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import Body, Outcome, Work, made_table, sharded_asset
from virnuc_assets.encoders.registry import FINETUNED, Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.composition import composition_features
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.storage.digests import digest_words, sequence_digests
from virnuc_assets.storage.layout import Domain
from virnuc_assets.storage.merging import merge_features
from virnuc_assets.storage.reuse import Digests, KnownVectors, ShardVectors, read_sequences
from virnuc_assets.storage.schemas import vector_dim
from virnuc_assets.storage.tables import in_windows, is_made_by, read_schema, read_table
from virnuc_assets.workstation.device_lock import DeviceLock

if TYPE_CHECKING:
    from virnuc_assets.encoders.loading import Encoder


_LOG_EVERY_S = 30.0  # each line is an event


def build(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """Embeddings by each encoder, and features of each variant, for both domains."""
    assets = []
    for shards in (REFERENCE, SAMPLES):
        assets += [_embeddings_asset(workspace, shards, name) for name in workspace.encoder_names(shards.domain)]
        assets += [_features_asset(workspace, shards, variant) for variant in workspace.variants(shards.domain)]
    return assets


def _embeddings_asset(workspace: Workspace, shards: ShardSet, name: str) -> dg.AssetsDefinition:
    spec, precision = workspace.encoder(name), workspace.settings.encoding.precision

    def embed(of_run: Sequence[str], log: logging.Logger) -> Work:
        return EmbeddingRun(workspace, shards.domain, name, of_run, log).make

    embed.__doc__ = (
        f"Vectors of `{spec.column}` by {spec.name}, one per frame, in the order of the frames.\n\n"
        f"Mean over {spec.pooling}, in {precision}; loaded once per run, frames streamed in windows. A sequence "
        "that any table of this encoder holds already is copied from there.\n\n"
        "If a check fails, remove the table that metadata name and materialize it again; where vectors are still not "
        "finite, set precision to fp32."
    )
    return sharded_asset(
        workspace,
        shards,
        f"{name}_embeddings",
        embed,
        deps=[shards.key(FRAMES), *([dg.AssetKey(name)] if spec.checkpoint == FINETUNED else [])],
        group_name=group_of("embeddings", shards.domain),
        kinds={"parquet", "pytorch"},
        code_version=encoder_version(workspace, name),
        automation_condition=stage_condition() if name in workspace.kept_encoders(shards.domain) else None,
        pool=GPU_POOL,
        op_tags=gpu_op_tags(workspace.settings),
    )


class EmbeddingRun:
    """One encoder over the shards of one run; what is costly is done once, and only if a shard needs it."""

    def __init__(
        self, workspace: Workspace, domain: Domain, name: str, shards: Sequence[str], log: logging.Logger
    ) -> None:
        """Nothing is read but the checkpoint, for the encoder's fingerprint."""
        self._workspace, self._domain, self._name, self._shards, self._log = workspace, domain, name, shards, log
        self._spec, self._encoding = workspace.encoder(name), workspace.settings.encoding
        self._fingerprint = encoder_fingerprint(workspace, name)
        self._table = partial(workspace.layout.table, domain, f"{name}_embeddings")
        self._frames = partial(workspace.layout.table, domain, FRAMES)

    def make(self, shard: str) -> Outcome:
        """The embeddings table of a shard."""
        path, spec = self._table(shard), self._spec
        made: ShardVectors | None = None

        def batches() -> Iterator[pa.Table]:
            nonlocal made
            self._known.keep(path)
            embed = partial(self._embed, shard)
            made = ShardVectors(self._frames(shard), spec.column, spec.max_length, self._known, embed)
            yield from made.tables()

        outcome = made_table(path, self._provenance(shard), batches)
        facts: dict[str, Any] = {"dim": vector_dim(read_schema(path)), "encoder": spec.name}
        embedded = 0
        if made is not None:
            self._known.scan([path])
            embedded = made.embedded
            facts |= {"distinct": made.distinct, "truncated": made.truncated}
        if embedded:
            facts |= {"device": str(self._encoder.device), "token_budget": self._encoder.token_budget}
        counts = {"embedded": embedded, "reused": outcome.metadata["rows"] - embedded}
        return outcome.with_metadata(**facts, fingerprint=shown_facts(self._fingerprint), **counts)

    def _embed(self, shard: str, windows: Iterator[pa.Table]) -> Generator[pa.Table, None, None]:
        from virnuc_assets.encoders.embedding import embed_windows

        with self._lock.computing():
            encoder = self._encoder
            advance = partial(self._progress.advance, shard)
            yield from embed_windows(encoder, in_windows(windows, encoder.window_rows), advance)

    @cached_property
    def _lock(self) -> DeviceLock:
        return DeviceLock(self._workspace.layout.locks, self._encoding.device, self._log.info)

    @cached_property
    def _encoder(self) -> "Encoder":
        from virnuc_assets.encoders.golden import load_for_run

        return load_for_run(self._spec, self._workspace.layout.checkpoints, self._encoding)

    @cached_property
    def _progress(self) -> "Progress":
        return Progress(self._shards, self._log, self._name, self._known.unknown)

    @cached_property
    def _known(self) -> KnownVectors:
        """Known vectors of all sequences that the run may have to embed."""
        wanted = [words for shard in self._shards for words in self._wanted(shard)]
        words = np.concatenate([np.empty((0, 2), np.uint64), *wanted])
        known = KnownVectors(words, self._fingerprint, self._log.warning)
        own = [path for path in map(self._table, self._shards) if path.is_file()]
        asset, table = f"{self._name}_embeddings", self._workspace.layout.table
        others = [
            p for domain in get_args(Domain) for p in sorted(table(domain, asset, "any").parent.glob("*.parquet"))
        ]
        known.scan(dict.fromkeys([*own, *others]))  # a source that changed is found in its own tables
        return known

    def _wanted(self, shard: str) -> list[Digests]:
        """Digests of the sequences of a shard, if it is to be made and can be."""
        try:
            if is_made_by(self._table(shard), self._provenance(shard)):
                return []
            windows = read_sequences(self._frames(shard), self._spec.column)
            return [digest_words(sequence_digests(w.column(self._spec.column).to_pylist())) for w in windows]
        except VirnucError:
            return []  # it fails by itself, and is reported then

    def _provenance(self, shard: str) -> dict[str, Any]:
        return embeddings_provenance(self._workspace, self._domain, shard, self._fingerprint)


class Progress:
    """Counts the sequences of a run that go through an encoder, and logs them now and then."""

    def __init__(self, shards: Sequence[str], log: logging.Logger, name: str, total: int) -> None:
        """Time runs from here, when the encoder of this name is loaded; `total` sequences are to be embedded."""
        self._shards, self._log, self._name, self._total = shards, log, name, total
        self._started = self._logged = time.monotonic()
        self._done = 0

    def advance(self, shard: str, count: int) -> None:
        """So many more sequences went through, those of a shard."""
        self._done += count
        now = time.monotonic()
        if now - self._logged < _LOG_EVERY_S:
            return
        self._logged, rate = now, self._done / (now - self._started)
        left = timedelta(seconds=round(max(self._total - self._done, 0) / rate))
        self._log.info(
            f"{self._name}: shard {self._shards.index(shard) + 1} of {len(self._shards)} ({shard}): "
            f"{self._done:,} of {self._total:,} sequences of this run, {rate:,.3g}/s, about {left} left"
        )


def _features_asset(workspace: Workspace, shards: ShardSet, variant: Variant) -> dg.AssetsDefinition:
    if variant.is_kmer:
        rule = workspace.rule_of(variant).provenance
        body, deps = _composed(workspace, shards.domain, variant), [CHUNKS, "shards"]
        version = " ".join([encoder_version(workspace, variant.dna), *map(str, rule.values())])
    else:
        body, version = _merged(workspace, shards.domain, variant), "1"
        deps = [FRAMES, f"{variant.dna}_embeddings", f"{variant.protein}_embeddings"]
    return sharded_asset(
        workspace,
        shards,
        f"{variant.name}_features",
        body,
        deps=[shards.key(name) for name in deps],
        group_name=group_of("features", shards.domain),
        kinds={"parquet", "numpy"} if variant.is_kmer else {"parquet"},
        code_version=version,
        automation_condition=stage_condition() if variant in workspace.kept_variants(shards.domain) else None,
    )


def _composed(workspace: Workspace, domain: Domain, variant: Variant) -> Body:
    def compose(*_: object) -> Work:
        """Composition of every chunk and of its longest stretch without a stop: what the k-mer baseline reads.

        A row for each chunk with a stretch of at least min_orf_aa residues, whatever the frame rule; of a reference
        without chunks that hold an ambiguity code.

        If its check fails, materialize the chunks again, then it.
        """
        rule = workspace.rule_of(variant)

        def table(shard: str) -> pa.Table:
            chunks = read_table(workspace.layout.table(domain, CHUNKS, shard))
            # Without CDS evidence: a sample's chunks are between genes, too.
            frames, _ = open_frames(chunks, shard_truth(planned_shard(workspace, domain, shard)), rule)
            return composition_features(chunks, frames, rule.min_orf_aa)

        return _features_work(workspace, domain, variant, table, rule.provenance)

    return compose


def _merged(workspace: Workspace, domain: Domain, variant: Variant) -> Body:
    def merge(*_: object) -> Work:
        def table(shard: str) -> pa.Table:
            names = (FRAMES, f"{variant.dna}_embeddings", f"{variant.protein}_embeddings")
            frames, dna, protein = (read_table(workspace.layout.table(domain, name, shard)) for name in names)
            return merge_features(frames, dna, protein)

        return _features_work(workspace, domain, variant, table, {})

    merge.__doc__ = (
        f"Vectors of {variant.dna} and {variant.protein}, joined by frame_id in the order of the frames.\n\n"
        "An id that is missing in one table, or an embedding of another encoder than today's, is refused.\n\n"
        "If its check fails, materialize the embeddings of both encoders again, then it."
    )
    return merge


def _features_work(
    workspace: Workspace, domain: Domain, variant: Variant, table: Callable[[str], pa.Table], facts: Mapping[str, Any]
) -> Work:
    encoders = variant_fingerprints(workspace, variant)

    def work(shard: str) -> Outcome:
        provenance = features_provenance(workspace, domain, shard, variant, encoders)
        path, dims = workspace.layout.table(domain, f"{variant.name}_features", shard), provenance["dims"]
        outcome = made_table(path, provenance, lambda: [table(shard)])
        return outcome.with_metadata(
            dna_dim=dims["dna"], protein_dim=dims["protein"], merged_dim=sum(dims.values()), **facts
        )

    return work
