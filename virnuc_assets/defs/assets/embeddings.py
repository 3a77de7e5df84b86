"""Groups `embeddings` and `features`: a shard's vectors by each encoder, and those of a pair joined."""

import time
from collections.abc import Generator, Iterator
from datetime import timedelta
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import dagster as dg
import numpy as np
import pyarrow as pa

from virnuc_assets.defs.automation import stage_condition
from virnuc_assets.defs.launchers.steps import GPU_POOL, gpu_op_tags
from virnuc_assets.defs.metadata import shown_facts
from virnuc_assets.defs.partitions import ShardSet, group_of
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
from virnuc_assets.defs.sharded_asset import Outcome, ShardRun, Work, made_table, sharded_asset
from virnuc_assets.encoders.registry import FINETUNED, Variant
from virnuc_assets.errors import VirnucError
from virnuc_assets.sequences.composition import WIDTHS, composition_features
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.storage.digests import digest_words, sequence_digests
from virnuc_assets.storage.layout import Domain
from virnuc_assets.storage.merging import merge_features
from virnuc_assets.storage.reuse import Digests, KnownVectors, ShardVectors, read_sequences
from virnuc_assets.storage.schemas import vector_dim
from virnuc_assets.storage.tables import in_windows, is_made_by, read_schema, read_table

if TYPE_CHECKING:
    from virnuc_assets.encoders.loading import Encoder
    from virnuc_assets.workstation.device_lock import DeviceLock


_LOG_EVERY_S = 30.0  # each line is an event


def build_assets(workspace: Workspace, shards: ShardSet) -> list[dg.AssetsDefinition]:
    """Embeddings by each encoder, and features of each variant, for one set of shards."""
    embeddings = [_embeddings_asset(workspace, shards, name) for name in workspace.encoder_names(shards.domain)]
    return embeddings + [_features_asset(workspace, shards, each) for each in workspace.variants(shards.domain)]


def _embeddings_asset(workspace: Workspace, shards: ShardSet, name: str) -> dg.AssetsDefinition:
    spec, precision = workspace.encoder(name), workspace.settings.encoding.precision

    def embed(run: ShardRun) -> Work:
        return EmbeddingRun(workspace, shards.domain, name, run).make

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

    def __init__(self, workspace: Workspace, domain: Domain, name: str, run: ShardRun) -> None:
        """Nothing is read but the checkpoint, for the encoder's fingerprint."""
        self._workspace, self._domain, self._name, self._run = workspace, domain, name, run
        self._spec, self._encoding = workspace.encoder(name), workspace.settings.encoding
        self._fingerprint = encoder_fingerprint(workspace, name)

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
    def _lock(self) -> "DeviceLock":
        from virnuc_assets.workstation.device_lock import DeviceLock

        return DeviceLock(self._workspace.layout.locks, self._encoding.device, self._run.log.info)

    @cached_property
    def _encoder(self) -> "Encoder":
        from virnuc_assets.encoders.golden import load_for_run

        return load_for_run(self._spec, self._workspace.layout.checkpoints, self._encoding)

    @cached_property
    def _progress(self) -> "Progress":
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
            if is_made_by(self._table(shard), self._provenance(shard)):
                return []
            windows = read_sequences(self._frames(shard), self._spec.column)
            return [digest_words(sequence_digests(w.column(self._spec.column).to_pylist())) for w in windows]
        except VirnucError:
            return []  # it fails by itself, and is reported then

    @property
    def _asset(self) -> str:
        return f"{self._name}_embeddings"

    def _table(self, shard: str) -> Path:
        return self._workspace.layout.table(self._domain, self._asset, shard)

    def _frames(self, shard: str) -> Path:
        return self._workspace.layout.table(self._domain, FRAMES, shard)

    def _provenance(self, shard: str) -> dict[str, Any]:
        return embeddings_provenance(self._workspace, self._domain, shard, self._fingerprint)


class Progress:
    """Counts the sequences of a run that go through an encoder, and logs them now and then."""

    def __init__(self, run: ShardRun, name: str, total: int) -> None:
        """Time runs from here, so this is to be made when the encoder is loaded.

        Args:
            run: whose log it is.
            name: the encoder's.
            total: sequences of the run that are to be embedded.
        """
        self._run, self._name, self._total = run, name, total
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
        number, shards = self._run.shards.index(shard) + 1, len(self._run.shards)
        self._run.log.info(
            f"{self._name}: shard {number} of {shards} ({shard}): {self._done:,} of {self._total:,} sequences of this "
            f"run, {rate:,.3g}/s, about {left} left"
        )


def _composition_asset(workspace: Workspace, shards: ShardSet, variant: Variant) -> dg.AssetsDefinition:
    layout, domain = workspace.layout, shards.domain

    def compose(_: ShardRun) -> Work:
        """Composition of every chunk and of its longest stretch without a stop: what the k-mer baseline reads.

        A row for each chunk with a stretch of at least min_orf_aa residues, whatever the frame rule; of a reference
        without chunks that hold an ambiguity code.

        If its check fails, materialize the chunks again, then it.
        """
        encoders, rule = variant_fingerprints(workspace, variant), workspace.rule_of(variant)

        def work(shard: str) -> Outcome:
            provenance = features_provenance(workspace, domain, shard, variant, encoders)

            def batches() -> Iterator[pa.Table]:
                chunks = read_table(layout.table(domain, CHUNKS, shard))
                # Without CDS evidence: a sample's chunks are between genes, too.
                frames, _ = open_frames(chunks, shard_truth(planned_shard(workspace, domain, shard)), rule)
                yield composition_features(chunks, frames, rule.min_orf_aa)

            outcome = made_table(layout.table(domain, f"{variant.name}_features", shard), provenance, batches)
            dims = {f"{side}_dim": dim for side, dim in WIDTHS.items()}
            return outcome.with_metadata(**dims, merged_dim=sum(WIDTHS.values()), **rule.provenance)

        return work

    return sharded_asset(
        workspace,
        shards,
        f"{variant.name}_features",
        compose,
        deps=[shards.key(CHUNKS), shards.key("shards")],
        group_name=group_of("features", domain),
        kinds={"parquet", "numpy"},
        code_version=" ".join(
            [encoder_version(workspace, variant.dna), *map(str, workspace.rule_of(variant).provenance.values())]
        ),
        automation_condition=stage_condition() if variant in workspace.kept_variants(domain) else None,
    )


def _features_asset(workspace: Workspace, shards: ShardSet, variant: Variant) -> dg.AssetsDefinition:
    if variant.is_kmer:
        return _composition_asset(workspace, shards, variant)
    layout, domain = workspace.layout, shards.domain

    def merge(_: ShardRun) -> Work:
        encoders = variant_fingerprints(workspace, variant)

        def work(shard: str) -> Outcome:
            provenance = features_provenance(workspace, domain, shard, variant, encoders)

            def batches() -> Iterator[pa.Table]:
                frames = read_table(layout.table(domain, FRAMES, shard), workspace.frame_rule(domain).schema)
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
        "An id that is missing in one table, or an embedding of another encoder than today's, is refused.\n\n"
        "If its check fails, materialize the embeddings of both encoders again, then it."
    )
    return sharded_asset(
        workspace,
        shards,
        f"{variant.name}_features",
        merge,
        deps=[shards.key(name) for name in (FRAMES, f"{variant.dna}_embeddings", f"{variant.protein}_embeddings")],
        group_name=group_of("features", domain),
        kinds={"parquet"},
        code_version="1",
        automation_condition=stage_condition() if variant in workspace.kept_variants(domain) else None,
    )
