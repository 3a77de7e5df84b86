"""Group `sequences`: the chunked FASTA of a shard, its open frames and its ledger."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.automation import stage_condition
from virnuc_assets.defs.partitions import ShardSet, group_of
from virnuc_assets.defs.provenance import (
    CHUNKS,
    FRAMES,
    LEDGER,
    chunks_provenance,
    frames_provenance,
    ledger_provenance,
    planned_shard,
    shard_truth,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import Body, Outcome, ShardRun, Work, made_table, sharded_asset
from virnuc_assets.sequences.chunk_table import ChunkReader
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_table, ledger_totals
from virnuc_assets.sequences.plan_table import planned_proteins
from virnuc_assets.storage.layout import Domain
from virnuc_assets.storage.tables import is_made_by, read_table, write_table

# Threads share Python's lock in a part of the work: more would wait for each other. More runs scale further.
_THREADS = 4


def build_assets(workspace: Workspace, shards: ShardSet) -> list[dg.AssetsDefinition]:
    """Chunking and translation for one set of shards."""
    chunk, translate = _chunking(workspace, shards.domain), _translation(workspace, shards.domain)
    options: dict[str, Any] = {
        "group_name": group_of("sequences", shards.domain),
        "kinds": {"fasta", "parquet"},
        "automation_condition": stage_condition(),
    }
    deps = [shards.key(CHUNKS), shards.key("shards")]
    version = " ".join(["3", *map(str, workspace.frame_rule(shards.domain).provenance.values())])
    return [
        sharded_asset(workspace, shards, CHUNKS, chunk, deps=deps[1:], code_version="3", **options),
        sharded_asset(
            workspace, shards, FRAMES, translate, threads=_THREADS, deps=deps, code_version=version, **options
        ),
    ]


def _chunking(workspace: Workspace, domain: Domain) -> Body:
    layout = workspace.layout

    def chunk(_: ShardRun) -> Work:
        """Chunks of a shard's records, cut as VirNucPro cuts them; the records are read from their planned files.

        Shards of one file that are made in one run are read in one pass. A file that changed since it was planned is
        refused: materialize shard_plan first.

        If its check fails, the table is damaged: remove the file that metadata name, and materialize it again.
        """
        reader = functools.lru_cache(maxsize=1)(ChunkReader)  # the next shard may continue in the same file

        def work(shard: str) -> Outcome:
            plan = planned_shard(workspace, domain, shard)

            def batches() -> Iterator[pa.Table]:
                yield pa.concat_tables(
                    reader(Path(source.fasta), source.sha256, plan.chunk_length).table(
                        plan.table.filter(pc.equal(plan.table["source"], name))
                    )
                    for name, source in plan.sources.items()
                )

            outcome = made_table(layout.table(domain, CHUNKS, shard), chunks_provenance(plan), batches)
            return outcome.with_metadata(
                records=plan.table.num_rows, source_files=len(plan.sources), chunk_length_nt=plan.chunk_length
            )

        return work

    return chunk


def _translation(workspace: Workspace, domain: Domain) -> Body:
    layout = workspace.layout

    def translate(_: ShardRun) -> Work:
        """Open frames of every chunk in six-frame translation, with the ledger of what was dropped and why.

        Whole frames without a stop, or with frame_rule = "longest_orf" the longest stretch of each, from min_orf_aa.

        Reference frames carry their label; those of an annotated record are kept only with CDS evidence.

        If a check fails, table or ledger is damaged: remove the file that metadata name, and materialize it again.
        """

        def work(shard: str) -> Outcome:
            plan, provenance = planned_shard(workspace, domain, shard), frames_provenance(workspace, domain, shard)
            rule = workspace.frame_rule(domain)
            truth = shard_truth(plan, planned_proteins(layout.plan(domain), plan) if domain == "reference" else {})
            chunks, ledger = layout.table(domain, CHUNKS, shard), layout.table(domain, LEDGER, shard)
            path, of_ledger = layout.table(domain, FRAMES, shard), ledger_provenance(workspace, domain, shard)

            def batches() -> Iterator[pa.Table]:
                frames, counts = open_frames(read_table(chunks), truth, rule)
                write_table(ledger, ledger_table(plan.table, counts), of_ledger)
                yield frames

            if not is_made_by(ledger, of_ledger):
                path.unlink(missing_ok=True)  # frames without their ledger are made again
            outcome = made_table(path, provenance, batches)
            return outcome.with_metadata(**ledger_totals(read_table(ledger)), ledger=dg.MetadataValue.path(str(ledger)))

        return work

    return translate
