"""Group `sequences`: the ledger of the whole reference, in which every record of every source has its line."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.assets.lost_database import retried_if_database_was_away
from virnuc_assets.assets.per_shard import OWNERS, made_table
from virnuc_assets.assets.reference import current_frames
from virnuc_assets.checks import result
from virnuc_assets.markdown import cell
from virnuc_assets.partitions import REFERENCE
from virnuc_assets.resources import Workspace
from virnuc_assets.sequences.accounting import ledger_faults, ledger_totals
from virnuc_assets.sequences.ledger import merged_ledger
from virnuc_assets.sequences.plan_table import planned_shards, read_pieces
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import Domain, Layout
from virnuc_assets.storage.schemas import ledger_schema, reference_ledger_schema
from virnuc_assets.storage.tables import content_digest, read_table

LEDGER = "reference_ledger"


def source_ledger(layout: Layout, domain: Domain, source: str) -> pa.Table:
    """A line for every record of a source, in file order, from the ledgers of its shards.

    Raises:
        TableMismatch: a shard's ledger is missing.
    """
    ledgers = (
        read_table(layout.table(domain, "ledger", shard), ledger_schema())
        for shard in planned_shards(layout, domain, source)
    )
    return merged_ledger(read_pieces(layout, domain, source), ledgers)


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The ledger of the reference."""
    layout = workspace.layout

    @dg.asset(
        name=LEDGER,
        hooks={retried_if_database_was_away},
        deps=[REFERENCE.key("translated_proteins"), REFERENCE.key("shard_plan")],
        group_name="sequences",
        kinds={"parquet"},
        owners=OWNERS,
        code_version="1",
    )
    def reference_ledger(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """A line for every record of every reference source: scored, skipped or failed, why, and its chunks and frames.

        Records in = scored + skipped + failed; chunks, and six frames a chunk, = kept + dropped by reason.
        """
        frames = current_frames(context.instance, workspace)
        names = [source.name for source in workspace.catalogue()]
        plans = {name: content_digest(layout.plan("reference", name)) for name in names}
        ledgers = {shard: content_digest(layout.table("reference", "ledger", shard)) for shard in frames}
        recipe = {"table": LEDGER, "plans": digest_of(plans), "ledgers": digest_of(ledgers)}

        def batches() -> Iterator[pa.Table]:
            yield reference_ledger_schema().empty_table()
            for name in names:
                table = source_ledger(layout, "reference", name)
                column = pa.repeat(pa.scalar(name), table.num_rows)
                yield table.add_column(0, "source", column).cast(reference_ledger_schema())

        outcome = made_table(layout.whole(LEDGER), recipe, batches)
        table = read_table(layout.whole(LEDGER), reference_ledger_schema())
        by_source = dg.MetadataValue.md(_by_source(table))
        return outcome.with_metadata(sources=len(names), **ledger_totals(table), by_source=by_source).as_result()

    return [reference_ledger]


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """Check of the ledger of the reference."""

    @dg.asset_check(asset=LEDGER, blocking=True)
    def every_reference_record_is_accounted_for() -> dg.AssetCheckResult:
        """Of every source, all planned records have their line, and all chunks and frames add up."""
        table = read_table(workspace.layout.whole(LEDGER), reference_ledger_schema())
        faults = {}
        for source in workspace.catalogue():
            lines = _lines_of(table, source.name)
            found = ledger_faults(lines)
            records = len({piece.number for piece in read_pieces(workspace.layout, "reference", source.name)})
            if records != lines.num_rows:
                found.append(f"{records} records planned, {lines.num_rows} in the ledger")
            if found:
                faults[source.name] = found
        return result(faults, records=table.num_rows)

    return [every_reference_record_is_accounted_for]


def _lines_of(table: pa.Table, source: str) -> pa.Table:
    return table.filter(pc.equal(table["source"], source))


def _by_source(table: pa.Table) -> str:
    """Records, chunks and frames of every source as Markdown."""
    lines = ["| source | records | scored | skipped | failed | chunks | frames kept |", "|---|" + "---:|" * 6]
    for name in table.column("source").unique().to_pylist():
        totals = ledger_totals(_lines_of(table, name))
        keys = ("records", "records_scored", "records_skipped", "records_failed", "chunks", "frames_kept")
        lines.append(f"| {cell(name)} | " + " | ".join(str(totals.get(key, 0)) for key in keys) + " |")
    return "\n".join(lines)
