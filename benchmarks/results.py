"""From rounds to figures: medians, ratios with their spread, differences of vectors; and the tables to print."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.table import Table
from scipy.stats import binom

from benchmarks.contenders import Contender
from benchmarks.measuring import Figures

Round = dict[str, Figures]  # of one turn of each contender, by its name
Ratios = Mapping[str, tuple[Contender, Contender]]


def speedups(rounds: Sequence[Round], ratios: Ratios) -> dict[str, list[float]]:
    """Ours over the original in sequences per second, by metric, one value per round."""
    rate = "sequences_per_s"
    return {m: [one[a.name][rate] / one[b.name][rate] for one in rounds] for m, (a, b) in ratios.items()}


def half_width(values: Sequence[float]) -> float:
    """Half of the interval that holds the median with at least 90 %, relative to it.

    Its ends are order statistics, by the binomial distribution of how many values are below the median; of five values
    they are the least and the greatest, and fewer do not suffice.
    """
    ordered, below = sorted(values), int(binom.ppf(0.05, len(values), 0.5))
    return (ordered[-below] - ordered[below - 1]) / 2 / statistics.median(values)


def summary(name: str, rounds: Sequence[Round], ratios: Ratios, vectors: Path) -> Figures:
    """Figures of one comparison: `name.contender.figure` are medians, metrics have _min, _max and _rounds, too.

    Args:
        name: Of the comparison.
        rounds: At least one.
        ratios: Ours and the original by metric, ours in fp32 first.
        vectors: Folder with the vectors of each contender.
    """
    metrics = speedups(rounds, ratios)
    if name == "protein_650m":
        for ours, _ in ratios.values():
            metrics[f"{ours.precision}_share_of_peak"] = [one[ours.name]["share_of_peak"] for one in rounds]
    found: Figures = {}
    for metric, values in metrics.items():
        spread = {"": statistics.median(values), "_min": min(values), "_max": max(values), "_rounds": len(values)}
        found |= {metric + ending: value for ending, value in spread.items()}
    expected = np.load(vectors / f"{next(iter(ratios.values()))[0].name}.npy").astype(np.float64)  # (n, d)
    for contender in rounds[0]:
        of = {figure: statistics.median(one[contender][figure] for one in rounds) for figure in rounds[0][contender]}
        other = np.load(vectors / f"{contender}.npy").astype(np.float64)
        if other.shape[1] == expected.shape[1]:  # otherwise another model
            same = expected[: len(other)]
            cosines = (other * same).sum(1) / np.linalg.norm(other, axis=1) / np.linalg.norm(same, axis=1)
            of |= {"min_cosine": float(cosines.min()), "max_difference": float(np.abs(other - same).max())}
        found |= {f"{name}.{contender}.{figure}": value for figure, value in of.items()}
    return found


def tables(figures: Figures) -> tuple[Table, Table]:
    """One line per contender, and one per metric."""
    columns = ("sequences_per_s", "gflops", "gemm_gflops", "share_of_peak", "peak_memory_bytes", "max_difference")
    contenders = Table("contender", *columns, "min_cosine")
    for start in [name.removesuffix(columns[0]) for name in figures if name.endswith(columns[0])]:
        values = [f"{figures[start + column]:.3g}" if start + column in figures else "" for column in columns]
        cosine = figures.get(f"{start}min_cosine")
        contenders.add_row(start[:-1], *values, "" if cosine is None else f"{cosine:.7f}")
    metrics = Table("metric", "median", "min", "max", "rounds")
    for name in [name for name in figures if f"{name}_rounds" in figures]:
        metrics.add_row(name, *(f"{figures[name + ending]:.4g}" for ending in ("", "_min", "_max", "_rounds")))
    return contenders, metrics
