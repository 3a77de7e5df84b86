"""Group `sequences`: the chunked FASTA of a shard, its open frames and its ledger."""

import functools
from collections.abc import Iterator, Sequence

import dagster as dg
import pyarrow as pa

from virnuc_assets.assets.per_shard import Body, Outcome, ShardRun, ShardStage, Work, made_table, shard_asset
from virnuc_assets.assets.recipes import chunks_recipe, frames_recipe, todays_plan
from virnuc_assets.partitions import ShardSet
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.accounting import ledger_totals
from virnuc_assets.sequences.chunk_table import ChunkReader
from virnuc_assets.sequences.frame_table import Truth, open_frames
from virnuc_assets.sequences.ledger import ledger_table
from virnuc_assets.sequences.plan_table import PlannedSource, planned_proteins
from virnuc_assets.sequences.planning import Piece
from virnuc_assets.storage.layout import Domain
from virnuc_assets.storage.tables import is_made_by, read_table, write_table

GROUP = "sequences"
# Threads share Python's lock in a part of the work: more would wait for each other. More runs scale further.
_THREADS = 4


def build_assets(workspace: Workspace, shards: ShardSet) -> list[dg.AssetsDefinition]:
    """Chunking and translation for one set of shards."""
    layout, kinds = workspace.layout, frozenset({"fasta", "parquet"})
    chunked, translated = "chunked_fasta", "translated_proteins"
    chunk_stage = ShardStage([shards.key("shard_plan")], GROUP, kinds, "2")
    frame_stage = ShardStage([shards.key(chunked), shards.key("shard_plan")], GROUP, kinds, "2", threads=_THREADS)
    return [
        shard_asset(layout, shards, chunked, chunk_stage, _chunking(workspace, shards.domain)),
        shard_asset(layout, shards, translated, frame_stage, _translation(workspace, shards.domain)),
    ]


def _chunking(workspace: Workspace, domain: Domain) -> Body:
    layout = workspace.layout

    def chunk(_: ShardRun) -> Work:
        """Chunks of a shard's records, cut as VirNucPro cuts them; the shard is read from its planned source.

        Shards of one source that are made in one run are read in one pass. A file that changed since it was planned
        is refused.
        """
        opened = functools.lru_cache(maxsize=1)(ChunkReader)  # one file at a time: that of the shard before, if any

        def work(shard: str) -> Outcome:
            source, pieces = todays_plan(workspace, domain, shard)

            def batches() -> Iterator[pa.Table]:
                yield opened(source.fasta, source.sha256, source.chunk_length).table(pieces)

            path = layout.table(domain, "chunked_fasta", shard)
            outcome = made_table(path, chunks_recipe(source, pieces), batches)
            return outcome.with_metadata(records=len(pieces), chunk_length_nt=source.chunk_length)

        return work

    return chunk


def _translation(workspace: Workspace, domain: Domain) -> Body:
    layout = workspace.layout

    def translate(_: ShardRun) -> Work:
        """Stop-free frames of every chunk in six-frame translation, with the ledger of what was dropped and why.

        Reference frames carry their label; those of an annotated record are kept only with CDS evidence.
        """

        def work(shard: str) -> Outcome:
            source, pieces = todays_plan(workspace, domain, shard)
            chunks, ledger = layout.table(domain, "chunked_fasta", shard), layout.table(domain, "ledger", shard)
            recipe = frames_recipe(workspace, domain, shard)
            path = layout.table(domain, "translated_proteins", shard)

            def batches() -> Iterator[pa.Table]:
                found = open_frames(read_table(chunks), _truth(source, pieces))
                write_table(ledger, ledger_table(pieces, found.counts), {**recipe, "table": "ledger"})
                yield found.table

            if not is_made_by(ledger, {**recipe, "table": "ledger"}):
                path.unlink(missing_ok=True)  # frames without their ledger are made again
            outcome = made_table(path, recipe, batches)
            return outcome.with_metadata(**ledger_totals(read_table(ledger)), ledger=dg.MetadataValue.path(str(ledger)))

        return work

    return translate


def _truth(source: PlannedSource, pieces: Sequence[Piece]) -> Truth | None:
    if source.label is None or source.group is None:
        return None
    return Truth(source.label, source.group, planned_proteins(source, pieces))
