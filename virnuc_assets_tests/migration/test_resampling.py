"""Intervals of whole clusters: drawn as said, and covering what they claim to cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from virnuc_assets.migration.comparison import accuracy_drop, f1_drop
from virnuc_assets.migration.resampling import cluster_weights, expanded_tail, interval


def test_each_round_draws_as_many_clusters_as_there_are() -> None:
    weights, again = (cluster_weights(np.random.default_rng(3), 50, 7) for _ in range(2))
    assert weights.shape == (50, 7)
    assert set(weights.sum(axis=1)) == {7.0}
    assert np.array_equal(weights, again)


def test_an_interval_depends_on_the_seed_and_on_nothing_else() -> None:
    counts = np.random.default_rng(0).integers(1, 9, size=(12, 2, 4)).astype(float)
    first, again, other = (interval(counts, f1_drop, 700, seed, 0.95) for seed in (1, 1, 2))
    assert first == again != other


def test_one_cluster_has_no_interval() -> None:
    assert interval(np.ones((1, 2, 4)), accuracy_drop, 100, 0, 0.95) == (None, None)


def test_tails_are_wider_for_few_clusters_and_plain_for_many() -> None:
    assert expanded_tail(10**7, 0.95) == pytest.approx(0.025, abs=1e-6)
    # n = 10: t(0.025; 9) = -2.262157, by sqrt(10 / 9).
    assert expanded_tail(10, 0.95) == pytest.approx(norm.cdf(-2.262157 * (10 / 9) ** 0.5), abs=1e-6)


@pytest.mark.parametrize("clusters", [12, 40])
def test_the_95_percent_interval_covers_the_truth_in_93_to_97_percent(clusters: int) -> None:
    """Clusters of 1 to 60 rows, each with error rates of its own; the true drop of the drawn population is known."""
    covered, studies = 0, 1500
    generator = np.random.default_rng(20)
    truth = 0.06
    for study in range(studies):
        rows = generator.integers(1, 61, size=clusters)
        hard = generator.beta(2.0, 6.0, size=clusters)  # how hard a cluster is for both sides
        wrong = [generator.binomial(rows, np.clip(hard + extra, 0.0, 1.0)) for extra in (truth, 0.0)]
        counts = np.zeros((clusters, 2, 4))
        for side in (0, 1):
            counts[:, side, 0], counts[:, side, 1] = rows - wrong[side], wrong[side]
        low, high = interval(counts, accuracy_drop, 400, study, 0.95)
        assert low is not None and high is not None
        covered += low <= truth <= high
    assert 0.93 <= covered / studies <= 0.97
