"""Two variants' predictions side by side: the same test rows with the same labels, or a named gap."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from virnuc_assets.classifier.metrics import LEVELS, Level, levels_of
from virnuc_assets.migration.evidence import VariantEvidence

ROW_FACTS = ("chunk_id", "record_id", "record_length_nt", "cluster", "label", "group")
_TRUTH = ("record_length_nt", "cluster", "label")
REQUIRED = ("frame_id", "chunk_id", "record_id", *_TRUTH, "score_other", "score_virus", "call")
EXAMPLES = 3


@dataclass(frozen=True)
class PairedCalls:
    """Truth and both sides' calls of m frames, chunks or records: bool (m,), True for viral."""

    viral: NDArray[np.bool_]
    candidate: NDArray[np.bool_]
    other: NDArray[np.bool_]


@dataclass(frozen=True)
class PairedRows:
    """n test rows scored by both sides, sorted by frame_id.

    Attributes:
        viral: truth, bool (n,).
        candidate_viral: the candidate's calls, bool (n,).
        other_viral: the calls of the variant it is compared with, bool (n,).
        cluster: index of the row's cluster of relatives, int64 (n,), 0-based by the clusters' sorted names.
        group: (label, group) index of the row, int64 (n,), into `group_names`.
        group_names: (label, group) pairs, sorted.
        levels: the same calls for frames, chunks and records.
    """

    viral: NDArray[np.bool_]
    candidate_viral: NDArray[np.bool_]
    other_viral: NDArray[np.bool_]
    cluster: NDArray[np.int64]
    group: NDArray[np.int64]
    group_names: tuple[tuple[str, str], ...]
    levels: Mapping[Level, PairedCalls]

    def of_group(self, number: int) -> PairedRows:
        """The rows of one group alone, its clusters numbered anew."""
        mine = self.group == number
        return replace(
            self,
            viral=self.viral[mine],
            candidate_viral=self.candidate_viral[mine],
            other_viral=self.other_viral[mine],
            cluster=np.unique(self.cluster[mine], return_inverse=True)[1],
            group=self.group[mine],
        )


def usable_rows(variant: VariantEvidence) -> tuple[pa.Table | None, tuple[str, ...]]:
    """The variant's predictions sorted by frame_id, or None and why they cannot be judged."""
    if variant.predictions is None:
        return None, variant.gaps
    faults = _table_faults(variant.predictions)
    if faults:
        return None, tuple(f"{variant.variant}: stored predictions are not usable: {fault}" for fault in faults)
    return variant.predictions.sort_by("frame_id"), ()


def pair(candidate: VariantEvidence, other: VariantEvidence) -> tuple[PairedRows | None, tuple[str, ...]]:
    """Put two variants side by side by frame_id.

    Returns:
        The paired rows and no gap, or None and each gap: predictions that are absent or unusable, rows that
        only one side has scored, rows whose label, cluster or group differ (with counts and examples).
    """
    (left, left_gaps), (right, right_gaps) = usable_rows(candidate), usable_rows(other)
    if left is None or right is None:
        return None, left_gaps + right_gaps
    gaps = _row_gaps((candidate.variant, left), (other.variant, right))
    if gaps:
        return None, gaps
    labels, groups = left["label"].to_pylist(), left["group"].to_pylist()
    pairs = [(label, group or "(no group)") for label, group in zip(labels, groups, strict=True)]
    names = sorted(set(pairs))
    index = {name: position for position, name in enumerate(names)}
    ours, theirs = levels_of(left), levels_of(right)
    return (
        PairedRows(
            viral=_is(left, "label", "viral"),
            candidate_viral=_is(left, "call", "virus"),
            other_viral=_is(right, "call", "virus"),
            cluster=np.unique(left["cluster"].to_numpy(), return_inverse=True)[1].astype(np.int64),
            group=np.array([index[name] for name in pairs], dtype=np.int64),
            group_names=tuple(names),
            levels={
                level: PairedCalls(ours[level].viral, ours[level].called, theirs[level].called) for level in LEVELS
            },
        ),
        (),
    )


def _is(table: pa.Table, column: str, value: str) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(table[column], value).to_numpy(), dtype=bool)


def _table_faults(table: pa.Table) -> list[str]:
    """What makes a prediction table unfit to be judged, each with its count of rows."""
    absent = [name for name in (*REQUIRED, "group") if name not in table.column_names]
    if absent:
        return [f"columns {', '.join(absent)} are absent"]
    if table.num_rows == 0:
        return ["the table has no rows"]
    with_nulls = [name for name in REQUIRED if table[name].null_count]
    if with_nulls:
        return [f"{table[name].null_count} rows have no {name}" for name in with_nulls]
    other, virus = table["score_other"].to_numpy(), table["score_virus"].to_numpy()
    by_score = np.where(virus > other, "virus", "others")
    counted = {
        "belong to a record with two labels": _of_two_labels(table),
        "repeat a frame_id": table.num_rows - pc.count_distinct(table["frame_id"]).as_py(),
        "have a label that is neither viral nor host": _outside(table["label"], ["viral", "host"]),
        "have a call that is neither virus nor others": _outside(table["call"], ["virus", "others"]),
        "have a score that is not a number": int((~np.isfinite(other) | ~np.isfinite(virus)).sum()),
        "have a call that contradicts its scores": int((table["call"].to_numpy() != by_score).sum()),
    }
    faults = [f"{rows} of {table.num_rows} rows {what}" for what, rows in counted.items() if rows]
    if not faults and pc.count_distinct(table["label"]).as_py() < 2:
        faults.append(f"all {table.num_rows} rows are labelled {table['label'][0].as_py()}; both labels are needed")
    return faults


def _of_two_labels(table: pa.Table) -> int:
    by_record = table.group_by("record_id").aggregate([("label", "count_distinct"), ("label", "count")])
    return int(pc.sum(by_record.filter(pc.greater(by_record["label_count_distinct"], 1))["label_count"]).as_py() or 0)


def _outside(column: pa.ChunkedArray, allowed: list[str]) -> int:
    return int(pc.sum(pc.invert(pc.is_in(column, pa.array(allowed)))).as_py())


def _row_gaps(left: tuple[str, pa.Table], right: tuple[str, pa.Table]) -> tuple[str, ...]:
    """Rows of one side only; or, where both have the same rows, facts on which they differ."""
    (left_name, left_table), (right_name, right_table) = left, right
    left_ids, right_ids = left_table["frame_id"].to_pylist(), right_table["frame_id"].to_pylist()
    gaps = []
    if left_ids != right_ids:
        lonely = ((left_name, set(left_ids) - set(right_ids)), (right_name, set(right_ids) - set(left_ids)))
        counts = "; ".join(f"{len(ids)} only in {name}{_examples(sorted(ids))}" for name, ids in lonely)
        gaps.append(
            f"{left_name} ({len(left_ids)} test rows) and {right_name} ({len(right_ids)}) did not score the "
            f"same rows: {counts}; evaluate both on one split"
        )
        return tuple(gaps)
    for fact in ROW_FACTS:
        ours, theirs = left_table[fact].to_pylist(), right_table[fact].to_pylist()
        different = [
            f"{frame_id}: {a} and {b}" for frame_id, a, b in zip(left_ids, ours, theirs, strict=True) if a != b
        ]
        if different:
            gaps.append(
                f"{left_name} and {right_name} disagree on the {fact} of {len(different)} of {len(left_ids)} "
                f"test rows{_examples(different)}; evaluate both on one split"
            )
    return tuple(gaps)


def _examples(items: list[str]) -> str:
    return f" (e.g. {', '.join(items[:EXAMPLES])})" if items else ""
