"""What the decision's statistics are worth, by simulation: coverage of intervals, GO for equal models and for losses.

A study draws clusters from a population: its group by the groups' shares, its size (log-normal), how hard it is for
both models, and what each model makes of it. Rows of a cluster are partly classified alike by both. Losses are planted
by turning right calls of the candidate wrong. Every rule is the package's own (`migration.comparison`,
`migration.power.outcomes`); only the alternative that was not chosen for groups, simultaneous intervals from the
bootstrap of the largest studentized drop, is written here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from rich.progress import track
from scipy.special import expit, logit

from benchmarks.common import CONSOLE, Figures, options, publish
from virnuc_assets.migration.comparison import (
    Floats,
    accuracy_drop,
    cluster_weights,
    drop_intervals,
    f1_drop,
    group_tests,
)
from virnuc_assets.migration.power import outcomes
from virnuc_assets.settings import DecisionSettings

CLUSTERS, GROUPS, ROWS = (12, 20, 40, 60, 100, 200, 400), (2, 4, 8, 10), (20, 100)
# Of the test rows of the bundled project by cluster: 0.82.
SIZES_CV = 0.8
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


@dataclass(frozen=True)
class Design:
    """So many clusters, groups of these shares (viral and host by turns), and rows in a cluster on average."""

    clusters: int
    shares: tuple[float, ...]
    rows: int

    @property
    def even(self) -> bool:
        """Whether its groups are of one size."""
        return len(set(self.shares)) == 1

    def batches(self, studies: int) -> Iterator[int]:
        """So many studies in parts that fit into memory."""
        at_once = max(1, 2_000_000 // (self.clusters * len(self.shares) * 8))
        for start in range(0, studies, at_once):
            yield min(at_once, studies - start)


def main() -> int:
    """Simulate, print tables, write the figures; 1 where a limit is missed."""
    parser = options("bench-decision", __doc__)
    parser.add_argument("--studies", type=int, default=2000, help="of each figure and design (default 2000)")
    parser.add_argument("--rounds", type=int, default=1000, help="of the bootstrap (default 1000)")
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    return publish(simulate(given.studies, given.rounds), given.out, LIMITS)


def designs() -> Iterator[Design]:
    """All of them: groups of equal size, and groups whose sizes fall as 1, 1/2, 1/3 and so on."""
    for clusters, groups, rows, even in itertools.product(CLUSTERS, GROUPS, ROWS, (True, False)):
        weights = np.ones(groups) if even else 1.0 / np.arange(1, groups + 1)
        yield Design(clusters, tuple((weights / weights.sum()).tolist()), rows)


def simulate(studies: int, rounds: int) -> Figures:
    """All figures; the metrics of `LIMITS` are the worst over the designs."""
    rng = np.random.default_rng(0)
    figures: Figures = {}
    found = pd.DataFrame(
        _of_design(rng, design, studies, rounds) for design in track(list(designs()), "designs", console=CONSOLE)
    )
    CONSOLE.print(found.to_string(float_format="{:.3f}".format))
    for row in found.itertuples():
        figures[f"p_go_equal_{row.clusters}_{row.groups}_{row.rows}_{row.even:d}"] = row.equal
    return figures | {
        "p_go_equal_large": found.equal[(found.clusters >= 60) & (found.groups == 8)].min(),
        "p_go_when_overall_loss_twice_margin": found.loss_2.max(),
        "p_go_when_one_group_loses_three_margins": found.group_loss_3.max(),
        "coverage_min": found.covered_least.min(),
        "coverage_max": found.covered_most.max(),
        "family_wise_error_at_margin_holm": found.holm.max(),
        "family_wise_error_at_margin_simultaneous": found.simultaneous.max(),
        "studies": studies,
        "bootstrap_rounds": rounds,
    }


def _of_design(rng: np.random.Generator, design: Design, studies: int, rounds: int) -> dict[str, float]:
    """One line of the table: coverage from four times as many studies, GO without and with losses, errors of groups."""
    groups, margin = len(design.shares), SETTINGS.max_accuracy_drop
    covered = [share for margins in (0, 1) for share in coverage(rng, design, 4 * studies, rounds, margins)]
    equal = chance_of_go(rng, design, studies, np.zeros(groups))
    loss_2 = chance_of_go(rng, design, studies, np.full(groups, 2 * margin))
    losing = [g for g, share in enumerate(design.shares) if share * design.clusters >= LEAST_OF_LOSING_GROUP - 1]
    group_loss_3 = math.nan
    if losing:
        lost = np.eye(groups)[losing[-1]] * 3 * SETTINGS.max_group_drop
        group_loss_3 = chance_of_go(rng, design, studies, lost, losing[-1])
    holm, simultaneous = group_errors(rng, design, studies // 4, np.full(groups, SETTINGS.max_group_drop))
    return {
        "clusters": design.clusters,
        "groups": groups,
        "rows": design.rows,
        "even": design.even,
        "covered_least": min(covered),
        "covered_most": max(covered),
        "equal": equal,
        "loss_2": loss_2,
        "group_loss_3": group_loss_3,
        "holm": holm,
        "simultaneous": simultaneous,
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
    truth = np.array([[measure(np.asarray(population))] for measure in (accuracy_drop, f1_drop)], dtype=float)  # (2, 1)
    covered = np.zeros(2)
    for some in design.batches(studies):
        whole = draw(rng, design, some, lost).sum(axis=2)
        bounds = drop_intervals(whole, rounds, int(rng.integers(2**31)), SETTINGS.confidence)  # (2, studies, 2)
        covered += ((bounds[..., 0] <= truth) & (truth <= bounds[..., 1])).sum(axis=1)
    return covered / studies


def chance_of_go(
    rng: np.random.Generator, design: Design, studies: int, lost: Floats, losing: int | None = None
) -> float:
    """Share of the studies that the package's own rules let pass."""
    drawn = (draw(rng, design, some, lost, losing) for some in design.batches(studies))
    return sum(int(outcomes(counts, SETTINGS)[0].sum()) for counts in drawn) / studies


def group_errors(rng: np.random.Generator, design: Design, studies: int, lost: Floats) -> tuple[float, float]:
    """Share of studies in which a group counts as lost more than the margin: Holm, and simultaneous intervals."""
    holm = simultaneous = 0
    for some in design.batches(studies):
        counts = draw(rng, design, some, lost)
        holm += int(group_tests(counts, SETTINGS).lost.any(axis=1).sum())
        simultaneous += sum(_any_lost_simultaneously(rng, one) for one in counts)
    return holm / studies, simultaneous / studies


def _any_lost_simultaneously(rng: np.random.Generator, counts: Floats) -> bool:
    """Whether a simultaneous lower bound is beyond the margin: bootstrap of the largest studentized drop."""
    found = group_tests(counts[None], SETTINGS)
    used = found.tested[0] & (found.error[0] > 0)
    if not used.any():
        return False
    right, rows = counts[..., 0] + counts[..., 3], counts[..., 0, :].sum(axis=-1)
    weights = cluster_weights(rng, 500, len(counts))
    sums, sizes = weights @ (right[..., 1] - right[..., 0]), weights @ rows
    moved = (sums / np.maximum(sizes, 1.0) - found.drop[0]) / np.where(used, found.error[0], 1.0)
    reach = np.quantile(moved[:, used].max(axis=1), 1.0 - SETTINGS.group_error)
    return bool((found.drop[0] - reach * found.error[0] > SETTINGS.max_group_drop)[used].any())


if __name__ == "__main__":
    raise SystemExit(main())
