"""What the decision's statistics are worth, by simulation: coverage of intervals, GO for equal models and for losses.

A study draws clusters from a population: its group by the groups' shares, its size (log-normal), how hard it is for
both models, and what each model makes of it. Rows of a cluster are partly classified alike by both. Losses are planted
by turning right calls of the candidate wrong. Every rule is the package's own (`migration.comparison`,
`migration.power.outcomes`).
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from rich.progress import track
from scipy.special import expit, logit

from benchmarks.common import CONSOLE, Figures, Limits
from virnuc_assets.migration.comparison import Floats, accuracy_drop, drop_intervals, f1_drop, group_tests
from virnuc_assets.migration.power import outcomes
from virnuc_assets.settings import DecisionSettings

OPTIONS = {"studies": (2000, "of each figure and design"), "rounds": (1000, "of the bootstrap")}
CLUSTERS, GROUPS, ROWS = (12, 20, 40, 60, 100, 200, 400), (2, 4, 8, 10), (20, 100)
SIZES_CV = 0.8  # of the test rows of the bundled project by cluster: 0.82
ACCURACY, SHARED_ROWS, HARDNESS_SD, MODEL_SD = 0.9, 0.5, 0.8, 0.4
LEAST_OF_LOSING_GROUP = 8
SETTINGS = DecisionSettings()
LIMITS = {
    "p_go_equal_large": (0.90, 1.0),
    "p_go_when_overall_loss_twice_margin": (0.0, 0.01),
    "p_go_when_one_group_loses_three_margins": (0.0, 0.05),
    "coverage_min": (0.93, 1.0),
    "coverage_max": (0.0, 0.97),
}


class Design(NamedTuple):
    """So many clusters, groups of these shares (viral and host by turns), and rows in a cluster on average."""

    clusters: int
    shares: tuple[float, ...]
    rows: int

    def studies(
        self, rng: np.random.Generator, count: int, lost: Floats, losing: int | None = None
    ) -> Iterator[Floats]:
        """As of `draw`, in parts that fit into memory."""
        at_once = max(1, 2_000_000 // (self.clusters * len(self.shares) * 8))
        for start in range(0, count, at_once):
            yield draw(rng, self, min(at_once, count - start), lost, losing)


def measure(given: argparse.Namespace, _: Path) -> tuple[Figures, Limits]:
    """All designs; the metrics of `LIMITS` are the worst over them."""
    rng, found = np.random.default_rng(0), list[dict[str, float]]()
    designs = list(itertools.product(CLUSTERS, GROUPS, ROWS, (True, False)))
    for clusters, groups, rows, even in track(designs, "designs", console=CONSOLE):
        weights = np.ones(groups) if even else 1.0 / np.arange(1, groups + 1)
        design = Design(clusters, tuple((weights / weights.sum()).tolist()), rows)
        facts = {"clusters": clusters, "groups": groups, "rows": rows, "even": even}
        found.append(facts | _line(rng, design, given.studies, given.rounds))
    table = pd.DataFrame(found)
    CONSOLE.print(table.to_string(float_format="{:.3f}".format))
    large = (table["clusters"] >= 60) & (table["groups"] == 8)
    return {
        **{f"p_go_equal_{row.clusters}_{row.groups}_{row.rows}_{row.even:d}": row.equal for row in table.itertuples()},
        "p_go_equal_large": table["equal"][large].min(),
        "p_go_when_overall_loss_twice_margin": table["loss_2"].max(),
        "p_go_when_one_group_loses_three_margins": table["group_loss_3"].max(),
        "coverage_min": table["covered_least"].min(),
        "coverage_max": table["covered_most"].max(),
        "family_wise_error_at_margin_holm": table["holm"].max(),
    }, LIMITS


def _line(rng: np.random.Generator, design: Design, studies: int, rounds: int) -> dict[str, float]:
    """Of the table: coverage from four times as many studies, GO without and with losses, errors of groups."""
    groups, of_group = len(design.shares), SETTINGS.max_group_drop
    covered = [share for margins in (0, 1) for share in coverage(rng, design, 4 * studies, rounds, margins)]

    def chance_of_go(lost: Floats, losing: int | None = None) -> float:
        """Share of the studies that the package's own rules let pass."""
        drawn = design.studies(rng, studies, lost, losing)
        return sum(int(outcomes(counts, SETTINGS)[0].sum()) for counts in drawn) / studies

    losing = [g for g, share in enumerate(design.shares) if share * design.clusters >= LEAST_OF_LOSING_GROUP - 1]
    at_margin = design.studies(rng, studies // 4, np.full(groups, of_group))
    return {
        "covered_least": min(covered),
        "covered_most": max(covered),
        "equal": chance_of_go(np.zeros(groups)),
        "loss_2": chance_of_go(np.full(groups, 2 * SETTINGS.max_accuracy_drop)),
        "group_loss_3": chance_of_go(np.eye(groups)[losing[-1]] * 3 * of_group, losing[-1]) if losing else math.nan,
        # of studies in which a group counts as lost more than the margin
        "holm": np.concatenate([group_tests(counts, SETTINGS).lost.any(axis=1) for counts in at_margin]).mean(),
    }


def draw(rng: np.random.Generator, design: Design, studies: int, lost: Floats, losing: int | None = None) -> Floats:
    """Confusion counts (studies, clusters, groups, 2, 4) of a candidate that lost so much accuracy in each group.

    Studies in which the group `losing` has fewer than `LEAST_OF_LOSING_GROUP` clusters are drawn again.
    """
    shape, groups = (studies, design.clusters), len(design.shares)
    group = rng.choice(groups, size=shape, p=design.shares)
    while losing is not None and (few := (group == losing).sum(axis=1) < LEAST_OF_LOSING_GROUP).any():
        group[few] = rng.choice(groups, size=(int(few.sum()), design.clusters), p=design.shares)
    sigma = math.sqrt(math.log(1 + SIZES_CV**2))
    rows = np.maximum(1, rng.lognormal(math.log(design.rows) - sigma**2 / 2, sigma, shape).round()).astype(np.int64)
    common = logit(ACCURACY) + HARDNESS_SD * rng.standard_normal(shape)
    alike = rng.binomial(rows, SHARED_ROWS)
    right_alike = rng.binomial(alike, expit(common))
    right = [
        right_alike + rng.binomial(rows - alike, expit(common + MODEL_SD * rng.standard_normal(shape)))
        for _ in range(2)
    ]
    right[0] = right[0] - rng.binomial(right[0], np.clip(lost[group] / _mean_accuracy(), 0.0, 1.0))
    counts, viral = np.zeros((*shape, groups, 2, 4)), group % 2 == 0
    study, cluster = np.indices(shape)
    for model, hits in enumerate(right):
        counts[study, cluster, group, model, np.where(viral, 3, 0)] = hits
        counts[study, cluster, group, model, np.where(viral, 2, 1)] = rows - hits
    return counts


def _mean_accuracy() -> float:
    normal = np.random.default_rng(0).standard_normal(100_000)
    alike = expit(logit(ACCURACY) + HARDNESS_SD * normal).mean()
    alone = expit(logit(ACCURACY) + math.hypot(HARDNESS_SD, MODEL_SD) * normal).mean()
    return float(SHARED_ROWS * alike + (1 - SHARED_ROWS) * alone)


def coverage(rng: np.random.Generator, design: Design, studies: int, rounds: int, margins: int) -> Floats:
    """Share of the studies whose interval covers the true drop, of accuracy and of F1, after so many margins lost."""
    lost = np.full(len(design.shares), margins * SETTINGS.max_accuracy_drop)
    population = sum(draw(rng, design, 200, lost).sum(axis=(0, 1, 2)) for _ in range(max(1, 4000 // design.clusters)))
    truth = np.array([[of(np.asarray(population))] for of in (accuracy_drop, f1_drop)], dtype=float)  # (2, 1)
    covered = np.zeros(2)
    for counts in design.studies(rng, studies, lost):
        bounds = drop_intervals(counts.sum(axis=2), rounds, int(rng.integers(2**31)), SETTINGS.confidence)
        covered += ((bounds[..., 0] <= truth) & (truth <= bounds[..., 1])).sum(axis=1)  # of (2, studies, 2)
    return covered / studies
