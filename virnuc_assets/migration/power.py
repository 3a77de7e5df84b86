"""What a decision on these test records could find: how often equal models get GO, and planted losses NO-GO.

Studies are made from the study itself: as many clusters of each group are drawn with replacement, and in each the two
sides are exchanged by the toss of a coin, so that neither model is better. A loss is planted by turning right calls of
the candidate wrong, evenly over its rows. Only the criteria about accuracy, F1, groups and the number of records are
applied; all others are taken as met.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from virnuc_assets.migration.comparison import Floats, PairedRows, confusion_counts, drop_intervals, group_tests
from virnuc_assets.settings import DecisionSettings

MARGINS = (1, 2, 3)
WANTED = 0.9
# Clusters of a test set, from what a small reference gives to more than a lab will have.
_SIZES = (12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
# Fewer rounds than a decision's: chances are shown in whole percent.
_ROUNDS = 500
# Bounds the memory of the counts, studies x clusters x groups x 8.
_COUNTS_AT_ONCE = 4_000_000


@dataclass(frozen=True)
class Chance:
    """How often studies end in GO and in NO-GO; the others are NO DECISION."""

    lost_in: str  # "nothing", "all rows", or the group that lost
    margins: int  # how many of its margins it lost
    go: float
    no_go: float


@dataclass(frozen=True)
class Power:
    """Chances for the clusters and groups of one test set."""

    clusters: int  # of the test set
    chances: tuple[Chance, ...]  # equal models, losses in all rows, losses in the tested group with fewest clusters
    clusters_wanted: int | None  # fewest of those tried with which equal models get GO in 90 %, if any
    most_tried: int
    studies: int  # drawn for each chance


def power(paired: PairedRows, settings: DecisionSettings) -> Power | None:
    """Chances of a test set; None with fewer than two clusters."""
    counts = confusion_counts(paired)
    generator = np.random.default_rng(settings.seed)
    clusters, groups = counts.shape[:2]
    if clusters < 2:
        return None
    cases = [("nothing", 0, np.zeros(groups))]
    whole = max(settings.max_accuracy_drop, settings.max_f1_drop)
    cases += [("all rows", times, np.full(groups, times * whole)) for times in MARGINS]
    of_group = group_tests(counts[None], settings)
    if of_group.tested.any():
        smallest = int(np.where(of_group.tested[0], of_group.clusters[0], len(counts) + 1).argmin())
        name = " / ".join(paired.group_names[smallest])
        alone = np.eye(groups)[smallest] * settings.max_group_drop
        cases += [(name, times, times * alone) for times in MARGINS]
    chances = tuple(
        Chance(name, times, *_chance(generator, counts, clusters, lost, settings)) for name, times, lost in cases
    )
    nothing = np.zeros(groups)
    sizes = (size for size in _SIZES if size >= settings.min_test_clusters)
    wanted = (size for size in sizes if _chance(generator, counts, size, nothing, settings)[0] >= WANTED)
    return Power(clusters, chances, next(wanted, None), _SIZES[-1], settings.power_studies)


def outcomes(studies: Floats, settings: DecisionSettings, rounds: int = _ROUNDS) -> tuple[np.ndarray, np.ndarray]:
    """GO and NO-GO, bool (s,) each, of studies' counts (s, clusters, groups, 2, 4)."""
    whole = studies.sum(axis=2)  # (s, clusters, 2, 4)
    margins = np.array([settings.max_accuracy_drop, settings.max_f1_drop])[:, None]
    bounds = drop_intervals(whole, rounds, settings.seed, settings.confidence)  # (2, s, 2)
    within, beyond = (bounds[..., 1] <= margins).all(axis=0), (bounds[..., 0] > margins).any(axis=0)
    of_group = group_tests(studies, settings)
    lost, worse = of_group.lost.any(axis=1), of_group.worse.any(axis=1)
    labelled = whole[:, :, 0].reshape(*whole.shape[:2], 2, 2).sum(axis=3)  # (s, clusters, 2): host, viral rows
    enough = (
        (whole.shape[1] >= settings.min_test_clusters)
        & ((labelled > 0).sum(axis=1) >= settings.min_clusters_per_label).all(axis=1)
        & (labelled.sum(axis=(1, 2)) >= settings.min_test_rows)
        & of_group.tested.any(axis=1)
    )
    return enough & within & ~lost & ~worse, enough & (beyond | lost)


def draw_studies(generator: np.random.Generator, counts: Floats, studies: int, clusters: int, lost: Floats) -> Floats:
    """Counts (studies, clusters, groups, 2, 4) of equal models, of which the candidate lost so much in each group."""
    chosen = _like_these(generator, counts, studies, clusters)
    coins = generator.random((studies, clusters)) < 0.5
    drawn = counts[chosen]
    drawn = np.where(coins[..., None, None, None], drawn[..., ::-1, :], drawn)
    right = counts[..., 0] + counts[..., 3]  # (clusters, groups, 2)
    accuracy = right.sum(axis=(0, 2)) / np.maximum(counts.sum(axis=(0, 2, 3)), 1.0)  # (groups,)
    share = np.clip(lost / np.maximum(accuracy, 1e-9), 0.0, 1.0)[None, None]
    for hit, miss in ((0, 1), (3, 2)):
        lost_calls = generator.binomial(drawn[..., 0, hit].astype(np.int64), share)
        drawn[..., 0, hit] -= lost_calls
        drawn[..., 0, miss] += lost_calls
    return drawn


def _like_these(generator: np.random.Generator, counts: Floats, studies: int, clusters: int) -> NDArray[np.int64]:
    """Clusters drawn with replacement, (studies, clusters), of each group as large a share as there is of it."""
    group = counts.sum(axis=(2, 3)).argmax(axis=1)  # of a cluster with rows of several groups, the largest
    order = np.argsort(group, kind="stable")
    of_place = group[order][np.arange(clusters) * len(counts) // clusters]  # (clusters,)
    first, last = (np.searchsorted(group[order], of_place, side) for side in ("left", "right"))
    return order[generator.integers(first, last, size=(studies, clusters))]


def _chance(
    generator: np.random.Generator, counts: Floats, clusters: int, lost: Floats, settings: DecisionSettings
) -> tuple[float, float]:
    at_once = max(1, _COUNTS_AT_ONCE // (clusters * counts.shape[1] * 8))
    go = no_go = 0
    for start in range(0, settings.power_studies, at_once):
        some = min(at_once, settings.power_studies - start)
        gos, no_gos = outcomes(draw_studies(generator, counts, some, clusters, lost), settings)
        go, no_go = go + int(gos.sum()), no_go + int(no_gos.sum())
    return go / settings.power_studies, no_go / settings.power_studies
