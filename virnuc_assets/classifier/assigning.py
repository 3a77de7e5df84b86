"""Assigns every record its side: clusters that have one keep it, all others are dealt."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from virnuc_assets.classifier.dealing import Stratum, deal
from virnuc_assets.classifier.placing import Placement, place
from virnuc_assets.classifier.relatives import Kinship
from virnuc_assets.classifier.split import LABELS, LEFT_OUT, SPLITS, Split, SplitError, sides_of, split_schema
from virnuc_assets.settings import SplitSettings

_COUNTED = ("record_id", "label", "group", "rows")
_Record = Mapping[str, Any]


def assign_splits(
    kinship: Kinship,
    counted: pa.Table,
    settings: SplitSettings,
    held: Mapping[str, str],
    before: Sequence[_Record],
) -> pa.Table:
    """The split of all records that have training rows; a record without rows links none.

    Args:
        kinship: of at least the records that have rows.
        counted: record_id, label ("viral" / "host"), group, rows: one row for each record with training rows.
        settings: seed and wanted fractions of rows.
        held: record → why it is held out for the test; a label that has such records is tested on them alone.
        before: rows of the split table whose sides are kept, where `held` allows it; none deals all anew.

    Returns:
        `split_schema` sorted by record id; the order of no input matters, and the table given back as `before`
        gives the same table.

    Raises:
        SplitError: a record has no kinship, no label or no group, or occurs twice; a label lacks clusters for
            three sides.
    """
    records = sorted(counted.select(_COUNTED).to_pylist(), key=lambda record: str(record["record_id"]))
    _require_sound(records, kinship)
    rows = {record["record_id"]: record["rows"] for record in records}
    closed = {record["label"] for record in records if record["record_id"] in held}
    barred = {record["record_id"] for record in records if record["label"] in closed} - held.keys()
    kept = {
        record: side
        for record, side in sides_of(before).items()
        if record in rows and (side == "test" if record in held else side != "test" or record not in barred)
    }
    placement = place(kinship.among(rows), rows, held, barred, kept)
    counts: dict[str, Counter[Stratum]] = defaultdict(Counter)
    for record in records:
        if cluster := placement.cluster_of.get(record["record_id"]):
            counts[cluster][Stratum(record["label"], record["group"])] += record["rows"]
    dealt = deal(counts, placement.fixed, closed, settings)
    sides: dict[str, Split] = {**placement.fixed, **{cluster: side for cluster, (side, _) in dealt.items()}}
    _require_every_label(counts, sides, len(kept))
    told = {row["record_id"]: row for row in before}
    columns = []
    for record in records:
        record_id = record["record_id"]
        cluster = placement.cluster_of.get(record_id, record_id)
        split = sides[cluster] if record_id in placement.cluster_of else LEFT_OUT
        if split == LEFT_OUT:
            reason = _why_left_out(record_id, placement, sides, held)
        elif cluster in dealt:
            reason = dealt[cluster][1]
        elif record_id in kept:
            stays = kept[record_id] == split
            reason = told[record_id]["reason"] if stays else f"moved from {kept[record_id]}: most rows related lie here"
        else:
            reason = held.get(record_id, f"joins relatives that lie in {split}")
        place_of = {"cluster": cluster, "split": split, "relatives": kinship.reasons[record_id], "reason": reason}
        columns.append({**record, **place_of})
    return pa.Table.from_pylist(columns, schema=split_schema())


def _why_left_out(record: str, placement: Placement, sides: Mapping[str, Split], held: Mapping[str, str]) -> str:
    if not (touched := placement.touched[record]):
        return "left out: relative of records held out"
    found = " and ".join(f"{cluster} ({sides[cluster]})" for cluster in touched[:5])
    linked = len({sides[cluster] for cluster in touched}) > 1
    why = held.get(record) or ("would link two sides" if linked else "of its label only what is held out is tested")
    return f"left out: {why}; resembles {found}"


def _require_sound(records: Iterable[_Record], kinship: Kinship) -> None:
    ids = Counter(record["record_id"] for record in records)
    faults = [f"{record_id}: {count} rows in the table of counts" for record_id, count in ids.items() if count > 1]
    for record in records:
        if record["record_id"] not in kinship.relatives:
            faults.append(f"{record['record_id']}: no cluster of relatives")
        if record["label"] not in LABELS or not record["group"]:
            faults.append(f"{record['record_id']}: label {record['label']!r}, group {record['group']!r}")
        if not record["rows"]:
            faults.append(f"{record['record_id']}: no training rows")
    if faults:
        raise SplitError(
            f"{len(faults)} records cannot be dealt: expected one row, a cluster, a label of {LABELS}, a group and "
            f"training rows for each; found {'; '.join(faults[:5])}. Make clusters and counts from the same records."
        )


def _require_every_label(counts: Mapping[str, Counter[Stratum]], sides: Mapping[str, Split], kept: int) -> None:
    missing = []
    for label in LABELS:
        clusters = sorted(cluster for cluster in counts if any(stratum.label == label for stratum in counts[cluster]))
        if lacking := [split for split in SPLITS if split not in {sides[cluster] for cluster in clusters}]:
            missing.append(
                f"{label}: {len(clusters)} clusters ({', '.join(clusters[:5])}), none for {' and '.join(lacking)}"
            )
    if missing:
        anew = f" {kept} records kept the side they had; another [split] seed deals all anew." if kept else ""
        raise SplitError(
            "every label needs unrelated records in train, validation and test, i.e. at least three clusters; found "
            f"{'; '.join(missing)}. Add reference genomes that are no relatives of these.{anew}"
        )
