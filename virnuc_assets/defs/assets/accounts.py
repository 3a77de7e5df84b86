"""Group `sequences`: the ledger of the whole reference, in which every record of every source has its line."""

from collections.abc import Iterable, Iterator
from typing import Any

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc

from virnuc_assets.defs.assets.reference import current_frames
from virnuc_assets.defs.automation import retraining_condition
from virnuc_assets.defs.checks import result
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import OWNERS, made_table, shown_rows
from virnuc_assets.defs.whole_asset import inputs_of, whole_result
from virnuc_assets.sequences.ledger import ledger_faults, ledger_totals, merged_ledger
from virnuc_assets.sequences.plan_table import planned_shards, read_plan
from virnuc_assets.sequences.planning import whole_records
from virnuc_assets.storage.digests import digest_of
from virnuc_assets.storage.layout import Domain, Layout
from virnuc_assets.storage.schemas import ledger_schema, reference_ledger_schema
from virnuc_assets.storage.tables import Provenance, content_digest, read_table

LEDGER = "reference_ledger"


def sample_ledger(layout: Layout, sample: str) -> pa.Table:
    """A line for every record of a sample, in file order, from the ledgers of its shards.

    Raises:
        TableMismatch: a shard's ledger is missing.
    """
    plan = layout.plan("samples", sample)
    return merged_ledger(read_plan(plan).table, _ledgers(layout, "samples", planned_shards(plan)))


def _ledgers(layout: Layout, domain: Domain, shards: Iterable[str]) -> Iterator[pa.Table]:
    return (read_table(layout.table(domain, "ledger", shard), ledger_schema()) for shard in shards)


def ledger_provenance(instance: dg.DagsterInstance, workspace: Workspace) -> Provenance:
    """What the ledger of the reference follows from today.

    Raises:
        VirnucError: frames of a shard are missing or stale.
    """
    layout, frames = workspace.layout, current_frames(instance, workspace)
    ledgers = {shard: content_digest(layout.table("reference", "ledger", shard)) for shard in frames}
    return {"table": LEDGER, "plan": content_digest(layout.plan("reference")), "ledgers": digest_of(ledgers)}


def build_assets(workspace: Workspace) -> list[dg.AssetsDefinition]:
    """The ledger of the reference."""
    layout = workspace.layout

    @dg.asset(
        name=LEDGER,
        deps=[REFERENCE.key("translated_proteins"), REFERENCE.key("shard_plan")],
        group_name="sequences",
        kinds={"parquet"},
        owners=OWNERS,
        code_version="2",
        automation_condition=retraining_condition(workspace.settings.automation.retrain_cron),
    )
    def reference_ledger(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """A line for every record of every reference source: scored, skipped or failed, why, and its chunks and frames.

        Records in = scored + skipped + failed; chunks, and six frames a chunk, = kept + dropped by reason.

        If its check fails, frames of a shard are missing or stale: materialize reference/translated_proteins, then it.
        """
        inputs, provenance = inputs_of(context), ledger_provenance(context.instance, workspace)

        def batches() -> Iterator[pa.Table]:
            plan = read_plan(layout.plan("reference"))
            table = merged_ledger(plan.table, _ledgers(layout, "reference", plan.shards))
            yield table.add_column(0, "source", whole_records(plan.table)["source"]).cast(reference_ledger_schema())

        outcome = made_table(layout.whole(LEDGER), provenance, batches)
        table = read_table(layout.whole(LEDGER), reference_ledger_schema())
        totals = ledger_totals(table)
        metadata = {
            **outcome.metadata,
            **{name: total for name, total in totals.items() if ": " not in name},
            "by_reason": shown_rows(_by_reason(table)),
            "by_source": shown_rows(_by_source(table)),
        }
        return whole_result(inputs, outcome.data_version, metadata)

    return [reference_ledger]


def build_checks(workspace: Workspace) -> list[dg.AssetChecksDefinition]:
    """Check of the ledger of the reference."""

    @dg.asset_check(asset=LEDGER, blocking=True)
    def every_reference_record_is_accounted_for() -> dg.AssetCheckResult:
        """All planned records of every source have their line, and all chunks and frames add up."""
        table = read_table(workspace.layout.whole(LEDGER), reference_ledger_schema())
        faults = {LEDGER: found} if (found := ledger_faults(table)) else {}
        records = whole_records(read_plan(workspace.layout.plan("reference")).table)
        if any(table[name] != records[name] for name in ("source", "record_id")):
            faults["plan"] = [f"{records.num_rows} records planned, {table.num_rows} in the ledger, or not the same"]
        return result(faults, records=table.num_rows)

    return [every_reference_record_is_accounted_for]


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
