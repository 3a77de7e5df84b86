"""Intervals by drawing whole clusters of relatives: rows of one genome, and of related ones, are not independent.

Source: percentile bootstrap, B. Efron and R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13, with
the tails widened for few clusters as in T. Hesterberg, The American Statistician 69 (2015) 371 ("expanded
percentile"): a percentile interval alone is too narrow by the factor sqrt((n - 1) / n) and lacks the t quantile.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm
from scipy.stats import t as student

Floats = NDArray[np.float64]
Interval = tuple[float | None, float | None]
# Bounds the memory of the weights, rounds x clusters.
_ROUNDS_AT_ONCE = 256


def interval(
    counts: Floats, measure: Callable[[Floats], Floats], rounds: int, seed: int, confidence: float
) -> Interval:
    """Interval of a measure of summed counts.

    Args:
        counts: (clusters, ...) whole numbers in float64, so that sums are exact in any order.
        measure: from sums (rounds, ...) to values (rounds,).
        rounds: of the bootstrap.
        seed: of the draws.
        confidence: e.g. 0.95.

    Returns:
        Lower and upper bound; None where there is only one cluster to draw from.
    """
    clusters = len(counts)
    if clusters < 2:
        return None, None
    generator = np.random.default_rng(seed)
    values = []
    for start in range(0, rounds, _ROUNDS_AT_ONCE):
        weights = cluster_weights(generator, min(_ROUNDS_AT_ONCE, rounds - start), clusters)
        values.append(measure(np.tensordot(weights, counts, axes=1)))
    tail = expanded_tail(clusters, confidence)
    low, high = np.quantile(np.concatenate(values), [tail, 1.0 - tail])
    return float(low), float(high)


def cluster_weights(generator: np.random.Generator, rounds: int, clusters: int) -> Floats:
    """How often each round draws each cluster, with replacement: float64 (rounds, clusters)."""
    drawn = generator.integers(0, clusters, size=(rounds, clusters))
    flat = drawn + clusters * np.arange(rounds)[:, None]
    return np.bincount(flat.ravel(), minlength=rounds * clusters).reshape(rounds, clusters).astype(np.float64)


def expanded_tail(clusters: int, confidence: float) -> float:
    """Share of the rounds to leave out on each side, for n clusters: Φ(sqrt(n / (n - 1)) · t(α/2; n - 1))."""
    quantile = student.ppf((1.0 - confidence) / 2.0, clusters - 1)
    return float(norm.cdf(math.sqrt(clusters / (clusters - 1)) * quantile))
