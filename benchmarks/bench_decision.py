"""What the decision's statistics are worth, by simulation: coverage of intervals, GO for equal models and for losses.

A study draws clusters from a population: its group by the groups' shares, its size (log-normal), how hard it is for
both models, and what each model makes of it. Rows of a cluster are partly classified alike by both. Losses are planted
by turning right calls of the candidate wrong. Every rule is the package's own (`migration.comparison`,
`migration.power.outcomes`); only the alternative that was not chosen for groups, simultaneous intervals from the
bootstrap of the largest studentized drop, is written here.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

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

ROOT = Path(__file__).parents[1]
CLUSTERS = (12, 20, 40, 60, 100, 200, 400)
GROUPS = (2, 4, 8, 10)
ROWS = (20, 100)
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
    """So many clusters, groups of these shares (viral and host in turn), and rows in a cluster on average."""

    clusters: int
    shares: tuple[float, ...]
    rows: int

    @property
    def name(self) -> str:
        """One cell of the table."""
        kind = "even" if len(set(self.shares)) == 1 else "uneven"
        return f"{self.clusters} × {self.rows} / {len(self.shares)} {kind}"


def designs() -> Iterator[Design]:
    """All of them: groups of equal size, and groups whose sizes fall as 1, 1/2, 1/3 and so on."""
    for clusters, groups, rows, even in itertools.product(CLUSTERS, GROUPS, ROWS, (True, False)):
        weights = np.ones(groups) if even else 1.0 / np.arange(1, groups + 1)
        yield Design(clusters, tuple((weights / weights.sum()).tolist()), rows)


def draw(rng: np.random.Generator, design: Design, studies: int, lost: Floats, losing: int | None = None) -> Floats:
    """Confusion counts (studies, clusters, groups, 2, 4) of a candidate that lost so much accuracy in each group.

    Args:
        rng: random numbers.
        design: of the studies.
        studies: how many.
        lost: (groups,) accuracy.
        losing: a group that has `LEAST_OF_LOSING_GROUP` clusters in every study; studies in which it has not are
            drawn again.
    """
    shape, groups = (studies, design.clusters), len(design.shares)
    group = rng.choice(groups, size=shape, p=design.shares)
    while losing is not None and (few := (group == losing).sum(axis=1) < LEAST_OF_LOSING_GROUP).any():
        group[few] = rng.choice(groups, size=(int(few.sum()), design.clusters), p=design.shares)
    sigma = math.sqrt(math.log(1 + SIZES_CV**2))
    rows = np.maximum(1, rng.lognormal(math.log(design.rows) - sigma**2 / 2, sigma, shape).round()).astype(np.int64)
    common = math.log(ACCURACY / (1 - ACCURACY)) + HARDNESS_SD * rng.standard_normal(shape)
    alike = rng.binomial(rows, SHARED_ROWS)
    right_alike = rng.binomial(alike, _logistic(common))
    right = [
        right_alike + rng.binomial(rows - alike, _logistic(common + MODEL_SD * rng.standard_normal(shape)))
        for _ in range(2)
    ]
    right[0] = right[0] - rng.binomial(right[0], np.clip(lost[group] / _mean_accuracy(), 0.0, 1.0))
    counts, viral = np.zeros((*shape, groups, 2, 4)), group % 2 == 0
    study, cluster = np.indices(shape)
    for side, hits in enumerate(right):
        counts[study, cluster, group, side, np.where(viral, 3, 0)] = hits
        counts[study, cluster, group, side, np.where(viral, 2, 1)] = rows - hits
    return counts


def coverage(rng: np.random.Generator, design: Design, studies: int, rounds: int, margins: int) -> tuple[float, float]:
    """Share of the studies whose interval holds the true drop, of accuracy and of F1, after so many margins lost."""
    lost = np.full(len(design.shares), margins * SETTINGS.max_accuracy_drop)
    population = sum(draw(rng, design, 200, lost).sum(axis=(0, 1, 2)) for _ in range(max(1, 4000 // design.clusters)))
    truth = [float(measure(np.asarray(population))) for measure in (accuracy_drop, f1_drop)]
    held = np.zeros(2)
    for some in _batches(studies, design):
        whole = draw(rng, design, some, lost).sum(axis=2)
        bounds = drop_intervals(whole, rounds, int(rng.integers(2**31)), SETTINGS.confidence)
        held += [
            ((low <= t) & (t <= high)).sum() for (low, high), t in zip(bounds.transpose(0, 2, 1), truth, strict=True)
        ]
    return float(held[0] / studies), float(held[1] / studies)


def chance_of_go(rng: np.random.Generator, design: Design, studies: int, lost: Floats, losing: int | None) -> float:
    """Share of the studies that the package's own rules let pass."""
    passed = sum(
        int(outcomes(draw(rng, design, some, lost, losing), SETTINGS)[0].sum()) for some in _batches(studies, design)
    )
    return passed / studies


def group_errors(rng: np.random.Generator, design: Design, studies: int, lost: Floats) -> tuple[float, float]:
    """Share of studies in which a group counts as lost more than the margin: Holm, and simultaneous intervals."""
    holm = simultaneous = 0
    for some in _batches(studies, design):
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


def simulate(studies: int, rounds: int, seed: int, console: Console) -> dict[str, float]:
    """All figures; the metrics of `LIMITS` are the worst over the designs."""
    rng = np.random.default_rng(seed)
    figures: dict[str, float] = {}
    table = Table("clusters × rows / groups", "acc.", "F1", "equal", "−2", "group −3", "Holm", "simult.")
    covers, equal, twice, thrice, errors = [], [], [], [], []
    for design in track(list(designs()), console=console, description="designs"):
        groups = len(design.shares)
        covered = [coverage(rng, design, 4 * studies, rounds, margins) for margins in (0, 1)]
        covers += [share for pair in covered for share in pair]
        go_equal = chance_of_go(rng, design, studies, np.zeros(groups), None)
        go_twice = chance_of_go(rng, design, studies, np.full(groups, 2 * SETTINGS.max_accuracy_drop), None)
        losing = [g for g, share in enumerate(design.shares) if share * design.clusters >= LEAST_OF_LOSING_GROUP - 1]
        go_thrice = None
        if losing:
            lost = np.eye(groups)[losing[-1]] * 3 * SETTINGS.max_group_drop
            go_thrice = chance_of_go(rng, design, studies, lost, losing[-1])
            thrice.append(go_thrice)
        at_margin = group_errors(rng, design, studies // 4, np.full(groups, SETTINGS.max_group_drop))
        errors.append(at_margin)
        twice.append(go_twice)
        if design.clusters >= 60 and groups == 8:
            equal.append(go_equal)
        figures[f"p_go_equal_{design.clusters}_{groups}_{design.rows}_{len(set(design.shares)) == 1:d}"] = go_equal
        shown = [min(pair[0] for pair in covered), min(pair[1] for pair in covered), go_equal, go_twice, go_thrice]
        table.add_row(design.name, *("–" if one is None else f"{one:.3f}" for one in (*shown, *at_margin)))
    console.print(table)
    return figures | {
        "p_go_equal_large": min(equal),
        "p_go_when_overall_loss_twice_margin": max(twice),
        "p_go_when_one_group_loses_three_margins": max(thrice),
        "coverage_min": min(covers),
        "coverage_max": max(covers),
        "family_wise_error_at_margin_holm": max(one for one, _ in errors),
        "family_wise_error_at_margin_simultaneous": max(other for _, other in errors),
        "studies": studies,
        "bootstrap_rounds": rounds,
    }


def _batches(studies: int, design: Design) -> Iterator[int]:
    at_once = max(1, 2_000_000 // (design.clusters * len(design.shares) * 8))
    for start in range(0, studies, at_once):
        yield min(at_once, studies - start)


def _logistic(value: Floats) -> Floats:
    return 1.0 / (1.0 + np.exp(-value))


def _mean_accuracy() -> float:
    normal = np.random.default_rng(0).standard_normal(100_000)
    centre = math.log(ACCURACY / (1 - ACCURACY))
    alike = _logistic(centre + HARDNESS_SD * normal).mean()
    alone = _logistic(centre + math.hypot(HARDNESS_SD, MODEL_SD) * normal).mean()
    return float(SHARED_ROWS * alike + (1 - SHARED_ROWS) * alone)


def main() -> int:
    """Simulate, print a table, write the figures; 1 where a limit is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--studies", type=int, default=2000, help="of each figure and design, four times as many for coverage"
    )
    parser.add_argument("--rounds", type=int, default=1000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "bench" / "decision.json")
    options = parser.parse_args()
    console = Console()
    figures = simulate(options.studies, options.rounds, options.seed, console)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    missed = {name: figures[name] for name, (low, high) in LIMITS.items() if not low <= figures[name] <= high}
    for name, (low, high) in LIMITS.items():
        console.print(f"{name}: {figures[name]:.4f} ({low:g} to {high:g})")
    console.print(f"written: {options.out}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
