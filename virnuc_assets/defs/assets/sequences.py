"""Group `sequences`: the chunked FASTA of a shard, its open frames and its ledger, and that of the whole reference."""

import functools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.automation import stage_condition
from virnuc_assets.defs.metadata import result, shown_rows
from virnuc_assets.defs.partitions import REFERENCE, SAMPLES, group_of
from virnuc_assets.defs.provenance import (
    CHUNKS,
    FRAMES,
    LEDGER,
    chunks_provenance,
    contents,
    current_frames,
    frames_provenance,
    ledger_provenance,
    planned_shard,
    shard_truth,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import (
    Body,
    Outcome,
    Work,
    inputs_of,
    made_table,
    retrained_asset,
    sharded_asset,
    whole_result,
)
from virnuc_assets.sequences.chunk_table import ChunkReader
from virnuc_assets.sequences.frame_table import open_frames
from virnuc_assets.sequences.ledger import ledger_faults, ledger_table, ledger_totals, merged_ledger
from virnuc_assets.sequences.plan_table import planned_proteins, planned_shards, read_plan
from virnuc_assets.sequences.planning import whole_records
from virnuc_assets.storage.layout import Domain, Layout
from virnuc_assets.storage.schemas import ledger_schema, reference_ledger_schema
from virnuc_assets.storage.tables import content_digest, is_made_by, read_table, write_table

REFERENCE_LEDGER = "reference_ledger"
# Threads share Python's lock in a part of the work: more would wait for each other. More runs scale further.
_THREADS = 4


def build(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """Chunking and translation for both domains, and the ledger of the reference."""
    assets = [_ledger_asset(workspace), _ledger_check(workspace)]
    for shards in (REFERENCE, SAMPLES):
        options: dict[str, Any] = {
            "group_name": group_of("sequences", shards.domain),
            "kinds": {"fasta", "parquet"},
            "automation_condition": stage_condition(),
        }
        of_plan, rule = shards.key("shards"), map(str, workspace.frame_rule(shards.domain).provenance.values())
        chunk, translate = _chunking(workspace, shards.domain), _translation(workspace, shards.domain)
        assets.append(sharded_asset(workspace, shards, CHUNKS, chunk, deps=[of_plan], code_version="3", **options))
        options |= {"deps": [shards.key(CHUNKS), of_plan], "code_version": " ".join(["3", *rule])}
        assets.append(sharded_asset(workspace, shards, FRAMES, translate, threads=_THREADS, **options))
    return assets


def _chunking(workspace: Workspace, domain: Domain) -> Body:
    layout = workspace.layout

    def chunk(*_: object) -> Work:
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

    def translate(*_: object) -> Work:
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


def sample_ledger(layout: Layout, sample: str) -> pa.Table:
    """A line for every record of a sample, in file order, from the ledgers of its shards."""
    plan = layout.plan("samples", sample)
    return merged_ledger(read_plan(plan).table, _ledgers(layout, "samples", planned_shards(plan)))


def _ledgers(layout: Layout, domain: Domain, shards: Iterable[str]) -> Iterator[pa.Table]:
    return (read_table(layout.table(domain, "ledger", shard), ledger_schema()) for shard in shards)


def _ledger_asset(workspace: Workspace) -> dg.AssetsDefinition:
    """The ledger of the reference."""
    layout = workspace.layout

    @retrained_asset(
        workspace,
        name=REFERENCE_LEDGER,
        deps=[REFERENCE.key(FRAMES), REFERENCE.key("shard_plan")],
        group_name="sequences",
        kinds={"parquet"},
        code_version="2",
    )
    def reference_ledger(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """A line for every record of every reference source: scored, skipped or failed, why, and its chunks and frames.

        Records in = scored + skipped + failed; chunks, and six frames a chunk, = kept + dropped by reason.

        If its check fails, frames of a shard are missing or stale: materialize reference/translated_proteins, then it.
        """
        inputs, frames = inputs_of(context), current_frames(context.instance, workspace)
        ledgers = contents({shard: layout.table("reference", LEDGER, shard) for shard in frames})
        provenance = {"table": REFERENCE_LEDGER, "plan": content_digest(layout.plan("reference")), "ledgers": ledgers}

        def batches() -> Iterator[pa.Table]:
            plan = read_plan(layout.plan("reference"))
            table = merged_ledger(plan.table, _ledgers(layout, "reference", plan.shards))
            yield table.add_column(0, "source", whole_records(plan.table)["source"]).cast(reference_ledger_schema())

        outcome = made_table(layout.whole(REFERENCE_LEDGER), provenance, batches)
        table = read_table(layout.whole(REFERENCE_LEDGER), reference_ledger_schema())
        totals = ledger_totals(table)
        metadata = {
            **outcome.metadata,
            **{name: total for name, total in totals.items() if ": " not in name},
            "by_reason": shown_rows(_by_reason(table)),
            "by_source": shown_rows(_by_source(table)),
        }
        return whole_result(inputs, outcome.data_version, metadata)

    return reference_ledger


def _ledger_check(workspace: Workspace) -> dg.AssetChecksDefinition:
    """Check of the ledger of the reference."""

    @dg.asset_check(asset=REFERENCE_LEDGER, blocking=True)
    def every_reference_record_is_accounted_for() -> dg.AssetCheckResult:
        """All planned records of every source have their line, and all chunks and frames add up."""
        table = read_table(workspace.layout.whole(REFERENCE_LEDGER), reference_ledger_schema())
        faults = {REFERENCE_LEDGER: ledger_faults(table)}
        records = whole_records(read_plan(workspace.layout.plan("reference")).table)
        if any(table[name] != records[name] for name in ("source", "record_id")):
            faults["plan"] = [f"{records.num_rows} records planned, {table.num_rows} in the ledger, or not the same"]
        return result(faults, records=table.num_rows)

    return every_reference_record_is_accounted_for


def _by_reason(table: pa.Table) -> pa.Table:
    """Records by what became of them, and why."""
    counts = table.group_by(["disposition", "reason"], use_threads=False).aggregate([([], "count_all")])
    return counts.rename_columns({"count_all": "records"}).sort_by([("records", "descending")])


def _by_source(table: pa.Table) -> pa.Table:
    """Records, chunks and frames of each source."""
    names, counts = table.column("source"), ("records", "records_scored", "records_skipped", "records_failed")
    totals = {name: ledger_totals(table.filter(pc.equal(names, name))) for name in names.unique().to_pylist()}
    columns = (*counts, "chunks", "frames_kept")
    rows = [{"source": name, **{key: of.get(key, 0) for key in columns}} for name, of in totals.items()]
    return pa.Table.from_pylist(rows)
