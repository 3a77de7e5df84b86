"""Deals whole clusters of relatives to train, validation and test, stratified by label and group."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Literal, NamedTuple, get_args

import pyarrow as pa

from virnuc_assets.classifier.relatives import ClusteredRecord
from virnuc_assets.errors import VirnucError
from virnuc_assets.settings import SplitSettings

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
LABELS = ("host", "viral")
_COUNTED = ("record_id", "label", "group", "rows")


class SplitError(VirnucError):
    """The records cannot be dealt so that every label is trained on, validated and tested."""


class _Stratum(NamedTuple):
    label: str
    group: str


Counts = dict[str, Counter[_Stratum]]


def split_schema() -> pa.Schema:
    """A row a record; rows counts its training rows, reason tells its relatives and why its cluster lies there."""
    text = ("record_id", "cluster", "label", "group")
    return pa.schema(
        [(name, pa.string()) for name in text] + [("rows", pa.int64()), ("split", pa.string()), ("reason", pa.string())]
    )


def assign_splits(clusters: Iterable[ClusteredRecord], counted: pa.Table, settings: SplitSettings) -> pa.Table:
    """Deal clusters, large ones first and those of like size as the seed says, to where rows of their kind lack most.

    A cluster counts for the label and group most of its rows have. Every split gets a cluster of every label, and
    of every group that has three or more; beyond that the largest shortfall of rows decides.

    Args:
        clusters: the cluster of every record that has rows.
        counted: record_id, label ("viral" / "host"), group, rows: one row for each record with training rows.
        settings: seed and wanted fractions of rows.

    Returns:
        `split_schema` sorted by record id; the order of neither input matters.

    Raises:
        SplitError: a record has no cluster, no label or no group, or occurs twice; a label lacks clusters for
            three splits.
    """
    known = {record.record_id: record for record in clusters}
    records = sorted(counted.select(_COUNTED).to_pylist(), key=lambda record: record["record_id"])
    _require_sound(records, known)
    counts: Counts = defaultdict(Counter)
    for record in records:
        counts[known[record["record_id"]].cluster][_Stratum(record["label"], record["group"])] += record["rows"]
    dealt = _deal(counts, settings)
    _require_every_label(counts, dealt)
    columns = []
    for record in records:
        origin = known[record["record_id"]]
        split, why = dealt[origin.cluster]
        columns.append({**record, "cluster": origin.cluster, "split": split, "reason": f"{origin.reason}; {why}"})
    return pa.Table.from_pylist(columns, schema=split_schema())


def relatives_in_both_splits(table: pa.Table) -> list[str]:
    """Clusters of a split table whose records lie in more than one split; empty where the table is sound."""
    seen: dict[str, set[str]] = defaultdict(set)
    for cluster, split in zip(table["cluster"].to_pylist(), table["split"].to_pylist(), strict=True):
        seen[cluster].add(split)
    return sorted(cluster for cluster, splits in seen.items() if len(splits) > 1)


def _deal(counts: Counts, settings: SplitSettings) -> dict[str, tuple[Split, str]]:
    fractions: dict[Split, float] = {
        "train": 1.0 - settings.validation_fraction - settings.test_fraction,
        "validation": settings.validation_fraction,
        "test": settings.test_fraction,
    }
    order = sorted(counts, key=lambda cluster: _turn(cluster, counts[cluster].total(), settings.seed))
    kind = {cluster: _main_stratum(counts[cluster]) for cluster in order}
    to_come = Counter(scope for cluster in order for scope in _scopes(kind[cluster]))
    enough = {scope for scope, clusters in to_come.items() if clusters >= len(SPLITS)}
    total: Counter[str] = Counter()
    for cluster in order:
        _add(total, counts[cluster])
    have: dict[Split, Counter[str]] = {split: Counter() for split in SPLITS}
    dealt: dict[str, tuple[Split, str]] = {}
    for cluster in order:
        scopes = _scopes(kind[cluster])
        allowed, why = list(SPLITS), f"split furthest below its share of {scopes[1]}"
        for scope in scopes:
            lacking = [split for split in SPLITS if not have[split][scope]]
            if scope in enough and len(lacking) >= to_come[scope] and lacking:
                allowed, why = lacking, f"split without {scope}"
                break
        short = {
            split: sum(fractions[split] - have[split][scope] / total[scope] for scope in scopes) for split in allowed
        }
        chosen = max(allowed, key=short.__getitem__)
        dealt[cluster] = (chosen, why)
        _add(have[chosen], counts[cluster])
        to_come.subtract(scopes)
    return dealt


def _turn(cluster: str, rows: int, seed: int) -> tuple[int, bytes]:
    """Large clusters first, while shares can still be evened out; those of like size (a factor of 2) by the seed."""
    return -rows.bit_length(), hashlib.sha256(f"{seed}:{cluster}".encode()).digest()


def _main_stratum(counts: Counter[_Stratum]) -> _Stratum:
    return max(sorted(counts), key=counts.__getitem__)


def _scopes(stratum: _Stratum) -> tuple[str, str]:
    """The label, and the group within it: where shares and coverage are counted."""
    return stratum.label, f"{stratum.label} {stratum.group}"


def _add(totals: Counter[str], rows: Counter[_Stratum]) -> None:
    for stratum, count in rows.items():
        for scope in _scopes(stratum):
            totals[scope] += count


def _require_sound(records: list[dict[str, str]], known: dict[str, ClusteredRecord]) -> None:
    ids = Counter(record["record_id"] for record in records)
    faults = [f"{record_id}: {count} rows in the table of counts" for record_id, count in ids.items() if count > 1]
    for record in records:
        if record["record_id"] not in known:
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


def _require_every_label(counts: Counts, dealt: dict[str, tuple[Split, str]]) -> None:
    missing = []
    for label in LABELS:
        clusters = sorted(cluster for cluster in counts if any(stratum.label == label for stratum in counts[cluster]))
        if lacking := [split for split in SPLITS if split not in {dealt[cluster][0] for cluster in clusters}]:
            missing.append(
                f"{label}: {len(clusters)} clusters ({', '.join(clusters[:5])}), none for {' and '.join(lacking)}"
            )
    if missing:
        raise SplitError(
            "every label needs unrelated records in train, validation and test, i.e. at least three clusters; found "
            f"{'; '.join(missing)}. Add reference genomes that are no relatives of these."
        )
