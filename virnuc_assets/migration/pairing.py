"""Two variants' predictions side by side: the same test rows with the same labels, or a named gap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnuc_assets.classifier.calls import chunk_calls
from virnuc_assets.classifier.metrics import LEVELS, Level, levels_of
from virnuc_assets.migration.evidence import VariantEvidence

ROW_FACTS = ("chunk_id", "record_id", "record_length_nt", "cluster", "label", "group")
EXAMPLES = 3


@dataclass(frozen=True)
class PairedCalls:
    """Truth and both sides' calls of m frames, chunks or records: bool (m,), True for viral."""

    viral: NDArray[np.bool_]
    candidate: NDArray[np.bool_]
    other: NDArray[np.bool_]


@dataclass(frozen=True)
class PairedRows:
    """n test rows scored by both sides, sorted by frame_id."""

    levels: Mapping[Level, PairedCalls]
    cluster: NDArray[np.int64]  # (n,) number of the row's cluster of relatives, by the clusters' sorted names
    group: NDArray[np.int64]  # (n,) index into the group names
    group_names: tuple[tuple[str, str], ...]  # (label, group) pairs, sorted


def usable_rows(variant: VariantEvidence) -> tuple[pa.Table | None, tuple[str, ...]]:
    """The variant's predictions sorted by frame_id, or None and why they cannot be judged."""
    rows = variant.predictions
    if rows is None:
        return None, variant.gaps
    if pc.count_distinct(rows["label"]).as_py() < 2:
        found = f"{rows.num_rows} rows, all labelled {rows['label'][0]}" if rows.num_rows else "no rows"
        return None, (
            f"{variant.variant}: stored predictions are not usable: expected rows of both labels, found {found}",
        )
    return rows.sort_by("frame_id"), ()


def pair(candidate: VariantEvidence, other: VariantEvidence) -> tuple[PairedRows | None, tuple[str, ...]]:
    """Put two variants side by side by frame_id; with the k-mer baseline by the chunks that both have scored.

    Returns:
        The paired rows and no gap, or None and each gap: predictions that are absent or unusable, rows that
        only one side has scored, rows whose label, cluster or group differ (with counts and examples).
    """
    (left, left_gaps), (right, right_gaps) = usable_rows(candidate), usable_rows(other)
    if left is None or right is None:
        return None, left_gaps + right_gaps
    if candidate.is_kmer != other.is_kmer:
        left, right = _common_chunks(left, right)
        if not left.num_rows:
            return None, (f"{candidate.variant} and {other.variant} have scored no chunk that the other has, too",)
    if gaps := _row_gaps((candidate.variant, left), (other.variant, right)):
        return None, gaps
    groups = [group or "(no group)" for group in left["group"].to_pylist()]
    pairs = list(zip(left["label"].to_pylist(), groups, strict=True))
    names = sorted(set(pairs))
    ours, theirs = levels_of(left), levels_of(right)
    calls = {level: PairedCalls(ours[level].viral, ours[level].called, theirs[level].called) for level in LEVELS}
    cluster = np.unique(left["cluster"].to_numpy(), return_inverse=True)[1]
    return PairedRows(calls, cluster, np.array([names.index(each) for each in pairs]), tuple(names)), ()


def _common_chunks(left: pa.Table, right: pa.Table) -> tuple[pa.Table, pa.Table]:
    """A row for each chunk that both sides have scored, with the chunk's call; sorted by chunk."""
    left, right = _chunk_rows(left), _chunk_rows(right)
    left_ids, right_ids = left["chunk_id"], right["chunk_id"]
    return left.filter(pc.is_in(left_ids, right_ids)), right.filter(pc.is_in(right_ids, left_ids))


def _chunk_rows(table: pa.Table) -> pa.Table:
    calls = chunk_calls(table).sort_by("chunk_id")
    first = np.unique(table["chunk_id"].to_numpy().astype(str), return_index=True)[1]
    facts = table.take(pa.array(first)).sort_by("chunk_id")
    columns = {**{name: facts[name] for name in facts.column_names}, "frame_id": calls["chunk_id"]}
    return pa.table({**columns, **{name: calls[name] for name in ("score_other", "score_virus", "call")}})


def _row_gaps(left: tuple[str, pa.Table], right: tuple[str, pa.Table]) -> tuple[str, ...]:
    """Rows of one side only; or, where both have the same rows, facts on which they differ."""
    (left_name, left_table), (right_name, right_table) = left, right
    left_ids, right_ids = left_table["frame_id"].to_pylist(), right_table["frame_id"].to_pylist()
    if left_ids != right_ids:
        only = ((left_name, set(left_ids) - set(right_ids)), (right_name, set(right_ids) - set(left_ids)))
        counts = "; ".join(f"{len(ids)} only in {name}{_examples(sorted(ids))}" for name, ids in only)
        return (
            f"{left_name} ({len(left_ids)} test rows) and {right_name} ({len(right_ids)}) did not score the "
            f"same rows: {counts}; evaluate both on one split",
        )
    gaps = []
    for fact in ROW_FACTS:
        rows = zip(left_ids, left_table[fact].to_pylist(), right_table[fact].to_pylist(), strict=True)
        if different := [f"{frame_id}: {a} and {b}" for frame_id, a, b in rows if a != b]:
            gaps.append(
                f"{left_name} and {right_name} disagree on the {fact} of {len(different)} of {len(left_ids)} "
                f"test rows{_examples(different)}; evaluate both on one split"
            )
    return tuple(gaps)


def _examples(items: list[str]) -> str:
    return f" (e.g. {', '.join(items[:EXAMPLES])})" if items else ""
