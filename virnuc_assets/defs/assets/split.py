"""The split of the reference by relatives; asset and check are part of group `classifiers`."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa

from virnuc_assets.defs.assets.sequences import REFERENCE_LEDGER
from virnuc_assets.defs.metadata import result, shown_facts, shown_table
from virnuc_assets.defs.partitions import REFERENCE
from virnuc_assets.defs.provenance import (
    FRAMES,
    current_frames,
    named_records,
    planned,
    record_lengths,
    record_sources,
    reference_tables,
    split_provenance,
)
from virnuc_assets.defs.resources import Workspace
from virnuc_assets.defs.sharded_asset import code_version, inputs_of, made_table, retrained_asset, whole_result
from virnuc_assets.sequences.opening import open_source
from virnuc_assets.sequences.reading import read_records
from virnuc_assets.split.similarity import similar_records
from virnuc_assets.storage.layout import SPLIT
from virnuc_assets.storage.tables import (
    TableMismatch,
    content_digest,
    is_made_by,
    read_provenance,
    read_table,
    require_table,
)

_Rows = list[dict[str, Any]]


def split_asset(workspace: Workspace) -> dg.AssetsDefinition:
    """The split of the reference."""
    settings = workspace.settings.split

    @retrained_asset(
        workspace,
        name=SPLIT,
        deps=[REFERENCE.key(FRAMES), REFERENCE.key("shard_plan"), dg.AssetKey(REFERENCE_LEDGER)],
        kinds={"parquet"},
        code_version=code_version("4", settings),
    )
    def train_test_split(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        """Assigns whole clusters of related records to train, validation and test; old records keep their split.

        Relatives are found by shared protein k-mers, where asked by similar proteins, and by the names of the
        catalogue (same organism, named relatives), so that no genome has rows in two splits. The splits of records
        that the table on disk has are kept, unless it was made with other settings.

        If its check fails, frames or catalogue changed since, or the table was edited: materialize it again.
        """
        from virnuc_assets.split.assignment import changes

        inputs, frames = inputs_of(context), current_frames(context.instance, workspace)
        provenance, before, why = _continued(workspace, split_provenance(context.instance, workspace))
        if why:
            context.log.info(f"all records are assigned again: {why}")

        def batches() -> Iterator[pa.Table]:
            from virnuc_assets.classifier.datasets import counted_records
            from virnuc_assets.split.assignment import assign_splits, held_out
            from virnuc_assets.split.relatives import find_relatives

            sources = record_sources(workspace)
            held = held_out(sources, settings)
            similar = similar_records(frames.values(), sources.keys(), settings)
            related = find_relatives(_sequences(workspace), named_records(workspace), settings, similar)
            yield assign_splits(related, counted_records(frames.values()), settings, held, before)

        path = workspace.layout.split
        outcome = made_table(path, provenance, batches)
        rows = read_table(path).to_pylist()
        facts = {**_counted(rows), **changes(before, rows), "assigned_again": why or "no"}
        metadata = {**outcome.metadata, **facts, "settings": shown_facts(settings.model_dump(mode="json"))}
        return whole_result(inputs, outcome.data_version, metadata)

    return train_test_split


def _continued(workspace: Workspace, provenance: Mapping[str, Any]) -> tuple[dict[str, Any], _Rows, str]:
    """The provenance with what it continues, the rows whose splits are kept, and why there are none.

    A table that is of today gives its provenance back as it is, so that it is not remade.
    """
    from virnuc_assets.split.assignment import split_schema

    path = workspace.layout.split
    try:
        require_table(path, split_schema())
        found = read_provenance(path)
    except TableMismatch as error:
        return {**provenance, "continues": None}, [], str(error).splitlines()[0]
    if found.get("settings") != provenance["settings"]:
        return {**provenance, "continues": None}, [], "the table on disk was made with other settings of [split]"
    today = {**provenance, "continues": found.get("continues")}
    if not is_made_by(path, today):
        today["continues"] = content_digest(path)
    return today, read_table(path).to_pylist(), ""


def _sequences(workspace: Workspace) -> Iterator[tuple[str, bytes]]:
    """Ids and sequences of the planned records."""
    plan = planned(workspace)
    numbers: dict[str, set[int]] = {}
    for segment in plan.segments:
        numbers.setdefault(segment.source, set()).add(segment.number)
    for name, of_source in numbers.items():
        with open_source(Path(plan.sources[name].fasta)) as opened:
            for number, (header, blocks) in enumerate(read_records(opened), start=1):
                if number in of_source:
                    yield header.id, b"".join(blocks)
            opened.require_digest(plan.sources[name].sha256)


def _counted(rows: _Rows) -> dict[str, Any]:
    """Records and clusters, and the rows of every split by label and by group."""
    from virnuc_assets.split.assignment import LEFT_OUT, SPLITS

    splits = (*SPLITS, LEFT_OUT)
    totals = {f"{split}_{label}_rows": 0 for split in splits for label in ("viral", "host")}
    groups: dict[tuple[str, str], Counter[str]] = {}
    for row in sorted(rows, key=lambda row: (row["label"], row["group"])):
        totals[f"{row['split']}_{row['label']}_rows"] += row["rows"]
        groups.setdefault((row["label"], row["group"]), Counter())[row["split"]] += row["rows"]
    by_group = shown_table(
        {"label": label, "group": group, **{split: counts[split] for split in splits}}
        for (label, group), counts in groups.items()
    )
    clusters = {row["cluster"] for row in rows if row["split"] != LEFT_OUT}
    return {"records": len(rows), "clusters": len(clusters), **totals, "rows_by_group": by_group}


def split_check(workspace: Workspace) -> dg.AssetChecksDefinition:
    """No record of the tables has a relative in another split."""
    settings = workspace.settings.split

    @dg.asset_check(asset=SPLIT, blocking=True)
    def no_relative_in_both_splits(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        """Relatives, found again among the records that the chunks on disk spell, are in one split.

        So are clusters, and organisms and named groups of the catalogue; and the split counts the rows on disk.
        """
        from virnuc_assets.classifier.datasets import counted_records
        from virnuc_assets.split import leaks
        from virnuc_assets.split.assignment import split_schema, splits_of

        rows = read_table(workspace.layout.split, split_schema()).to_pylist()
        splits = splits_of(rows)
        frames = current_frames(context.instance, workspace).values()
        chunks = reference_tables(context.instance, workspace, "chunked_fasta")
        records = leaks.rebuilt_records([chunks[shard] for shard in sorted(chunks)], record_lengths(workspace))
        similar = similar_records(frames, splits.keys(), settings)
        apart = leaks.relatives_apart(rows, records, named_records(workspace), settings, similar)
        return result(
            {**leaks.miscounted(rows, counted_records(frames).to_pylist()), **apart},
            records=len(rows),
            left_out=len(rows) - len(splits),
            proteins_in_train_and_test=leaks.proteins_in_train_and_test(frames, splits),
        )

    return no_relative_in_both_splits
