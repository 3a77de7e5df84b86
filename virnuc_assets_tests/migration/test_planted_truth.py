"""Whole decisions on tables whose truth was planted: equal sides, one group degraded, better on too few rows."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest

from virnuc_assets.migration.decision import Decision, decide
from virnuc_assets.sequences.catalogue import HOST_GROUPS
from virnuc_assets.settings import DecisionSettings, EvaluationSettings
from virnuc_assets_tests.classifier.evaluations import evaluated

from .evidence_fakes import evidence, variant

VIRUS_GROUPS = ("dsDNA phage", "ssDNA phage", "+ssRNA", "-ssRNA")
ERRORS = 0.1


class Planted:
    """Test rows of many clusters, as a baseline calls them and as others do, error by error."""

    def __init__(self, clusters_per_group: int, rows_per_cluster: int, seed: int = 0) -> None:
        self._generator = np.random.default_rng(seed)
        groups = [("host", group) for group in HOST_GROUPS] + [("viral", group) for group in VIRUS_GROUPS]
        self._rows = [
            (label, group, f"{group}-{cluster}", row)
            for label, group in groups
            for cluster in range(clusters_per_group)
            for row in range(rows_per_cluster)
        ]
        self.baseline = self._generator.random(len(self._rows)) >= ERRORS  # (n,) right or wrong

    def degraded(self, group: str, every: int) -> tuple[np.ndarray, float]:
        """The baseline's calls, every so manieth right one of a group turned wrong; and the drop in the group."""
        mine = np.array([row[1] == group for row in self._rows])
        turned = np.flatnonzero(mine & self.baseline)[::every]
        calls = self.baseline.copy()
        calls[turned] = False
        return calls, len(turned) / int(mine.sum())

    def wrong_clusters(self, every: int) -> np.ndarray:
        """The baseline's calls, all wrong in every so manieth cluster."""
        names = [row[2] for row in self._rows]
        chosen = set(list(dict.fromkeys(names))[::every])
        return self.baseline & np.array([name not in chosen for name in names])

    def better(self, share: float) -> np.ndarray:
        """The baseline's calls, of which a share of the wrong ones is put right."""
        return self.baseline | (self._generator.random(len(self.baseline)) < share)

    def kmer_baseline(self) -> np.ndarray:
        """Wrong in two of five rows, in every cluster."""
        return np.array([row[3] % 5 < 3 for row in self._rows])

    def table(self, right: np.ndarray) -> pa.Table:
        """The evaluation table of these calls."""
        calls = zip(self._rows, right.tolist(), strict=True)
        records = []
        for (label, group, cluster), rows in itertools.groupby(calls, key=lambda call: call[0][:3]):
            chunks = [[0.9 if (label == "viral") == is_right else 0.1] for _, is_right in rows]
            records.append((cluster, 500 * len(chunks), cluster, label, group, chunks))
        return evaluated(records)

    def decision(self, candidate: np.ndarray, settings: DecisionSettings | None = None) -> Decision:
        """What is decided of a candidate with these calls, all else being in order."""
        given = evidence(
            candidate=variant("fastesm2", self.table(candidate)),
            baseline=variant("esm2_3b", self.table(self.baseline)),
            kmer_baseline=variant("kmer", self.table(self.kmer_baseline())),
        )
        return decide(
            given, settings or DecisionSettings(bootstrap_rounds=1000, power_studies=20), EvaluationSettings()
        )


@pytest.mark.parametrize("group", ["plant", "bacteria"])
def test_a_candidate_degraded_in_one_host_group_is_no_go_and_the_group_is_named(group: str) -> None:
    """A quarter of one group: 2 % over all rows, which the overall margins alone would let pass."""
    planted = Planted(clusters_per_group=6, rows_per_cluster=20)
    calls, drop = planted.degraded(group, every=4)
    decision = planted.decision(calls)
    assert decision.outcome == "NO-GO"
    (reason,) = decision.reasons
    assert reason.startswith(f"no_group_lost_more_than_margin is not met: host / {group}: drop +{drop:.4f} (")
    assert all(f"/ {other}:" not in reason for other in (*HOST_GROUPS, *VIRUS_GROUPS) if other != group)


@pytest.mark.parametrize("seed", range(3))
def test_a_better_candidate_on_twenty_rows_is_never_go(seed: int) -> None:
    planted = Planted(clusters_per_group=1, rows_per_cluster=2, seed=seed)  # 22 rows
    decision = planted.decision(planted.better(0.9))
    assert decision.outcome == "NO DECISION"
    assert (
        "too little to decide on: 22 test rows, at least 200 are asked for; add reference genomes" in decision.reasons
    )


def test_a_drop_within_the_margin_is_open_on_few_clusters_and_go_on_many() -> None:
    """One cluster in thirty all wrong is a drop of some 3 %; from 55 clusters nobody can tell it from 5 %."""
    settings = DecisionSettings(max_group_drop=1.0, max_f1_drop=1.0, bootstrap_rounds=1000, power_studies=20)
    decisions = []
    for clusters in (5, 100):
        planted = Planted(clusters, rows_per_cluster=10)
        decisions.append(planted.decision(planted.wrong_clusters(every=30), settings))
    assert [decision.outcome for decision in decisions] == ["NO DECISION", "GO"]
    assert decisions[0].reasons[0].startswith("accuracy_drop_within_margin is open, the interval reaches over the thr")
