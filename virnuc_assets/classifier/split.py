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
    """Deal clusters, in an order that only the seed decides, each to where rows of its kind are missing most.

    A cluster counts for the label and group most of its rows have. While clusters last, every split gets one of
    every label, then one of every group that has three or more; beyond that the largest shortfall of rows decides.

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
    order = sorted(counts, key=lambda cluster: hashlib.sha256(f"{settings.seed}:{cluster}".encode()).digest())
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
        allowed, why = list(SPLITS), "split furthest below its share of {1}"
        for scope in scopes:
            lacking = [split for split in SPLITS if not have[split][scope]]
            if scope in enough and len(lacking) >= to_come[scope] and lacking:
                allowed, why = lacking, f"split without {scope}"
                break
        short = {
            split: sum(fractions[split] - have[split][scope] / max(1, total[scope]) for scope in scopes) for split in allowed
        }
        chosen = max(allowed, key=short.__getitem__)
        dealt[cluster] = (chosen, why.format(*scopes))
        _add(have[chosen], counts[cluster])
        to_come.subtract(scopes)
    return dealt


def _main_stratum(counts: Counter[_Stratum]) -> _Stratum:
    return max(sorted(counts), key=counts.__getitem__)


def _scopes(stratum: _Stratum) -> tuple[str, str]:
    """The label, and the group within it: where shares and coverage are counted."""
    return stratum.label, f"{stratum.label} {stratum.group}"


def _add(totals: Counter[str], rows: Counter[_Stratum]) -> None:
    for stratum, count in rows.items():
        for scope in _scopes(stratum):
            totals[scope] += count
