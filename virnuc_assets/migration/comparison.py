"""Paired differences between the candidate and another branch; intervals by bootstrap over clusters.

Sign convention everywhere: drop = other − candidate. A positive drop means that the candidate is worse.
Source: percentile bootstrap, B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13;
whole clusters of relatives are drawn because rows of one genome, and of related ones, are not independent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnuc_assets.migration.pairing import PairedRows
from virnuc_assets.settings import DecisionSettings


@dataclass(frozen=True)
class Drop:
    """How much lower the candidate scores, the percentile interval (None if there is only one cluster)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class GroupDrop:
    """Accuracy of both sides on one group's rows; `judged` is False where the group has too few rows."""

    label: str
    group: str
    rows: int
    candidate_accuracy: float
    other_accuracy: float
    drop: float
    judged: bool


@dataclass(frozen=True)
class Comparison:
    """The candidate against one other branch on the rows that both have scored."""

    other: str
    rows: int
    viral_rows: int
    host_rows: int
    records: int
    clusters: int
    accuracy_drop: Drop
    f1_drop: Drop
    groups: tuple[GroupDrop, ...]


def compare(paired: PairedRows, other: str, settings: DecisionSettings) -> Comparison:
    """Point differences, bootstrap intervals, and accuracy per group.

    Args:
        paired: rows that both sides have scored.
        other: name of the branch that the candidate is compared with.
        settings: confidence, bootstrap_rounds, seed and min_group_rows are used.
    """
    counts = confusion_by_cluster(paired)  # (clusters, 2, 4)
    weights = cluster_weights(len(counts), settings.bootstrap_rounds, settings.seed)  # (rounds, clusters)
    resampled = np.tensordot(weights, counts, axes=1)  # (rounds, 2, 4)
    total = counts.sum(axis=0)  # (2, 4)
    tails = [(1.0 - settings.confidence) / 2.0, (1.0 + settings.confidence) / 2.0]

    def drop(measure: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Drop:
        value = float(measure(total))
        if len(counts) < 2:
            return Drop(value, None, None)
        low, high = np.quantile(measure(resampled), tails)
        return Drop(value, float(low), float(high))

    return Comparison(
        other=other,
        rows=len(paired.viral),
        viral_rows=int(paired.viral.sum()),
        host_rows=int((~paired.viral).sum()),
        records=paired.records,
        clusters=len(counts),
        accuracy_drop=drop(accuracy_drop),
        f1_drop=drop(f1_drop),
        groups=_group_drops(paired, settings.min_group_rows),
    )


def confusion_by_cluster(paired: PairedRows) -> NDArray[np.float64]:
    """Confusion counts, float64 (clusters, 2, 4): side 0 the candidate, 1 the other; cells tn, fp, fn, tp.

    Counts are whole numbers held in float64, so sums are exact and do not depend on their order.
    """
    clusters = int(paired.cluster.max()) + 1
    sides = []
    for called in (paired.candidate_viral, paired.other_viral):
        cell = 2 * paired.viral.astype(np.int64) + called
        counts = np.bincount(4 * paired.cluster + cell, minlength=4 * clusters)
        sides.append(counts.reshape(clusters, 4))
    return np.stack(sides, axis=1).astype(np.float64)


def cluster_weights(clusters: int, rounds: int, seed: int) -> NDArray[np.float64]:
    """How often each round draws each cluster, with replacement: float64 (rounds, clusters)."""
    drawn = np.random.default_rng(seed).integers(0, clusters, size=(rounds, clusters))
    flat = drawn + clusters * np.arange(rounds)[:, None]
    return np.bincount(flat.ravel(), minlength=rounds * clusters).reshape(rounds, clusters).astype(np.float64)


def accuracy_drop(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The other's accuracy minus the candidate's from confusion counts (..., 2, 4) of at least one row."""
    right = counts[..., 0] + counts[..., 3]  # (..., 2)
    # One division of whole numbers: a drop of 5 rows in 100 is 0.05, not 0.05000000000000004.
    return np.asarray((right[..., 1] - right[..., 0]) / counts[..., 0, :].sum(axis=-1))


def f1_drop(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """The other's F1 of the viral class minus the candidate's; 0 if nothing is viral or called so."""
    hits = 2.0 * counts[..., 3]
    score = hits / np.maximum(hits + counts[..., 1] + counts[..., 2], 1.0)  # (..., 2)
    return np.asarray(score[..., 1] - score[..., 0])


def _group_drops(paired: PairedRows, min_rows: int) -> tuple[GroupDrop, ...]:
    size = len(paired.group_names)
    rows = np.bincount(paired.group, minlength=size)
    right = [
        np.bincount(paired.group, weights=calls == paired.viral, minlength=size)
        for calls in (paired.candidate_viral, paired.other_viral)
    ]
    return tuple(
        GroupDrop(
            label=label,
            group=group,
            rows=int(rows[i]),
            candidate_accuracy=float(right[0][i] / rows[i]),
            other_accuracy=float(right[1][i] / rows[i]),
            drop=float((right[1][i] - right[0][i]) / rows[i]),
            judged=bool(rows[i] >= min_rows),
        )
        for i, (label, group) in enumerate(paired.group_names)
    )
