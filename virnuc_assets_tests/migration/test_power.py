"""What a test set can find: equal models get GO where there are enough clusters, planted losses do not."""

from __future__ import annotations

import numpy as np
import pytest

from virnuc_assets.migration.comparison import PairedRows, compare, confusion_counts, pair
from virnuc_assets.migration.decision import decide
from virnuc_assets.migration.power import Power, draw_studies, outcomes, power
from virnuc_assets.settings import DecisionSettings

from .evidence_fakes import EVALUATION, evidence, rows, variant

SETTINGS = DecisionSettings(power_studies=60, bootstrap_rounds=500)


def study(clusters: int, seed: int = 0) -> PairedRows:
    """Two equally good models, right in nine of ten rows, on so many clusters of 20 rows of each label."""
    generator = np.random.default_rng(seed)
    sides = [(generator.random((2, 20 * clusters)) < 0.9).tolist() for _ in range(2)]
    tables = [rows(viral, host, per_cluster=20) for viral, host in sides]
    paired, gaps = pair(variant("fastesm2", tables[0]), variant("esm2_3b", tables[1]))
    assert paired is not None, gaps
    return paired


def found(clusters: int) -> Power:
    chances = power(study(clusters), SETTINGS)
    assert chances is not None
    return chances


def test_power_grows_with_the_clusters() -> None:
    few, many = found(6), found(40)
    assert found(6) == few
    assert [(one.lost_in, one.margins) for one in many.chances] == [
        *(("nothing", 0), ("all rows", 1), ("all rows", 2), ("all rows", 3)),
        *(("host / bacteria", 1), ("host / bacteria", 2), ("host / bacteria", 3)),
    ]
    assert few.chances[0].go < 0.8 < 0.95 < many.chances[0].go
    assert many.chances[0].no_go == 0.0
    assert [one.go for one in many.chances[2:4]] == [0.0, 0.0]
    assert many.chances[3].no_go == 1.0 == many.chances[6].no_go
    assert many.clusters_wanted is not None and few.clusters < many.clusters_wanted <= many.clusters


@pytest.mark.parametrize("lost", [0.0, 0.15])
def test_studies_are_judged_as_a_decision_judges_rows(lost: float) -> None:
    """Rows of each drawn study are built again from its counts, and given to the decision itself."""
    paired = study(12)
    counts = confusion_counts(paired)
    studies = draw_studies(np.random.default_rng(1), counts, 8, 24, np.full(2, lost))
    go, no_go = outcomes(studies, SETTINGS, rounds=SETTINGS.bootstrap_rounds)
    statistical = ("accuracy_drop_within_margin", "f1_drop_within_margin", "no_group_lost_more_than_margin")
    for number, one in enumerate(studies):
        tables = []
        for side in (0, 1):
            cells = one[:, :, side].sum(axis=0).astype(int)  # by group: bacteria, phage
            assert cells[0, 2:].sum() == 0 == cells[1, :2].sum()
            flags = {name: [] for name in ("viral", "host")}  # type: dict[str, list[bool]]
            for cluster in one[:, :, side].astype(int):
                flags["host"] += [True] * cluster[0, 0] + [False] * cluster[0, 1]
                flags["viral"] += [True] * cluster[1, 3] + [False] * cluster[1, 2]
            tables.append(rows(flags["viral"], flags["host"], per_cluster=20))
        sides = {"candidate": variant("fastesm2", tables[0]), "baseline": variant("esm2_3b", tables[1])}
        decision = decide(evidence(**sides), SETTINGS.model_copy(update={"power_studies": 20}), EVALUATION)
        judged = {c.name: c.outcome for c in decision.criteria if c.name in statistical}
        assert bool(go[number]) == all(outcome == "met" for outcome in judged.values()), judged
        assert bool(no_go[number]) == ("failed" in judged.values()), judged


def test_a_planted_loss_is_as_large_as_said_and_exchanging_sides_keeps_every_row() -> None:
    paired = study(30)
    counts = confusion_counts(paired)
    studies = draw_studies(np.random.default_rng(0), counts, 400, 60, np.array([0.2, 0.0]))
    right, size = (studies[..., 0] + studies[..., 3]).sum(axis=(0, 1)), studies[..., 0, :].sum(axis=(0, 1, 3))
    drop = (right[:, 1] - right[:, 0]) / size
    assert drop == pytest.approx([0.2, 0.0], abs=0.005)
    assert (studies.sum(axis=(2, 4)) == 20).all()


def test_a_test_set_whose_groups_are_all_too_small_can_never_get_go() -> None:
    assert [one.go for one in found(4).chances] == [0.0] * 4  # of equal models and of losses in all rows; no group
    assert compare(study(4), "esm2_3b", SETTINGS).groups[0].status == "too few clusters"


@pytest.mark.parametrize(("wrong_clusters", "go"), [(0, True), (5, True), (6, False)])
def test_a_group_that_is_worse_holds_a_study_up_that_all_rows_let_pass(wrong_clusters: int, go: bool) -> None:
    """60 viral clusters of 20 right rows; 10 host clusters of 5, of which so many have one wrong call."""
    counts = np.zeros((1, 70, 2, 2, 4))
    counts[0, :60, 0, :, 3] = 20
    counts[0, 60:, 1, :, 0] = 5
    counts[0, 60 : 60 + wrong_clusters, 1, 0, :2] = 4, 1
    found = outcomes(counts, SETTINGS)
    assert [bool(one[0]) for one in found] == [go, False]
