"""Paired differences between the candidate and another variant, with intervals by clusters of relatives.

Sign convention everywhere: drop = other − candidate. A positive drop means that the candidate is worse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from virnuc_assets.classifier.metrics import LEVELS, Level
from virnuc_assets.migration.pairing import PairedCalls, PairedRows
from virnuc_assets.migration.resampling import Floats, interval
from virnuc_assets.settings import DecisionSettings


@dataclass(frozen=True)
class Drop:
    """How much lower the candidate scores, and the interval (None if there is only one cluster)."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class GroupDrop:
    """Accuracy of both sides on one group's rows; `judged` is False where the group has too few rows."""

    label: str
    group: str
    rows: int
    clusters: int
    candidate_accuracy: float
    other_accuracy: float
    drop: Drop
    judged: bool


@dataclass(frozen=True)
class McNemar:
    """Rows that only one side calls right, and the exact two-sided p of as uneven a share by chance.

    Source: Q. McNemar, Psychometrika 12 (1947) 153; exact as a binomial test of the discordant pairs. It takes rows
    as independent: frames of one genome are not, so p of frames is too small where clusters are large.
    """

    level: Level
    rows: int
    only_candidate_right: int
    only_other_right: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """The candidate against one other variant on the rows that both have scored."""

    other: str
    rows: int
    viral_rows: int
    host_rows: int
    records: int
    clusters: int
    viral_clusters: int
    host_clusters: int
    accuracy_drop: Drop
    f1_drop: Drop
    groups: tuple[GroupDrop, ...]
    mcnemar: tuple[McNemar, ...]


def compare(paired: PairedRows, other: str, settings: DecisionSettings) -> Comparison:
    """Point differences, bootstrap intervals, accuracy per group, and McNemar's test at every level.

    Args:
        paired: rows that both sides have scored.
        other: name of the variant that the candidate is compared with.
        settings: confidence, bootstrap_rounds, seed and min_group_rows are used.
    """
    counts = confusion_by_cluster(paired)  # (clusters, 2, 4)
    return Comparison(
        other=other,
        rows=len(paired.viral),
        viral_rows=int(paired.viral.sum()),
        host_rows=int((~paired.viral).sum()),
        records=len(paired.levels["record"].viral),
        clusters=len(counts),
        viral_clusters=len(np.unique(paired.cluster[paired.viral])),
        host_clusters=len(np.unique(paired.cluster[~paired.viral])),
        accuracy_drop=_drop(counts, accuracy_drop, settings),
        f1_drop=_drop(counts, f1_drop, settings),
        groups=tuple(_group_drop(paired, number, settings) for number in range(len(paired.group_names))),
        mcnemar=tuple(mcnemar(level, paired.levels[level]) for level in LEVELS),
    )


def confusion_by_cluster(paired: PairedRows) -> Floats:
    """Confusion counts, float64 (clusters, 2, 4): side 0 the candidate, 1 the other; cells tn, fp, fn, tp."""
    clusters = int(paired.cluster.max()) + 1
    sides = []
    for called in (paired.candidate_viral, paired.other_viral):
        cell = 2 * paired.viral.astype(np.int64) + called
        counts = np.bincount(4 * paired.cluster + cell, minlength=4 * clusters)
        sides.append(counts.reshape(clusters, 4))
    return np.stack(sides, axis=1).astype(np.float64)


def accuracy_drop(counts: Floats) -> Floats:
    """The other's accuracy minus the candidate's from confusion counts (..., 2, 4) of at least one row."""
    right = counts[..., 0] + counts[..., 3]  # (..., 2)
    # One division of whole numbers: a drop of 5 rows in 100 is 0.05, not 0.05000000000000004.
    return np.asarray((right[..., 1] - right[..., 0]) / counts[..., 0, :].sum(axis=-1))


def f1_drop(counts: Floats) -> Floats:
    """The other's F1 of the viral class minus the candidate's; 0 if nothing is viral or called so."""
    hits = 2.0 * counts[..., 3]
    score = hits / np.maximum(hits + counts[..., 1] + counts[..., 2], 1.0)  # (..., 2)
    return np.asarray(score[..., 1] - score[..., 0])


def mcnemar(level: Level, calls: PairedCalls) -> McNemar:
    """McNemar's exact test of paired calls."""
    ours, theirs = calls.candidate == calls.viral, calls.other == calls.viral
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    discordant = only_ours + only_theirs
    p = float(binomtest(only_ours, discordant).pvalue) if discordant else 1.0
    return McNemar(level, len(calls.viral), only_ours, only_theirs, p)


def _drop(counts: Floats, measure: Callable[[Floats], Floats], settings: DecisionSettings) -> Drop:
    low, high = interval(counts, measure, settings.bootstrap_rounds, settings.seed, settings.confidence)
    return Drop(float(measure(counts.sum(axis=0))), low, high)


def _group_drop(paired: PairedRows, number: int, settings: DecisionSettings) -> GroupDrop:
    mine = paired.of_group(number)
    counts = confusion_by_cluster(mine)
    right = [float((calls == mine.viral).mean()) for calls in (mine.candidate_viral, mine.other_viral)]
    label, group = paired.group_names[number]
    return GroupDrop(
        label=label,
        group=group,
        rows=len(mine.viral),
        clusters=len(counts),
        candidate_accuracy=right[0],
        other_accuracy=right[1],
        drop=_drop(counts, accuracy_drop, settings),
        judged=len(mine.viral) >= settings.min_group_rows,
    )
